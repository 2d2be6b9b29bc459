"""What the intake finds with the client's entry: who may send what, by which route."""

from __future__ import annotations

import pytest

from service.engine import Event, Hit, Rejection, load, parse
from service.intake.examine import Found, examine
from service.intake.signature import Keys, Seal, sign

RULES = """
[client.free]

[client.signed]
sig_secret = "env:K"

[client.near]
addresses = ["203.0.113.0/24", "2001:db8::/32"]

[client.both]
sig_secret = "env:K"
addresses = ["203.0.113.0/24"]
bots = "reject"
"""
RULEBOOK = load(RULES)
KEYS = Keys({"K": "a key"})
OFFICE = "203.0.113.7"
ELSEWHERE = "192.0.2.1"
BOT = ("bot",)


def a_hit(
    client: str, event: str = "sale", *, route: str = "e", address: str = OFFICE, sig: str = "", body: bytes = b"",
    flags: tuple[str, ...] = (), refusal: str = "",
) -> Hit:  # fmt: skip
    """sig: `good`, `bad` or none."""
    query = f"client={client}&event={event}".encode() if route != "c" else b"sub1=x"
    path = f"/c/{client}/best".encode() if route == "c" else f"/{route}".encode()
    if sig:
        query += b"&sig=" + (sign(b"a key", query, body).encode() if sig == "good" else b"0" * 64)
    return Hit("0199" + "a" * 28, 1, route, "POST" if body else "GET", path, query, body, address=address, flags=flags,
               refusal=refusal)  # fmt: skip


def look(hit: Hit) -> Found:
    """What is found, which the engine must say too, by any rulebook that knows the client."""
    found = examine(hit, RULEBOOK, Seal(KEYS, hit.query, hit.body))
    again = parse(found.hit, RULEBOOK)
    reason = found.parsed.reason if isinstance(found.parsed, Rejection) else ""
    assert found.hit.refusal == reason == (again.reason if isinstance(again, Rejection) else "")
    if reason and found.parsed.client:
        lenient = parse(found.hit, load(f'[client.{found.parsed.client}]\nbrowser_events = ["sale", "click"]\n'))
        assert isinstance(lenient, Rejection) and lenient.reason == reason
    return found


@pytest.mark.parametrize(
    ("hit", "reason", "flags"),
    [
        (a_hit("free"), "", ()),
        (a_hit("free", sig="bad"), "", ()),  # whoever asks for none gets none checked
        # server to server, signed
        (a_hit("signed", sig="good"), "", ("signed",)),
        (a_hit("signed", sig="good", body=b"amount=1"), "", ("signed",)),
        (a_hit("signed"), "missing_signature", ()),
        (a_hit("signed", sig="bad"), "bad_signature", ()),
        (a_hit("signed", body=b"amount=1&sig=00"), "bad_signature", ()),
        (a_hit("signed", route="e/batch"), "missing_signature", ()),
        (a_hit("signed", event="a b", sig="good"), "invalid_event", ()),
        # server to server, from a list
        (a_hit("near"), "", ("address_allowed",)),
        (a_hit("near", address="2001:db8::7"), "", ("address_allowed",)),
        (a_hit("near", address="::ffff:203.0.113.7"), "", ("address_allowed",)),
        (a_hit("near", address=ELSEWHERE), "address_not_allowed", ()),
        (a_hit("near", address=""), "address_not_allowed", ()),
        (a_hit("near", address=ELSEWHERE, route="e/batch"), "address_not_allowed", ()),
        (a_hit("both", sig="good"), "", ("address_allowed", "signed")),
        (a_hit("both", sig="good", address=ELSEWHERE), "address_not_allowed", ()),
        (a_hit("both"), "missing_signature", ()),
        (a_hit("both", sig="good", flags=BOT), "", ("bot", "address_allowed", "signed")),
        # browser routes: neither is asked for, but a signature opens them for any event
        (a_hit("near", event="click", route="e.gif", address=ELSEWHERE), "", ()),
        (a_hit("near", event="sale", route="e.gif"), "event_not_allowed", ()),
        (a_hit("signed", event="click", route="e.gif"), "", ()),
        (a_hit("signed", event="click", route="e.gif", sig="good"), "", ("signed",)),
        (a_hit("signed", event="click", route="e.gif", sig="bad"), "bad_signature", ()),
        (a_hit("signed", event="sale", route="e.js"), "event_not_allowed", ()),
        (a_hit("signed", event="sale", route="e.js", sig="good"), "", ("signed",)),
        (a_hit("signed", event="sale", route="e.gif", sig="bad"), "bad_signature", ()),
        (a_hit("free", event="sale", route="e.gif", sig="good"), "event_not_allowed", ()),
        # a tracker link is everybody's
        (a_hit("both", route="c", address=ELSEWHERE), "", ()),
        (a_hit("both", route="c", sig="bad"), "", ()),
        # bots
        (a_hit("free", event="click", route="e.gif", flags=BOT), "", BOT),
        (a_hit("both", event="click", route="e.gif", flags=BOT), "bot", BOT),
        (a_hit("both", event="sale", route="e.gif", sig="good", flags=BOT), "bot", ("bot", "signed")),
        (a_hit("both", route="c", flags=BOT), "bot", BOT),
        # what was refused at first sight stays so
        (a_hit("both", sig="good", refusal="bad_method"), "bad_method", ()),
        (a_hit("signed", event="sale", route="e.gif", sig="good", refusal="prefetch"), "prefetch", ()),
    ],
    ids=lambda value: f"{value.route} {value.query.decode()[:24]} {value.address}" if isinstance(value, Hit) else None,
)  # fmt: skip
def test_who_may_send_what(hit: Hit, reason: str, flags: tuple[str, ...]) -> None:
    found = look(hit)
    assert (found.hit.refusal, found.hit.flags) == (reason, flags)


def test_only_a_bots_click_is_led_on() -> None:
    # given a bot at a tracker link, and one at an image
    link = look(a_hit("both", route="c", flags=BOT))
    image = look(a_hit("both", event="click", route="e.gif", flags=BOT))
    # then the link knows where to lead
    assert isinstance(link.leads, Event) and link.leads.client == "both" and image.leads is None


def test_a_refusal_says_what_was_wrong_and_for_whom() -> None:
    found = look(a_hit("near", address=ELSEWHERE)).parsed
    assert isinstance(found, Rejection) and (found.client, found.event) == ("near", "sale")
    assert found.detail == "192.0.2.1 is not in the addresses of client 'near'" and found.params["client"] == "near"
