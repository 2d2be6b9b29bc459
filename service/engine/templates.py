"""Templates: `{name}` in a URL, a text or a JSON value, checked when the rulebook is saved, rendered when it fires.

    {name}  {name|raw}  {name|default:x}  {name|sha256}  {time|%Y-%m-%d}  {name!}  {{  }}

In a URL every value is percent-encoded unless `raw` is asked for; `!` means that the postback must have the value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

import msgspec

from service.engine.errors import TemplateError

MACRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_:-]*(?:\.[A-Za-z0-9_:/-]+)*\Z")  # behind the dot also events: last.a/b.ts
TIME_CODES = {  # where each stands in a time written by `iso_time`
    "%Y": slice(0, 4), "%m": slice(5, 7), "%d": slice(8, 10), "%H": slice(11, 13), "%M": slice(14, 16),
    "%S": slice(17, 19),
}  # fmt: skip
_PERCENT = tuple(
    [
        chr(byte) if (chr(byte).isalnum() and byte < 128) or chr(byte) in "_.-~" else f"%{byte:02X}"
        for byte in range(256)
    ]
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Filter = Callable[[str], str]


class Values(Protocol):
    """Where a template takes its values from."""

    def value(self, name: str) -> str | None:
        """The value of a macro, None if it is missing."""


class Macro(msgspec.Struct, frozen=True, gc=False):
    """One macro of a template: its name, whether it must have a value, and what is done to the value."""

    name: str
    required: bool = False
    raw: bool = False
    default: str | None = None
    sha256: bool = False
    time_format: str = ""


class Rendered(msgspec.Struct, frozen=True, gc=False):
    """A rendered template: the text, the macros without a value, and whether a required one was among them."""

    text: str
    missing: tuple[str, ...] = ()
    withheld: bool = False


class Template(msgspec.Struct, frozen=True, gc=False):
    """A compiled template: literal texts and macros in turn.

    Derived: macros, in their order; slots, the place, the name and the macro (None for a plain one) of each; frame, the
    parts as texts, empty where a macro stands; looked_up, the names that are not plain ones.
    """

    source: str
    parts: tuple[str | Macro, ...]
    macros: tuple[Macro, ...] = ()
    slots: tuple[tuple[int, str, Macro | None], ...] = ()
    frame: tuple[str, ...] = ()
    looked_up: tuple[str, ...] = ()

    def render(self, values: Values, encode: Filter | None = None) -> Rendered:
        """Render with `encode` applied to each value that is not raw."""
        return self.fill(values.value, encode or encode_url)

    def fill(self, ask: Callable[[str], str | None], encode: Filter) -> Rendered:
        """Render with the values that `ask` gives for names."""
        out = [*self.frame]
        missing: tuple[str, ...] = ()
        withheld = False
        for place, name, macro in self.slots:
            value = ask(name)
            if macro is not None:
                value = _filtered(macro, value)
                withheld = withheld or (macro.required and value is None)
            if value is None:
                missing += () if name in missing else (name,)
            else:
                out[place] = value if macro is not None and macro.raw else encode(value)
        return Rendered("".join(out), missing, withheld)


def _filtered(macro: Macro, value: str | None) -> str | None:
    if value is None:
        value = macro.default
    elif macro.time_format:
        value = format_time(value, macro.time_format)
    if macro.sha256 and value is not None:
        value = hashlib.sha256(value.encode()).hexdigest()
    return value


def compile_template(source: str) -> Template:
    """Compile a template. Raises TemplateError for unbalanced braces, unknown filters and malformed names."""
    parts: list[str | Macro] = []
    text: list[str] = []
    position = 0
    while position < len(source):
        char = source[position]
        if source[position : position + 2] in ("{{", "}}"):
            text.append(char)
            position += 2
        elif char == "{":
            end = source.find("}", position)
            if end < 0:
                raise TemplateError(
                    f"the brace at character {position + 1} is not closed; write {{{{ for a literal one"
                )
            if text:
                parts.append("".join(text))
                text = []
            parts.append(_macro(source[position + 1 : end]))
            position = end + 1
        elif char == "}":
            raise TemplateError(f"a closing brace at character {position + 1} has no opening one; write }}}} for it")
        else:
            text.append(char)
            position += 1
    if text:
        parts.append("".join(text))
    return _template(source, parts)


def _template(source: str, parts: list[str | Macro]) -> Template:
    placed = [(place, part) for place, part in enumerate(parts) if isinstance(part, Macro)]
    macros = tuple([macro for _, macro in placed])
    slots = tuple([(place, macro.name, None if macro == Macro(macro.name) else macro) for place, macro in placed])
    frame = tuple(["" if isinstance(part, Macro) else part for part in parts])
    looked_up = tuple([macro.name for macro in macros if macro.name == "time" or "." in macro.name])
    return Template(source, tuple(parts), macros, slots, frame, looked_up)


def _macro(body: str) -> Macro:
    head, *filters = body.split("|")
    required = head.endswith("!")
    name = head.removesuffix("!")
    if not MACRO_NAME.match(name):
        raise TemplateError(f"{{{body}}} is no macro: a name is letters, digits, _ : and -, with dots between parts")
    macro = Macro(name, required)
    for written in filters:
        macro = msgspec.structs.replace(macro, **_filter(name, written))
    return macro


def _filter(name: str, written: str) -> dict[str, object]:
    if written == "raw":
        return {"raw": True}
    if written == "sha256":
        return {"sha256": True}
    if written.startswith("default:"):
        return {"default": written.removeprefix("default:")}
    if "%" in written:
        codes = re.findall("%.?", written)
        if name != "time":
            raise TemplateError(f"{{{name}|{written}}}: only time can be formatted")
        if not all(code in TIME_CODES for code in codes):
            raise TemplateError(f"{{{name}|{written}}}: only %Y %m %d %H %M %S are known")
        return {"time_format": written}
    raise TemplateError(f"{{{name}|{written}}}: the filters are raw, sha256, default:x and, for time, %Y-%m-%d")


def encode_url(value: str) -> str:
    """Percent-encode everything but the unreserved characters of RFC 3986."""
    if value.isascii() and value.isalnum():
        return value
    return _percent_known(value) if len(value) <= 64 else _percent(value)


def _percent(value: str) -> str:
    return "".join(map(_PERCENT.__getitem__, value.encode()))


_percent_known = lru_cache(maxsize=1024)(_percent)  # short values come again and again


def iso_time(time_us: int) -> str:
    """2026-11-23T09:47:17.000000Z for microseconds since 1970, UTC."""
    time_s, micros = divmod(time_us, 1_000_000)
    minutes, second = divmod(time_s, 60)
    return f"{_iso_minute(minutes)}:{second:02d}.{micros:06d}Z"


@lru_cache(maxsize=1440)  # a log moves slowly through its minutes
def _iso_minute(minutes: int) -> str:
    return (_EPOCH + timedelta(minutes=minutes)).isoformat()[:16]


def format_time(iso: str, pattern: str) -> str:
    """Apply %Y %m %d %H %M %S to a time written by `iso_time`."""
    return "".join([iso[piece] if isinstance(piece, slice) else piece for piece in _time_pieces(pattern)])


@lru_cache(maxsize=256)
def _time_pieces(pattern: str) -> tuple[str | slice, ...]:
    return tuple([TIME_CODES.get(piece, piece) for piece in re.split("(%[YmdHMS])", pattern) if piece])
