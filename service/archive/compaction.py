"""Many small files become few large ones, a step at a time, while the archive goes on appending.

The archive adds a file to each table every second. Small files of one day are merged when enough have come together,
and what that gives is merged again when enough of that has: each row is written anew a few times in its life, and no
step is long. Days that are over are merged as far as they go. Appends do not disturb a merge, nor it them, and it touches
neither rows nor application transactions.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from deltalake import DeltaTable, WriterProperties

from service.archive import tables

MEGABYTE = 1 << 20
LARGE_BYTES = 32 * MEGABYTE  # a file of this size is left alone
# files below this size, and how many of them a day needs to have before they are merged; the current day's steps
LEVELS = ((2 * MEGABYTE, 24), (LARGE_BYTES, 12))

# row groups of a narrow span of time, so that a reader skips what it was not asked for
_WRITER = WriterProperties(compression="ZSTD", compression_level=3, max_row_group_size=50_000)


class Step(msgspec.Struct, frozen=True):
    """One merge: the files of a day below `target_bytes` that become fewer files of about that size."""

    table: str
    day: str
    target_bytes: int


class Compaction:
    """Merges the files of tables below `root`. Remembers which days that are over cannot get any smaller."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._settled: dict[tuple[str, str], int] = {}

    def all_due(self, name: str) -> int:
        """Do every merge of a table that is due, each as `step` does. Returns the number of files that they replaced."""
        replaced = 0
        while (merged := self._step(name)) is not None:
            replaced += merged
        return replaced

    def step(self, name: str) -> int:
        """Do the most urgent merge of a table. Returns the number of files that it replaced, 0 if nothing is due or
        somebody else is at it.

        Raises CommitFailedError where rows were removed meanwhile; nothing has happened then.
        """
        return self._step(name) or 0

    def _step(self, name: str) -> int | None:
        with tables.claim(self._root) as mine:
            table = tables.open_table(self._root, name) if mine else None  # opened behind the lock: never an old state
            found = None if table is None else self.due(table, name)
            if table is None or found is None:
                return None
            tables.leave_to_readers(self._root, name, table, [found.day])
            done = merge(table, found)
            if not done:
                self._settled[name, found.day] = len(sizes(table)[found.day])
            return done

    def due(self, table: DeltaTable, name: str) -> Step | None:
        """The merge that leaves the fewest files, None if no day needs one."""
        by_day = sizes(table)
        steps = []
        for day, found in by_day.items():
            target = _target(found, over=day < max(by_day))
            if target and self._settled.get((name, day)) != len(found):
                steps.append((len(found), Step(name, day, target)))
        return max(steps, key=lambda pair: pair[0])[1] if steps else None


def _target(found: list[int], over: bool) -> int:
    """The size up to which a day's files are merged now, 0 if they stay as they are. over: nothing is appended any more."""
    for target, enough in LEVELS:
        below = 0 if target == LEVELS[0][0] else LEVELS[0][0]
        if sum(below <= size < target for size in found) >= enough:
            return target
    smallest = sorted(size for size in found if size < LARGE_BYTES)[:2]
    return LARGE_BYTES if over and len(smallest) == 2 and sum(smallest) <= LARGE_BYTES else 0


def merge(table: DeltaTable, step: Step) -> int:
    """Do one step, under `tables.claim`. Returns the number of files that were replaced."""
    done = table.optimize.compact(
        partition_filters=[("day", "=", step.day)], target_size=step.target_bytes, max_concurrent_tasks=1,
        writer_properties=_WRITER,
    )  # fmt: skip
    return int(done["numFilesRemoved"])


def sizes(table: DeltaTable) -> dict[str, list[int]]:
    """Sizes in bytes of the files of each day."""
    actions: Any = pa.table(table.get_add_actions(flatten=True)).select(["partition.day", "size_bytes"])
    by_day: defaultdict[str, list[int]] = defaultdict(list)
    for row in actions.to_pylist():
        by_day[row["partition.day"]].append(row["size_bytes"])
    return dict(by_day)


def vacuum(table: DeltaTable, hours: int) -> int:
    """Delete the files that no version of the last `hours` needs, and those that killed writers left behind.

    Returns their number. At least one hour: younger files may belong to a commit that is under way.
    """
    gone = table.vacuum(max(1, hours), dry_run=False, enforce_retention_duration=False, full=True)
    return len(gone)
