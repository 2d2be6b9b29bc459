"""What the tables need beside the appends: small files are merged, old days dropped, files that nobody needs deleted.

It happens in a process that ends when it is done, while the archive appends: what a merge takes goes back to the system.
`python -m service.archive.upkeep [--sweep]` does all that is due, by the settings of its environment.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time

from deltalake.exceptions import DeltaError

from service.archive import compaction, retention, tables
from service.archive.tables import TableError
from service.processes import die_with_parent
from service.settings import Settings, from_environment

log = logging.getLogger("backtrack.archive")

EVERY_S = 5.0  # between two beginnings, at least
ENOUGH = compaction.LEVELS[0][1]  # files that a table has to get before there can be something to merge
SWEEP_EVERY_S = 600.0  # between two looks for what is too old
SWEEP = "--sweep"
END_S = 5.0


class Upkeep:
    """Begins what is due; at most one process of it is at work. every_s: between two beginnings, at least."""

    def __init__(self, settings: Settings, every_s: float = EVERY_S) -> None:
        self._settings = settings
        self._every_s = every_s
        self._process: subprocess.Popen[bytes] | None = None
        self._files = (
            ENOUGH  # that a table may have got since the last time; at the first time others may have left some
        )
        self._next_s = 0.0
        self._next_sweep_s = time.monotonic() + SWEEP_EVERY_S
        self.started = 0

    def look(self, rows: int) -> None:
        """Begin what may be due, without waiting for it. rows: written since the last look, to all tables together."""
        if rows:
            self._files += 1 + rows // self._settings.archive_rows
        now = time.monotonic()
        if now < self._next_s or self.is_at_work():
            return
        if self._files >= ENOUGH or now >= self._next_sweep_s:
            self._start(sweeping=now >= self._next_sweep_s)

    def is_at_work(self) -> bool:
        """Whether a process of it is running."""
        if self._process is not None and (status := self._process.poll()) is not None:
            if status:
                log.warning("the upkeep of the tables ended with status %d", status)
            self._process = None
        return self._process is not None

    def stop(self) -> None:
        """End what is at work. A merge that is not done has not happened."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self, sweeping: bool) -> None:
        now = time.monotonic()
        self._files, self._next_s = 0, now + self._every_s
        if sweeping:
            self._next_sweep_s = now + SWEEP_EVERY_S
        command = [sys.executable, "-m", "service.archive.upkeep", *([SWEEP] if sweeping else [])]
        self._process = subprocess.Popen(command, env={**os.environ, **self._settings.environment()})
        self.started += 1


def main() -> None:
    """Do all that is due, for the archive that has started this process."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    work(from_environment(os.environ), sweeping=SWEEP in sys.argv[1:])


def work(settings: Settings, sweeping: bool = False) -> None:
    """All merges that are due, then what is too old. Whatever goes wrong is left for the next time."""
    merges = compaction.Compaction(settings.tables_path)
    try:
        for name in tables.TABLES:
            started = time.monotonic()
            merged = merges.all_due(name)
            if merged:
                log.info("%s: %d files merged in %.1f s", name, merged, time.monotonic() - started)
        if sweeping:
            sweep(settings, time.time_ns() // 1000)
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


if __name__ == "__main__":
    main()
