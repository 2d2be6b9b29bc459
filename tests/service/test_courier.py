"""The courier from end to end: a real due index, real recipients, every try recorded."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from service import keys
from service.archive.schemas import Attempt
from service.delivery import signing
from service.delivery.courier import Courier
from service.delivery.ladder import LADDER_S
from service.delivery.pace import HANDFUL
from service.delivery.record import Answer, Method, Owner, Request
from service.engine.model import Postback
from service.rulebooks import publish
from service.settings import Settings
from tests.service.faults import Faults
from tests.service.test_due import NOW_US, PLACE, attempts_of, leftovers, promise, take
from tests.waiting import until

VARIABLE = "COURIER_TEST_SECRET"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RULES = f"""
[client.acme]
webhook = "http://127.0.0.1:9/acme"
[affiliate.bestodds]
webhook = "http://127.0.0.1:9/bestodds"
secret = "env:{VARIABLE}"
[affiliate.quiet]
"""


@pytest.fixture
def faults() -> Iterator[Faults]:
    with Faults() as server:
        yield server


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings with a time limit that a test can wait for."""
    return msgspec.structs.replace(settings, delivery_timeout_ms=1_500)


def deliver_until(
    settings: Settings,
    done: Callable[[], Any],
    what: str,
    timeout_s: float = 20.0,
    methods: Mapping[str, Method] | None = None,
) -> None:
    """Let a courier work in a thread until the condition holds."""
    over = threading.Event()
    courier = Courier(settings, over.is_set, methods)
    thread = threading.Thread(target=lambda: asyncio.run(courier.run(60)), daemon=True)
    thread.start()
    try:
        until(done, what, timeout_s)
    finally:
        over.set()
        thread.join(20)
    assert not thread.is_alive()


# in one step: between a look and a write the courier could take one, which would then be due while it is in flight
MAKE_DUE = """
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.call('HEXISTS', KEYS[2], id) == 0 then redis.call('ZADD', KEYS[1], 1, id) end
end
"""


def make_due(journal: redis.Redis) -> None:
    """Let every retry be due now instead of in seconds or days."""
    journal.eval(MAKE_DUE, 2, PLACE.due, PLACE.inflight)


def of(attempts: list[Attempt], identity: str) -> list[tuple[int, str, str]]:
    """Number, result and state of the attempts of one postback."""
    return [(a.number, a.result, a.state) for a in attempts if a.postback_id == identity]


def test_500_then_200_is_delivered_with_two_attempts(quick: Settings, journal: redis.Redis, faults: Faults) -> None:
    # given a recipient that fails once
    promise(journal, faults.url("/flaky/1"))

    # when the courier works, and the retry is made due at once
    def delivered() -> bool:
        make_due(journal)
        return leftovers(journal) == [0, 0, 0, 0]

    deliver_until(quick, delivered, "the second try")
    # then both tries are recorded and both carried the same id
    first, second = attempts_of(journal)
    assert of([first, second], "pb1") == [(1, "server_error", "due"), (2, "delivered", "delivered")]
    assert first.next_due_us - first.time_us in range(4_000_000, 7_500_000) and second.next_due_us == 0
    assert (first.status, first.answer, second.status) == (500, "flaky\n", 200)
    assert [request.headers["webhook-id"] for request in faults.received("/flaky/1")] == ["pb1", "pb1"]


def test_a_final_answer_fails_at_once_and_a_late_one_dies(
    quick: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given one postback that is refused, and one that has already had nine tries
    promise(journal, faults.url("/404"), faults.url("/500"))
    journal.hset(PLACE.tries, "pb2", str(len(LADDER_S) - 1))
    # when the courier works
    deliver_until(quick, lambda: journal.zcard(PLACE.dead) == 2, "both to be given up")
    # then both are kept with their promise and never tried again
    attempts = attempts_of(journal)
    assert of(attempts, "pb1") == [(1, "refused", "failed")]
    assert of(attempts, "pb2") == [(10, "server_error", "dead")]
    assert leftovers(journal) == [0, 2, 0, 0]


def test_a_delivery_that_never_settled_is_recorded_as_unknown_and_delivered(
    quick: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given a courier that took a postback long ago and was killed
    promise(journal, faults.url("/200"))
    take(quick, NOW_US)
    # when another one works
    deliver_until(quick, lambda: leftovers(journal) == [0, 0, 0, 0], "the delivery")
    # then the lost try counts, and the next one is the second
    unknown, delivered = attempts_of(journal)
    assert of([unknown, delivered], "pb1") == [(1, "unknown", "due"), (2, "delivered", "delivered")]
    assert (unknown.status, unknown.url, unknown.next_due_us) == (0, faults.url("/200"), unknown.time_us)


def test_a_lost_last_try_is_not_followed_by_another(quick: Settings, journal: redis.Redis, faults: Faults) -> None:
    # given a postback whose tenth try never settled
    promise(journal, faults.url("/200"))
    journal.hset(PLACE.tries, "pb1", str(len(LADDER_S) - 1))
    take(quick, NOW_US)
    # when another courier finds it
    deliver_until(quick, lambda: journal.zcard(PLACE.dead) == 1, "the end")
    # then it is dead, and nobody was called an eleventh time
    assert of(attempts_of(journal), "pb1") == [(10, "unknown", "dead")]
    assert not faults.received("/200")


@pytest.fixture
def secret_rules(journal: redis.Redis, quick: Settings, tmp_path: Path) -> Iterator[None]:
    publish(journal, quick.partitions, tmp_path / "tables", RULES, "test")
    yield
    os.environ.pop(VARIABLE, None)


@pytest.mark.usefixtures("secret_rules")
def test_the_secret_of_the_recipient_signs(quick: Settings, journal: redis.Redis, faults: Faults) -> None:
    # given a recipient with a secret in the worker's environment, and one without
    os.environ[VARIABLE] = SECRET
    promise(journal, faults.url("/signed"))
    promise(journal, faults.url("/plain"), recipient="affiliate:quiet", start=2)
    # when both are delivered
    deliver_until(quick, lambda: leftovers(journal) == [0, 0, 0, 0], "both deliveries")
    # then the first can be verified by what the recipient knows, and the second is not signed
    headers = faults.received("/signed")[0].headers
    key = signing.read_secrets(f"env:{VARIABLE}", {VARIABLE: SECRET})
    assert headers["webhook-signature"] == signing.sign(key, "pb1", int(headers["webhook-timestamp"]), b"")
    assert "webhook-signature" not in faults.received("/plain")[0].headers


@pytest.mark.usefixtures("secret_rules")
def test_without_its_variable_nothing_is_sent_until_it_is_there(
    quick: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given a recipient whose variable is not set in the worker
    promise(journal, faults.url("/signed"))
    deliver_until(quick, lambda: len(attempts_of(journal)) == 1, "the first try")
    # then nothing was sent, and it is tried again
    [missing] = attempts_of(journal)
    assert (missing.result, missing.state, missing.status) == ("no_secret", "due", 0)
    assert VARIABLE in missing.error and not faults.received("/signed")
    # and when a worker has it, it goes out
    os.environ[VARIABLE] = SECRET
    make_due(journal)
    deliver_until(quick, lambda: leftovers(journal) == [0, 0, 0, 0], "the delivery")
    assert of(attempts_of(journal), "pb1")[-1] == (2, "delivered", "delivered")
    assert all("MfKQ" not in str(attempt.headers) + attempt.error for attempt in attempts_of(journal))


def test_a_hanging_recipient_with_a_backlog_does_not_keep_others_waiting(
    quick: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given a recipient that never answers, with a backlog many times larger than its share
    patient = msgspec.structs.replace(quick, delivery_timeout_ms=20_000)
    promise(journal, *(faults.url("/hang") for _ in range(400)), recipient="affiliate:quiet")
    over = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(Courier(patient, over.is_set).run(60)), daemon=True)
    thread.start()
    share = patient.recipient_concurrency
    until(lambda: len(faults.received("/hang")) == share, "the hanging recipient to use all of its share")
    # when postbacks for another one come in, one at a time, in the same partition
    waits_ms = []
    for number in range(20):
        identity, started = f"pb{100_000 + number}", time.perf_counter()
        promise(journal, faults.url(f"/fast/{number}"), start=100_000 + number, time_us=time.time_ns() // 1000)
        until(lambda name=identity: of(attempts_of(journal), name), "the other's delivery", 10)  # type: ignore[misc]
        waits_ms.append((time.perf_counter() - started) * 1000)
    # then each is delivered soon, and the hanging one has not got more than its share
    assert max(waits_ms) < 3_000 and sorted(waits_ms)[10] < 250, waits_ms
    assert len(faults.received("/hang")) == share
    over.set()
    faults.release()
    thread.join(30)
    assert not thread.is_alive()


def test_a_crowd_for_a_recipient_that_answers_at_once_hardly_goes_through_its_room(
    quick: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given many more postbacks for one recipient than calls that it may get at once
    promise(journal, *(faults.url("/fast") for _ in range(400)), recipient="affiliate:quick")
    journal.config_resetstat()
    # when they are delivered
    deliver_until(quick, lambda: len(attempts_of(journal)) >= 400, "the deliveries")
    # then only some of them were put away in between, which costs round trips: each is one SADD
    stats: Any = journal.info("commandstats")
    assert stats.get("cmdstat_sadd", {"calls": 0})["calls"] < 200


class Calls:
    """A method whose calls share one thread, as real ones do. It notes how many had begun when each was answered."""

    def __init__(self) -> None:
        self.begun = 0
        self.answered: dict[str, int] = {}

    async def deliver(self, postback: Postback, owner: Owner, now_us: int) -> tuple[Request, Answer]:
        self.begun += 1
        for _ in range(3):
            await asyncio.sleep(0)
        self.answered[postback.id] = self.begun
        return Request(postback.verb, postback.url, {}, postback.body), Answer("delivered", 200)

    async def close(self) -> None:
        """Nothing is open."""


def test_a_new_postback_waits_for_a_handful_of_a_backlog_at_most(quick: Settings, journal: redis.Redis) -> None:
    # given four thousand retries that are due for many recipients, and a courier at work on them
    for number in range(20):
        start = 1 + 200 * number
        promise(journal, *["http://127.0.0.1:9/"] * 200, recipient=f"affiliate:r{number}", start=start)
    journal.hset(PLACE.tries, mapping={f"pb{n}": "1" for n in range(1, 4_001)})
    calls = Calls()
    before: list[int] = []

    def all_of_ten() -> bool:
        """Promise one after the other, as soon as the one before was answered; note how many calls had begun so far."""
        if not before or f"pb{9_000 + len(before)}" in calls.answered:
            if len(before) == 10:
                return True
            promise(journal, "http://127.0.0.1:9/", start=9_001 + len(before), time_us=time.time_ns() // 1000)
            before.append(calls.begun)
        return False

    # when new ones come
    deliver_until(quick, all_of_ten, "the new ones", methods={"webhook": calls})
    # then each shares its time with a handful of the backlog or two, which was drained meanwhile
    waited = [calls.answered[f"pb{9_001 + n}"] - before[n] for n in range(10)]
    assert max(waited) <= 2 * HANDFUL + 1, waited
    assert HANDFUL < calls.begun < 4_000


def test_a_courier_that_is_told_to_stop_settles_what_is_under_way(
    quick: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given a call under way that ends by its time limit
    promise(journal, faults.url("/hang"))
    # when the courier is told to stop as soon as the recipient has the request
    deliver_until(quick, lambda: faults.received("/hang"), "the request")
    # then the try is recorded and nothing is left in flight
    assert of(attempts_of(journal), "pb1") == [(1, "timeout", "due")]
    assert leftovers(journal)[3] == 0


def test_an_address_that_is_not_allowed_is_not_called(settings: Settings, journal: redis.Redis, faults: Faults) -> None:
    strict = msgspec.structs.replace(settings, allow_addresses="")
    promise(journal, faults.url("/200"))
    deliver_until(strict, lambda: journal.zcard(PLACE.dead) == 1, "the refusal")
    assert of(attempts_of(journal), "pb1") == [(1, "address", "failed")] and not faults.requests


def test_two_couriers_deliver_each_postback_once(quick: Settings, journal: redis.Redis, faults: Faults) -> None:
    # given many promises and two couriers
    promise(journal, *(faults.url("/200") for _ in range(150)))
    over = threading.Event()
    other = threading.Thread(target=lambda: asyncio.run(Courier(quick, over.is_set).run(60)), daemon=True)
    other.start()
    # when both work
    deliver_until(quick, lambda: leftovers(journal) == [0, 0, 0, 0], "all deliveries")
    over.set()
    other.join(20)
    # then every id came exactly once
    ids = [request.headers["webhook-id"] for request in faults.received("/200")]
    assert sorted(ids) == sorted(f"pb{n}" for n in range(1, 151))
    assert all(place.number == PLACE.number or not journal.exists(place.attempts) for place in keys.partitions(16))
