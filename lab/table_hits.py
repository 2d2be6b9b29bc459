"""The rows of a CSV or Parquet file as hits: the requests that would have brought the same events to the intake.

Who a row belongs to may be said by several identifiers, so the engine decides every one of these hits.
"""

from __future__ import annotations

from urllib.parse import quote_plus

import polars as pl

from lab.foreign_columns import each
from lab.placing import WIDE
from service.engine.model import IDENTIFIERS

_SAFE = r"^[A-Za-z0-9_.~/-]*$"
_LEADING = ("client", "event")
_EMPTY = ("address", "user_agent", "referrer", "tag", "path_text", "status")
_APART = ("line", "time_us", "time", *_LEADING)


def row_hits(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame as `formats_table.Rows` makes it in the columns of `placing.WIDE`."""
    names = [name for name in frame.columns if name not in _APART]
    said = frame.select(_said(frame[name], name) for name in (*_LEADING, *names))
    query = said.select(pl.concat_str(pl.all(), separator="&", ignore_nulls=True).cast(pl.Binary)).to_series()
    whose = [pl.col(name) for name in IDENTIFIERS if name in names]
    return frame.with_row_index("_row").join(_pairs(frame, names), on="_row", how="left").sort("_row").select(
        "line", "time_us", "client", "event", pl.col("keys", "values").fill_null([]), query=query,
        who=pl.coalesce(*whose, pl.col("line").cast(pl.String)).hash(), method=pl.lit("GET"), path=pl.lit(b"/"),
        unsure=pl.lit(True), **dict.fromkeys(_EMPTY, pl.lit("")),
        referrer_host=pl.lit(None, pl.String), host=pl.lit(None, pl.String),
    ).select(list(WIDE))  # fmt: skip


def _said(column: pl.Series, name: str) -> pl.Series:
    """`name=value` as in a query, null where there is no value."""
    quoted = each(column, lambda text: quote_plus(text, safe="/"), _SAFE)
    return (pl.Series([f"{quote_plus(name)}="]) + quoted).alias(name)


def _pairs(frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """_row, keys, values of the rows that say anything beside client and event."""
    long = frame.select(names).with_row_index("_row").unpivot(index="_row", variable_name="keys", value_name="values")
    return long.filter(pl.col("values").is_not_null()).group_by("_row").agg("keys", "values")
