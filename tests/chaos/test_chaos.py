"""No acknowledged hit is lost or decided twice, whatever is killed, stopped, cut off or set back. `--soak`: 100 rounds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.rounds import plan, run

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


def test_every_fault_comes_before_one_comes_again() -> None:
    # given a plan of as many rounds as a soak has
    names = [name for names in plan(SOAK_ROUNDS, random.Random(SEED)) for name in names]
    # then in its first rounds all have their turn
    assert set(names[: len(FAULTS)]) == set(FAULTS)
