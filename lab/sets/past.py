"""What can be seen from a hit: for every hit in a view, where the last (or first) hit of a kind lies before it.

The hits of a view stand together, in log order. The last one of a kind before a hit is then the last one that was marked
so far: one running fill over all views, which counts if it does not lead out of its own. That costs a few nanoseconds a
hit; windows of SQL cost a hundred times that.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

_I = pl.col("i")


class Past:
    """Hits in views, sorted. frame: i (its place here), start (of its view), view, label, row, speaks, counted, ev, cid, t,
    at (its row in `said`). said: see `lab.sets.said`."""

    def __init__(self, frame: pl.DataFrame, said: pl.DataFrame) -> None:
        new = (pl.col("view") != pl.col("view").shift(1)).fill_null(True)
        numbered = frame.lazy().with_columns(i=pl.int_range(pl.len(), dtype=pl.UInt32))
        self.frame = numbered.with_columns(start=pl.when(new).then(_I).forward_fill()).collect()
        self.said = said

    def only(self, views: pl.Series) -> Past:
        """The same with these views only."""
        return Past(self.frame.drop("i", "start").filter(pl.col("view").is_in(views.unique().implode())), self.said)

    def brings(self, column: str) -> pl.Series:
        """By hit, whether it says something in a column of `said`."""
        return self.said[column].is_not_null().gather(self.frame["at"])

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
        return self.said[column].gather(self.frame["at"].gather(i))


def _inside(frame: pl.LazyFrame, names: Mapping[str, pl.Series] | list[str]) -> pl.LazyFrame:
    return frame.with_columns(pl.when(pl.col(name) >= pl.col("start")).then(pl.col(name)) for name in names)
