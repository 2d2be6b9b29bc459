"""What the intake says: one line, JSON, an image or a redirect, and always what happened."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest

from service.engine import Event, Hit, Rejection, Rulebook, load, parse
from service.intake.answers import GIF, Answer, answer, batch_answer, landing, may_lead_to

RULES = """
[client.acme]
landing = "https://acme.example/welcome?cid={click_id}&from=link"
hosts = ["acme.example", "www.acme.example"]

[client.raw]
params = ["sub1", "sub2"]
landing = "https://raw.example/{sub1|raw}?cid={click_id}#{sub2|raw}"

[client.plain]
name = "has no page"
"""


def a_link(path: str, query: str = "") -> Hit:
    return Hit("0199" + "a" * 28, 1, "c", "GET", path.encode(), query.encode())


def an_event(query: str, route: str = "e") -> Hit:
    return Hit("0199" + "b" * 28, 1, route, "GET", f"/{route}".encode(), query.encode())


@pytest.fixture(scope="module")
def rulebook() -> Rulebook:
    return load(RULES)


def said(hit: Hit, rulebook: Rulebook, *, as_json: bool = False, stored: bool = True) -> tuple[Answer, dict[str, str]]:
    """The answer, and its headers by name."""
    reply = answer(hit, parse(hit, rulebook), as_json, rulebook, stored)
    return reply, {name.decode(): value.decode() for name, value in reply.headers}


def target(hit: Hit, rulebook: Rulebook) -> str:
    """Where a tracker link leads."""
    event = parse(hit, rulebook)
    assert isinstance(event, Event), event
    return landing(hit, event, rulebook)


def test_a_stored_event_is_told_in_one_line(rulebook: Rulebook) -> None:
    # given a good event
    hit = an_event("client=acme&event=sale")
    # when it was stored
    reply, headers = said(hit, rulebook)
    # then line and headers name it, and nobody caches it
    assert (reply.status, reply.body) == (200, f"stored {hit.id} acme sale\n".encode())
    assert headers["x-hit-id"] == hit.id and headers["cache-control"] == "no-store" and "x-reason" not in headers


def test_a_rejection_says_id_reason_and_what_was_wrong(rulebook: Rulebook) -> None:
    # given an event of a client that is misspelt
    hit = an_event("client=acmee&event=sale")
    # when it was stored
    reply, headers = said(hit, rulebook)
    # then the sender can debug it
    assert reply.status == 422 and headers["x-reason"] == "unknown_client" and headers["x-hit-id"] == hit.id
    assert reply.body == f"rejected {hit.id} unknown_client: there is no client 'acmee'\n".encode()


def test_json_says_the_same_for_machines(rulebook: Rulebook) -> None:
    # given a sender that asks for JSON
    good, bad = an_event("client=acme&event=sale"), an_event("client=acme")
    # then it gets the same facts by name
    assert msgspec.json.decode(said(good, rulebook, as_json=True)[0].body) == {
        "result": "stored", "id": good.id, "client": "acme", "event": "sale",
    }  # fmt: skip
    document = msgspec.json.decode(said(bad, rulebook, as_json=True)[0].body)
    assert (document["result"], document["reason"]) == ("rejected", "missing_event")


def test_what_could_not_be_stored_gets_no_id(rulebook: Rulebook) -> None:
    # given an event, an image and a tracker link that could not be stored
    for hit, status in (
        (an_event("client=acme&event=sale"), 503),
        (an_event("client=acme&event=click", route="e.gif"), 503),
        (a_link("/c/acme/best"), 302),
        (a_link("/c/nobody/best"), 503),
    ):
        # when it is answered
        reply, headers = said(hit, rulebook, stored=False)
        # then nothing is promised, and the client's customer is led on all the same
        assert (reply.status, headers["x-reason"]) == (status, "not_stored") and "x-hit-id" not in headers


def test_a_batch_is_told_line_by_line(rulebook: Rulebook) -> None:
    # given a good line, a bad one and one that could not be stored
    good, bad = an_event("client=acme&event=sale"), an_event("client=acme")
    told = [
        (good, parse(good, rulebook), True),
        (bad, parse(bad, rulebook), True),
        (good, parse(good, rulebook), False),
    ]
    # when they are answered
    reply = batch_answer(told, as_json=False)
    # then each is told in its line, and the headers count
    assert reply.status == 200 and reply.body.decode().splitlines() == [
        f"stored {good.id} acme sale",
        f"rejected {bad.id} missing_event: the parameter event is missing",
        "not_stored: hits cannot be stored at the moment; send it again",
    ]
    counts = {b"x-stored": b"1", b"x-rejected": b"1", b"x-not-stored": b"1", b"x-reason": b"not_stored"}
    assert counts.items() <= dict(reply.headers).items()
    # and if nothing at all could be stored, nothing is promised
    assert batch_answer(told[2:], as_json=True).status == 503


def test_a_bot_is_refused_and_led_on(rulebook: Rulebook) -> None:
    # given a click that is refused because of who follows the link
    hit = a_link("/c/acme/best")
    click = parse(hit, rulebook)
    assert isinstance(click, Event)
    # when it is answered
    reply = answer(hit, Rejection("bot", "it is one", "acme", "click"), False, rulebook, True, click)
    # then it sees the page, as previews of links and checks of advertisements must
    assert reply.status == 302 and (b"x-reason", b"bot") in reply.headers


def test_an_image_is_an_image_whatever_happened(rulebook: Rulebook) -> None:
    # given an image that is fine and one that is not
    for query, status in (("client=acme&event=click", 200), ("client=acme&event=sale", 422)):
        # when it is answered
        reply, headers = said(an_event(query, route="e.gif"), rulebook)
        # then it is the transparent pixel with the same headers
        assert (reply.status, reply.body, headers["content-type"]) == (status, GIF, "image/gif")
        assert ("x-reason" in headers) == (status == 422)
    assert GIF[:6] == b"GIF89a" and len(GIF) == 43


def test_a_link_leads_to_the_page_with_the_new_click_id_and_its_parameters(rulebook: Rulebook) -> None:
    # given a link with parameters: new ones, one that the page's address has already, and an id of the affiliate's own
    hit = a_link("/c/acme/best", "sub1=a%20b&ümlaut=ß&cid=old&from=mail&click_id=theirs&empty=")
    # then the page gets the new id, its own values, and the parameters
    where = urlsplit(target(hit, rulebook))
    assert (where.scheme, where.netloc, where.path) == ("https", "acme.example", "/welcome")
    assert parse_qs(where.query) == {"cid": [hit.id], "from": ["link"], "sub1": ["a b"], "ümlaut": ["ß"]}


def test_a_client_without_a_page_gets_a_plain_answer(rulebook: Rulebook) -> None:
    # given a link of a client without a landing page
    hit = a_link("/c/plain/best")
    # then the click is stored and said to be
    reply, headers = said(hit, rulebook)
    assert reply.status == 200 and "location" not in headers and reply.body.startswith(b"stored ")


@pytest.mark.parametrize(
    "sub1",
    [
        "a%0D%0ASet-Cookie:x=1",
        "a%00b%1Bc",
        "%C3%BC%E2%82%AC",
        "..//..",
        "%5B%5D",
        "a%20b%22%3C%3E%5C%5E%60%7B%7C%7D",
        "%7F",
    ],
)
def test_a_raw_value_cannot_break_the_header(rulebook: Rulebook, sub1: str) -> None:
    # given a landing page that takes a value raw, and a value that no header may hold
    location = target(a_link("/c/raw/best", f"sub1={sub1}"), rulebook)
    # then the address is plain ASCII without blanks, on the client's host, and still says the value
    assert location.isascii() and location.isprintable() and " " not in location
    where = urlsplit(location)
    assert where.hostname == "raw.example"
    assert unquote(where.path).replace("\r\n", "") == "/" + unquote(sub1).replace("\r\n", "")


def test_a_percent_of_a_raw_value_is_not_encoded_twice(rulebook: Rulebook) -> None:
    # given a raw value that is encoded already
    location = target(a_link("/c/raw/best", "sub1=a%2520b"), rulebook)
    # then it stays as it is
    assert urlsplit(location).path == "/a%20b"


def test_values_never_lead_to_a_host_that_is_not_the_clients(rulebook: Rulebook) -> None:
    # given values that try to become the host
    for value in ("@evil.example/", "//evil.example", ".evil.example", ":80@evil.example", "\\evil.example"):
        hit = Hit("01", 1, "c", "POST", b"/c/raw/best", b"", msgspec.json.encode({"sub1": value, "sub2": value}))
        # then the link leads to the client, or nowhere
        assert urlsplit(target(hit, rulebook)).hostname in ("raw.example", None)


@pytest.mark.parametrize(
    "address",
    [
        "//evil.example/",
        "///evil.example/",
        "/\\evil.example/",
        "\\\\evil.example\\",
        "https:evil.example",
        "https:/evil.example",
        "https:\\\\evil.example",
        "https://evil.example/",
        "https://evil.example#raw.example",
        "https://evil.example?raw.example/",
        "https://evil.example\\@raw.example/",
        "https://evil.example\\.raw.example/",
        "https://user@raw.example/",
        "https://user:secret@raw.example/",
        "https://raw.example@evil.example/",
        "https://raw.example:443@evil.example/",
        "https://raw.example:port/",
        "https://raw.example:99999/",
        "https://raw.example.evil.example/",
        "https://rawxexample/",
        "https://evil.example%2eraw.example/",
        "https://raw.example\u3002evil.example/",
        "https://raw.example\uff0fevil.example/",
        "https://[::1/",
        "https://[raw.example]/",
        "https:///raw.example",
        "javascript:alert(1)//raw.example",
        "javascript://raw.example/%0aalert(1)",
        "data:text/html,raw.example",
        "ftp://raw.example/",
        "",
        "raw.example",
    ],
)
def test_no_redirect_leads_astray(address: str) -> None:
    assert not may_lead_to(address, ["raw.example"])


@pytest.mark.parametrize(
    "address",
    [
        "https://raw.example/",
        "http://RAW.example:8443/x?u=https://evil.example/@#//evil.example",
        "https://raw.example",
    ],
)
def test_a_redirect_leads_to_the_clients_host(address: str) -> None:
    assert may_lead_to(address, ["www.raw.example", "raw.example"])


def test_every_rejection_has_a_line_without_a_break(rulebook: Rulebook) -> None:
    # given rejections whose detail shows what was sent
    for query in ("client=a%0Ab", "client=acme&event=%0D%0A", "client=acme&event=sale&amount=1%0A2"):
        rejected = parse(an_event(query), rulebook)
        assert isinstance(rejected, Rejection)
        # when it is answered, then in one line
        assert said(an_event(query), rulebook)[0].body.count(b"\n") == 1
