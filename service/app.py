"""Composition root of the web process: settings in, application out."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Response, get
from litestar.datastructures import State

from service import keys
from service.engine import EMPTY, Rulebook, RulebookError
from service.intake.journal import RedisJournal
from service.intake.routes import Intake, intake_routes
from service.processes import die_with_parent
from service.rulebooks import compiled
from service.servers import is_away
from service.settings import Settings, from_environment
from service.wakeups import Wakeups

log = logging.getLogger("backtrack.web")

FOLLOW_EVERY_S = 0.5


class Follower:
    """The rulebook in force, as the web process knows it: asked for every half second, kept while Redis is away."""

    def __init__(self, journal: RedisJournal) -> None:
        self._journal = journal
        self.rulebook: Rulebook = EMPTY

    def current(self) -> Rulebook:
        """The newest rulebook that was seen."""
        return self.rulebook

    async def refresh(self) -> None:
        """Fetch the rulebook in force if it is another one."""
        found: Any = await self._journal.connection.get(keys.RULEBOOK)
        if found and found.decode() != self.rulebook.id:
            text: Any = await self._journal.connection.hget(keys.RULEBOOKS, found.decode())
            self.rulebook = compiled(text)
            log.info("rulebook %s in force", self.rulebook.id)

    async def follow(self) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.refresh()
            except RulebookError as error:
                log.error("the published rulebook cannot be read, the last one stays: %s", error)
            except Exception as error:
                if not is_away(error):
                    raise
            await asyncio.sleep(FOLLOW_EVERY_S)


def void(_: object) -> None:
    """Drop a result on purpose."""


def create() -> Litestar:
    """The application of a web worker, from the environment. Runs inside the server's worker process."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    return build(from_environment(os.environ))


def build(settings: Settings) -> Litestar:
    """The application for these settings."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        wakeups = Wakeups(settings)
        sender = ThreadPoolExecutor(1, "wake")
        journal = RedisJournal(settings, lambda numbers: void(sender.submit(wakeups.track, numbers)))
        follower = Follower(journal)
        app.state.journal, app.state.follower = journal, follower
        intake.connect(journal, follower.current)
        await journal.start()
        following = asyncio.create_task(follower.follow())
        yield
        following.cancel()
        await journal.stop()
        sender.shutdown()

    intake = Intake(settings.partitions)
    return Litestar(
        route_handlers=[*intake_routes(intake), healthz, readyz],
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )


@get("/healthz", media_type="text/plain")
async def healthz() -> str:
    """The process runs."""
    return "ok\n"


@get("/readyz", media_type="text/plain")
async def readyz(state: State) -> Response[str]:
    """The process can store hits and knows a rulebook; else 503 and what is missing."""
    journal: RedisJournal = state.journal
    try:
        await journal.connection.ping()
    except Exception as error:
        return Response(f"the journal is away: {error}\n", status_code=503)
    if state.follower.rulebook is EMPTY:
        return Response("no rulebook was published yet\n", status_code=503)
    return Response(f"ready, rulebook {state.follower.rulebook.id}\n")
