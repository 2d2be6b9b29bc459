"""`backtrack web` with a clock that goes wrong by `CHAOS_SKEW_S` seconds.

The one thing that a web process's clock decides is when a hit was received, so that is what is shifted.
"""

from __future__ import annotations

import os

import msgspec

from service.app import build
from service.engine import Hit
from service.intake.batch import Tell
from service.intake.front import Front
from service.intake.journal import RedisJournal
from service.settings import from_environment
from service.web import run

SKEW = "CHAOS_SKEW_S"


class SkewedJournal(RedisJournal):
    """A journal that gets its hits from a clock that is wrong."""

    skew_us = 0

    async def append(self, partition: int, hit: Hit) -> None:
        """Store the hit."""
        await super().append(partition, self._skewed(hit))

    def put(self, partition: int, hit: Hit, tell: Tell) -> None:
        """The same for who does not wait."""
        super().put(partition, self._skewed(hit), tell)

    def _skewed(self, hit: Hit) -> Hit:
        return msgspec.structs.replace(hit, received_at_us=hit.received_at_us + self.skew_us)


def create() -> Front:
    """The application of a web worker, from the environment."""
    from service.processes import die_with_parent

    die_with_parent(9)
    SkewedJournal.skew_us = int(os.environ[SKEW]) * 1_000_000
    return build(from_environment(os.environ), SkewedJournal)


if __name__ == "__main__":
    run(from_environment(os.environ), "tests.chaos.web:create")
