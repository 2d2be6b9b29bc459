"""The lines of an import in their order: sorted stably by (time, line), numbered, each with the visitor it belongs to.

A visitor is a tag id (address and user agent) as long as it is not forgotten; its id is that of its first hit. Whatever the
engine might see otherwise (a hit it may reject, a visitor with more names than are remembered) is `hard` and is left to it.

Only a few numbers per line stay in memory, some 60 bytes; the rest waits in a `Spill`. What came before a hit is found by
running fills over hits sorted by visitor. Identifiers are compared by 64 bits of hash, as in the set engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from lab.spill import Spill

MEMORY_GB = 0.5
BATCH_ROWS = 120_000
PIECE_ROWS = 4_000_000  # hits whose visitors are found at once
_NAMES = 190  # a few below what the engine remembers

# a request as a hit. who: a number of whom it belongs to, as far as it says by itself; tag, path_text, status,
# referrer_host, host: what is made up of it, null if absent; keys, values: its own ones; unsure: the engine decides it
WIDE: dict[str, Any] = {
    "line": pl.Int64, "time_us": pl.Int64, "method": pl.String, "path": pl.Binary, "query": pl.Binary,
    "address": pl.String, "user_agent": pl.String, "referrer": pl.String, "client": pl.String, "event": pl.String,
    "who": pl.UInt64, "tag": pl.String,
    "path_text": pl.String, "status": pl.String, "referrer_host": pl.String, "host": pl.String,
    "keys": pl.List(pl.String), "values": pl.List(pl.String), "unsure": pl.Boolean,
}  # fmt: skip
LASTING = ("referrer_host", "host")  # made-up parameters that not every hit has, and that are remembered


class Placing:
    """Takes in frames in the columns of `WIDE`; after `place` they come back in `batches`, in the order of the log."""

    def __init__(
        self, folder: Path, memory_gb: float = MEMORY_GB, batch_rows: int = BATCH_ROWS, piece_rows: int = PIECE_ROWS
    ) -> None:
        self._batch_rows, self._piece_rows = batch_rows, piece_rows
        self._spill = Spill(folder, memory_gb)
        self._narrow: list[pl.DataFrame] = []
        self._texts: dict[str, dict[str | None, int]] = {name: {None: 0} for name in LASTING}
        self._placed = pl.DataFrame()
        self.first_us = self.last_us = self.ties = self.visitor_ties = 0

    def __enter__(self) -> Placing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._spill.close()

    def add(self, frame: pl.DataFrame) -> None:
        """Take in the requests of a block, in the order of their lines."""
        self._narrow.append(frame.select(
            "line", "time_us", "who", *(self._numbers(frame[name]) for name in LASTING),
            own=pl.col("keys").list.len(), unsure="unsure",
        ))  # fmt: skip
        self._spill.add(frame)

    def place(self, remember_us: int) -> None:
        """Put the hits in order and find their visitors, and the figures first_us, last_us, ties, visitor_ties."""
        hits = pl.concat(self._narrow).with_row_index("row").sort("time_us", maintain_order=True).with_row_index("pos")
        self._narrow.clear()
        self.first_us, self.last_us = hits["time_us"][0], hits["time_us"][-1]
        self.ties = _shared(hits.select("time_us"))
        hard = self._hard(hits)
        pieces = -(-hits.height // self._piece_rows)
        placed = []
        for piece in range(pieces):
            visits = hits.filter(pl.col("who") % pieces == piece).sort("who", maintain_order=True)
            self.visitor_ties += _shared(visits.select("who", "time_us"))
            placed.append(_lives(visits, remember_us, hard))
        self._placed = pl.concat(placed).sort("pos")

    def batches(self, content: str) -> Iterator[pl.DataFrame]:
        """The hits in their order: the columns of `WIDE` but line and unsure, and

        pos (from 0), seq (from 2, behind the rulebook), hit_id, visitor, new_visitor, life (a number of the visitor), hard,
        last_own (pos of the visitor's last hit so far with parameters of its own, null if none), last_referrer_host,
        last_host. content: hex digits that make the ids those of this log.
        """
        texts = {name: pl.Series(list(self._texts[name]), dtype=pl.String) for name in LASTING}
        for placed in self._placed.iter_slices(self._batch_rows):
            yield self._spill.rows(placed).select(
                pl.exclude("line", "unsure", "who", *(f"last_{name}" for name in LASTING)),
                (pl.col("pos").cast(pl.Int64) + 2).alias("seq"), _identity(content, "line").alias("hit_id"),
                _identity(content, "life").alias("visitor"),
                *(texts[name].gather(placed[f"last_{name}"]).alias(f"last_{name}") for name in LASTING),
            )  # fmt: skip

    def _numbers(self, column: pl.Series) -> pl.Series:
        """The texts of a lasting parameter as numbers, 0 for null."""
        known, texts = column.unique(), self._texts[column.name]
        numbers = pl.Series([texts.setdefault(text, len(texts)) for text in known], dtype=pl.UInt32)
        return column.replace_strict(known, numbers, return_dtype=pl.UInt32)

    def _hard(self, hits: pl.DataFrame) -> pl.Series:
        """Whose hits are left to the engine."""
        own = hits.filter(pl.col("own") > 0).group_by("who").agg(pl.col("own").sum())
        crowded = own.filter(pl.col("own") > _NAMES)["who"]
        names = (
            [self._names_of(frame, crowded) for frame in self._spill.frames(["who", "keys"])] if crowded.len() else []
        )
        counted = pl.concat(names).unique().group_by("who").len() if names else pl.DataFrame(schema={"who": pl.UInt64})
        many = counted.filter(pl.col("len") > _NAMES)["who"] if names else counted["who"]
        return pl.concat([hits.filter("unsure")["who"], many]).unique()

    @staticmethod
    def _names_of(frame: pl.DataFrame, people: pl.Series) -> pl.DataFrame:
        """Who brought which names: who and keys, each pair once."""
        found = frame.filter(pl.col("who").is_in(people.implode()))
        return found.explode("keys", empty_as_null=False).unique()


def _shared(keys: pl.DataFrame) -> int:
    """How many rows of a sorted frame are like another."""
    same = pl.all_horizontal(pl.all() == pl.all().shift(1)).fill_null(False)
    return int(keys.select((same | same.shift(-1, fill_value=False)).sum()).item())


def _lives(visits: pl.DataFrame, remember_us: int, hard: pl.Series) -> pl.DataFrame:
    """What is known of the visitor at each hit. visits: hits by whose they are, then time."""
    again = (pl.col("who") == pl.col("who").shift(1)) & (pl.col("time_us") - pl.col("time_us").shift(1) <= remember_us)
    visits = visits.with_columns(start=~again.fill_null(False))

    def so_far(value: pl.Expr) -> pl.Expr:
        return pl.coalesce(value, pl.when("start").then(0)).forward_fill()

    last = (so_far(pl.when(pl.col(name) > 0).then(name)).cast(pl.UInt32).alias(f"last_{name}") for name in LASTING)
    return visits.select(
        "pos", "row", *last, pl.when("start").then("line").forward_fill().alias("life"),
        (so_far(pl.when(pl.col("own") > 0).then(pl.col("pos").cast(pl.Int64) + 1)) - 1).replace(-1, None).alias("last_own"),
        pl.col("start").alias("new_visitor"), pl.col("who").is_in(hard.implode()).alias("hard"),
    )  # fmt: skip


def _identity(content: str, line: str) -> pl.Expr:
    """The id of the hit of a line: 20 digits that the whole log has, and the line's number."""
    return pl.lit(content[:20]) + (pl.col(line) + 10**12).cast(pl.String).str.slice(1)
