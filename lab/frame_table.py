"""Any frame as the lab shows its own: a quiet table, times to the second, thousands apart."""

from __future__ import annotations

import polars as pl

from lab.log import LabError
from lab.show import html_block, html_table

_ROWS = 40


class Table:
    """A frame to look at. frame: all of it; shown are the first 40 rows."""

    def __init__(self, frame: pl.DataFrame, title: str = "") -> None:
        self.frame, self.title = frame, title

    def __repr__(self) -> str:
        from lab.funnel import text_table

        return (f"{self.title}\n" if self.title else "") + text_table(self.frame)

    def _repr_html_(self) -> str:
        return html_block(self.title, html_table(self.frame, limit=_ROWS))


def table(frame: pl.DataFrame | pl.LazyFrame, title: str = "") -> Table:
    """The frame as a table of the lab.

    table(log.summary(), "Per client")
    """
    if not isinstance(frame, pl.DataFrame | pl.LazyFrame):
        raise LabError(f"{frame!r} is no frame; give a Polars frame, such as log.summary()")
    return Table(frame.collect() if isinstance(frame, pl.LazyFrame) else frame, title)
