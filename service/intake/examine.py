"""What the intake finds out about a hit with the client's entry: signature, address, bot. It is written into the hit.

What is refused here stays refused, whatever rulebook is in force later.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

import msgspec

from service.engine.model import Event, Hit, Reason, Rejection
from service.engine.parse import BROWSER_ROUTES, SIGNED, parse
from service.engine.rulebook import Client, Rulebook
from service.intake.capture import BOT, PUBLIC_ROUTES
from service.intake.proxies import Network, is_within, read_address
from service.intake.signature import Seal

ADDRESS_ALLOWED = "address_allowed"
_Wrong = tuple[Reason, str]


class Found(NamedTuple):
    """A hit with what was found, and what it says. leads: the click of a tracker link that is refused but led on."""

    hit: Hit
    parsed: Event | Rejection
    leads: Event | None = None


def examine(hit: Hit, rulebook: Rulebook, seal: Seal, detail: str = "") -> Found:
    """Read the hit and hold it against its client's entry.

    seal: the signature of its request. detail: why it is refused already, for the sender.
    """
    parsed = parse(hit, rulebook)
    if isinstance(parsed, Event):
        client = rulebook.clients[parsed.client]
        if client.sig_secret or client.addresses or (BOT in hit.flags and client.bots == "reject"):
            return _guard(hit, parsed, client, seal)
        return Found(hit, parsed)
    if parsed.reason == Reason.EVENT_NOT_ALLOWED and rulebook.clients[parsed.client].sig_secret and not hit.refusal:
        return _ask_signature(hit, parsed, rulebook, seal)
    if detail and hit.refusal:
        parsed = msgspec.structs.replace(parsed, detail=detail)
    return Found(_with(hit, hit.flags, parsed.reason), parsed)


def _guard(hit: Hit, event: Event, client: Client, seal: Seal) -> Found:
    """An event that is fine in itself: may it come from there?"""
    flags = hit.flags
    if hit.route not in PUBLIC_ROUTES:
        if client.addresses:
            if wrong := _wrong_address(hit, client):
                return _refused(hit, event, wrong)
            flags = (*flags, ADDRESS_ALLOWED)
        if client.sig_secret:
            if wrong := _wrong_signature(event, client, seal):
                return _refused(hit, event, wrong)
            flags = (*flags, SIGNED)
    elif BOT in flags and client.bots == "reject":
        found = _refused(hit, event, (Reason.BOT, f"{hit.user_agent[:80]!r} is a bot by its own name"))
        return found._replace(leads=event if hit.route == "c" else None)
    elif client.sig_secret and hit.route in BROWSER_ROUTES:
        said = seal.wrong(client)
        if said:
            return _refused(hit, event, (Reason.BAD_SIGNATURE, said))
        flags = flags if said is not None else (*flags, SIGNED)
    return Found(_with(hit, flags, ""), event)


def _ask_signature(hit: Hit, rejection: Rejection, rulebook: Rulebook, seal: Seal) -> Found:
    """An event that a browser route may bring only with a signature."""
    client = rulebook.clients[rejection.client]
    said = seal.wrong(client)
    if said is None:
        hit = _with(hit, (*hit.flags, SIGNED), "")
        parsed = parse(hit, rulebook)
        if isinstance(parsed, Event) and BOT in hit.flags:
            return _guard(hit, parsed, client, seal)
        return Found(hit if isinstance(parsed, Event) else _with(hit, hit.flags, parsed.reason), parsed)
    if said:
        rejection = msgspec.structs.replace(rejection, reason=Reason.BAD_SIGNATURE.value, detail=said)
    return Found(_with(hit, hit.flags, rejection.reason), rejection)


def _wrong_address(hit: Hit, client: Client) -> _Wrong | None:
    address = read_address(hit.address)
    if address is not None and is_within(address, _networks(client.addresses)):
        return None
    return Reason.ADDRESS_NOT_ALLOWED, f"{hit.address or 'nowhere'} is not in the addresses of client {client.name!r}"


def _wrong_signature(event: Event, client: Client, seal: Seal) -> _Wrong | None:
    said = seal.wrong(client)
    if said is None:
        return None
    if said:
        return Reason.BAD_SIGNATURE, said
    if "sig" in event.fields:
        return Reason.BAD_SIGNATURE, "sig is in the body, which it signs; send it in the query"
    return Reason.MISSING_SIGNATURE, f"client {client.name!r} takes only what is signed; add sig to the query"


@lru_cache(maxsize=1024)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple([ip_network(text) for text in texts])


def _refused(hit: Hit, event: Event, wrong: _Wrong) -> Found:
    reason, detail = wrong[0].value, wrong[1]
    params = event.fields | event.params
    return Found(_with(hit, hit.flags, reason), Rejection(reason, detail, event.client, event.name, params))


def _with(hit: Hit, flags: tuple[str, ...], refusal: str) -> Hit:
    """The same hit with what was found. Written out, since `replace` takes three times as long."""
    return Hit(
        hit.id, hit.received_at_us, hit.route, hit.method, hit.path, hit.query, hit.body, hit.content_type, hit.address,
        hit.user_agent, hit.referrer, refusal, flags,
    )  # fmt: skip
