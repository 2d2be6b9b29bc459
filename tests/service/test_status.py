"""The status API over real HTTP: what became of a hit, before and after it is archived, for whoever has a token."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest

from service import keys
from service.admin.access import refusal
from service.admin.status import masked_url
from service.admin.stored import days_of
from service.archive.schemas import Attempt, day_of
from service.archive.writer import Archiver
from service.engine import Postback
from service.engine.partition import partition_of
from service.intake.ids import new_hit_id
from service.servers import free_port
from tests.service.conftest import Servers
from tests.service.hits import a_hit
from tests.service.partitions import RULES, promised, store_all, track_all
from tests.service.webprocess import Web, web_process

TOKEN = "a-token-that-nobody-guesses"
ACME = partition_of("acme", 4)


@pytest.fixture(scope="module")
def web(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("status")
    tokens = f"a-token-of-the-past,{TOKEN}"
    with web_process(folder, servers.broker_url, free_port(), RULES, tokens=tokens, partitions=4) as process:
        yield process


def ask(web: Web, path: str, token: str = TOKEN) -> httpx.Response:
    return web.client.get(path, headers={"Authorization": f"Bearer {token}"} if token else {})


def told(web: Web, hit_id: str) -> Any:
    answer = ask(web, f"/hits/{hit_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def sent(web: Web, query: str) -> str:
    """A hit over HTTP; its id."""
    return web.client.get(f"/e?{query}").headers["X-Hit-Id"]


def archive(web: Web) -> None:
    with web.connect() as connection:
        Archiver(connection, web.settings.tables_path, web.settings.partitions, 20_000).round()


def track(web: Web) -> None:
    with web.connect() as connection:
        track_all(connection, web.settings)


def try_it(web: Web, postback: Postback, state: str) -> None:
    """A try, as delivery records it."""
    place = keys.Partition(ACME)
    with web.connect() as connection:
        n = int(connection.hincrby(place.head, "attempts", 1))
        one = Attempt(
            postback.id, 1, time.time_ns() // 1000, postback.recipient, "POST", "http://u:p@x/pb?key=s3cret&cid=7", "{}",
            {"webhook-id": postback.id, "webhook-signature": "v1,s3cret"}, state, 200, "ok", "", 1_500, state,
        )  # fmt: skip
        connection.xadd(place.attempts, {"a": msgspec.msgpack.encode(one)}, id=f"1-{n}")


def test_a_hit_is_told_at_every_station_of_its_road(web: Web) -> None:
    # given a sale that was just answered
    hit_id = sent(web, "client=acme&event=sale&uid=u1&amount=40&currency=EUR&affiliate=best&sub1=x&token=s3cret")
    # then it is stored and not decided
    document = told(web, hit_id)
    assert document["verdict"] is None and document["says"] == "stored, not decided yet"
    assert (document["found_in"], document["partition"], document["request"]["method"]) == ("journal", ACME, "GET")
    assert document["request"]["query"].endswith("&sub1=x&token=***")
    # when it is decided
    track(web)
    document = told(web, hit_id)
    assert (document["verdict"], document["event"], document["affiliate"]) == ("accepted", "sale", "best")
    assert document["firings"] == [{"trigger": "deposit", "payout": "10.00", "currency": "EUR"}]
    ((postback),) = document["postbacks"]
    assert (postback["recipient"], postback["state"], postback["held"]) == ("affiliate:best", "due", True)
    assert postback["attempts"] == []
    # and when it was tried
    with web.connect() as connection:
        (promise,) = [p for p in promised(connection, ACME) if p.hit_id == hit_id]
    try_it(web, promise, "delivered")
    before = told(web, hit_id)
    (attempt,) = before["postbacks"][0]["attempts"]
    assert (attempt["number"], attempt["result"], attempt["status"]) == (1, "delivered", 200)
    assert attempt["headers"] == {"webhook-id": promise.id, "webhook-signature": "***"}
    assert attempt["url"] == "http://***@x/pb?key=***&cid=7"
    # then the tables tell the same as Redis did
    archive(web)
    after = told(web, hit_id)
    assert after.pop("found_in") == "tables" and before.pop("found_in") == "journal"
    assert after == before
    # and the postback alone tells its part
    assert ask(web, f"/postbacks/{promise.id}").json() == after["postbacks"][0]
    assert "s3cret" not in ask(web, f"/postbacks/{promise.id}").text


def test_a_rejected_hit_says_why(web: Web) -> None:
    hit_id = sent(web, "client=acme&event=sale&amount=nonsense")
    track(web)
    document = told(web, hit_id)
    assert (document["verdict"], document["reason"]) == ("rejected", "invalid_amount")
    assert document["says"].startswith("rejected, invalid_amount: ")
    assert document["firings"] == document["postbacks"] == []


@pytest.mark.parametrize(
    ("path", "token", "status", "words"),
    [
        (f"/hits/{'0' * 32}", "", 401, "Authorization: Bearer TOKEN"),
        (f"/hits/{'0' * 32}", "a-token-of-nobody", 401, "this token is not one of BACKTRACK_TOKENS"),
        (f"/hits/{'0' * 32}", TOKEN, 404, "there is no hit '0000"),
        (f"/hits/{'0' * 32}", "a-token-of-the-past", 404, "there is no hit"),
        ("/hits/what", TOKEN, 404, "there is no hit 'what'; it is the X-Hit-Id of an answer, 32 hex digits"),
        (f"/hits/{'f' * 32}", TOKEN, 404, "there is no hit"),
        (f"/postbacks/{'0' * 32}", TOKEN, 404, "there is no postback"),
        (f"/postbacks/{'0' * 32}", "", 401, "Authorization: Bearer TOKEN"),
    ],
)
def test_what_is_not_told_is_said_in_a_sentence(web: Web, path: str, token: str, status: int, words: str) -> None:
    answer = ask(web, path, token)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert ("www-authenticate" in answer.headers) is (status == 401)


def test_without_tokens_it_is_closed() -> None:
    assert refusal(f"Bearer {TOKEN}", ()) == (
        403, "the status API is closed: set BACKTRACK_TOKENS to a secret of 16 characters or more to open it",
    )  # fmt: skip
    assert refusal("", (TOKEN,)) is not None and refusal(TOKEN, (TOKEN,)) is not None
    assert refusal(f"Bearer {TOKEN}\xe9", (TOKEN,)) is not None and refusal("Basic " + TOKEN, (TOKEN,)) is not None
    assert refusal(f"bearer  {TOKEN} ", (TOKEN,)) is None


def test_addresses_are_shown_without_what_opens_doors() -> None:
    assert (
        masked_url("https://a.example/p?x=1&api_key=2&monkey=3&sig=")
        == "https://a.example/p?x=1&api_key=***&monkey=3&sig=***"
    )
    assert masked_url("") == "" and masked_url("http://[") == "***"


def test_a_hit_is_sought_on_the_day_of_its_id_first() -> None:
    noon_us = 1_772_452_800_000_000
    first, others = days_of(new_hit_id(noon_us))
    assert first == [day_of(noon_us)] == ["2026-03-02"]
    assert others[:2] == ["2026-03-01", "2026-03-03"]
    assert days_of("f" * 32)[0]  # a time beyond all calendars is no error


def test_a_lookup_is_quick_and_the_intake_goes_on(web: Web) -> None:
    # given tables of several files, and hits that are not archived
    ids = []
    with web.connect() as connection:
        for number in range(12):
            hits = [a_hit(f"client=acme&event=sale&uid=q{number}-{n}&amount=30&affiliate=best") for n in range(150)]
            ids.append(hits[75].id)
            store_all(connection, hits, partitions=4)
            if number < 10:
                track_all(connection, web.settings)
                archive(web)
    told(web, ids[0])
    calm = _seconds_of_hits(web)
    # when each is asked for, and the intake is used meanwhile
    took = []
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_seconds_of_hits, web)
        for hit_id in ids:
            started = time.perf_counter()
            assert told(web, hit_id)["hit_id"] == hit_id
            took.append(time.perf_counter() - started)
        busy = sending.result()
    # then it takes less than 100 ms at the median, and the intake does not wait for any
    print(
        f"lookup p50 {sorted(took)[6] * 1000:.0f} ms; intake {calm * 1000:.1f} ms alone, {busy * 1000:.1f} ms beside it"
    )
    assert sorted(took)[6] < 0.1
    assert busy < max(0.02, 4 * calm)


def _seconds_of_hits(web: Web) -> float:
    """How long an answer of the intake takes, at the median of 60."""
    took = []
    with httpx.Client(base_url=web.base, trust_env=False) as client:
        for number in range(60):
            started = time.perf_counter()
            assert client.get(f"/e?client=acme&event=click&uid=z{number}").status_code == 200
            took.append(time.perf_counter() - started)
    return sorted(took)[30]


def test_while_the_journal_is_away_it_says_so(web: Web) -> None:
    # given a hit in the tables
    hit_id = sent(web, "client=acme&event=sale&uid=u9&amount=40")
    track(web)
    archive(web)
    # when the journal goes away
    web.server.kill()
    answer = ask(web, f"/hits/{hit_id}")
    # then the answer says so, and after its return all is told again
    assert answer.status_code == 503 and "the journal is away" in answer.json()["error"]
    web.server.start()
    assert told(web, hit_id)["verdict"] == "accepted"
