"""What can be seen from a hit: for every hit in a view, where the last (or first) hit of a kind lies before it.

The hits of a view stand together, in log order. The last one of a kind before a hit is then the last one that was marked
so far: one running fill over all views, which counts if it does not lead out of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

_I = pl.col("i")


class Past:
    """Hits in views, sorted.

    frame: i (its place here), start (of its view), view, label, row, speaks, counted, ev, cid, t. said: see
    `lab.sets.said`, of all hits whose values are asked for. patterns: for a column that is not in `said`, by row of
    `events` whether it is brought.
    """

    def __init__(self, frame: pl.DataFrame, said: pl.DataFrame, patterns: Callable[[str], pl.Series]) -> None:
        new = (pl.col("view") != pl.col("view").shift(1)).fill_null(True)
        numbered = frame.lazy().with_columns(i=pl.int_range(pl.len(), dtype=pl.UInt32))
        self.frame = numbered.with_columns(start=pl.when(new).then(_I).forward_fill()).collect()
        self._patterns = patterns
        self.hears(said)

    def hears(self, said: pl.DataFrame) -> None:
        """Read values in this `said` from now on."""
        self.said = said
        places = said.select("row").with_row_index("at")
        joined = self.frame.select("row").join(places, on="row", how="left", maintain_order="left")
        self._at = joined["at"]

    def only(self, views: pl.Series) -> Past:
        """The same with these views only."""
        frame = self.frame.drop("i", "start").filter(pl.col("view").is_in(views.unique().implode()))
        return Past(frame, self.said, self._patterns)

    def brings(self, column: str) -> pl.Series:
        """By hit, whether it says something in a column."""
        if column in self.said.columns:
            return self.said[column].is_not_null().gather(self._at).fill_null(False)
        return self._patterns(column).gather(self.frame["row"])

    def last(self, marks: Mapping[str, pl.Series], where: pl.Series) -> pl.DataFrame:
        """For the hits `where`: per mark the i of the last marked hit before, null if there is none in the view."""
        frame = pl.DataFrame(
            [self.frame["i"], self.frame["start"], *(mark.rename(name) for name, mark in marks.items())]
        )
        found = (pl.when(name).then(_I).forward_fill().shift(1).alias(name) for name in marks)
        return _inside(frame.lazy().with_columns(found).filter(where), marks).collect().select(list(marks))

    def first(self, marks: Mapping[str, pl.Series], where: pl.Series) -> pl.DataFrame:
        """The same with the first marked hit of the view."""
        everywhere = pl.repeat(True, self.frame.height, eager=True)
        before = self.last(marks, everywhere)
        return self.last({name: mark & before[name].is_null() for name, mark in marks.items()}, where)

    def count(self, mark: pl.Series, where: pl.Series) -> pl.Series:
        """For the hits `where`: how many marked ones came before in the view."""
        before = mark.cum_sum().cast(pl.UInt32) - mark.cast(pl.UInt32)
        return (before - before.gather(self.frame["start"])).filter(where)

    def steps(self, marks: list[pl.Series], where: pl.Series) -> pl.Series:
        """For the hits `where`: the i of the latest first step from which all steps were made in order, null if none."""
        everywhere = pl.repeat(True, self.frame.height, eager=True)
        begun = self.frame["i"]
        for number, mark in enumerate(marks):
            # the latest start is also the last that was marked, since a later step never has an earlier latest start
            frame = pl.DataFrame([self.frame["i"], self.frame["start"], mark.rename("mark"), begun.rename("begun")])
            kept = pl.when("mark").then("begun").forward_fill().shift(1).alias("begun")
            last = number == len(marks) - 1
            begun = _inside(frame.lazy().with_columns(kept).filter(where if last else everywhere), ["begun"]).collect()[
                "begun"
            ]
        return begun

    def pick(self, column: str, i: pl.Series) -> pl.Series:
        """What the hits at these places say in a column of `said`; null for null."""
        return self.said[column].gather(self._at.gather(i))


def _inside(frame: pl.LazyFrame, names: Mapping[str, pl.Series] | list[str]) -> pl.LazyFrame:
    return frame.with_columns(pl.when(pl.col(name) >= pl.col("start")).then(pl.col(name)) for name in names)
