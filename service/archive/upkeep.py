"""What keeps the tables readable beside the appends: compaction, retention, vacuum; one short step at a time.

A step runs in a thread of its own, since the library works outside the interpreter: the archive appends meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time

import pyarrow as pa
from deltalake.exceptions import DeltaError

from service.archive import compaction, retention, tables
from service.archive.tables import TableError
from service.processes import give_back_memory
from service.settings import Settings

log = logging.getLogger("backtrack.archive")

EVERY_S = 5.0  # between two looks for something to merge
SWEEP_EVERY_S = 600.0  # between two looks for what is too old


class Upkeep:
    """Does what is due, when it is asked to look; at most one step is under way."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._compaction = compaction.Compaction(settings.tables_path)
        self._thread: threading.Thread | None = None
        self._next_s = time.monotonic() + EVERY_S
        self._next_sweep_s = time.monotonic() + EVERY_S

    def look(self) -> None:
        """Start what is due, without waiting for it."""
        if time.monotonic() < self._next_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._next_s = time.monotonic() + EVERY_S
        self._thread = threading.Thread(target=self.work, name="upkeep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the step that is under way."""
        if self._thread is not None:
            self._thread.join()

    def work(self) -> None:
        """One step per table, and now and then what is too old. Whatever goes wrong is left for the next time."""
        try:
            for name in tables.TABLES:
                started = time.monotonic()
                merged = self._compaction.step(name)
                if merged:
                    log.info("%s: %d files merged in %.1f s", name, merged, time.monotonic() - started)
            if time.monotonic() >= self._next_sweep_s:
                self._next_sweep_s = time.monotonic() + SWEEP_EVERY_S
                sweep(self._settings, time.time_ns() // 1000)
            pa.default_memory_pool().release_unused()
            give_back_memory()
        except (DeltaError, TableError, OSError) as error:
            log.warning("the upkeep of the tables waits: %s", error)


def sweep(settings: Settings, now_us: int) -> None:
    """Drop the days that are not kept any more, then the files that nobody needs; unless somebody else is at it."""
    with tables.claim(settings.tables_path) as mine:
        if mine:
            _sweep(settings, now_us)


def _sweep(settings: Settings, now_us: int) -> None:
    if settings.keep_days:
        day = retention.first_kept(now_us, settings.keep_days)
        lost = retention.drop(settings.tables_path, day)
        if lost:
            log.info("days before %s dropped: %s", day, ", ".join(f"{name} {days}" for name, days in lost.items()))
    for name in tables.TABLES:
        table = tables.open_table(settings.tables_path, name)
        gone = 0 if table is None else compaction.vacuum(table, settings.vacuum_hours)
        if gone:
            log.info(
                "%s: %d files deleted that no version of the last %d hours needs", name, gone, settings.vacuum_hours
            )
