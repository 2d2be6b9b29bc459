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

from lab.coded import Coded, distinct
from lab.spill import Spill

MEMORY_GB = 0.5
BATCH_ROWS = 120_000
PIECE_ROWS = 4_000_000  # hits whose visitors are found at once
_NAMES = 190  # a few below what the engine remembers

# a request as a hit, as lines and tables of `coded`. who: a number of whom it belongs to, as far as it says by itself; tag,
# path_text, status, referrer_host, host: what is made up of it, null if absent; keys, values: its own ones; unsure: the
# engine decides it. Its query is before, tag, between, said and after, one behind the other.
WIDE: dict[str, dict[str, Any]] = {
    "lines": {
        "line": pl.Int64, "time_us": pl.Int64, "request": pl.UInt32, "person": pl.UInt32, "origin": pl.UInt32,
    },
    "request": {
        "method": pl.String, "path": pl.Binary, "client": pl.String, "event": pl.String, "path_text": pl.String,
        "status": pl.String, "host": pl.String, "keys": pl.List(pl.String), "values": pl.List(pl.String),
        "unsure": pl.Boolean, "before": pl.String, "between": pl.String, "after": pl.Binary,
    },
    "person": {"address": pl.String, "user_agent": pl.String, "tag": pl.String, "who": pl.UInt64},
    "origin": {"referrer": pl.String, "referrer_host": pl.String, "said": pl.String},
}  # fmt: skip
LASTING = ("referrer_host", "host")  # made-up parameters that not every hit has, and that are remembered


class Placing:
    """Takes in lines in the columns of `WIDE`; after `place` they come back in `batches`, in the order of the log."""

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

    def add(self, coded: Coded) -> None:
        """Take in the requests of a block, in the order of their lines."""
        coded = _in_order(coded)
        request, person = coded.lines["request"], coded.lines["person"]
        requests = coded.parts["request"].select(own=pl.col("keys").list.len(), unsure="unsure")
        self._narrow.append(coded.lines.select("line", "time_us").with_columns(
            coded.parts["person"]["who"].gather(person), *(self._numbers(coded, name) for name in LASTING),
            *(column.gather(request) for column in requests.get_columns()),
        ))  # fmt: skip
        self._spill.add(coded)

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
            visits = hits.filter(pl.col("who") % pieces == piece) if pieces > 1 else hits
            visits = visits.drop("row", "unsure").sort("who", maintain_order=True)
            self.visitor_ties += _shared(visits.select("who", "time_us"))
            placed.append(_lives(visits, remember_us, hard))
        self._placed = hits.select("row").hstack(_by_place(pl.concat(placed)))

    def batches(self, content: str) -> Iterator[Coded]:
        """The hits in their order, in the columns of `WIDE` and in the lines

        pos (from 0), seq (from 2, behind the rulebook), hit_id, visitor, new_visitor, life (a number of the visitor), hard,
        last_own (pos of the visitor's last hit before this one with parameters of its own, null if none); in tables of
        their own last_referrer_host and last_host. content: hex digits that make the ids those of this log.
        """
        texts = {name: pl.Series(list(self._texts[name]), dtype=pl.String) for name in LASTING}
        for placed in self._placed.iter_slices(self._batch_rows):
            found, parts, numbers = self._spill.rows(placed), {}, {}
            for name in LASTING:
                numbers[f"lasting_{name}"], known = distinct(found.lines[f"last_{name}"])
                parts[f"lasting_{name}"] = texts[name].gather(known).to_frame(f"last_{name}")
            yield Coded(
                found.lines.select(
                    pl.exclude("line", *(f"last_{name}" for name in LASTING)),
                    (pl.col("pos").cast(pl.Int64) + 2).alias("seq"), _identity(content, "line").alias("hit_id"),
                    _identity(content, "life").alias("visitor"),
                ).with_columns(**numbers),
                found.parts | parts,
            )  # fmt: skip

    def _numbers(self, coded: Coded, name: str) -> pl.Series:
        """The texts of a lasting parameter as numbers, 0 for null."""
        part = coded.part_of(name)
        assert part is not None
        column, texts = coded.parts[part][name], self._texts[name]
        known = column.unique()
        numbers = pl.Series([texts.setdefault(text, len(texts)) for text in known], dtype=pl.UInt32)
        return column.replace_strict(known, numbers, return_dtype=pl.UInt32).gather(coded.lines[part])

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


def _in_order(coded: Coded) -> Coded:
    """The columns in the order of `WIDE`, so that all pieces have the same."""
    parts = {part: coded.parts[part].select(list(WIDE[part])) for part in WIDE if part != "lines"}
    return Coded(coded.lines.select(list(WIDE["lines"])), parts)


def _shared(keys: pl.DataFrame) -> int:
    """How many rows of a sorted frame are like another."""
    same = pl.all_horizontal(pl.all() == pl.all().shift(1)).fill_null(False)
    return int(keys.select((same | same.shift(-1, fill_value=False)).sum()).item())


def _by_place(hits: pl.DataFrame) -> pl.DataFrame:
    """Rows of which each place from 0 has one, in the order of these: nothing has to be compared."""
    numbers = pl.int_range(hits.height, dtype=pl.UInt32, eager=True)
    return hits[pl.repeat(0, hits.height, dtype=pl.UInt32, eager=True).scatter(hits["pos"], numbers)]


def _lives(visits: pl.DataFrame, remember_us: int, hard: pl.Series) -> pl.DataFrame:
    """What is known of the visitor at each hit. visits: hits by whose they are, then time."""
    again = (pl.col("who") == pl.col("who").shift(1)) & (pl.col("time_us") - pl.col("time_us").shift(1) <= remember_us)
    visits = visits.with_columns(start=~again.fill_null(False))

    def so_far(value: pl.Expr) -> pl.Expr:
        return pl.coalesce(value, pl.when("start").then(0)).forward_fill()

    last = (so_far(pl.when(pl.col(name) > 0).then(name)).cast(pl.UInt32).alias(f"last_{name}") for name in LASTING)
    return visits.select(
        "pos", *last, pl.when("start").then("line").forward_fill().alias("life"),
        pl.when(~pl.col("start")).then(
            so_far(pl.when(pl.col("own") > 0).then(pl.col("pos").cast(pl.Int64) + 1)).shift(1) - 1
        ).replace(-1, None).alias("last_own"),
        pl.col("start").alias("new_visitor"), pl.col("who").is_in(hard.implode()).alias("hard"),
    )  # fmt: skip


def _identity(content: str, line: str) -> pl.Expr:
    """The id of the hit of a line: 20 digits that the whole log has, and the line's number."""
    return pl.lit(content[:20]) + (pl.col(line) + 10**12).cast(pl.String).str.slice(1)
