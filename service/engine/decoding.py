"""A hit's bytes to its parameters: the only decoder there is. Limits, the query, then a form or JSON body over it."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import msgspec

from service.engine.model import Hit, Reason

MAX_QUERY_BYTES = 8 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_PARAMETERS = 100
MAX_NAME = 64
MAX_VALUE = 1024
MAX_JSON_DEPTH = 32  # a bound of ours: the interpreter's own would depend on who calls

_ASCII = {form % byte: chr(byte) for byte in range(128) for form in ("%02X", "%02x")}
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_json = msgspec.json.Decoder(type=dict[str, msgspec.Raw])
_json_string = msgspec.json.Decoder(type=str)


class Refused(Exception):
    """Ends the reading of a hit inside `decoding` and `parse`. raw: the parameters, if they could be decoded."""

    def __init__(self, reason: Reason, detail: str, raw: dict[str, str] | None = None) -> None:
        self.reason = reason
        self.detail = detail
        self.raw = raw or {}


def parameters(hit: Hit) -> dict[str, str]:
    """All parameters of a hit as they were sent, for the log; {} where they cannot be decoded."""
    try:
        return decode(hit)
    except Refused:
        return {}


def decode(hit: Hit) -> dict[str, str]:
    """All parameters of a hit as they were sent: query first, the body over it, the last of repeated names, no empty ones.

    Raises an internal signal for bytes that are no UTF-8, a broken body or a limit; callers outside use `parse` or
    `parameters`.
    """
    if len(hit.query) > MAX_QUERY_BYTES:
        raise Refused(
            Reason.QUERY_TOO_LONG, f"the query has {len(hit.query)} bytes, at most {MAX_QUERY_BYTES} are read"
        )
    raw = _decode_pairs(hit.query)
    if hit.body:
        if "body_cut" in hit.flags or len(hit.body) > MAX_BODY_BYTES:
            raise Refused(Reason.BODY_TOO_LONG, f"the body has more than {MAX_BODY_BYTES} bytes")
        raw.update(_decode_body(hit))
    if len(raw) > MAX_PARAMETERS:
        raise Refused(Reason.TOO_MANY_PARAMETERS, f"{len(raw)} parameters, at most {MAX_PARAMETERS} are read", raw)
    size = len(hit.query) + len(hit.body)  # no text is longer than the bytes it came in
    if (size > MAX_NAME and max(map(len, raw), default=0) > MAX_NAME) or (
        size > MAX_VALUE and max(map(len, raw.values()), default=0) > MAX_VALUE
    ):
        _refuse_length(raw)
    return raw


def _refuse_length(raw: dict[str, str]) -> None:
    for name, value in raw.items():
        if len(name) > MAX_NAME:
            raise Refused(
                Reason.NAME_TOO_LONG, f"the name {name[:40]!r}... has {len(name)} characters, at most {MAX_NAME}", raw
            )
        if len(value) > MAX_VALUE:
            raise Refused(
                Reason.VALUE_TOO_LONG, f"{name} has {len(value)} characters, at most {MAX_VALUE} are read", raw
            )


def _decode_body(hit: Hit) -> dict[str, str]:
    kind = hit.content_type.lower()
    if "json" in kind or hit.body.lstrip()[:1] == b"{":
        return _decode_json(hit.body)
    if kind.startswith("multipart/"):
        raise Refused(Reason.INVALID_BODY, "a multipart body is not read: send a form or JSON")
    return _decode_pairs(hit.body)


def _decode_pairs(data: bytes) -> dict[str, str]:
    """`a=1&b=2`. An empty value is an absent one, so it takes nothing from an earlier one of the same name."""
    pairs: dict[str, str] = {}
    text = data.decode("latin-1")  # one character per byte, until it is decoded
    if "+" in text:
        text = text.replace("+", " ")
    coded = "%" in text or not text.isascii()
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if coded and ("%" in part or not part.isascii()):
            try:
                name, value = _decode_text(name), _decode_text(value)
            except UnicodeDecodeError:
                raise Refused(Reason.NOT_UTF8, f"{part[:60].encode('latin-1')!r} is no UTF-8") from None
        if value and name:
            pairs[name] = value
    return pairs


def _decode_text(text: str) -> str:
    """A text with one character per byte to what its bytes say."""
    if text.isascii():
        decoded, *coded = text.split("%")
        for piece in coded:
            char = _ASCII.get(piece[:2])
            if char is None:
                break
            decoded += char + piece[2:]
        else:
            return decoded
    return unquote_to_bytes(text.encode("latin-1")).decode()


def _decode_json(body: bytes) -> dict[str, str]:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Refused(Reason.NOT_UTF8, "the JSON body is no UTF-8") from None
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH and _json_depth(body) > MAX_JSON_DEPTH:
        raise Refused(Reason.INVALID_BODY, f"the JSON body is nested deeper than {MAX_JSON_DEPTH}")
    try:
        document = _json.decode(body)
        pairs = {name: _json_text(bytes(value)) for name, value in document.items() if name}
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refused(Reason.INVALID_BODY, f"the body is no JSON object: {error}") from None
    return {name: text for name, text in pairs.items() if text}


def _json_depth(body: bytes) -> int:
    depth = deepest = 0
    for char in _JSON_STRING.sub(b"", body):
        if char in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in b"]}":
            depth -= 1
    return deepest


def _json_text(raw: bytes) -> str:
    """A JSON value as text: strings decoded, numbers in their written form, nested values as their JSON, null absent."""
    if raw[:1] == b'"':
        return _json_string.decode(raw)
    return "" if raw == b"null" else raw.decode()


def readable_pairs(data: bytes, limit: int) -> dict[str, str]:
    """What can be read of a query, a form or a JSON document in which something else cannot."""
    if data.lstrip()[:1] == b"{":
        try:
            return _decode_json(data.decode(errors="replace").encode())
        except Refused:
            return {}
    pairs: dict[str, str] = {}
    parts = data[:limit].split(b"&")
    for part in parts[:-1] if len(data) >= limit else parts:  # the last one may be cut
        try:
            pairs.update(_decode_pairs(part))
        except Refused:
            continue
    return pairs
