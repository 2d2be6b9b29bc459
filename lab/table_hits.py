"""The rows of a CSV or Parquet file as hits: the requests that would have brought the same events to the intake.

Who a row belongs to may be said by several identifiers, so the engine decides every one of these hits.
"""

from __future__ import annotations

from urllib.parse import quote_plus

import polars as pl

from lab.coded import Coded
from lab.foreign_columns import each
from service.engine.model import IDENTIFIERS

_SAFE = r"^[A-Za-z0-9_.~/-]*$"
_LEADING = ("client", "event")
_APART = ("line", "time_us", "time", *_LEADING)


def row_hits(frame: pl.DataFrame) -> Coded:
    """A frame as `formats_table.Rows` makes it in the columns of `placing.WIDE`; each row is a request and a person."""
    names = [name for name in frame.columns if name not in _APART]
    said = frame.select(_said(frame[name], name) for name in (*_LEADING, *names))
    query = said.select(pl.concat_str(pl.all(), separator="&", ignore_nulls=True)).to_series()
    whose = [pl.col(name) for name in IDENTIFIERS if name in names]
    people = frame.select(who=pl.coalesce(*whose, pl.col("line").cast(pl.String)).hash())
    rows = frame.with_row_index("_row")
    return Coded(
        rows.select("line", "time_us", request="_row", person="_row", origin=pl.lit(0, pl.UInt32)),
        {
            "request": rows.join(_pairs(frame, names), on="_row", how="left", maintain_order="left").select(
                "client", "event", pl.col("keys", "values").fill_null([]), method=pl.lit("GET"), path=pl.lit(b"/"),
                before=query, between=pl.lit(""), after=pl.lit(b""), path_text=pl.lit(""), status=pl.lit(""),
                host=pl.lit(None, pl.String), unsure=pl.lit(True),
            ),
            "person": people.with_columns(pl.lit("").alias(name) for name in ("address", "user_agent", "tag")),
            "origin": pl.DataFrame({"referrer": [""], "referrer_host": pl.Series([None], dtype=pl.String), "said": [""]}),
        },
    )  # fmt: skip


def _said(column: pl.Series, name: str) -> pl.Series:
    """`name=value` as in a query, null where there is no value."""
    quoted = each(column, lambda text: quote_plus(text, safe="/"), _SAFE)
    return (pl.Series([f"{quote_plus(name)}="]) + quoted).alias(name)


def _pairs(frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """_row, keys, values of the rows that say anything beside client and event."""
    long = frame.select(names).with_row_index("_row").unpivot(index="_row", variable_name="keys", value_name="values")
    return long.filter(pl.col("values").is_not_null()).group_by("_row").agg("keys", "values")
