"""One webhook against a recipient that misbehaves: the class of every answer, and what is sent and kept."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from service.delivery import signing
from service.delivery.ladder import RESULTS, WAITS
from service.delivery.webhook import ANSWER_BYTES, Answer, Caller, Request, attempt_of, masked, prepare, state_after
from service.engine.model import Postback
from service.servers import free_port
from tests.service.faults import BOMB, HUGE, Faults

LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)
TIMEOUT_MS = 700
NOW_US = 1_772_452_800_000_000


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    with Faults() as server:
        yield server


def postback(url: str, body: str = "", identity: str = "pb1") -> Postback:
    return Postback(
        identity, "hit1", 1, NOW_US, "acme", "bestodds", "signup", "registration", "affiliate:bestodds", "webhook", "due",
        "POST" if body else "GET", url, body,
    )  # fmt: skip


def call(*urls: str, body: str = "") -> list[Answer]:
    """The answers to calls, one after the other, by one caller."""

    async def main() -> list[Answer]:
        caller = Caller(TIMEOUT_MS, LOOPBACK)
        answers = [await caller.call(prepare(postback(url, body), [], 1_772_452_800)) for url in urls]
        await caller.close()
        return answers

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "result", "status", "head"),
    [
        ("/200", "delivered", 200, "status 200\n"),
        ("/201", "delivered", 201, "status 201\n"),
        ("/204", "delivered", 204, ""),
        ("/301", "redirect", 301, "status 301\n"),
        ("/307", "redirect", 307, "status 307\n"),
        ("/404", "refused", 404, "status 404\n"),
        ("/410", "gone", 410, "status 410\n"),
        ("/408", "busy", 408, "status 408\n"),
        ("/429", "busy", 429, "status 429\n"),
        ("/500", "server_error", 500, "status 500\n"),
        ("/503", "server_error", 503, "status 503\n"),
        ("/hang", "timeout", 0, ""),
        ("/drip", "timeout", 0, ""),
        ("/reset", "connection", 0, ""),
        ("/close", "connection", 0, ""),
        ("/half", "connection", 0, ""),
        ("/garbage", "connection", 0, ""),
    ],
)
def test_every_behaviour_has_its_class(faults: Faults, path: str, result: str, status: int, head: str) -> None:
    # when a recipient behaves so
    [answer] = call(faults.url(path))
    # then the class, the status and the head of the answer are recorded, and an error where there was no answer
    assert (answer.result, answer.status, answer.head) == (result, status, head)
    assert bool(answer.error) == (status == 0)


def test_a_redirect_is_not_followed(faults: Faults) -> None:
    call(faults.url("/301"), faults.url("/302"), faults.url("/308"))
    assert faults.received("/301") and not faults.received("/caught")


@pytest.mark.parametrize("asked", ["120", "Mon, 02 Mar 2026 12:02:00 GMT"])
def test_retry_after_reaches_the_record_in_both_forms(faults: Faults, asked: str) -> None:
    # when a recipient asks for two minutes
    [answer] = call(faults.url(f"/after/{quote(asked)}"))
    # then the next try is due no sooner
    assert (answer.result, answer.retry_after) == ("busy", asked)
    assert state_after(answer, 1, NOW_US) == ("due", NOW_US + 120_000_000)


def test_a_huge_answer_is_cut_and_the_connection_given_up(faults: Faults) -> None:
    # when a recipient answers with 64 MiB
    [answer] = call(faults.url("/huge"))
    # then 2 KiB are kept, and the rest is not read, except for what the buffers of two sockets hold
    assert (answer.result, answer.head) == ("delivered", "x" * ANSWER_BYTES)
    assert faults.ended.wait(10) and faults.sent_bytes < HUGE / 4


def test_a_gzip_bomb_is_kept_packed(faults: Faults) -> None:
    [answer] = call(faults.url("/bomb"))
    assert answer.result == "delivered"
    assert answer.head == BOMB[:ANSWER_BYTES].decode("utf-8", "replace") and "boom" not in answer.head


def test_a_refused_connection_is_tried_again() -> None:
    [answer] = call(f"http://127.0.0.1:{free_port()}/x")
    assert (answer.result, answer.status) == ("connection", 0) and "refused" in answer.error.lower()


def test_an_unknown_host_is_tried_again() -> None:
    [answer] = call("http://no-such-host.invalid/x")
    assert (answer.result, answer.status) == ("name", 0)
    assert answer.error.startswith("no-such-host.invalid does not resolve")


def test_a_certificate_that_nobody_signed_is_no_recipient() -> None:
    with Faults(tls="self_signed") as broken:
        [answer] = call(broken.url("/200"))
    assert answer.result == "tls" and "certificate" in answer.error.lower()
    assert not broken.requests


def test_a_server_without_tls_on_the_tls_port_is_a_tls_error(faults: Faults) -> None:
    [answer] = call(faults.url("/200").replace("http:", "https:"))
    assert answer.result == "tls" and answer.error


def test_a_connection_is_kept_for_the_next_call_and_a_bad_one_is_not(faults: Faults) -> None:
    answers = call(
        faults.url("/200"), faults.url("/reset"), faults.url("/200"), faults.url("/half"), faults.url("/200")
    )
    assert [answer.result for answer in answers] == ["delivered", "connection", "delivered", "connection", "delivered"]


def test_both_verbs_carry_id_and_time_and_what_was_promised(faults: Faults) -> None:
    # when a GET and a POST are sent
    body = json.dumps({"event": "sale", "city": "Zürich"}, ensure_ascii=False)
    call(faults.url("/seen/get?a=1%202&b=%C3%BC"))
    call(faults.url("/seen/post"), body=body)
    # then both came as they were promised
    [get], [post] = faults.received("/seen/get"), faults.received("/seen/post")
    assert (get.method, get.target, get.body) == ("GET", "/seen/get?a=1%202&b=%C3%BC", b"")
    assert (post.method, post.body, post.headers["content-type"]) == ("POST", body.encode(), "application/json")
    for request in (get, post):
        assert (request.headers["webhook-id"], request.headers["webhook-timestamp"]) == ("pb1", "1772452800")
        assert request.headers["host"] == f"127.0.0.1:{faults.port}"
        assert "webhook-signature" not in request.headers and "cookie" not in request.headers
        assert "gzip" not in request.headers.get("accept-encoding", "")


def test_with_secrets_the_body_that_is_sent_is_signed() -> None:
    secrets = [b"one", b"two"]
    request = prepare(postback("http://x.example/", '{"a":"ü"}'), secrets, 1_772_452_800)
    expected = signing.sign(secrets, "pb1", 1_772_452_800, '{"a":"ü"}'.encode())
    assert request.headers["webhook-signature"] == expected and len(expected.split()) == 2


# what waits for a browser is no answer of anybody: browser.py says what it is after it
@pytest.mark.parametrize("result", sorted(result for result, step in RESULTS.items() if step != WAITS))
def test_the_state_follows_from_class_and_number(result: str) -> None:
    # given an answer of a class
    answer = Answer(result)
    # then the state after the first and after the tenth try is what the table says
    first, last = state_after(answer, 1, NOW_US), state_after(answer, 10, NOW_US)
    if RESULTS[result] == "retry":
        assert first[0] == "due" and NOW_US + 4_000_000 <= first[1] <= NOW_US + 6_000_000
        assert last == ("dead", 0)
    else:
        assert first == last == ({"delivered": "delivered", "final": "failed"}[RESULTS[result]], 0)


def test_the_record_of_a_try_holds_request_and_answer() -> None:
    promised = postback("http://x.example/", '{"a":1}')
    request = prepare(promised, [b"key"], 1_772_452_800)
    attempt = attempt_of(promised, request, Answer("refused", 404, "no such page"), 3, NOW_US, 1_500)
    assert (attempt.postback_id, attempt.number, attempt.recipient) == ("pb1", 3, "affiliate:bestodds")
    assert (attempt.verb, attempt.url, attempt.body) == ("POST", "http://x.example/", '{"a":1}')
    assert (attempt.result, attempt.status, attempt.answer) == ("refused", 404, "no such page")
    assert (attempt.state, attempt.next_due_us, attempt.duration_us) == ("failed", 0, 1_500)


def test_what_could_be_used_to_act_for_us_is_masked_in_the_record() -> None:
    assert masked({"authorization": "Bearer x", "webhook-id": "pb1"}) == {
        "authorization": "(masked)",
        "webhook-id": "pb1",
    }


def test_a_slow_name_server_counts_against_the_time_limit() -> None:
    # given an event loop whose name look-ups never end
    class Stuck(asyncio.SelectorEventLoop):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            await asyncio.Event().wait()
            return []

    async def main() -> Answer:
        return await asyncio.wait_for(Caller(100, ()).call(Request("GET", "http://slow.example/", {}, "")), 5)

    # when such a name is called
    with asyncio.Runner(loop_factory=Stuck) as runner:
        answer = runner.run(main())
    # then the call ends, and the name is what was not known in time
    assert answer.result == "name" and answer.error == "slow.example does not resolve within 0.1 s"
