"""The journal as the intake sees it: hits go in, an answer comes back when they are on disk.

Group commit: while one round trip is under way, the hits that come in gather into the next one, a batch per partition.
While Redis is away the batches go to the spool; they keep their id, so none is ever appended twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import redis.asyncio as aioredis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from service import keys
from service.engine.model import Hit
from service.intake.batch import Batch, SpooledBatch
from service.intake.spool import Spool, SpoolFullError, adopt
from service.scripts import script_text
from service.settings import Settings

log = logging.getLogger("backtrack.intake")

DRAIN_EVERY_S = 0.2


class NotStoredError(Exception):
    """A hit could be written neither to the journal nor to the spool."""


class Journal(Protocol):
    """Where hits are stored. Every implementation passes tests/service/journal_suite.py."""

    async def append(self, partition: int, hit: Hit) -> None:
        """Store the hit; returns when it is on disk. Raises NotStoredError if it cannot be stored."""


class MemoryJournal:
    """A journal for unit tests: keeps the hits in a list per partition."""

    def __init__(self) -> None:
        self.hits: dict[int, list[Hit]] = {}

    async def append(self, partition: int, hit: Hit) -> None:
        """Store the hit."""
        self.hits.setdefault(partition, []).append(hit)


class RedisJournal:
    """The journal in Redis, with the spool behind it.

    wake: called with partition numbers whose wake flag was newly set.
    """

    def __init__(self, settings: Settings, wake: Callable[[list[int]], None]) -> None:
        self._settings = settings
        self._wake = wake
        self._keys = keys.partitions(settings.partitions)
        self.writer = f"{int(time.time()):x}-{os.getpid():x}-{secrets.token_hex(4)}"
        self._counter = 0
        self._open: dict[int, Batch] = {}
        self._closed: deque[Batch] = deque()
        self._work = asyncio.Event()
        self._script = script_text("intake/append")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._redis = aioredis.Redis.from_url(
            settings.journal_url, socket_timeout=settings.journal_timeout_ms / 1000, socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0), protocol=2,
        )  # fmt: skip
        self.spool = Spool(settings.spool_path, self.writer, settings.spool_floor_mb)
        self.away = False
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def connection(self) -> aioredis.Redis:
        """The connection, for what else the web process asks of the journal's Redis."""
        return self._redis

    async def start(self) -> None:
        """Begin to write; spools of dead processes are drained beside."""
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._adopt())]

    async def stop(self) -> None:
        """Write what is there, then end."""
        self._stopping = True
        self._work.set()
        if self._tasks:
            await self._tasks[0]
            for task in self._tasks[1:]:
                task.cancel()
        self.spool.close()
        await self._redis.aclose()

    async def append(self, partition: int, hit: Hit) -> None:
        """Store the hit; returns when it is on disk. Raises NotStoredError if it cannot be stored."""
        batch = self._open.get(partition)
        if batch is None or batch.count >= self._settings.batch_hits or batch.bytes >= self._settings.batch_bytes:
            if batch is not None:
                self._closed.append(batch)
            batch = self._open[partition] = Batch(partition, self.writer)
        batch.add(hit)
        self._work.set()
        if not await asyncio.shield(batch.stored):
            raise NotStoredError

    # writing

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            if self.spool.waiting:
                await self._drain()
            batches = self._take()
            if batches:
                await self._store(batches)
                if self._open or self._closed:
                    self._work.set()
            elif self._stopping:
                return

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
        left = batches if self.spool.waiting else await self._to_redis(batches)
        lost = left if left and not await self._to_spool(left) else []
        for batch in batches:
            batch.stored.set_result(batch not in lost)

    async def _to_redis(self, batches: list[Batch]) -> list[Batch]:
        """Append the batches in one round trip; returns those that may not have arrived."""
        try:
            answers = await self._append_all(batches)
            self._note_back()
        except (TimeoutError, RedisError, OSError) as error:
            self._note_away(error)
            return batches
        left, woken = [], []
        for batch, answer in zip(batches, answers, strict=True):
            if isinstance(answer, Exception):
                self._note_away(answer)
                left.append(batch)
            elif answer[2]:
                woken.append(batch.partition)
        if woken:
            self._wake(woken)
        return left

    async def _append_all(self, batches: list[Batch] | list[SpooledBatch]) -> list[Any]:
        for _ in range(2):
            pipeline = self._redis.pipeline(transaction=False)
            for batch in batches:
                names = self._keys[batch.partition]
                pipeline.evalsha(
                    self._sha, 4, names.journal, names.head, names.writers, names.wake,
                    batch.writer, batch.counter, *batch.args,
                )  # fmt: skip
            answers = await pipeline.execute(raise_on_error=False)
            if not any(isinstance(answer, NoScriptError) for answer in answers):
                return list(answers)
            await self._redis.script_load(self._script)
        return list(answers)

    def _note_away(self, error: Exception) -> None:
        if not self.away:
            self.away = True
            log.warning("journal away, hits go to the spool %s: %s", self.spool.path, error)

    def _note_back(self) -> None:
        if self.away:
            self.away = False
            log.warning("journal back, spool holds %d batches", len(self.spool))

    # the spool

    async def _to_spool(self, batches: list[Batch]) -> bool:
        records = [SpooledBatch(b.partition, b.writer, b.counter, b.args) for b in batches]
        try:
            await asyncio.to_thread(self.spool.append, records)
        except SpoolFullError as error:
            log.error("spool full, %d hits refused: %s", sum(batch.count for batch in batches), error)
            return False
        if len(self.spool) == len(records):
            self._tasks.append(asyncio.create_task(self._drain_later()))
        return True

    async def _drain(self) -> None:
        """Append what waits in the spool, in order, as far as the journal takes it."""
        while self.spool.waiting:
            if not await self._append_spooled(self.spool.waiting[0]):
                return
            self.spool.pop()
        log.warning("spool drained")

    async def _append_spooled(self, record: SpooledBatch) -> bool:
        try:
            (answer,) = await self._append_all([record])
        except (TimeoutError, RedisError, OSError):
            return False
        if isinstance(answer, Exception):
            return False
        self._note_back()
        if answer[2]:
            self._wake([record.partition])
        return True

    async def _drain_later(self) -> None:
        """Wake the writer now and then while batches wait, so that the spool drains without new hits."""
        while self.spool.waiting and not self._stopping:
            await asyncio.sleep(DRAIN_EVERY_S)
            self._work.set()

    async def _adopt(self) -> None:
        """Drain the spools that dead processes left."""
        for path, records, file in adopt(self._settings.spool_path):
            log.warning("adopting spool %s with %d batches", path, len(records))
            for record in records:
                while not await self._append_spooled(record):  # noqa: ASYNC110  (nobody tells when Redis is back)
                    await asyncio.sleep(DRAIN_EVERY_S)
            path.unlink(missing_ok=True)
            file.close()
