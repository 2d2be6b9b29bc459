"""The route `/metrics`: what every web process can tell of the whole installation, in the text format of Prometheus.

Without a token, as `/healthz`: it names no client, affiliate, recipient or visitor. One round trip to Redis per second at
most, however often it is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from importlib.metadata import version
from itertools import chain

import redis.asyncio as aioredis
from litestar import Response, get
from litestar.datastructures import State
from redis.exceptions import RedisError

from service.admin.exposition import CONTENT_TYPE, Sample, exposition
from service.admin.figures import look
from service.admin.machine import spools
from service.admin.metrics import METRICS
from service.intake.tally import Tally
from service.servers import async_client, is_away
from service.settings import Settings

log = logging.getLogger("backtrack.web")

FRESH_S = 1.0  # for so long a page is given out again
BROKER_TIMEOUT_S = 1.0


class Scraper:
    """Makes the page. connection: to the journal's Redis."""

    def __init__(self, settings: Settings, connection: aioredis.Redis, tally: Tally) -> None:
        self._settings = settings
        self._redis = connection
        self._tally = tally
        self._broker = async_client(settings.broker_url, BROKER_TIMEOUT_S, BROKER_TIMEOUT_S)
        self._one_at_a_time = asyncio.Lock()
        self._page = b""
        self._made_s = -FRESH_S

    async def page(self) -> bytes:
        """All metrics that are known; those out of Redis only while it is there."""
        async with self._one_at_a_time:
            if time.monotonic() - self._made_s >= FRESH_S:
                self._page = exposition(METRICS, await self._samples())
                self._made_s = time.monotonic()
            return self._page

    async def close(self) -> None:
        """Close the connection to the broker."""
        await self._broker.aclose()

    async def _samples(self) -> list[Sample]:
        found = await asyncio.gather(
            self._of_answers(),
            asyncio.to_thread(lambda: list(spools(self._settings))),
            self._of_broker(),
            self._of_journal(),
        )
        return [Sample("backtrack_build_info", 1, version=version("backtrack")), *chain.from_iterable(found)]

    async def _of_answers(self) -> list[Sample]:
        total = await self._tally.total()
        names = ("backtrack_hits_not_stored_total", "backtrack_hits_acknowledged_total")
        return [Sample(name, count) for name, count in zip(names, total or (), strict=False)]

    async def _of_broker(self) -> list[Sample]:
        try:
            return [Sample("backtrack_broker_up", bool(await self._broker.ping()))]
        except (RedisError, OSError):
            return [Sample("backtrack_broker_up", 0)]

    async def _of_journal(self) -> list[Sample]:
        started = time.monotonic()
        try:
            found = await look(self._redis, self._settings.partitions)
        except (RedisError, OSError) as error:
            if not is_away(error):
                log.error("the journal's Redis is there and does not tell how it is: %s", error)
            return [Sample("backtrack_journal_up", 0)]
        took = Sample("backtrack_journal_look_seconds", time.monotonic() - started)
        return [Sample("backtrack_journal_up", 1), took, *found]


@get("/metrics")
async def metrics(state: State) -> Response[bytes]:
    """What an operator's Prometheus wants to know; 200 whatever is away."""
    scraper: Scraper = state.scraper
    return Response(await scraper.page(), media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
