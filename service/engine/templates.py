"""Templates: `{name}` in an address, JSON, a mail, HTML or JavaScript: checked when the rulebook is saved, then filled.

    {name}  {name|raw}  {name|default:x}  {name|sha256}  {time|%Y-%m-%d}  {name!}  {{  }}

Every value is written by the rules of the place where it stands (`CONTEXTS`); `!`: the postback must have the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from service.engine.errors import TemplateError
from service.engine.escaping import (
    Filter,
    Place,
    encode_url,
    place_html,
    place_js,
    place_json,
    place_text,
    place_url,
    raw_url,
)
from service.engine.filling import fill
from service.engine.times import TIME_CODES, format_time, iso_time

__all__ = ["CONTEXTS", "Macro", "Rendered", "Template", "compile_template", "encode_url", "format_time", "iso_time"]

MACRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_:-]*(?:\.[A-Za-z0-9_:/-]+)*\Z")  # behind the dot also events: last.a/b.ts
_PIECE = re.compile(r"[^{}]+|\{\{|\}\}|\{[^}]*\}|[{}]")


class Context(msgspec.Struct, frozen=True):
    """A kind of text that a template makes. place: gives each macro its encoder. raw: what `raw` does, None if refused."""

    place: Callable[[Sequence[str | None]], list[Place]]
    raw: Filter | None = None


CONTEXTS = {
    "url": Context(place_url, raw_url),
    "json": Context(place_json),
    "form": Context(place_url),
    "text": Context(place_text),
    "html": Context(place_html),
    "js": Context(place_js),
}


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
    """A compiled template: literal texts and macros in turn, and the context it was compiled for.

    Derived: macros, in their order; slots, for each its place, name, encoder and itself (None for a plain one); frame, the
    parts as texts, with what stands for a missing value; looked_up, the names that are not plain ones.
    """

    source: str
    parts: tuple[str | Macro, ...]
    macros: tuple[Macro, ...] = ()
    slots: tuple[tuple[int, str, Filter, Macro | None], ...] = ()
    frame: tuple[str, ...] = ()
    looked_up: tuple[str, ...] = ()
    context: str = "url"

    def render(self, values: Values, encode: Filter | None = None) -> Rendered:
        """Render for the context. encode: another encoder for the values that are not raw."""
        if encode is None:
            return self.fill(values.value)
        slots = tuple(
            [
                (place, name, encode if macro is None or not macro.raw else own, macro)
                for place, name, own, macro in self.slots
            ]
        )
        return msgspec.structs.replace(self, slots=slots).fill(values.value)

    def fill(self, ask: Callable[[str], str | None]) -> Rendered:
        """Render with the values that `ask` gives for names."""
        return Rendered(*fill(self, ask))


def compile_template(source: str, context: str = "url") -> Template:
    """Compile a template for a context of `CONTEXTS`.

    Raises TemplateError for unbalanced braces, unknown filters, malformed names, `raw` where it is refused, and macros
    where no value is safe.
    """
    parts: list[str | Macro] = []
    text: list[str] = []
    for found in _PIECE.finditer(source):
        piece = found.group()
        if piece in ("{{", "}}"):
            text.append(piece[0])
        elif piece == "{":
            where = found.start() + 1
            raise TemplateError(f"the brace at character {where} is not closed; write {{{{ for a literal one")
        elif piece == "}":
            where = found.start() + 1
            raise TemplateError(f"a closing brace at character {where} has no opening one; write }}}} for it")
        elif piece[0] == "{":
            if text:
                parts.append("".join(text))
                text = []
            parts.append(_macro(piece[1:-1]))
        else:
            text.append(piece)
    if text:
        parts.append("".join(text))
    return _template(source, parts, context)


def compile_form(fields: dict[str, str]) -> Template:
    """Compile a form (application/x-www-form-urlencoded) of names and templates. Raises TemplateError as above."""
    parts: list[str | Macro] = []
    for name, source in fields.items():
        parts.append(("&" if parts else "") + encode_url(name) + "=")
        parts += [
            encode_url(part) if isinstance(part, str) else part for part in compile_template(source, "form").parts
        ]
    return _template(" ".join([f"{name}={source}" for name, source in fields.items()]), parts, "form")


def compile_mail(parts: dict[str, Template]) -> Template:
    """A mail as a JSON object of its parts: each value is written for its part first, then for the JSON around it."""
    frame, slots, all_parts = list[str](), list[tuple[int, str, Filter, Macro | None]](), list[str | Macro]()
    for name, part in parts.items():
        frame.append(f'{"," if frame else "{"}"{name}":"')
        slots += [(len(frame) + at, asked, _in_json(encode), macro) for at, asked, encode, macro in part.slots]
        frame += [_json_text(text) for text in part.frame] + ['"']
        all_parts += part.parts
    source = _json({name: part.source for name, part in parts.items()})
    macros = tuple([macro for part in parts.values() for macro in part.macros])
    looked_up = tuple([name for part in parts.values() for name in part.looked_up])
    return Template(source, tuple(all_parts), macros, tuple(slots), (*frame, "}"), looked_up, "mail")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _json_text(text: str) -> str:
    return _json(text)[1:-1]


def _in_json(encode: Filter) -> Filter:
    return lambda value: _json_text(encode(value))


def _template(source: str, parts: list[str | Macro], context: str) -> Template:
    rules = CONTEXTS[context]
    macros = tuple([part for part in parts if isinstance(part, Macro)])
    for macro in macros:
        if macro.raw and rules.raw is None:
            raise TemplateError(f"{{{macro.name}|raw}}: raw is for addresses only; in {context} every value is escaped")
    places = iter(rules.place([None if isinstance(part, Macro) else part for part in parts]))
    slots, frame = [], []
    for number, part in enumerate(parts):
        if isinstance(part, str):
            frame.append(part)
            continue
        encode, without = next(places)
        frame.append(without)
        plain = part == Macro(part.name)
        slots.append((number, part.name, (part.raw and rules.raw) or encode, None if plain else part))
    looked_up = tuple([macro.name for macro in macros if macro.name == "time" or "." in macro.name])
    return Template(source, tuple(parts), macros, tuple(slots), tuple(frame), looked_up, context)


@lru_cache(maxsize=1024)
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
