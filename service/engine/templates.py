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
from urllib.parse import quote

import msgspec

from service.engine.errors import TemplateError

MACRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_:-]*(?:\.[A-Za-z0-9_:/-]+)*\Z")  # behind the dot also events: last.a/b.ts
TIME_CODES = frozenset("YmdHMS")
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
    """A compiled template: literal texts and macros in turn; `macros` are the macros alone, in their order."""

    source: str
    parts: tuple[str | Macro, ...]
    macros: tuple[Macro, ...] = ()

    def render(self, values: Values, encode: Filter) -> Rendered:
        """Render with `encode` applied to each value that is not raw."""
        out: list[str] = []
        missing: list[str] = []
        withheld = False
        for part in self.parts:
            if isinstance(part, str):
                out.append(part)
                continue
            value = values.value(part.name)
            if value is None:
                if part.default is None:
                    if part.name not in missing:
                        missing.append(part.name)
                    withheld = withheld or part.required
                    continue
                value = part.default
            elif part.time_format:
                value = format_time(value, part.time_format)
            if part.sha256:
                value = hashlib.sha256(value.encode()).hexdigest()
            out.append(value if part.raw else encode(value))
        return Rendered("".join(out), tuple(missing), withheld)


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
    return Template(source, tuple(parts), tuple(part for part in parts if isinstance(part, Macro)))


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
        codes = re.findall("%(.?)", written)
        if name != "time":
            raise TemplateError(f"{{{name}|{written}}}: only time can be formatted")
        if not TIME_CODES.issuperset(codes):
            raise TemplateError(f"{{{name}|{written}}}: only %Y %m %d %H %M %S are known")
        return {"time_format": written}
    raise TemplateError(f"{{{name}|{written}}}: the filters are raw, sha256, default:x and, for time, %Y-%m-%d")


def encode_url(value: str) -> str:
    """Percent-encode everything but the unreserved characters of RFC 3986."""
    return quote(value, safe="")


@lru_cache(maxsize=64)  # one hit asks several times
def iso_time(time_us: int) -> str:
    """2026-11-23T09:47:17.000000Z for microseconds since 1970, UTC."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds")[:26] + "Z"


def format_time(iso: str, pattern: str) -> str:
    """Apply %Y %m %d %H %M %S to a time written by `iso_time`."""
    codes = {"Y": iso[0:4], "m": iso[5:7], "d": iso[8:10], "H": iso[11:13], "M": iso[14:16], "S": iso[17:19]}
    return re.sub("%([YmdHMS])", lambda match: codes[match.group(1)], pattern)
