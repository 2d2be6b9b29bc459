"""What goes out through the visitor's browser: the keys `browser`, `javascript` and `pixel`, and who may be given it.

A browser is known by its tag id. Whatever it sends may be forged, so a tag id is not believed to be a visitor's because it
says so: `admit` tells when it is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from service.engine.document import Path, nearest
from service.engine.model import RESERVED, Event
from service.engine.names import DERIVED
from service.engine.recognition import Recognised
from service.engine.rulebook import Webhook
from service.engine.templates import compile_template
from service.engine.visitors import State
from service.engine.webhooks import Webhooks

OPEN_NAMES = frozenset(
    {"client", "affiliate", "event", "trigger", "postback_id", "hit_id", "time"}
)  # no secret of anybody
SECRET_CHARACTERS = 20  # an id that is shorter could be guessed
NOBODY = ""  # among the browsers of a visitor: others claimed it, and nobody can tell whose it is
_NO_ADDRESS = compile_template("")


class InBrowser(Webhooks):
    """Reads what is given to browsers."""

    def _javascript(self, path: Path, table: Any) -> Webhook | None:
        text = self._text(path, table, "javascript")
        if not text.strip():
            return None
        body = self._compiled(path, "javascript", text, partial(compile_template, context="js"))
        return None if body is None else Webhook(_NO_ADDRESS, "", body)

    def _pixel(self, path: Path, table: Any) -> Webhook | None:
        url = self._address(path, table, "pixel")
        return None if url is None else Webhook(url, "GET")

    def _browser(self, path: Path, table: dict[str, Any], declared: frozenset[str]) -> frozenset[str]:
        """The names whose values may be given to browsers."""
        names = self._names(path, table, "browser")
        known = declared | DERIVED | frozenset(RESERVED)
        for name in names:
            if name not in known:
                self.wrong((*path, "browser"), f"{name!r} is no declared parameter{nearest(name, known)}")
        return frozenset(names)


def admit(plan: Recognised, event: Event, state: State, signed: bool) -> None:
    """Note in the visitor which browsers may be given something. To be asked before the plan is written.

    With a valid signature, the hit's own and those of whom the visitor absorbs. Without one, only the first: that of a new
    visitor, or of one that nobody has named a uid for, found by a click id that cannot be guessed.
    """
    tag = event.fields.get("tag_id", "")
    visitor = plan.visitor
    theirs = [browser for one in plan.absorbed for browser in state.visitors[one].browsers]
    fresh = len(tag) >= SECRET_CHARACTERS and any(key.endswith(f"tag_id\x1f{tag}") for key in plan.link)
    if signed and len(tag) >= SECRET_CHARACTERS and not plan.conflicts:
        visitor.browsers = list(dict.fromkeys([*visitor.browsers, *theirs, tag]))
    elif plan.new:
        visitor.browsers = [tag] if fresh else []
    elif not visitor.uid and not set(theirs).issubset(visitor.browsers):
        visitor.browsers = [NOBODY]
    elif (
        not visitor.uid
        and not visitor.browsers
        and fresh
        and len(event.fields.get("click_id", "")) >= SECRET_CHARACTERS
    ):
        visitor.browsers = [tag]
