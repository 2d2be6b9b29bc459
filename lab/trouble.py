"""Broken requests: for each reason of a rejection that a sender can bring about, one request that does."""

from __future__ import annotations

from collections.abc import Callable

from lab.world import Draft, World, encode_pairs
from service.engine.rulebook import Client

_JSON = "application/json"


def break_something(world: World, at_us: int) -> None:
    """One broken request; the reasons take turns, so that a few hits hold them all. Its note is `broken:REASON`."""
    reason = tuple(BROKEN)[world.broken % len(BROKEN)]
    world.broken += 1
    world.people += 1
    method, target, body, content_type = BROKEN[reason](world, world.client())
    note, headers = f"broken:{reason}", world.headers()
    world.add(Draft(at_us, method, target, note, world.people, headers, body, content_type))


Wire = tuple[str, bytes, bytes, str]  # method, target, body, content type


def _get(*pairs: tuple[str, str], tail: bytes = b"", path: bytes = b"/e") -> Wire:
    return "GET", path + b"?" + encode_pairs(pairs) + tail, b"", ""


def _uid(world: World) -> tuple[str, str]:
    return "uid", f"x-{world.people}"


def _unknown_client(world: World, client: Client) -> Wire:
    wrong = client.name + "s"
    if world.dice.chance(0.3):
        return "GET", f"/c/{wrong}/{world.affiliate() or 'nobody'}?sub1=a".encode(), b"", ""
    return _get(("client", wrong), ("event", "login"), _uid(world))


def _missing_client(world: World, client: Client) -> Wire:
    return _get(("event", "registration"), _uid(world))


def _missing_event(world: World, client: Client) -> Wire:
    return _get(("client", client.name), _uid(world))


def _invalid_event(world: World, client: Client) -> Wire:
    return _get(("client", client.name), ("event", "first deposit!"), _uid(world))


def _event_not_allowed(world: World, client: Client) -> Wire:
    event = "not-for-browsers" if "sale" in client.browser_events else "sale"
    return _get(("client", client.name), ("event", event), ("amount", "500"), _uid(world), path=b"/e.gif")


def _invalid_amount(world: World, client: Client) -> Wire:
    amount = world.dice.pick(("12,50", "1e3", "EUR 20", " 7", "1_000", "٣"))
    return _get(("client", client.name), ("event", "sale"), _uid(world), ("amount", amount), ("currency", "EUR"))


def _invalid_currency(world: World, client: Client) -> Wire:
    return _get(("client", client.name), ("event", "sale"), _uid(world), ("amount", "12.50"), ("currency", "€"))


def _not_utf8(world: World, client: Client) -> Wire:
    tail = world.dice.pick((b"&city=M%FCnchen", b"&city=%C3%28", b"&city=%ED%A0%80", b"&%FF%FE=1"))
    return _get(("client", client.name), ("event", "login"), _uid(world), tail=tail)


def _query_too_long(world: World, client: Client) -> Wire:
    return _get(("client", client.name), ("event", "login"), ("pad", "p" * world.dice.between(8_193, 9_000)))


def _too_many_parameters(world: World, client: Client) -> Wire:
    return _get(("client", client.name), ("event", "login"), *((f"p{number}", "1") for number in range(101)))


def _name_too_long(world: World, client: Client) -> Wire:
    return _get(("client", client.name), ("event", "login"), ("n" * 65, "1"))


def _value_too_long(world: World, client: Client) -> Wire:
    return _get(("client", client.name), ("event", "login"), _uid(world), ("comment", "v" * 1_025))


def _invalid_body(world: World, client: Client) -> Wire:
    body = world.dice.pick((b'{"client":"%s","event":', b'["%s"]', b"%s")) % client.name.encode()
    return "POST", b"/e", body, _JSON


BROKEN: dict[str, Callable[[World, Client], Wire]] = {
    "unknown_client": _unknown_client,
    "missing_client": _missing_client,
    "missing_event": _missing_event,
    "query_too_long": _query_too_long,
    "not_utf8": _not_utf8,
    "invalid_amount": _invalid_amount,
    "value_too_long": _value_too_long,
    "invalid_body": _invalid_body,
    "event_not_allowed": _event_not_allowed,
    "invalid_event": _invalid_event,
    "invalid_currency": _invalid_currency,
    "too_many_parameters": _too_many_parameters,
    "name_too_long": _name_too_long,
}
