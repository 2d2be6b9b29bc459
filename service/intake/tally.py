"""How many hits were answered with an id and how many without, by all web processes of this machine together.

Each process counts for itself and adds to one file, a second behind, so that whichever of them is asked knows all; a killed
one takes its last second along. The file is as long as it will ever be from the start: a full disk takes it in place.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import struct
import time
from pathlib import Path

log = logging.getLogger("backtrack.intake")

SAVE_EVERY_S = 1.0
LOCK_TRIES, LOCK_AGAIN_S = 50, 0.005
_TWO = struct.Struct("<QQ")


class Tally:
    """Counts hits by whether they were stored. path: of the file; its folder is made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = [0, 0]  # since the last save: not stored, stored
        self._complaint = ""
        self._one_at_a_time = asyncio.Lock()

    def count(self, stored: bool) -> None:
        """One hit was answered."""
        self._new[stored] += 1

    async def total(self) -> tuple[int, int] | None:
        """Not stored and stored, of all processes; None where the file cannot be used: less than was told before would look
        like a new beginning."""
        async with self._one_at_a_time:
            new, self._new = self._new, [0, 0]
            try:
                total, self._complaint = await asyncio.to_thread(self._add, new), ""
            except OSError as error:
                self._new = [now + before for now, before in zip(self._new, new, strict=True)]
                if str(error) != self._complaint:
                    log.error(
                        "%s cannot be written, so nobody knows how many hits were answered: %s", self._path, error
                    )
                self._complaint = str(error)
                return None
            return total

    async def save(self) -> None:
        """Add to the file for ever."""
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            if any(self._new):
                await self.total()

    def _add(self, new: list[int]) -> tuple[int, int]:
        """What the file says, with this added."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(file)
            found = os.pread(file, _TWO.size, 0)
            before = _TWO.unpack(found) if len(found) == _TWO.size else (0, 0)
            after = before[0] + new[0], before[1] + new[1]
            if after != before or not found:
                os.pwrite(file, _TWO.pack(*after), 0)
            return after
        finally:
            os.close(file)


def _lock(file: int) -> None:
    """Wait for others, but not for one that was stopped in mid-write. Raises OSError then."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(LOCK_AGAIN_S)
    raise BlockingIOError("another process keeps it locked")
