"""Lines that are needed again: held in memory as long as there is room, after that in files of a temporary folder."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import polars as pl

from lab.coded import Coded, joined

_OPEN = 4  # pieces whose rows stay in memory after they were asked for


class Spill:
    """Pieces of the same columns, numbered rows and all: `rows` finds them again by number, from 0 in the order of adding.

    memory_gb: how much of them may be held in memory. Close it to remove its files.
    """

    def __init__(self, folder: Path, memory_gb: float) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix=".placing-")
        self._room = int(memory_gb * 1e9)
        self._pieces: list[Coded | Path] = []
        self._starts: list[int] = []
        self.height = 0
        self._read = lru_cache(maxsize=_OPEN)(_read)

    def close(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._read.cache_clear()
        self._folder.cleanup()

    def add(self, piece: Coded) -> None:
        """Take in a piece."""
        self._starts.append(self.height)
        self.height += piece.height
        size = int(sum(frame.estimated_size() for frame in (piece.lines, *piece.parts.values())))
        if size <= self._room:
            self._room -= size
            self._pieces.append(piece)
            return
        path = Path(self._folder.name) / str(len(self._pieces))
        path.mkdir()
        for name, frame in {_LINES: piece.lines, **piece.parts}.items():
            frame.write_ipc(path / name)
        self._pieces.append(path)

    def frames(self, columns: list[str]) -> list[pl.DataFrame]:
        """These columns of every piece, line by line, in their order."""
        return [self._piece(number).frame(columns) for number in range(len(self._pieces))]

    def rows(self, wanted: pl.DataFrame) -> Coded:
        """The lines that the column `row` of a frame names, in its order and with its other columns."""
        starts = pl.Series(self._starts, dtype=pl.UInt32)
        found = wanted.with_columns(_piece=starts.search_sorted(wanted["row"], side="right").cast(pl.Int64) - 1)
        numbers = found["_piece"].unique().sort().to_list()
        if len(numbers) == 1:
            return self._taken(numbers[0], found)
        found = found.with_row_index("_place")
        rows = joined([self._taken(number, found.filter(pl.col("_piece") == number)) for number in numbers])
        lines = rows.lines if rows.lines["_place"].is_sorted() else rows.lines.sort("_place")
        return rows.with_lines(lines.drop("_place"))

    def _taken(self, number: int, wanted: pl.DataFrame) -> Coded:
        rows = self._piece(number).taken((wanted["row"].cast(pl.Int64) - self._starts[number]).cast(pl.UInt32))
        return rows.with_lines(wanted.drop("_piece", "row").hstack(rows.lines))

    def _piece(self, number: int) -> Coded:
        found = self._pieces[number]
        return found if isinstance(found, Coded) else self._read(found)


_LINES = "lines"


def _read(path: Path) -> Coded:
    parts = {file.name: pl.read_ipc(file) for file in path.iterdir()}
    return Coded(parts.pop(_LINES), parts)
