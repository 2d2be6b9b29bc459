"""Appending batches to the journal's Redis: one round trip for many, each with its own fate."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis.asyncio as aioredis
from redis.exceptions import NoScriptError, RedisError

from service import epochs, keys
from service.intake.batch import Batch, SpooledBatch
from service.intake.wire import Command, Wire
from service.scripts import script_text
from service.servers import client, is_away
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
        self._settings = settings
        self.connection: aioredis.Redis = epochs.async_journal_client(settings, settings.journal_timeout_ms / 1000)
        self._wire = Wire(self.connection, settings.journal_timeout_ms / 1000)
        self._known: dict[int, tuple[int, int]] = {}  # partition -> epoch and seq of the last entry that has an answer
        self._complaints: dict[int, str] = {}
        self.away = ""

    async def append(self, batches: Sequence[_AnyBatch]) -> list[_AnyBatch]:
        """Append batches of different partitions; returns those that may not have arrived."""
        try:
            answers = await self._run(batches)
        except (TimeoutError, RedisError, OSError) as error:
            self._note_away(error)
            return list(batches)
        left, woken, lost = [], [], False
        for batch, answer in zip(batches, answers, strict=True):
            if isinstance(answer, Exception):
                lost = self._note_refusal(batch.partition, answer) or lost
                left.append(batch)
                continue
            self._complaints.pop(batch.partition, None)
            if answer[1]:
                self._known[batch.partition] = int(answer[3]), answer[1]
            if answer[2]:
                woken.append(batch.partition)
        if woken:
            self._wake(woken)
        if lost:
            await self._tell_what_is_lost()
        if len(left) < len(batches):
            self._note_back()
        return left

    async def close(self) -> None:
        """Close the connections."""
        self._wire.close()
        await self.connection.aclose()

    def refuses(self, partition: int) -> bool:
        """Whether the partition took nothing the last time, although the server is there."""
        return partition in self._complaints

    def _note_refusal(self, partition: int, error: Exception) -> bool:
        """What one partition does not take is its own affair, unless the whole server is away. True if entries are lost."""
        if is_away(error):
            self._note_away(error)
        elif self._complaints.get(partition) != str(error):
            log.error("partition %d takes nothing, its hits go to the spool: %s", partition, error)
            self._complaints[partition] = str(error)
        return str(error).startswith("LOST")

    async def _tell_what_is_lost(self) -> None:
        """The server has forgotten what we have answers for: a new epoch has to begin before anything is appended."""

        def compare() -> None:
            with client(self._settings.journal_url, 30) as connection:
                epochs.compare(connection, self._settings.partitions, self._settings.tables_path, dict(self._known))

        try:
            await asyncio.to_thread(compare)
        except Exception as error:
            log.error("the journal has lost entries and cannot be compared with the tables: %s", error)

    async def _run(self, batches: Sequence[_AnyBatch]) -> list[Any]:
        commands = [self._command(batch) for batch in batches]
        answers = await self._wire.call(commands)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            await self.connection.script_load(self._script)
            answers = await self._wire.call(commands)
        return answers

    def _command(self, batch: Batch | SpooledBatch) -> Command:
        names = self._keys[batch.partition]
        known = self._known.get(batch.partition)
        return (
            "EVALSHA", self._sha, 5, names.journal, names.head, names.writers, names.wake, names.kept,
            batch.writer, batch.counter, *batch.args, *([f"{known[0]}-{known[1]}"] if known else ()),
        )  # fmt: skip

    def _note_away(self, error: Exception) -> None:
        if not self.away:
            log.warning("journal away, hits go to the spool: %s", error)
        self.away = str(error) or type(error).__name__

    def _note_back(self) -> None:
        if self.away:
            self.away = ""
            log.warning("journal back")
