"""How a value is written where a template puts it: one encoder per kind of place, and who may stand where.

Every encoder takes any text, and what it gives cannot end the place in which it stands. `place_*` looks at a template's
parts and gives each macro its encoder and what stands there without a value; TemplateError for a place that has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from service.engine.errors import TemplateError

Filter = Callable[[str], str]
Place = tuple[Filter, str]  # what is done to the value, and what stands there if there is none

# what turns the direction of the text around it, so that a mail or a page would show something else than it says
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROLS = [*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u2029"]
_PLAIN = str.maketrans(dict.fromkeys(_CONTROLS, " ") | dict.fromkeys(_BIDI, "\ufffd") | {"\0": "\ufffd"})
_HTML = _PLAIN | str.maketrans({char: f"&#{ord(char)};" for char in "&<>\"'`="})
_JSON = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&'\x7f\u2028\u2029" + _BIDI})
_PERCENT = tuple(
    [
        chr(byte) if byte < 128 and (chr(byte).isalnum() or chr(byte) in "_.-~") else f"%{byte:02X}"
        for byte in range(256)
    ]
)
_VISIBLE = tuple([chr(byte) if 32 < byte < 127 else f"%{byte:02X}" for byte in range(256)])


def encode_url(value: str) -> str:
    """Percent-encode everything but the unreserved characters of RFC 3986."""
    if value.isascii() and value.isalnum():
        return value
    return _percent_known(value) if len(value) <= 64 else _percent(value)


def _percent(value: str) -> str:
    return "".join(map(_PERCENT.__getitem__, value.encode()))


_percent_known = lru_cache(maxsize=1024)(_percent)  # short values come again and again


def raw_url(value: str) -> str:
    """Visible ASCII as it is; the rest percent-encoded, since a space or a line break would end the request line."""
    return "".join(map(_VISIBLE.__getitem__, value.encode()))


def encode_text(value: str) -> str:
    """One line of plain text: line breaks and other controls become spaces, marks that turn its direction U+FFFD."""
    return value.translate(_PLAIN)


def encode_html(value: str) -> str:
    """Text of an element or of a quoted attribute: as `encode_text`, and what HTML reads otherwise as references."""
    return value.translate(_HTML)


def encode_json(value: str) -> str:
    """The inside of a JSON string (RFC 8259), which is harmless inside HTML and JavaScript too."""
    return msgspec.json.encode(value).decode()[1:-1].translate(_JSON)


def quote_json(value: str) -> str:
    """A whole JSON string."""
    return f'"{encode_json(value)}"'


def encode_js(value: str) -> str:
    """The inside of a string literal of ECMAScript: UTF-16 units as \\uXXXX, letters and digits of ASCII as they are."""
    if value.isascii() and value.isalnum():
        return value
    units = value.encode("utf-16-be").hex()
    return "".join([_js_unit(units[place : place + 4]) for place in range(0, len(units), 4)])


def _js_unit(digits: str) -> str:
    char = chr(int(digits, 16))
    return char if char.isascii() and char.isalnum() else f"\\u{digits}"


def place_url(parts: Sequence[str | None]) -> list[Place]:
    """In an address every macro is percent-encoded. A part that is None is a macro, here and below."""
    return [(encode_url, "") for part in parts if part is None]


def place_text(parts: Sequence[str | None]) -> list[Place]:
    """In a mail's subject or plain text."""
    return [(encode_text, "") for part in parts if part is None]


def place_json(parts: Sequence[str | None]) -> list[Place]:
    """Inside quotes the inside of a string; elsewhere a whole string, or null. What comes out must be JSON."""
    places: list[Place] = [
        (encode_json, "") if _quote_open(before, '"') else (quote_json, "null") for before in _befores(parts)
    ]
    filled = iter(places)
    sample = "".join([next(filled)[0]("x") if part is None else part for part in parts])
    try:
        msgspec.json.decode(sample)
    except msgspec.DecodeError as error:
        raise TemplateError(f"the template is no JSON once its macros are filled in: {error}") from None
    return places


def place_js(parts: Sequence[str | None]) -> list[Place]:
    """Inside the quotes of a string literal only: anywhere else a value would be code."""
    for number, before in enumerate(_befores(parts), 1):
        if not _quote_open(before, "\"'`", js=True):
            raise TemplateError(f"macro {number} stands outside of a string literal; write quotes around it")
    return [(encode_js, "") for part in parts if part is None]


def _befores(parts: Sequence[str | None]) -> list[str]:
    """For each macro the text before it, where a letter stands for every earlier macro."""
    befores, text = [], ""
    for part in parts:
        if part is None:
            befores.append(text)
        text += "x" if part is None else part
    return befores


_JS_TOKEN = re.compile(r"//[^\n\r\u2028\u2029]*|/\*.*?(?:\*/|\Z)|(['\"])(?:\\.|(?!\1)[^\\\n\r])*\1|['\"`]|.", re.DOTALL)


def _quote_open(before: str, quotes: str, js: bool = False) -> bool:
    """Whether the text ends inside of a string literal."""
    if js:
        for token in _JS_TOKEN.finditer(before):
            if token.group() == "`":
                raise TemplateError("a template literal (`...`) cannot hold a macro safely; use quotes")
            if token.group() in ("'", '"'):
                return "\n" not in before[token.start() :]
        return False
    return len(re.findall(quotes, re.sub(r"\\.", "", before, flags=re.DOTALL))) % 2 == 1


_RAW_ELEMENTS = "script|style|iframe|noscript|noembed|noframes|xmp|plaintext|template"
_WHOLE_RAW = re.compile(rf"<({_RAW_ELEMENTS})\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_OPEN_RAW = re.compile(rf"<({_RAW_ELEMENTS})\b", re.IGNORECASE)
_WHOLE_TAG = re.compile(r"<!--.*?-->|</?[a-z](?:[^>\"']|\"[^\"]*\"|'[^']*')*>", re.DOTALL | re.IGNORECASE)
_OPEN_TAG = re.compile(r"<(?:[!/?a-z]|\Z)", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"\s([a-z][a-z0-9:-]*)\s*=\s*(?:\"([^\"]*)|'([^']*))\Z", re.IGNORECASE)
_TEXTS = re.compile(r"(?:alt|title|value|placeholder|label|width|height|aria-[a-z-]+|data-[a-z0-9-]+)\Z")
_ADDRESSES = frozenset({"href", "src", "action", "cite", "poster", "background"})
_SCHEME = re.compile(r"(?:https?://[^/?#\s]+[/?#]|mailto:|/(?!/))", re.IGNORECASE)


def place_html(parts: Sequence[str | None]) -> list[Place]:
    """In the text of an element, or in the quotes of an attribute that holds text or an http(s) address."""
    return [(_html_place(before, number), "") for number, before in enumerate(_befores(parts), 1)]


def _html_place(before: str, number: int) -> Filter:
    text = _WHOLE_RAW.sub("", before)
    raw = _OPEN_RAW.search(text)
    if raw is not None:
        raise TemplateError(f"macro {number} stands inside of <{raw.group(1)}>, where a value would be code")
    text = _WHOLE_TAG.sub("", text)
    tag = _OPEN_TAG.search(text)
    if tag is None:
        return encode_html
    attribute = _ATTRIBUTE.search(text, tag.start())
    if attribute is None:
        raise TemplateError(
            f"macro {number} stands inside of a tag or a comment; put it in a quoted attribute or a text"
        )
    name, value = attribute.group(1).lower(), attribute.group(2) or attribute.group(3) or ""
    if _TEXTS.match(name):
        return encode_html
    if name not in _ADDRESSES:
        raise TemplateError(f"macro {number} stands in the attribute {name}, where a value could be code")
    if not _SCHEME.match(value):
        raise TemplateError(f"macro {number} stands in {name} before its host is fixed; begin it with https://HOST/")
    return encode_url
