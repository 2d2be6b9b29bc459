"""SIGKILL of delivering processes under load: nothing lost, nothing under a second id, repeats only where a kill was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import redis

from service.archive.schemas import Attempt
from service.servers import check_journal
from service.settings import Settings
from tests.service.faults import Faults
from tests.service.test_due import PLACE, leftovers, promise
from tests.waiting import until

COURIER = """
import os
from service.delivery.actor import run
from service.delivery.courier import Courier
from service.settings import from_environment
run(Courier(from_environment(os.environ), lambda: False).run(600))
"""
PER_ROUND = 60
LEASE_S = 8.0 + 2.0  # margins and the time limit below


@pytest.fixture
def faults() -> Iterator[Faults]:
    with Faults() as server:
        yield server


def start(settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", COURIER], env=os.environ | settings.environment(), stderr=subprocess.DEVNULL
    )


def test_killed_couriers_lose_nothing_and_repeat_only_what_was_on_its_way(
    settings: Settings, journal: redis.Redis, faults: Faults, kill_rounds: int
) -> None:
    # given two couriers, of which one is killed in every round while it delivers, and replaced
    check_journal(settings.journal_url, settings.partitions).close()
    quick = msgspec.structs.replace(settings, delivery_timeout_ms=2_000, delivery_concurrency=16)
    couriers = [start(quick), start(quick)]
    kills_s: list[float] = []
    promised: set[str] = set()
    try:
        for turn in range(kill_rounds):
            first = 1 + turn * PER_ROUND
            wanted = len(faults.requests) + 5 + turn % 20
            promise(journal, *([faults.url("/slow/0.05")] * PER_ROUND), start=first, time_us=time.time_ns() // 1000)
            promised |= {f"pb{n}" for n in range(first, first + PER_ROUND)}
            until(lambda wanted=wanted: len(faults.requests) >= wanted, "some to be on their way")  # type: ignore[misc]
            victim = couriers[turn % 2]
            os.kill(victim.pid, signal.SIGKILL)
            kills_s.append(time.monotonic())
            victim.wait(10)
            couriers[turn % 2] = start(quick)
        # when all is delivered
        until(lambda: leftovers(journal) == [0, 0, 0, 0], "everything to be delivered", 60)
    finally:
        for courier in couriers:
            courier.kill()
            courier.wait(10)
    # then every postback came under its own id and no other
    came: dict[str, list[float]] = defaultdict(list)
    for request in faults.requests:
        came[request.headers["webhook-id"]].append(request.at_s)
    assert set(came) == promised and len(promised) == kill_rounds * PER_ROUND
    # and a second time came only what was on its way when a courier was killed: first before the kill, then after its lease
    repeats = {identity: times for identity, times in came.items() if len(times) > 1}
    for identity, times in repeats.items():
        for earlier, later in pairwise(times):
            assert any(earlier <= kill_s + 0.1 and kill_s - earlier < LEASE_S for kill_s in kills_s), identity
            assert later - earlier > LEASE_S - 1, (identity, times)
    assert len(repeats) <= kill_rounds * quick.delivery_concurrency
    check_record(journal, promised, len(repeats))
    print(f"\n{kill_rounds} kills, {len(promised):,} postbacks, {len(repeats)} came twice, none lost")


def check_record(journal: redis.Redis, promised: set[str], repeats: int) -> None:
    """Every postback ends delivered, its tries are numbered without a gap, and each repeat has its unknown try before."""
    tries: dict[str, list[Attempt]] = defaultdict(list)
    kept: Any = journal.xrange(PLACE.attempts)
    for _, fields in kept:
        attempt = msgspec.msgpack.decode(fields[b"a"], type=Attempt)
        tries[attempt.postback_id].append(attempt)
    assert set(tries) == promised
    unknown = 0
    for made in tries.values():
        assert [a.number for a in made] == list(range(1, len(made) + 1))
        assert made[-1].result == "delivered" and {a.result for a in made[:-1]} <= {"unknown"}
        unknown += len(made) - 1
    assert unknown >= repeats
