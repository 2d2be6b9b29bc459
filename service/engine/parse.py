"""A hit's bytes to an event: decode once, map the client's names, check. Pure, and the only decoder there is.

Steps: limits, decoding (query, then form or JSON body), the path of a tracker link, aliases, reserved names, checks. A
refusal by the intake binds, whatever these say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import msgspec

from service.engine.model import IDENTIFIERS, RESERVED, Event, Hit, Reason, Rejection

if TYPE_CHECKING:
    from service.engine.rulebook import Client, Rulebook

MAX_QUERY_BYTES = 8 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_PARAMETERS = 100
MAX_NAME = 64
MAX_VALUE = 1024
MAX_JSON_DEPTH = 32  # a bound of ours: the interpreter's own would depend on who calls

NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?\Z")
EVENT_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}\Z")
CURRENCY = re.compile(r"[A-Z]{3}\Z")
# {x} {{x}} [x] [[x]] #x# %x% ${x}: what other systems send when they forget to fill a macro
MACRO = re.compile(r"\$?\{[^{}]*\}\Z|\{\{[^{}]*\}\}\Z|\[[^\[\]]*\]\Z|\[\[[^\[\]]*\]\]\Z|#[^#]*#\Z|%[A-Za-z0-9_]+%\Z")
BROWSER_ROUTES = frozenset({"e.gif", "e.js"})
SIGNED = "signed"  # the intake found a valid signature

_SORTED_RESERVED = tuple(sorted(RESERVED))
_MACRO_ENDS = "}]#%"
_ASCII = {form % byte: chr(byte) for byte in range(128) for form in ("%02X", "%02x")}
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_json = msgspec.json.Decoder(type=dict[str, msgspec.Raw])
_json_string = msgspec.json.Decoder(type=str)


class _Refused(Exception):
    """Ends the reading of a hit inside this module. raw: the parameters, if they could be decoded."""

    def __init__(self, reason: Reason, detail: str, raw: dict[str, str] | None = None) -> None:
        self.reason = reason
        self.detail = detail
        self.raw = raw or {}


def parse(hit: Hit, rulebook: Rulebook) -> Event | Rejection:
    """Read one hit by a rulebook.

    Returns the event, or a rejection with a reason of `Reason`. Never raises for anything that a request can hold.
    """
    try:
        found = _read(hit, rulebook)
    except _Refused as refused:
        client, event = _glimpse(hit, refused.raw, rulebook)
        found = Rejection(refused.reason.value, refused.detail, client, event, refused.raw)
    return _bind(hit, found) if hit.refusal else found


def parameters(hit: Hit) -> dict[str, str]:
    """All parameters of a hit as they were sent, for the log; {} where they cannot be decoded."""
    try:
        return decode(hit)
    except _Refused:
        return {}


def _read(hit: Hit, rulebook: Rulebook) -> Event | Rejection:
    raw = decode(hit)
    linked = hit.route == "c"
    client_name, affiliate = _from_path(hit, raw) if linked else (raw.get("client", ""), "")
    client = rulebook.clients.get(client_name)
    if client is None:
        return _unknown_client(client_name, "click" if linked else raw.get("event", ""), raw)
    fields, params, detail = _split(raw, client)
    if linked:
        fields = _apply_tracker_link(hit, fields, params, affiliate)
    event_name = fields.get("event", "")
    wrong = _check(event_name, fields, client, hit)
    if wrong is not None:
        reason, what = wrong
        return Rejection(reason.value, what, client_name, event_name, raw)
    fields["client"] = client_name
    return Event(client_name, event_name, fields, params, fields.get("test") == "1", detail)


def _bind(hit: Hit, found: Event | Rejection) -> Rejection:
    """What the intake told the sender stands; the detail is ours where we see the same reason."""
    if isinstance(found, Event):
        return Rejection(hit.refusal, "refused by the intake", found.client, found.name, parameters(hit))
    detail = found.detail if found.reason == hit.refusal else "refused by the intake"
    return Rejection(hit.refusal, detail, found.client, found.event, found.params)


def decode(hit: Hit) -> dict[str, str]:
    """All parameters of a hit as they were sent: query first, the body over it, the last of repeated names, no empty ones.

    Raises an internal signal for bytes that are no UTF-8, a broken body or a limit; callers outside use `parse` or
    `parameters`.
    """
    if len(hit.query) > MAX_QUERY_BYTES:
        raise _Refused(
            Reason.QUERY_TOO_LONG, f"the query has {len(hit.query)} bytes, at most {MAX_QUERY_BYTES} are read"
        )
    raw = _decode_pairs(hit.query)
    if hit.body:
        if "body_cut" in hit.flags or len(hit.body) > MAX_BODY_BYTES:
            raise _Refused(Reason.BODY_TOO_LONG, f"the body has more than {MAX_BODY_BYTES} bytes")
        raw.update(_decode_body(hit))
    if len(raw) > MAX_PARAMETERS:
        raise _Refused(Reason.TOO_MANY_PARAMETERS, f"{len(raw)} parameters, at most {MAX_PARAMETERS} are read", raw)
    size = len(hit.query) + len(hit.body)  # no text is longer than the bytes it came in
    if (size > MAX_NAME and max(map(len, raw), default=0) > MAX_NAME) or (
        size > MAX_VALUE and max(map(len, raw.values()), default=0) > MAX_VALUE
    ):
        _refuse_length(raw)
    return raw


def _refuse_length(raw: dict[str, str]) -> None:
    for name, value in raw.items():
        if len(name) > MAX_NAME:
            raise _Refused(
                Reason.NAME_TOO_LONG, f"the name {name[:40]!r}... has {len(name)} characters, at most {MAX_NAME}", raw
            )
        if len(value) > MAX_VALUE:
            raise _Refused(
                Reason.VALUE_TOO_LONG, f"{name} has {len(value)} characters, at most {MAX_VALUE} are read", raw
            )


def _decode_body(hit: Hit) -> dict[str, str]:
    kind = hit.content_type.lower()
    if "json" in kind or hit.body.lstrip()[:1] == b"{":
        return _decode_json(hit.body)
    if kind.startswith("multipart/"):
        raise _Refused(Reason.INVALID_BODY, "a multipart body is not read: send a form or JSON")
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
                raise _Refused(Reason.NOT_UTF8, f"{part[:60].encode('latin-1')!r} is no UTF-8") from None
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
        raise _Refused(Reason.NOT_UTF8, "the JSON body is no UTF-8") from None
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH and _json_depth(body) > MAX_JSON_DEPTH:
        raise _Refused(Reason.INVALID_BODY, f"the JSON body is nested deeper than {MAX_JSON_DEPTH}")
    try:
        document = _json.decode(body)
        pairs = {name: _json_text(bytes(value)) for name, value in document.items() if name}
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _Refused(Reason.INVALID_BODY, f"the body is no JSON object: {error}") from None
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


def _from_path(hit: Hit, raw: dict[str, str]) -> tuple[str, str]:
    """Client and affiliate of a tracker link `/c/{client}/{affiliate}`. The path is split before it is decoded."""
    parts = hit.path.split(b"/")
    if len(parts) == 5 and not parts[4]:
        parts.pop()  # one slash at the end does no harm
    if len(parts) != 4 or not parts[2] or not parts[3]:
        raise _Refused(Reason.BAD_PATH, f"{hit.path[:80]!r} is not /c/CLIENT/AFFILIATE", raw)
    try:
        client, affiliate = (unquote_to_bytes(part).decode() for part in parts[2:])
    except UnicodeDecodeError:
        raise _Refused(Reason.NOT_UTF8, f"the path {hit.path[:60]!r} is no UTF-8", raw) from None
    if len(affiliate) > MAX_VALUE:
        raise _Refused(
            Reason.VALUE_TOO_LONG, f"affiliate has {len(affiliate)} characters, at most {MAX_VALUE} are read", raw
        )
    return client, affiliate


def _unknown_client(name: str, event: str, raw: dict[str, str]) -> Rejection:
    if not name:
        return Rejection(Reason.MISSING_CLIENT.value, "the parameter client is missing", "", event, raw)
    return Rejection(Reason.UNKNOWN_CLIENT.value, f"there is no client {name[:80]!r}", "", event, raw)


def _glimpse(hit: Hit, raw: dict[str, str], rulebook: Rulebook) -> tuple[str, str]:
    """Client and event of a hit that could not be read whole, so that it is counted where it belongs; "" if unknown."""
    found = raw or _readable_pairs(hit.query, MAX_QUERY_BYTES) | _readable_pairs(hit.body, MAX_BODY_BYTES)
    client, event = found.get("client", ""), found.get("event", "")
    if hit.route == "c":
        parts = [*hit.path.split(b"/"), b"", b"", b""]
        client, event = unquote_to_bytes(parts[2]).decode(errors="replace"), "click"
    return client if client in rulebook.clients else "", event if EVENT_NAME.match(event) else ""


def _readable_pairs(data: bytes, limit: int) -> dict[str, str]:
    """What can be read of a query, a form or a JSON document in which something else cannot."""
    if data.lstrip()[:1] == b"{":
        try:
            return _decode_json(data.decode(errors="replace").encode())
        except _Refused:
            return {}
    pairs: dict[str, str] = {}
    parts = data[:limit].split(b"&")
    for part in parts[:-1] if len(data) >= limit else parts:  # the last one may be cut
        try:
            pairs.update(_decode_pairs(part))
        except _Refused:
            continue
    return pairs


def _split(raw: dict[str, str], client: Client) -> tuple[dict[str, str], dict[str, str], str]:
    """Reserved names (sorted), custom parameters, and which identifiers were none.

    An alias fills a reserved name that did not come and stays a custom parameter.
    """
    params = raw.copy()
    fields = {name: params.pop(name) for name in _SORTED_RESERVED if name in raw}
    ignored = ""
    for name in IDENTIFIERS:
        if name in fields and is_no_id(fields[name], client):
            ignored += f", {name} {fields.pop(name)[:80]!r}"
    filled = False
    for alias, name in client.aliases.items():
        if alias not in params or name in fields:
            continue
        value = params[alias]
        if name in IDENTIFIERS and is_no_id(value, client):
            ignored += f", {alias} {value[:80]!r}"
            continue
        fields[name] = value
        filled = True
    return (
        dict(sorted(fields.items())) if filled else fields,
        params,
        f"no identifier: {ignored[2:]}" if ignored else "",
    )


def is_no_id(value: str, client: Client) -> bool:
    """Whether the value stands for no identifier at all: a macro nobody filled, or one of the client's `not_an_id`."""
    return value in client.not_an_id or (value[-1] in _MACRO_ENDS and MACRO.match(value) is not None)


def _apply_tracker_link(hit: Hit, fields: dict[str, str], params: dict[str, str], affiliate: str) -> dict[str, str]:
    """At /c the hit's own id is the click id; an id that came along is the affiliate's own."""
    if "click_id" in fields:
        params["affiliate_click_id"] = fields["click_id"]
    own = {"affiliate": affiliate, "client": "", "click_id": hit.id, "event": "click"}
    return dict(sorted((fields | own).items()))


def _check(event: str, fields: dict[str, str], client: Client, hit: Hit) -> tuple[Reason, str] | None:
    if not event:
        return Reason.MISSING_EVENT, "the parameter event is missing"
    if not EVENT_NAME.match(event):
        return Reason.INVALID_EVENT, f"event {event[:80]!r}: use 1 to 64 of A-Z a-z 0-9 _ . : / -"
    if hit.route in BROWSER_ROUTES and event not in client.browser_events and SIGNED not in hit.flags:
        return Reason.EVENT_NOT_ALLOWED, f"event {event!r} is not in the browser_events of client {client.name!r}"
    amount = fields.get("amount")
    if amount is not None and not NUMBER.match(amount):
        return Reason.INVALID_AMOUNT, f"amount {amount[:80]!r}: write it as 12.50, digits and a point only"
    currency = fields.get("currency")
    if currency is not None and not CURRENCY.match(currency):
        raised = currency.upper() if currency.isascii() else ""
        if not CURRENCY.match(raised):
            return Reason.INVALID_CURRENCY, f"currency {currency[:80]!r}: use three letters such as EUR"
        fields["currency"] = raised
    return None
