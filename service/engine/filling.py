"""A compiled template and values to a text: what every firing does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.engine.times import format_time

if TYPE_CHECKING:
    from service.engine.templates import Macro, Template


def fill(template: Template, ask: Callable[[str], str | None]) -> tuple[str, tuple[str, ...], bool]:
    """The text with the values that `ask` gives for names, the macros without one, whether a required one is among them."""
    if not template.slots:
        return "".join(template.frame), (), False
    out = [*template.frame]
    missing: tuple[str, ...] = ()
    withheld = False
    for place, name, encode, macro in template.slots:
        value = ask(name)
        if macro is not None:
            value = _filtered(macro, value)
            withheld = withheld or (macro.required and value is None)
        if value is not None:
            out[place] = encode(value)
        elif name not in missing:
            missing += (name,)
    return "".join(out), missing, withheld


def _filtered(macro: Macro, value: str | None) -> str | None:
    if value is None:
        value = macro.default
    elif macro.time_format:
        value = format_time(value, macro.time_format)
    if macro.sha256 and value is not None:
        value = hashlib.sha256(value.encode()).hexdigest()
    return value
