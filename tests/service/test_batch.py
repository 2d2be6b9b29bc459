"""POST /e/batch: a hit per line, good or bad, in their order, with a few round trips for all of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from service.engine import Hit
from service.engine.parse import MAX_BODY_BYTES, parameters
from service.engine.partition import partition_of
from service.intake.capture import BODY_CUT
from service.intake.lines import MAX_BATCH_BYTES, MAX_BATCH_LINES, BadBatchError, hits_of, lines_of
from service.intake.signature import sign
from service.servers import free_port
from tests.service.conftest import Servers
from tests.service.webprocess import Web, web_process

RULES = """
[client.acme]
[client.bolt]
[client.signed]
sig_secret = "env:SIGNED_SIG"
[client.near]
addresses = ["203.0.113.0/24"]
"""
SALE = b'{"client": "acme", "event": "sale", "txid": "%d"}'


@pytest.fixture(scope="module")
def web(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SIGNED_SIG", "a key of theirs")
        folder = tmp_path_factory.mktemp("batch")
        changes = {"trusted_proxies": "127.0.0.0/8"}
        with web_process(folder, servers.broker_url, free_port(), RULES, **changes) as running:
            yield running


def commands(web: Web, name: str) -> int:
    """How often the journal's Redis was given a command."""
    with web.connect() as connection:
        return int(connection.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))


def ids_of(answer: httpx.Response) -> list[str]:
    return [line.split()[1].rstrip(":") for line in answer.text.splitlines()]


def test_every_line_is_a_hit_of_its_own_good_or_bad(web: Web) -> None:
    # given lines of all kinds, with empty ones between them
    lines = [
        b'{"client": "acme", "event": "sale", "amount": 12.50}',
        b'{"client": "nobody", "event": "sale"}',
        b"client=acme&event=sale",
        b"{broken",
        b'["client"]',
        b'{"client": "bolt", "event": "sale", "x": "\xff"}',
        b'{"client": "bolt", "event": "login"}',
    ]
    body = b"\r\n".join(lines[:3]) + b"\n\n  \n" + b"\n".join(lines[3:]) + b"\n"
    # when they are posted
    answer = web.client.post("/e/batch", content=body, headers={"User-Agent": "shop/1.0"})
    # then each is answered in its line
    said = [line.split(":")[0].split() for line in answer.text.splitlines()]
    assert answer.status_code == 200 and [words[0] for words in said] == ["stored", *["rejected"] * 5, "stored"]
    assert [words[2] for words in said[1:6]] == [
        "unknown_client",
        "invalid_body",
        "invalid_body",
        "invalid_body",
        "not_utf8",
    ]
    assert (answer.headers["x-stored"], answer.headers["x-rejected"]) == ("2", "5")
    # and logged as it came, where it belongs
    for line, hit_id in zip(lines, ids_of(answer), strict=True):
        entry = web.entry(hit_id)
        assert entry.hit is not None and (entry.hit.route, entry.hit.body) == ("e/batch", line)
        assert (entry.hit.method, entry.hit.path, entry.hit.user_agent) == ("POST", b"/e/batch", "shop/1.0")
    assert web.entry(ids_of(answer)[6]).partition == partition_of("bolt", web.settings.partitions)


def test_json_is_answered_in_json_lines(web: Web) -> None:
    body = SALE % 1 + b"\n" + b"{}"
    answer = web.client.post("/e/batch", content=body, headers={"Accept": "application/x-ndjson"})
    good, bad = map(json.loads, answer.text.splitlines())
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert (good["result"], good["client"]) == ("stored", "acme")
    assert (bad["result"], bad["reason"]) == ("rejected", "missing_client") and "detail" in bad


def test_the_query_goes_with_every_line(web: Web) -> None:
    body = b'{"event": "sale"}\n{"event": "login", "client": "bolt"}'
    answer = web.client.post("/e/batch?client=acme&sub1=x", content=body)
    assert [line.split()[2:] for line in answer.text.splitlines()] == [["acme", "sale"], ["bolt", "login"]]
    hit = web.entry(ids_of(answer)[0]).hit
    assert hit is not None and parameters(hit) == {"client": "acme", "sub1": "x", "event": "sale"}


def test_a_thousand_lines_keep_their_order_and_take_a_few_round_trips(web: Web) -> None:
    # given as many lines as a batch may have, of two clients in turn
    lines = [(SALE % n).replace(b"acme", (b"acme", b"bolt")[n % 2]) for n in range(MAX_BATCH_LINES)]
    before = commands(web, "evalsha")
    # when they are posted
    answer = web.client.post("/e/batch", content=b"\n".join(lines))
    # then all are stored, in their order, by far fewer commands than lines
    assert (answer.status_code, answer.headers["x-stored"]) == (200, "1000")
    assert commands(web, "evalsha") - before < 100
    place = {hit_id: number for number, hit_id in enumerate(ids_of(answer))}
    for client in ("acme", "bolt"):
        partition = partition_of(client, web.settings.partitions)
        found = [e.hit.id for e in web.entries() if e.partition == partition and e.hit and e.hit.id in place]
        assert found == sorted(found, key=place.__getitem__) and len(found) == 500


def test_a_line_that_is_too_long_is_cut_and_rejected_alone(web: Web) -> None:
    long = b'{"client": "acme", "event": "sale", "x": "' + b"v" * MAX_BODY_BYTES + b'"}'
    answer = web.client.post("/e/batch", content=long + b"\n" + SALE % 3)
    assert [line.split(":")[0].split()[0] for line in answer.text.splitlines()] == ["rejected", "stored"]
    hit = web.entry(ids_of(answer)[0]).hit
    assert hit is not None and (hit.refusal, hit.flags, hit.body) == (
        "body_too_long",
        (BODY_CUT,),
        long[:MAX_BODY_BYTES],
    )


@pytest.mark.parametrize(
    ("body", "headers", "query", "reason", "words"),
    [
        (b"\n".join([SALE % 1] * (MAX_BATCH_LINES + 1)), {}, "", "batch_too_long", "1001 lines, at most 1000"),
        (b"x" * (MAX_BATCH_BYTES + 1), {}, "", "batch_too_long", "more than 1048576 bytes"),
        (b"{}\n" * 500, {}, "x=" + "y" * 4000, "batch_too_long", "the query goes with each of 500 lines"),
        (b"", {}, "", "invalid_body", "has no line"),
        (b"\n \r\n", {}, "client=acme", "invalid_body", "has no line"),
        (
            gzip.compress(b"\n" * (MAX_BATCH_BYTES + 1)),
            {"Content-Encoding": "gzip"},
            "",
            "batch_too_long",
            "unpacks to",
        ),
        (b"{}", {"Content-Encoding": "gzip"}, "", "invalid_body", "is no gzip"),
        (gzip.compress(SALE % 1)[:-4], {"Content-Encoding": "gzip"}, "", "invalid_body", "the body is cut"),
        (gzip.compress(b"{}") * 2, {"Content-Encoding": "gzip"}, "", "invalid_body", "more than one gzip stream"),
        (SALE % 1, {"Content-Encoding": "br"}, "", "invalid_body", "'br' is not read; send gzip or none"),
    ],
)
def test_a_batch_over_a_bound_is_refused_as_a_whole(
    web: Web, body: bytes, headers: dict[str, str], query: str, reason: str, words: str
) -> None:
    # given how much is logged
    before = len(web.entries())
    # when such a batch comes
    answer = web.client.post(f"/e/batch?{query}", content=body, headers=headers)
    # then it is one hit, cut like any other, with its reason, and none of its lines counts
    assert (answer.status_code, answer.headers["x-reason"]) == (422, reason) and words in answer.text
    hit = web.entry(answer.headers["x-hit-id"]).hit
    assert hit is not None and (hit.refusal, hit.body) == (reason, body[:MAX_BODY_BYTES])
    assert (BODY_CUT in hit.flags) == (len(body) > MAX_BODY_BYTES) and len(web.entries()) == before + 1


def test_a_batch_may_be_packed(web: Web) -> None:
    body = gzip.compress(b"\n".join(SALE % n for n in range(50)))
    answer = web.client.post("/e/batch", content=body, headers={"Content-Encoding": "gzip"})
    hit = web.entry(ids_of(answer)[49]).hit
    assert answer.headers["x-stored"] == "50" and hit is not None and hit.body == SALE % 49


def test_one_signature_stands_for_all_lines(web: Web) -> None:
    # given lines of a client that asks for signatures, and of one that does not
    body = b'{"client": "signed", "event": "sale"}\n{"client": "signed", "event": "login"}\n' + SALE % 7
    sig = sign(b"a key of theirs", b"source=shop", body)
    # when they come signed (packed or not), signed for another body, and unsigned
    good = web.client.post(f"/e/batch?source=shop&sig={sig}", content=body)
    packed = web.client.post(
        f"/e/batch?sig={sig}&source=shop", content=gzip.compress(body), headers={"Content-Encoding": "gzip"}
    )
    forged = web.client.post(f"/e/batch?source=shop&sig={sig}", content=body.replace(b"login", b"bonus"))
    bare = web.client.post("/e/batch?source=shop", content=body)
    # then only what was signed counts for that client
    assert good.headers["x-stored"] == packed.headers["x-stored"] == "3"
    hit = web.entry(ids_of(good)[0]).hit
    assert hit is not None and hit.flags == ("signed",)
    assert [line.split(":")[0].split()[2] for line in forged.text.splitlines()] == ["bad_signature"] * 2 + ["acme"]
    assert [line.split(":")[0].split()[2] for line in bare.text.splitlines()] == ["missing_signature"] * 2 + ["acme"]


@pytest.mark.parametrize(("forwarded", "status"), [("203.0.113.9", 200), ("203.0.113.9, 192.0.2.1", 422), ("", 422)])
def test_the_list_of_addresses_holds_for_the_sender_behind_the_proxy(web: Web, forwarded: str, status: int) -> None:
    # when a trusted proxy names who sends (twice, as two headers)
    headers = [("X-Forwarded-For", part) for part in ("198.51.100.1", *forwarded.split(", ")) if part]
    answer = web.client.get("/e?client=near&event=sale", headers=headers)
    # then it is logged, and the list holds for it
    hit = web.entry(answer.headers["x-hit-id"]).hit
    expected = forwarded.split(", ")[-1] or "198.51.100.1"
    assert hit is not None and hit.address == expected and answer.status_code == status
    assert (hit.flags, hit.refusal) == ((("address_allowed",), "") if status == 200 else ((), "address_not_allowed"))


@pytest.mark.parametrize("route", ["e.gif?client=acme&event=click", "c/acme/best"])
def test_what_a_browser_fetches_ahead_is_logged_and_refused(web: Web, route: str) -> None:
    # when a browser prefetches, then nobody was there yet; the visit itself is another request
    ahead = web.client.get(f"/{route}", headers={"Sec-Purpose": "prefetch"})
    hit = web.entry(ahead.headers["x-hit-id"]).hit
    assert (ahead.status_code, ahead.headers["x-reason"]) == (422, "prefetch") and "location" not in ahead.headers
    assert hit is not None and (hit.refusal, hit.flags) == ("prefetch", ("prefetch",))
    # and a server's request is what it is
    assert web.client.get("/e?client=acme&event=sale", headers={"Sec-Purpose": "prefetch"}).status_code == 200


def test_a_bot_is_marked_where_browsers_come(web: Web) -> None:
    for route, flags in (("e.gif", ("bot",)), ("e", ())):
        answer = web.client.get(f"/{route}?client=acme&event=click", headers={"User-Agent": "Googlebot/2.1"})
        hit = web.entry(answer.headers["x-hit-id"]).hit
        assert answer.status_code == 200 and hit is not None and hit.flags == flags


# the pieces


def a_request(query: str = "", flags: tuple[str, ...] = (), refusal: str = "") -> Hit:
    return Hit("0" * 32, 1, "e/batch", "POST", b"/e/batch", quote(query).encode(), b"", refusal=refusal, flags=flags)


def test_a_batch_that_is_cut_off_by_its_sender_is_no_batch() -> None:
    with pytest.raises(BadBatchError) as caught:
        lines_of(SALE % 1, a_request(flags=("disconnected",), refusal="invalid_body"), b"")
    assert caught.value.reason == "invalid_body" and "went away" in caught.value.detail


def test_the_ids_of_a_batch_differ() -> None:
    hits = list(hits_of([SALE % n for n in range(100)], a_request()))
    assert len({hit.id for hit in hits}) == 100 and {hit.received_at_us for hit in hits} == {1}
