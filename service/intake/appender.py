"""Appending batches to the journal's Redis: one round trip for many, each with its own fate."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis.asyncio as aioredis
from redis.exceptions import NoScriptError, RedisError

from service import keys
from service.intake.batch import Batch, SpooledBatch
from service.scripts import script_text
from service.servers import checked_client
from service.settings import Settings

log = logging.getLogger("backtrack.intake")

_AnyBatch = TypeVar("_AnyBatch", Batch, SpooledBatch)


class Appender:
    """Appends batches to the journal. wake: called with partition numbers whose wake flag was newly set.

    A batch that may not have arrived is handed back; appended again it counts once, since it keeps its id. Of one writer
    and partition only one batch may be under way at a time, or a later one could make an earlier one look old.
    """

    def __init__(self, settings: Settings, wake: Callable[[list[int]], None]) -> None:
        self._wake = wake
        self._keys = keys.partitions(settings.partitions)
        self._script = script_text("intake/append")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self.connection: aioredis.Redis = checked_client(
            settings.journal_url, settings.journal_timeout_ms / 1000, settings.partitions
        )
        self.away = ""

    async def append(self, batches: Sequence[_AnyBatch]) -> list[_AnyBatch]:
        """Append batches of different partitions; returns those that may not have arrived."""
        try:
            answers = await self._run(batches)
        except (TimeoutError, RedisError, OSError) as error:
            self._note_away(error)
            return list(batches)
        left, woken = [], []
        for batch, answer in zip(batches, answers, strict=True):
            if isinstance(answer, Exception):
                self._note_away(answer)
                left.append(batch)
            elif answer[2]:
                woken.append(batch.partition)
        if woken:
            self._wake(woken)
        if not left:
            self._note_back()
        return left

    async def _run(self, batches: Sequence[_AnyBatch]) -> list[Any]:
        for _ in range(2):
            pipeline = self.connection.pipeline(transaction=False)
            for batch in batches:
                names = self._keys[batch.partition]
                pipeline.evalsha(
                    self._sha, 4, names.journal, names.head, names.writers, names.wake,
                    batch.writer, batch.counter, *batch.args,
                )  # fmt: skip
            answers = await pipeline.execute(raise_on_error=False)
            if not any(isinstance(answer, NoScriptError) for answer in answers):
                return list(answers)
            await self.connection.script_load(self._script)
        return list(answers)

    def _note_away(self, error: Exception) -> None:
        if not self.away:
            log.warning("journal away, hits go to the spool: %s", error)
        self.away = str(error) or type(error).__name__

    def _note_back(self) -> None:
        if self.away:
            self.away = ""
            log.warning("journal back")
