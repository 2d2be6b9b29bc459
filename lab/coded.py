"""Requests as numbers: what comes again and again (who asks, for what, coming from where) is held once per block.

A line names its request, its person and its referrer by their row in tables of distinct ones. Whatever follows from these
alone is worked out once per distinct one, and a line is a few numbers when it waits, is sorted and is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc


class Coded(msgspec.Struct, frozen=True):
    """Lines, and the tables of what they name. lines: among others a column per table, a row number in it (UInt32).

    Of each column there is one, in the lines or in one of the tables.
    """

    lines: pl.DataFrame
    parts: dict[str, pl.DataFrame]

    @classmethod
    def of(cls, frame: pl.DataFrame, parts: Mapping[str, Sequence[str]]) -> Coded:
        """A frame taken apart: these columns of each table, the others stay in the lines."""
        lines, tables = frame, {}
        for part, columns in parts.items():
            known = frame.select(columns).unique(maintain_order=True)
            numbered = known.with_row_index(part)
            lines = lines.join(numbered, on=columns, how="left", maintain_order="left").drop(columns)
            tables[part] = known
        return cls(lines, tables)

    @property
    def height(self) -> int:
        """How many lines there are."""
        return self.lines.height

    def part_of(self, name: str) -> str | None:
        """The table that has this column, None for the lines."""
        return next((part for part, known in self.parts.items() if name in known.columns), None)

    def column(self, name: str) -> pl.Series:
        """A column, line by line."""
        part = self.part_of(name)
        return self.lines[name] if part is None else self.parts[part][name].gather(self.lines[part])

    def frame(self, columns: Iterable[str]) -> pl.DataFrame:
        """These columns, line by line."""
        return pl.DataFrame([self.column(name).alias(name) for name in columns])

    def with_lines(self, lines: pl.DataFrame) -> Coded:
        """Other lines that mean the same tables."""
        return Coded(lines, self.parts)

    def filter(self, wanted: pl.Series) -> Coded:
        """Some of the lines."""
        return self.with_lines(self.lines.filter(wanted))

    def taken(self, rows: pl.Series) -> Coded:
        """The lines of these numbers, with no more than they name."""
        lines, parts = self.lines[rows], {}
        for part, known in self.parts.items():
            used = pl.repeat(0, known.height, dtype=pl.UInt32, eager=True).scatter(lines[part], 1)
            lines = lines.with_columns((used.cum_sum() - 1).gather(lines[part]).cast(pl.UInt32).alias(part))
            parts[part] = known.filter(used == 1)
        return Coded(lines, parts)


def joined(pieces: Sequence[Coded]) -> Coded:
    """The lines of all, one below the other."""
    if len(pieces) == 1:
        return pieces[0]
    lines = []
    starts = dict.fromkeys(pieces[0].parts, 0)
    for piece in pieces:
        lines.append(piece.lines.with_columns((pl.col(part) + start).cast(pl.UInt32) for part, start in starts.items()))
        starts = {part: start + piece.parts[part].height for part, start in starts.items()}
    return Coded(pl.concat(lines), {part: pl.concat([piece.parts[part] for piece in pieces]) for part in starts})


def distinct(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Which of its distinct values each value is (UInt32), and these."""
    found = pc.dictionary_encode(column.to_arrow())
    return polars_of(found.indices).cast(pl.UInt32), polars_of(found.dictionary)


def polars_of(array: pa.Array) -> pl.Series:
    """A column of Arrow as one of Polars."""
    return cast(pl.Series, pl.from_arrow(array))
