"""What goes out through the visitor's browser: the keys `browser`, `javascript` and `pixel`, and who may be given it.

admission: which browsers those are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from service.engine.document import Path, nearest
from service.engine.model import RESERVED
from service.engine.names import DERIVED
from service.engine.rulebook import Webhook
from service.engine.templates import compile_template
from service.engine.webhooks import Webhooks

OPEN_NAMES = frozenset(
    {"client", "affiliate", "event", "trigger", "postback_id", "hit_id", "time"}
)  # no secret of anybody
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
