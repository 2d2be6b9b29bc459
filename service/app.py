"""Composition root of the web process: settings in, application out."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from litestar import Litestar, Response, get
from litestar.datastructures import State

from service.admin.routes import status_routes
from service.admin.scrape import Scraper, metrics
from service.engine import EMPTY, Rulebook
from service.intake.browser import confirm, tag
from service.intake.browser_pages import Pages
from service.intake.follower import Follower
from service.intake.front import Front
from service.intake.journal import RedisJournal
from service.intake.proxies import Proxies
from service.intake.routes import Intake, intake_routes
from service.intake.signature import Keys
from service.intake.spool import SpoolFullError
from service.intake.tally import Tally
from service.processes import collect_garbage_rarely
from service.settings import Settings, from_environment
from service.wakeups import Wakeups


def void(_: object) -> None:
    """Drop a result on purpose."""


def create() -> Front:
    """The application of a web worker, from the environment. Runs inside the server's worker process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    application = build(from_environment(os.environ))
    collect_garbage_rarely()
    return application


def build(settings: Settings, journal_type: type[RedisJournal] = RedisJournal) -> Front:
    """The application for these settings. journal_type: another journal for trials."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        wakeups = Wakeups(settings)
        sender = ThreadPoolExecutor(1, "wake")
        journal = journal_type(settings, lambda numbers: void(sender.submit(wakeups.track, numbers)))
        follower = Follower(journal.connection, settings.spool_path / "rulebook.toml")
        app.state.journal, app.state.follower = journal, follower
        pages = app.state.pages = Pages(settings, journal.connection)
        scraper = app.state.scraper = Scraper(settings, journal.connection, tally)
        intake.connect(journal, follower.current, pages)
        await follower.start()
        await journal.start()
        beside = [asyncio.create_task(work) for work in (follower.follow(), pages.listen(), tally.save())]
        yield
        for task in beside:
            task.cancel()
        await journal.stop()
        await tally.total()
        await scraper.close()
        sender.shutdown(wait=False, cancel_futures=True)  # a wake-up that is not sent costs only time

    tally = Tally(settings.spool_path / "answered")
    intake = Intake(settings.partitions, Proxies(settings.trusted_networks), Keys(os.environ), tally.count)
    rest = Litestar(
        route_handlers=[*intake_routes(intake), tag, confirm, *status_routes(settings), healthz, readyz, metrics],
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )
    return Front(intake, rest)


@get("/healthz", media_type="text/plain")
async def healthz() -> str:
    """The process runs."""
    return "ok\n"


@get("/readyz", media_type="text/plain")
async def readyz(state: State) -> Response[str]:
    """The process can store hits, be it in the spool, and knows a rulebook; else 503 and what is missing."""
    journal: RedisJournal = state.journal
    rulebook: Rulebook | None = state.follower.current()
    where = ""
    try:
        await journal.connection.ping()
    except Exception as error:
        where = f", the journal is away ({error}), hits go to the spool"
        try:
            journal.spool.check_room()
        except SpoolFullError as full:
            return Response(f"the journal is away ({error}) and the spool full: {full}\n", status_code=503)
    if rulebook is None or rulebook is EMPTY:
        return Response(f"no rulebook {'is known' if where else 'was published'} yet{where}\n", status_code=503)
    return Response(f"ready, rulebook {rulebook.id}{where}\n")
