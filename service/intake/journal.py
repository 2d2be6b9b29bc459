"""The journal as the intake sees it: hits go in, an answer comes back when they are on disk.

Group commit: while one round trip is under way, and a millisecond more where many come, hits gather into the next one, a
batch per partition. While Redis is away the batches go to the spool; they keep their id, so none is appended twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec
import redis.asyncio as aioredis

from service.engine.model import Hit
from service.intake.appender import Appender
from service.intake.batch import Batch, SpooledBatch, Tell
from service.intake.spool import Orphan, Spool, SpoolFullError, orphans
from service.settings import Settings

log = logging.getLogger("backtrack.intake")

# after a round trip of so many hits the next one waits for more: it and its sync to disk cost the same for one as for many
BUSY_HITS = 8
GATHER_S = 0.001
DRAIN_EVERY_S = 0.2  # how often a journal that is away is asked again
DRAIN_FIRST_S = 0.1  # how long new hits wait for a spool that drains, so that it drains faster than it fills
ADOPT_EVERY_S = 1.0


class NotStoredError(Exception):
    """A hit could be written neither to the journal nor to the spool."""


class Journal(Protocol):
    """Where hits are stored. Every implementation passes tests/service/journal_suite.py."""

    async def append(self, partition: int, hit: Hit) -> None:
        """Store the hit; returns when it is on disk. Raises NotStoredError if it cannot be stored."""

    def put(self, partition: int, hit: Hit, tell: Tell) -> None:
        """The same for who does not wait: `tell` hears whether it is on disk, perhaps at once."""


class MemoryJournal:
    """A journal for unit tests: keeps the hits in a list per partition."""

    def __init__(self) -> None:
        self.hits: dict[int, list[Hit]] = {}

    async def append(self, partition: int, hit: Hit) -> None:
        """Store the hit."""
        self.hits.setdefault(partition, []).append(hit)

    def put(self, partition: int, hit: Hit, tell: Tell) -> None:
        """Store the hit and say so."""
        self.hits.setdefault(partition, []).append(hit)
        tell(True)


class RedisJournal:
    """The journal in Redis, with the spool behind it.

    wake: called with partition numbers whose wake flag was newly set.
    """

    def __init__(self, settings: Settings, wake: Callable[[list[int]], None]) -> None:
        self._settings = settings
        self.writer = f"{int(time.time()):x}-{os.getpid():x}-{secrets.token_hex(4)}"
        self._counter = 0
        self._open: dict[int, Batch] = {}
        self._closed: deque[Batch] = deque()
        self._work = asyncio.Event()
        self._appender = Appender(settings, wake)
        self.spool = Spool(settings.spool_path, self.writer, settings.spool_floor_mb)
        self._spool_lock = asyncio.Lock()
        self._spooled = asyncio.Event()
        self._drained = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._beside: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def connection(self) -> aioredis.Redis:
        """The connection, for what else the web process asks of the journal's Redis."""
        return self._appender.connection

    @property
    def away(self) -> str:
        """Why the journal takes nothing at the moment, "" if it does."""
        return self._appender.away

    async def start(self) -> None:
        """Begin to write; what waits in spools, our own and those of dead processes, is drained beside."""
        self._writing = asyncio.create_task(self._write())
        self._beside = [
            asyncio.create_task(_again_and_again(self._drain, DRAIN_EVERY_S)),
            asyncio.create_task(_again_and_again(self._adopt, ADOPT_EVERY_S)),
        ]

    async def stop(self) -> None:
        """Write what is there, then end. What waits in the spool is left for the next process."""
        self._stopping = True
        self._work.set()
        if self._writing is not None:
            await self._writing
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        self.spool.close()
        await self._appender.close()

    async def append(self, partition: int, hit: Hit) -> None:
        """Store the hit; returns when it is on disk. Raises NotStoredError if it cannot be stored."""
        if self._stopping or not await self._batch(partition).add(hit):
            raise NotStoredError

    def put(self, partition: int, hit: Hit, tell: Tell) -> None:
        """The same for who does not wait: `tell` hears whether it is on disk."""
        if self._stopping:
            tell(False)
        else:
            self._batch(partition).put(hit, tell)

    def _batch(self, partition: int) -> Batch:
        """Where the next hit of the partition goes."""
        batch = self._open.get(partition)
        if batch is None or batch.count >= self._settings.batch_hits or batch.bytes >= self._settings.batch_bytes:
            if batch is not None:
                self._closed.append(batch)
            batch = self._open[partition] = Batch(partition, self.writer)
        self._work.set()
        return batch

    # writing

    async def _write(self) -> None:
        while not self._stopping:
            await self._work.wait()
            self._work.clear()
            stored = 0
            while self._open or self._closed:
                await asyncio.sleep(GATHER_S if stored >= BUSY_HITS else 0)
                batches = self._take()
                await self._store(batches)
                stored = sum([batch.count for batch in batches])

    def _take(self) -> list[Batch]:
        """At most one batch per partition, in order of arrival; each gets its counter now."""
        taken: dict[int, Batch] = {}
        for batch in list(self._closed):
            if batch.partition not in taken:
                taken[batch.partition] = batch
                self._closed.remove(batch)
        for partition in list(self._open):
            if partition not in taken:
                taken[partition] = self._open.pop(partition)
        for batch in taken.values():
            self._counter += 1
            batch.counter = self._counter
        return list(taken.values())

    async def _store(self, batches: list[Batch]) -> None:
        """Journal first; behind what waits in the spool, and for what did not arrive, the spool."""
        lost = batches
        try:
            if any(self._will_drain(batch) for batch in batches):
                await self._let_drain()
            behind = [batch for batch in batches if self.spool.holds(batch.partition)]
            free = [batch for batch in batches if not self.spool.holds(batch.partition)]
            left = behind + (await self._append(free) if free else [])
            lost = left if left and not await self._to_spool(left) else []
        except Exception:  # whoever waits must hear that nothing is promised
            log.exception("%d hits refused", sum(batch.count for batch in batches))
        for batch in batches:
            batch.settle(batch not in lost)

    async def _append(self, batches: list[Batch]) -> list[Batch]:
        """Those that may not have arrived: all of them if something happens that nobody has foreseen."""
        try:
            return await self._appender.append(batches)
        except Exception:
            log.exception("%d hits go to the spool", sum(batch.count for batch in batches))
            return batches

    # the spool

    async def _to_spool(self, batches: list[Batch]) -> bool:
        records = [SpooledBatch(b.partition, b.writer, b.counter, b.args) for b in batches]
        try:
            async with self._spool_lock:
                self._drained.clear()
                await asyncio.to_thread(self.spool.append, records)
        except SpoolFullError as error:
            log.error("spool full, %d hits refused: %s", sum(batch.count for batch in batches), error)
            return False
        self._spooled.set()
        return True

    def _will_drain(self, batch: Batch) -> bool:
        """Whether the batch has to go behind others that will not wait for long."""
        return self.spool.holds(batch.partition) and not self.away and not self._appender.refuses(batch.partition)

    async def _let_drain(self) -> None:
        try:
            await asyncio.wait_for(self._drained.wait(), DRAIN_FIRST_S)
        except TimeoutError:
            pass

    async def _drain(self) -> None:
        """Append what waits in the spool, in the order of each partition, until it is empty or no partition takes more."""
        await self._spooled.wait()
        while len(self.spool):
            async with self._spool_lock:
                front = await asyncio.to_thread(self.spool.front)
            left = await self._appender.append(front)
            refused = {batch.partition for batch in left}
            async with self._spool_lock:
                self.spool.pop([batch.partition for batch in front if batch.partition not in refused])
            if len(left) == len(front):
                return
        self._spooled.clear()
        self._drained.set()
        log.warning("spool drained")

    async def _adopt(self) -> None:
        """Drain the spools that dead processes left."""
        for orphan in orphans(self._settings.spool_path):
            try:
                count = await self._append_orphan(orphan)
                if count is None:
                    continue
                log.warning("adopted spool %s with %d batches", orphan.path, count)
            except (OSError, msgspec.DecodeError) as error:
                log.error("spool %s stays: %s", orphan.path, error)
            finally:
                orphan.close()

    async def _append_orphan(self, orphan: Orphan) -> int | None:
        """Number of its batches, None if the journal does not take them all now; what it took already, it takes once.

        A partition that takes nothing holds up no other.
        """
        count, refused = 0, set()
        for batch in orphan.batches():
            if batch.partition in refused:
                continue
            if await self._appender.append([batch]):
                if self.away:
                    return None
                refused.add(batch.partition)
            count += 1
        if refused:
            return None
        orphan.settle()
        return count


async def _again_and_again(work: Callable[[], Coroutine[Any, Any, None]], pause_s: float) -> None:
    """Do some work for ever; an error is said and does not end it."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("it will be tried again")
        await asyncio.sleep(pause_s)
