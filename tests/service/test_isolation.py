"""Nobody waits for a recipient that is slow or gone: shares, rates, pauses, probes, and what the operator is told."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from service import keys
from service.backlog import backlog
from service.delivery.courier import Courier
from service.delivery.pace import ALONE_PER_S, HANDFUL, PER_S, Pace
from service.delivery.shares import SLOW_TIMES, Shares
from service.rulebooks import publish
from service.settings import Settings
from tests.service.faults import Faults
from tests.service.test_courier import deliver_until, make_due
from tests.service.test_due import PLACE, attempts_of, leftovers, promise
from tests.waiting import until

A, B = "affiliate:a", "affiliate:b"


@pytest.fixture
def faults() -> Iterator[Faults]:
    with Faults() as server:
        yield server


@contextmanager
def courier(settings: Settings, faults: Faults) -> Iterator[None]:
    """A courier at work; who hangs is released at the end."""
    over = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(Courier(settings, over.is_set).run(60)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        faults.release()
        thread.join(20)
    assert not thread.is_alive()


def test_four_recipients_that_hang_at_once_hold_up_nobody(
    settings: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given a courier with room for eight calls, and four recipients that hang with a backlog each
    small = msgspec.structs.replace(
        settings, delivery_concurrency=8, recipient_concurrency=2, delivery_timeout_ms=60_000
    )
    for number in range(4):
        promise(journal, *([faults.url("/hang")] * 20), recipient=f"affiliate:h{number}", start=100 + 20 * number)
    with courier(small, faults):
        until(lambda: len(faults.received("/hang")) == 8, "every call to hang")
        # when postbacks for others come
        started = time.monotonic()
        promise(journal, *(faults.url(f"/in/{n}") for n in range(20)), recipient=A, time_us=time.time_ns() // 1000)
        until(lambda: len(attempts_of(journal)) == 20, "the others", 10)
        # then they wait a second at most, until the calls that hang have become slow
        assert time.monotonic() - started < 3
        assert {a.recipient for a in attempts_of(journal)} == {A}
        assert len(faults.received("/hang")) == 8  # nobody got more than its share
        # and the rest of the backlog waits in rooms, where the count of what is to be delivered sees it
        assert journal.smembers(keys.ROOMS) == {f"affiliate:h{n}".encode() for n in range(4)}
        assert backlog(journal, settings.partitions).to_deliver == 80


def test_calls_that_are_slow_give_their_place_back_until_there_are_very_many() -> None:
    # given a bound of four calls, all of them under way
    shares = Shares(4, 100)
    calls = [shares.begin("h", 0.0) for _ in range(4)]
    assert shares.free() == 0
    # when they have become slow, others may begin, and so on up to a second bound
    for turn in range(1, SLOW_TIMES):
        shares.sweep(turn * 2.0)
        assert shares.free() == 4
        calls += [shares.begin("h", turn * 2.0) for _ in range(4)]
    shares.sweep(99.0)
    assert shares.free() == 0
    # and a slow one that ends makes place for one
    shares.end(calls[0], "h", None)
    assert shares.free() == 1


def test_a_backlog_leaves_places_to_new_ones() -> None:
    # given sixteen places, and a backlog that takes whatever it gets
    shares = Shares(16, 100)
    calls = [shares.begin("a", 0.0, new=False) for _ in range(12)]
    # then the others are for new ones
    assert (shares.free_for_backlog(), shares.free()) == (0, 4)
    # and those that new ones leave free are no place for it
    shares.end(calls[0], "a", True)
    assert (shares.free_for_backlog(), shares.free()) == (1, 5)
    for _ in range(5):
        shares.begin("b", 0.0)
    assert (shares.free_for_backlog(), shares.free()) == (0, 0)
    # and calls of the backlog that are slow take no place
    shares.sweep(2.0)
    assert shares.free_for_backlog() == 12


def test_a_backlog_begins_by_handfuls_and_more_gently_while_new_ones_come() -> None:
    # given a backlog of any length, and one that is new
    pace = Pace(0.0)
    pace.begin(True, 100.0)

    def handful(now_s: float) -> None:
        assert (pace.allowed(now_s), pace.wait_s(now_s)) == (HANDFUL, 0)
        for _ in range(HANDFUL):
            pace.begin(False, now_s)

    # then a handful may begin at once, and no more before its time has come, or another new one has
    handful(100.0)
    assert (pace.allowed(100.0), pace.wait_s(100.0)) == (0, HANDFUL / PER_S)
    assert pace.allowed(100.0 + HANDFUL / PER_S / 2) == HANDFUL // 2
    pace.begin(True, 100.0 + HANDFUL / PER_S / 2)
    assert pace.allowed(100.0 + HANDFUL / PER_S / 2) == HANDFUL // 2 + 1
    # and if no new one has come for a second, it begins as fast as it can
    handful(101.5)
    assert pace.wait_s(101.5) == HANDFUL / ALONE_PER_S


def test_a_share_is_halved_by_failures_and_given_back_by_successes() -> None:
    # given a recipient with a share of eight
    shares = Shares(64, 8)

    def after(went_well: bool | None) -> int:
        shares.end(shares.begin("a", 0.0), "a", went_well)
        return shares.free_of("a")

    # then failures halve it down to one, successes give one back each, and what says nothing changes nothing
    assert [after(False) for _ in range(5)] == [4, 2, 1, 1, 1]
    assert [after(True) for _ in range(8)] == [2, 3, 4, 5, 6, 7, 8, 8]
    assert after(None) == 8 and shares.free_of("b") == 8
    # and a pause begins it anew with one
    shares.start_again("a")
    assert shares.free_of("a") == 1


def test_a_rate_holds_over_all_couriers(
    settings: Settings, journal: redis.Redis, faults: Faults, tmp_path: Path
) -> None:
    # given a recipient that wants at most twenty calls a second, one without a rate, and two couriers
    publish(journal, settings.partitions, tmp_path / "t", '[client.acme]\n[affiliate.a]\nrate = "20/s"\n', "test")
    promise(journal, *([faults.url("/limited")] * 40), recipient=A)
    promise(journal, *([faults.url("/free")] * 40), recipient=B, start=100)
    started = time.monotonic()
    with courier(settings, faults):
        until(lambda: len(faults.received("/free")) == 40, "the other one")
        free_s = time.monotonic() - started
        deliver_until(settings, lambda: leftovers(journal) == [0, 0, 0, 0], "all")
    # then the first took as long as its rate asks for (five may come at once), and the other one did not wait for it
    assert len(faults.received("/limited")) == 40
    assert time.monotonic() - started > (40 - 5) / 20 - 0.1
    assert free_s < 1.5


def test_a_run_of_failures_pauses_a_probe_reopens_and_the_operator_is_told(
    settings: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given a recipient that is down, with a backlog, and an operator
    told = msgspec.structs.replace(
        settings, pause_failures=5, pause_ms=0, probe_ms=200, operator_webhook=faults.url("/operator")
    )
    promise(journal, *([faults.url("/down")] * 60), recipient=A)
    with courier(told, faults):
        # when it has failed often enough
        until(lambda: faults.received("/operator"), "the notice of the pause")
        # then it is paused, and only probes go out, while others get theirs
        until(lambda: journal.zcard(PLACE.due) <= 25, "the backlog to wait")
        tried = len(faults.received("/down"))
        promise(journal, faults.url("/in"), recipient=B, start=100, time_us=time.time_ns() // 1000)
        until(lambda: faults.received("/in"), "the other one")
        until(lambda: len(faults.received("/down")) > tried, "a probe", 10)
        assert tried <= 5 + told.recipient_concurrency and len(faults.received("/down")) <= tried + 4
        # and when it is back, the next probe reopens it and all of the backlog arrives, each once
        faults.release()

        def all_delivered() -> bool:
            make_due(journal)
            return leftovers(journal) == [0, 0, 0, 0] and len(faults.received("/operator")) == 2

        until(all_delivered, "the backlog", 20)
    notices = [json.loads(request.body) for request in faults.received("/operator")]
    assert [(notice["type"], notice["recipient"]) for notice in notices] == [
        ("recipient.paused", A), ("recipient.reopened", A),
    ]  # fmt: skip
    assert notices[0]["reason"].startswith("server_error 503")
    assert not journal.exists(keys.PAUSED, keys.PROBES, keys.ROOMS, keys.FAILING, keys.FAILING_SINCE)
    delivered = [a.postback_id for a in attempts_of(journal) if a.result == "delivered"]
    assert len(delivered) == len(set(delivered)) == 61
    # and the notices are no attempts of anybody's postbacks
    assert {a.recipient for a in attempts_of(journal)} == {A, B}


def test_a_short_trouble_pauses_nobody(settings: Settings, journal: redis.Redis, faults: Faults) -> None:
    # given many failures within less time than a pause asks for
    quick = msgspec.structs.replace(settings, pause_failures=5, pause_ms=60_000)
    promise(journal, *([faults.url("/500")] * 40), recipient=A)
    deliver_until(quick, lambda: len(attempts_of(journal)) == 40, "all tries")
    # then nobody is paused, and a success ends the run
    assert journal.hget(keys.FAILING, A) == b"40" and not journal.exists(keys.PAUSED)
    promise(journal, faults.url("/200"), recipient=A, start=100)
    deliver_until(quick, lambda: not journal.exists(keys.FAILING), "the end of the run")


def test_410_pauses_at_once_and_keeps_the_rest(settings: Settings, journal: redis.Redis, faults: Faults) -> None:
    # given a recipient that wants nothing more
    one = msgspec.structs.replace(settings, recipient_concurrency=1)
    promise(journal, *([faults.url("/410")] * 10), recipient=A)
    # when it has said so
    deliver_until(one, lambda: journal.zcard(keys.room(A)) == 9, "the rest to wait")
    # then one postback has failed, the others have lost no try, and it is not probed before an hour is over
    assert [(a.result, a.state) for a in attempts_of(journal)] == [("gone", "failed")]
    assert leftovers(journal) == [0, 10, 0, 0]
    probe_us: Any = journal.zscore(keys.PROBES, A)
    assert probe_us > (time.time() + 3_000) * 1e6


def test_a_notice_is_promised_only_once_and_only_if_somebody_is_to_be_told(
    settings: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given no operator
    quiet = msgspec.structs.replace(settings, pause_failures=2, pause_ms=0)
    promise(journal, *([faults.url("/503")] * 20), recipient=A)
    # when a recipient is paused
    deliver_until(quiet, lambda: journal.hexists(keys.PAUSED, A), "the pause")
    # then nothing waits to be told
    assert not journal.exists(keys.OPERATOR.due, keys.OPERATOR.promises)
