"""Two segments side by side: the same steps, counted for two groups of visitors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from lab.log import LabError
from lab.pictures import segment_bars
from lab.show import html_block, html_table

if TYPE_CHECKING:
    from lab.charts import Chart
    from lab.funnel import Funnel


class Segments:
    """Two funnels of the same steps. frame: one row per step.

    Columns: step_number, step, visitors, share_of_first, other_visitors, other_share_of_first, difference (of the shares,
    other less this one) and the widest that ties make of it: lowest_difference, highest_difference.
    Raises LabError if the steps differ or one of the two is broken down.

    >>> segments = funnel.beside(log.funnel("click", "registration", "sale", client="bolt"))
    >>> segments.frame.columns[2:6]
    ['visitors', 'share_of_first', 'other_visitors', 'other_share_of_first']
    """

    def __init__(self, one: Funnel, other: Funnel) -> None:
        if not hasattr(other, "steps"):
            raise LabError(f"{other!r} is no funnel; give another one of the same steps")
        if one.steps != other.steps:
            raise LabError(f"the two funnels have different steps: {', '.join(one.steps)}; {', '.join(other.steps)}")
        if one.by or other.by:
            raise LabError(f"a funnel by {one.by or other.by} has many segments; leave by out to put two side by side")
        self.one = one
        self.other = other
        self.frame = self._frame()

    def _frame(self) -> pl.DataFrame:
        one, other = self.one.frame, self.other.frame
        low, high = _shares(self.one.ties, "lowest"), _shares(self.one.ties, "highest")
        other_low, other_high = _shares(self.other.ties, "lowest"), _shares(self.other.ties, "highest")
        return one.select("step_number", "step", "visitors", "share_of_first").with_columns(
            other["visitors"].alias("other_visitors"),
            other["share_of_first"].alias("other_share_of_first"),
            (other["share_of_first"] - one["share_of_first"]).alias("difference"),
            (other_low - high).alias("lowest_difference"),
            (other_high - low).alias("highest_difference"),
        )

    def readable(self) -> pl.DataFrame:
        """The frame as a person reads it.

        >>> segments.readable().columns
        ['step', 'one', 'of first', 'other', 'of its first', 'difference']
        """
        return self.frame.select(
            "step", pl.col("visitors").alias("one"), _percent("share_of_first").alias("of first"),
            pl.col("other_visitors").alias("other"), _percent("other_share_of_first").alias("of its first"),
            pl.col("difference").map_elements(lambda share: f"{100 * share:+.1f} points", pl.String),
        )  # fmt: skip

    def chart(self) -> Chart:
        """Two bars per step.

        >>> segments.chart().frame.height
        3
        """
        from lab.funnel_charts import segments_chart

        return segments_chart(self)

    def __repr__(self) -> str:
        from lab.funnel import text_table

        return f"one: {self.one.title}\nother: {self.other.title}\n{text_table(self.readable())}"

    def _repr_html_(self) -> str:
        return html_block(
            f"{self.one.title} | {self.other.title}", segment_bars(self.frame), html_table(self.readable())
        )


def _shares(ties: pl.DataFrame, name: str) -> pl.Series:
    """The lowest or highest share of the first step, whose own number is the same in any order."""
    first = ties["visitors"][0]
    return ties[name] / first if first else pl.Series([None] * ties.height, dtype=pl.Float64)


def _percent(name: str) -> pl.Expr:
    return pl.col(name).map_elements(lambda share: f"{100 * share:.1f} %", pl.String)
