"""How a hit was read: its request line, why it was rejected or what it brought. See explain.py."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from service.engine.explain_postbacks import aliases_used
from service.engine.model import Hit, Reason, Rejection
from service.engine.parse import MACRO, parameters
from service.engine.pipeline import Work
from service.engine.trail import PRIVATE, Trail

REMEDIES: dict[str, str] = {
    Reason.MISSING_CLIENT: "add it; it has no alias",
    Reason.UNKNOWN_CLIENT: "check spelling and case; publish the client first",
    Reason.MISSING_EVENT: "add it",
    Reason.INVALID_EVENT: "use 1 to 64 of A-Z a-z 0-9 _ . : / -",
    Reason.EVENT_NOT_ALLOWED: "send it server to server, or allow it",
    Reason.INVALID_AMOUNT: "write 12.50: up to 18 digits, a point, up to 9 digits",
    Reason.INVALID_CURRENCY: "write EUR",
    Reason.NOT_UTF8: "encode texts as UTF-8, then percent-encode",
    Reason.QUERY_TOO_LONG: "send the parameters in a POST body",
    Reason.BODY_TOO_LONG: "send less, or several hits",
    Reason.INVALID_BODY: "send a form or one JSON object",
    Reason.TOO_MANY_PARAMETERS: "send fewer",
    Reason.NAME_TOO_LONG: "shorten it",
    Reason.VALUE_TOO_LONG: "shorten it",
    Reason.BAD_PATH: "give both parts, and no more",
    Reason.BAD_METHOD: "use GET or POST, for a batch POST",
    Reason.BATCH_TOO_LONG: "send several batches",
    Reason.MISSING_SIGNATURE: "sign the request with the client's key",
    Reason.BAD_SIGNATURE: "sign exactly what is sent, with the key in use",
    Reason.ADDRESS_NOT_ALLOWED: "send from a listed address, or list this one",
    Reason.PREFETCH: "nothing: the visit itself counts",
    Reason.BOT: 'nothing, unless it is no bot: bots = "keep"',
    Reason.DO_NOT_TRACK: "nothing: it is the visitor's wish",
    Reason.ERASED: "nothing: the person asked to be forgotten",
}
_HELD = {Reason.INVALID_AMOUNT: "amount", Reason.INVALID_CURRENCY: "currency"}  # whose value the detail quotes
_QUOTES = frozenset({Reason.NOT_UTF8, Reason.INVALID_BODY, Reason.NAME_TOO_LONG})  # bytes of no certain parameter


def request_line(hit: Hit, trail: Trail) -> str:
    """`GET /e?client=acme from 192.0.2.1`, with bytes that are no text escaped; for an affiliate without the address."""
    query = b"&".join([_shown(part, trail) for part in hit.query.split(b"&")]) if trail.private else hit.query
    asked = b"?" + query if query else b""
    address = f" from {hit.address}" if hit.address and not trail.private else ""
    return f"{hit.method} {(hit.path + asked).decode(errors='backslashreplace')}{address}"


def _shown(part: bytes, trail: Trail) -> bytes:
    """One parameter of a query. A name that cannot be read could be any."""
    name, _, value = part.partition(b"=")
    try:
        hidden = trail.hides(unquote_to_bytes(name.replace(b"+", b" ")).decode())
    except UnicodeDecodeError:
        hidden = True
    return name + b"=" + PRIVATE.encode() if value and hidden else part


def tell_rejection(hit: Hit, rejection: Rejection, trail: Trail) -> Iterator[str]:
    """Sentences about a rejection, with what the sender can do."""
    quotes = rejection.reason in _QUOTES or trail.hides(_HELD.get(Reason(rejection.reason), ""))
    detail = "" if trail.private and quotes else f": {rejection.detail}"
    yield f"Rejected ({rejection.reason}){detail}."
    yield "It is stored, but it is no event: it counts for nothing, and no trigger was asked."
    if hit.refusal:
        yield f"The sender was told so in the answer: X-Reason: {hit.refusal}."
    else:
        yield "The answer did not say so, so the sender may believe that it counted."
    remedy = REMEDIES.get(rejection.reason)
    if remedy:
        yield f"What the sender can do: {remedy}. Then send it again."


def tell_reading(work: Work, trail: Trail) -> Iterator[str]:
    """Sentences about what the hit brought, and what of it was an alias or no identifier."""
    event, client = work.event, work.client
    made = ("affiliate", "click_id") if work.hit.route == "c" else ()
    hidden = ("client", "event", "test", "sig", *made)
    own = {name: value for name, value in event.fields.items() if name not in hidden}
    params = {name: value for name, value in event.params.items() if name not in client.aliases}
    pairs = [f"{name} {trail.shown(name, value)}" for name, value in (own | params).items()]
    if made:
        yield f"It followed the tracker link of {event.fields['affiliate']}; its click id is the id of this hit."
    if pairs or not made:
        yield f"It brought {', '.join(pairs) or 'nothing but client and event'}."
    for alias, name in aliases_used(work):
        yield f'"{alias}" is an alias of {client.name} and was read as {name}.'
    sent = parameters(work.hit)
    for name in ("uid", "tag_id", "click_id", *client.aliases):
        value, meant = sent.get(name, ""), client.aliases.get(name, name)
        if value and meant in ("uid", "tag_id", "click_id") and f"{name} {value[:80]!r}" in event.detail:
            macro = MACRO.match(value) is not None
            why = "is a macro that the sender never filled in" if macro else "stands for no value"
            remedy = f" What the sender can do: fill in the {meant} that belongs to the visitor." if macro else ""
            yield f'{name} "{trail.shown(name, value[:80])}" {why}, so it identifies nobody and was ignored.{remedy}'
