"""The web process with a journal that stores nothing: what the server and the handler cost by themselves."""

from __future__ import annotations

import os

from service import web
from service.app import build
from service.engine import Hit
from service.intake.batch import Tell
from service.intake.front import Front
from service.intake.journal import RedisJournal
from service.settings import from_environment


class NoJournal(RedisJournal):
    """Says at once that a hit is stored."""

    async def append(self, partition: int, hit: Hit) -> None:
        """Store nothing."""

    def put(self, partition: int, hit: Hit, tell: Tell) -> None:
        """Store nothing and say that it is stored."""
        tell(True)


def create() -> Front:
    """The application; its answers promise nothing."""
    return build(from_environment(os.environ), NoJournal)


if __name__ == "__main__":
    web.run(from_environment(os.environ), "tests.benchmarks.live.noop:create")
