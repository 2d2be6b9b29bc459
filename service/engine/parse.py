"""A hit's bytes to an event: decode once, map the client's names, check. Pure, and the only decoder there is.

Steps: refusal of the intake, limits, decoding (query, then form or JSON body), aliases, reserved names, checks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import msgspec

from service.engine.model import RESERVED, Event, Hit, Reason, Rejection

if TYPE_CHECKING:
    from service.engine.rulebook import Client, Rulebook

MAX_QUERY_BYTES = 8 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_PARAMETERS = 100
MAX_NAME = 64
MAX_VALUE = 1024

NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?\Z")
EVENT_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}\Z")
CURRENCY = re.compile(r"[A-Z]{3}\Z")
MACRO = re.compile(r"\{[^{}]*\}\Z|\[\[?[^\[\]]*\]?\]\Z|#[^#]*#\Z|%[a-z_]+%\Z|\$\{[^{}]*\}\Z")
BROWSER_ROUTES = frozenset({"e.gif", "e.js"})

_RESERVED = frozenset(RESERVED)
_json = msgspec.json.Decoder(type=dict[str, msgspec.Raw])


class _Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail


def parse(hit: Hit, rulebook: Rulebook) -> Event | Rejection:
    """Read one hit by a rulebook.

    Returns the event, or a rejection with a reason of `Reason`. Never raises for anything that a request can hold.
    """
    try:
        raw = decode(hit)
    except _Refused as refused:
        return Rejection(hit.refusal or refused.reason, refused.detail)
    client_name, affiliate, event_name = _from_path(hit)
    client_name = client_name or raw.get("client", "")
    client = rulebook.clients.get(client_name)
    if hit.refusal:
        return Rejection(hit.refusal, "refused by the intake", client_name, raw.get("event", ""), raw)
    if client is None:
        return _unknown_client(client_name, rulebook, raw)
    fields, params = _split(raw, client)
    if hit.route == "c":
        _apply_tracker_link(hit, fields, params, affiliate)
    event_name = event_name or fields.get("event", "")
    rejection = _check(event_name, fields, client, hit)
    if rejection is not None:
        reason, detail = rejection
        return Rejection(reason, detail, client_name, event_name, raw)
    fields["client"], fields["event"] = client_name, event_name
    for name in ("uid", "tag_id", "click_id"):
        value = fields.get(name)
        if value is not None and (value in client.not_an_id or MACRO.match(value)):
            del fields[name]
    return Event(client_name, event_name, fields, params, fields.get("test") == "1")


def decode(hit: Hit) -> dict[str, str]:
    """All parameters of a hit as they were sent: query first, the body over it, the last of repeated names, no empty ones.

    Raises an internal signal for bytes that are no UTF-8, a broken body or a limit; callers outside use `parse`.
    """
    if len(hit.query) > MAX_QUERY_BYTES:
        raise _Refused(
            Reason.QUERY_TOO_LONG, f"the query has {len(hit.query)} bytes, at most {MAX_QUERY_BYTES} are read"
        )
    raw = _decode_pairs(hit.query) if hit.query else {}
    if hit.body:
        if "body_cut" in hit.flags or len(hit.body) > MAX_BODY_BYTES:
            raise _Refused(Reason.BODY_TOO_LONG, f"the body has more than {MAX_BODY_BYTES} bytes")
        is_json = "json" in hit.content_type or (not hit.content_type and hit.body[:1] == b"{")
        raw.update(_decode_json(hit.body) if is_json else _decode_pairs(hit.body))
    if len(raw) > MAX_PARAMETERS:
        raise _Refused(Reason.TOO_MANY_PARAMETERS, f"{len(raw)} parameters, at most {MAX_PARAMETERS} are read")
    for name, value in raw.items():
        if len(name) > MAX_NAME:
            raise _Refused(Reason.NAME_TOO_LONG, f"the name {name[:40]!r}... has {len(name)} characters of {MAX_NAME}")
        if len(value) > MAX_VALUE:
            raise _Refused(Reason.VALUE_TOO_LONG, f"{name} has {len(value)} characters, at most {MAX_VALUE} are read")
    return {name: value for name, value in raw.items() if value and name}


def _decode_pairs(data: bytes) -> dict[str, str]:
    pairs: dict[str, str] = {}
    try:
        for part in data.split(b"&"):
            name, _, value = part.partition(b"=")
            pairs[_decode_text(name)] = _decode_text(value)
    except UnicodeDecodeError:
        raise _Refused(Reason.NOT_UTF8, f"{part[:60]!r} is no UTF-8") from None
    return pairs


def _decode_text(data: bytes) -> str:
    if b"+" in data:
        data = data.replace(b"+", b" ")
    if b"%" in data:
        data = unquote_to_bytes(data)
    return data.decode()


def _decode_json(body: bytes) -> dict[str, str]:
    try:
        body.decode()
        document = _json.decode(body)
        return {name: _json_text(bytes(value)) for name, value in document.items()}
    except UnicodeDecodeError:
        raise _Refused(Reason.NOT_UTF8, "the JSON body is no UTF-8") from None
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise _Refused(Reason.INVALID_BODY, f"the body is no JSON object: {error}") from None


def _json_text(raw: bytes) -> str:
    """A JSON value as text: strings decoded, numbers in their written form, nested values as their JSON, null absent."""
    first = raw[:1]
    if first == b'"':
        value: Any = msgspec.json.decode(raw)
        text = str(value)
        text.encode()  # a lone surrogate is no text
        return text
    return "" if raw == b"null" else raw.decode()


def _from_path(hit: Hit) -> tuple[str, str, str]:
    """Client, affiliate and event of a tracker link `/c/{client}/{affiliate}`; empty for the other routes."""
    if hit.route != "c":
        return "", "", ""
    parts = unquote_to_bytes(hit.path).decode(errors="replace").split("/")
    parts += ["", "", "", ""]
    return parts[2], parts[3], "click"


def _unknown_client(name: str, rulebook: Rulebook, raw: dict[str, str]) -> Rejection:
    event = raw.get("event", "")
    if not name:
        return Rejection(Reason.MISSING_CLIENT, "the parameter client is missing", "", event, raw)
    return Rejection(Reason.UNKNOWN_CLIENT, f"there is no client {name[:80]!r}", "", event, raw)


def _split(raw: dict[str, str], client: Client) -> tuple[dict[str, str], dict[str, str]]:
    """Reserved and custom parameters; an alias fills a reserved name that did not come and stays a custom parameter."""
    fields: dict[str, str] = {}
    params: dict[str, str] = {}
    for name, value in raw.items():
        if name in _RESERVED:
            fields[name] = value
        else:
            params[name] = value
    for alias, name in client.aliases.items():
        if alias in raw and name not in fields:
            fields[name] = raw[alias]
    return fields, params


def _apply_tracker_link(hit: Hit, fields: dict[str, str], params: dict[str, str], affiliate: str) -> None:
    """At /c the hit's own id is the click id; an id that came along is the affiliate's own."""
    if "click_id" in fields:
        params["affiliate_click_id"] = fields["click_id"]
    fields["click_id"] = hit.id
    if affiliate:
        fields["affiliate"] = affiliate


def _check(event: str, fields: dict[str, str], client: Client, hit: Hit) -> tuple[str, str] | None:
    if not event:
        return Reason.MISSING_EVENT, "the parameter event is missing"
    if not EVENT_NAME.match(event):
        return Reason.INVALID_EVENT, f"event {event[:80]!r}: use 1 to 64 of A-Z a-z 0-9 _ . : / -"
    if hit.route in BROWSER_ROUTES and event not in client.browser_events:
        return Reason.EVENT_NOT_ALLOWED, f"event {event!r} is not in the browser_events of client {client.name!r}"
    amount = fields.get("amount")
    if amount is not None and not NUMBER.match(amount):
        return Reason.INVALID_AMOUNT, f"amount {amount[:80]!r}: write it as 12.50, digits and a point only"
    currency = fields.get("currency")
    if currency is not None:
        currency = currency.upper() if currency.isascii() else currency
        if not CURRENCY.match(currency):
            return Reason.INVALID_CURRENCY, f"currency {currency[:80]!r}: use three letters such as EUR"
        fields["currency"] = currency
    return None
