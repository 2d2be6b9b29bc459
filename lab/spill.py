"""Frames that are needed again: held in memory as long as there is room, after that in files of a temporary folder."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import polars as pl

_OPEN = 4  # files whose rows stay in memory after they were asked for


class Spill:
    """Frames of the same columns, numbered rows and all: `rows` finds them again by number, from 0 in the order of adding.

    memory_gb: how much of them may be held in memory. Close it to remove its files.
    """

    def __init__(self, folder: Path, memory_gb: float) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix=".placing-")
        self._room = int(memory_gb * 1e9)
        self._frames: list[pl.DataFrame | Path] = []
        self._starts: list[int] = []
        self.height = 0
        self._read = lru_cache(maxsize=_OPEN)(pl.read_ipc)

    def close(self) -> None:
        """Forget everything."""
        self._frames.clear()
        self._read.cache_clear()
        self._folder.cleanup()

    def add(self, frame: pl.DataFrame) -> None:
        """Take in a frame."""
        self._starts.append(self.height)
        self.height += frame.height
        size = int(frame.estimated_size())
        if size <= self._room:
            self._room -= size
            self._frames.append(frame)
            return
        path = Path(self._folder.name) / f"{len(self._frames)}.arrow"
        frame.write_ipc(path)
        self._frames.append(path)

    def frames(self, columns: list[str]) -> list[pl.DataFrame]:
        """These columns of every frame, in their order."""
        return [self._frame(number).select(columns) for number in range(len(self._frames))]

    def rows(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """The frame `wanted` with the columns of the rows that its column `row` names, in its order."""
        starts = pl.Series(self._starts, dtype=pl.UInt32)
        found = wanted.with_columns(_frame=starts.search_sorted(wanted["row"], side="right").cast(pl.Int64) - 1)
        numbers = found["_frame"].unique().sort().to_list()
        if len(numbers) == 1:
            return self._gathered(numbers[0], found)
        found = found.with_row_index("_place")
        rows = pl.concat([self._gathered(number, found.filter(pl.col("_frame") == number)) for number in numbers])
        return (rows if rows["_place"].is_sorted() else rows.sort("_place")).drop("_place")

    def _gathered(self, number: int, wanted: pl.DataFrame) -> pl.DataFrame:
        rows = self._frame(number)[(wanted["row"].cast(pl.Int64) - self._starts[number]).cast(pl.UInt32)]
        return wanted.drop("_frame", "row").hstack(rows)

    def _frame(self, number: int) -> pl.DataFrame:
        found = self._frames[number]
        return found if isinstance(found, pl.DataFrame) else self._read(found)
