"""Which browsers may be given something of a visitor's.

A browser is known by its tag id. Whatever it sends may be forged, so a tag id is not believed to be a visitor's because it
says so: `admit` tells when it is.
"""

from __future__ import annotations

from typing import Final

from service.engine.model import Event
from service.engine.recognition import Recognised
from service.engine.visitors import State

SECRET_CHARACTERS: Final = 20  # an id that is shorter could be guessed
NOBODY: Final = ""  # among the browsers of a visitor: others claimed it, and nobody can tell whose it is


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
