"""A hit's bytes to an event: decode once (`decoding`), map the client's names, check.

Steps: limits, decoding, the path of a tracker link, aliases, reserved names, checks. A refusal by the intake binds,
whatever these say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from service.engine.decoding import (
    MAX_BODY_BYTES,
    MAX_JSON_DEPTH,
    MAX_NAME,
    MAX_PARAMETERS,
    MAX_QUERY_BYTES,
    MAX_VALUE,
    Refused,
    decode,
    parameters,
    readable_pairs,
)
from service.engine.model import IDENTIFIERS, RESERVED, Event, Hit, Reason, Rejection

if TYPE_CHECKING:
    from service.engine.rulebook import Client, Rulebook

__all__ = [
    "BROWSER_ROUTES", "CURRENCY", "EVENT_NAME", "MACRO", "MAX_BODY_BYTES", "MAX_JSON_DEPTH", "MAX_NAME", "MAX_PARAMETERS",
    "MAX_QUERY_BYTES", "MAX_VALUE", "NUMBER", "SIGNED", "decode", "is_no_id", "parameters", "parse",
]  # fmt: skip

NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?\Z")
EVENT_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}\Z")
CURRENCY = re.compile(r"[A-Z]{3}\Z")
# {x} {{x}} [x] [[x]] #x# %x% ${x}: what other systems send when they forget to fill a macro
MACRO = re.compile(r"\$?\{[^{}]*\}\Z|\{\{[^{}]*\}\}\Z|\[[^\[\]]*\]\Z|\[\[[^\[\]]*\]\]\Z|#[^#]*#\Z|%[A-Za-z0-9_]+%\Z")
BROWSER_ROUTES = frozenset({"e.gif", "e.js"})
SIGNED = "signed"  # the intake found a valid signature

_SORTED_RESERVED = tuple(sorted(RESERVED))
_MACRO_ENDS = "}]#%"


def parse(hit: Hit, rulebook: Rulebook, decoded: dict[str, str] | None = None) -> Event | Rejection:
    """Read one hit by a rulebook.

    decoded: what `decode` finds in it, if that is known; then query and body are not looked at.
    Returns the event, or a rejection with a reason of `Reason`. Never raises for anything that a request can hold.
    """
    try:
        found = _read(hit, rulebook, decoded)
    except Refused as refused:
        client, event = _glimpse(hit, refused.raw, rulebook)
        found = Rejection(refused.reason.value, refused.detail, client, event, refused.raw)
    return _bind(hit, found) if hit.refusal else found


def _read(hit: Hit, rulebook: Rulebook, decoded: dict[str, str] | None) -> Event | Rejection:
    raw = decode(hit) if decoded is None else decoded
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


def _from_path(hit: Hit, raw: dict[str, str]) -> tuple[str, str]:
    """Client and affiliate of a tracker link `/c/{client}/{affiliate}`. The path is split before it is decoded."""
    parts = hit.path.split(b"/")
    if len(parts) == 5 and not parts[4]:
        parts.pop()  # one slash at the end does no harm
    if len(parts) != 4 or not parts[2] or not parts[3]:
        raise Refused(Reason.BAD_PATH, f"{hit.path[:80]!r} is not /c/CLIENT/AFFILIATE", raw)
    try:
        client, affiliate = (unquote_to_bytes(part).decode() for part in parts[2:])
    except UnicodeDecodeError:
        raise Refused(Reason.NOT_UTF8, f"the path {hit.path[:60]!r} is no UTF-8", raw) from None
    if len(affiliate) > MAX_VALUE:
        raise Refused(
            Reason.VALUE_TOO_LONG, f"affiliate has {len(affiliate)} characters, at most {MAX_VALUE} are read", raw
        )
    return client, affiliate


def _unknown_client(name: str, event: str, raw: dict[str, str]) -> Rejection:
    if not name:
        return Rejection(Reason.MISSING_CLIENT.value, "the parameter client is missing", "", event, raw)
    return Rejection(Reason.UNKNOWN_CLIENT.value, f"there is no client {name[:80]!r}", "", event, raw)


def _glimpse(hit: Hit, raw: dict[str, str], rulebook: Rulebook) -> tuple[str, str]:
    """Client and event of a hit that could not be read whole, so that it is counted where it belongs; "" if unknown."""
    found = raw or readable_pairs(hit.query, MAX_QUERY_BYTES) | readable_pairs(hit.body, MAX_BODY_BYTES)
    client, event = found.get("client", ""), found.get("event", "")
    if hit.route == "c":
        parts = [*hit.path.split(b"/"), b"", b"", b""]
        client, event = unquote_to_bytes(parts[2]).decode(errors="replace"), "click"
    return client if client in rulebook.clients else "", event if EVENT_NAME.match(event) else ""


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
