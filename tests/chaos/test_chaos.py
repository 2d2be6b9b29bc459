"""No acknowledged hit is lost or decided twice, whatever is killed, stopped, cut off or set back. `--soak`: 100 rounds."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.chaos.books import Findings, compare
from tests.chaos.faults import FAULTS
from tests.chaos.load import Load
from tests.chaos.rounds import plan, run
from tests.chaos.stand import stand
from tests.waiting import until

SHORT_ROUNDS, SOAK_ROUNDS = 6, 100
SHORT_MOST = 2  # faults per round, for the time it takes
FIRST = ("journal's Redis back from an older file", "SIGKILL of a worker", "SIGKILL of the journal's Redis")
SEED = 20261123


def test_whatever_happens_an_answer_is_a_promise(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # given rounds of faults by a seed; every kind of fault comes before one comes again
    chance = random.Random(SEED)
    soak = request.config.getoption("--soak")
    planned = plan(SOAK_ROUNDS, chance) if soak else plan(SHORT_ROUNDS, chance, SHORT_MOST, FIRST)
    # when they happen under load, then after each round the books agree
    report = run(tmp_path, planned, chance, print)
    print(report.table(), f"\n{report.seconds:.0f} s")
    # and there was something to lose
    assert report.acknowledged > 50 * report.rounds and report.found.epochs >= 1


def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    # given everything at work, under load
    with stand(tmp_path) as one:
        load = Load(list(one.ports.values()))
        try:
            load.on()
            until(lambda: len(load.ledger.acknowledged) > 50, "the load to begin")
            # when one process of every kind, the servers too, is asked to end and started again, one after the other
            for name in ("web a", "web b", "worker a", "archive", "journal", "broker"):
                before = len(load.ledger.acknowledged)
                one.wait_ready()
                assert one.end(name, signal.SIGTERM) == 0, name
                one.replace_the_dead()
                until(lambda so_far=before: len(load.ledger.acknowledged) > so_far, "hits to come in")  # type: ignore[misc]
            load.off()
            one.settle()
        finally:
            load.end()
        # then nothing is lost, nothing decided twice, no epoch has begun, and every number is in its place
        assert compare(one.settings, load.ledger, [], replay=True) == Findings()
        assert load.ledger.refused == 0, load.ledger.statuses


def test_every_fault_comes_before_one_comes_again() -> None:
    # given a plan of as many rounds as a soak has
    names = [name for names in plan(SOAK_ROUNDS, random.Random(SEED)) for name in names]
    # then in its first rounds all have their turn
    assert set(names[: len(FAULTS)]) == set(FAULTS)
