"""The rulebook in force, as the web process knows it: what the intake refuses and where tracker links lead."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import redis.asyncio as aioredis

from service import keys
from service.engine import EMPTY, Rulebook, RulebookError
from service.rulebooks import compiled
from service.servers import is_away

log = logging.getLogger("backtrack.intake")

FOLLOW_EVERY_S = 0.5


class Follower:
    """Asks for the rulebook in force every half second. kept: file that holds its text for a start while Redis is away.

    A refusal by the intake binds, so nothing may be refused by a guess: until the rulebook is known, `current` is None.
    """

    def __init__(self, connection: aioredis.Redis, kept: Path) -> None:
        self._redis = connection
        self._kept = kept
        self._rulebook: Rulebook | None = None
        self._complaint = ""

    def current(self) -> Rulebook | None:
        """The newest rulebook that was seen, the empty one before the first is published, None while nothing is known."""
        return self._rulebook

    async def start(self) -> None:
        """Learn the rulebook before the first hit comes: from the journal, else from the disk."""
        await self._look()
        if self._rulebook is None and self._kept.is_file():
            try:
                self._rulebook = compiled(self._kept.read_text())
                log.warning("rulebook %s from %s until the journal is back", self._rulebook.id, self._kept)
            except (OSError, ValueError, RulebookError) as error:
                log.error("%s cannot be used, no rulebook is known until the journal is back: %s", self._kept, error)

    async def follow(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            await self._look()

    async def refresh(self) -> None:
        """Fetch the rulebook in force if it is another one. Raises RedisError, RulebookError."""
        found: Any = await self._redis.get(keys.RULEBOOK)
        if found is None:
            self._rulebook = self._rulebook or EMPTY
        elif self._rulebook is None or found.decode() != self._rulebook.id:
            text: Any = await self._redis.hget(keys.RULEBOOKS, found.decode())
            self._rulebook = await asyncio.to_thread(compiled, text)
            log.info("rulebook %s in force", self._rulebook.id)
            _replace(self._kept, self._rulebook.text)

    async def _look(self) -> None:
        """One look; whatever goes wrong is said once, and the last rulebook stays."""
        try:
            await self.refresh()
            self._complaint = ""
        except Exception as error:
            if not is_away(error) and str(error) != self._complaint:
                log.error("the rulebook in force cannot be read, the last one stays: %s", error)
            self._complaint = str(error)


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(text)
        fresh.replace(path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)
