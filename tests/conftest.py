"""What holds for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

KILL_ROUNDS, SOAK_KILL_ROUNDS = 3, 50
PAIR_SEEDS, SOAK_PAIR_SEEDS = 20, 667  # of fifteen pairs each: 300 in a test run, 10,005 in a soak

# a time limit per example would fail on a busy machine, not on a bug; in CI every run sees the same examples
settings.register_profile("backtrack", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("backtrack")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--soak`: as many cases as the long proofs ask for."""
    parser.addoption("--soak", action="store_true", help="the long form of the tests that have one")


@pytest.fixture
def kill_rounds(request: pytest.FixtureRequest) -> int:
    """How often a delivering process is killed."""
    return SOAK_KILL_ROUNDS if request.config.getoption("--soak") else KILL_ROUNDS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Seeds of the random pairs of rulebook and log."""
    if "pair_seed" in metafunc.fixturenames:
        count = SOAK_PAIR_SEEDS if metafunc.config.getoption("--soak") else PAIR_SEEDS
        metafunc.parametrize("pair_seed", range(count))
