"""Duplicates by sets: a hit with the (partition, client, event, txid) of an earlier accepted one, within `remember` of it.

Whose hits they are does not matter, so this can be known before anybody is recognised.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import polars as pl

# row: of `events`. earlier: log time of the last accepted hit before it with the same key, null if none. unsure: the key
# is shared with a hit whose space only the engine can tell.
TWICE = {"row": pl.UInt32, "duplicate": pl.Boolean, "earlier": pl.Int64, "unsure": pl.Boolean}


def find_unsure(events: pl.DataFrame) -> pl.Series:
    """Rows of hits that are no tests by themselves but bring a click id that a test click may have minted."""
    minted = events.filter("test", pl.col("link").is_not_null(), pl.col("reason").is_null())["click"].unique()
    real = ~pl.col("test") & pl.col("click").is_in(minted.implode())
    return (
        events.select(real.fill_null(False)).to_series().arg_true() if minted.len() else pl.Series([], dtype=pl.UInt32)
    )


def find_duplicates(events: pl.DataFrame, unsure: pl.Series, remember: pl.Series) -> pl.DataFrame:
    """Rows of `TWICE`: the hits whose key occurs more than once. remember: by cid, in microseconds."""
    keyed = events.lazy().select(pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"), "ord", "t", "x", "cid", "test")
    keyed = keyed.filter(pl.col("x").is_not_null() & ~pl.col("test"))
    found = keyed.filter(pl.col("x").is_duplicated()).sort("x", "ord").collect()
    found = found.with_columns(
        remember=remember.gather(found["cid"]), doubtful=found["row"].is_in(unsure.implode()),
        first=pl.col("row") != pl.col("row").first().over("x"),
    )  # fmt: skip
    found = found.with_columns(
        span=(pl.col("t").last() - pl.col("t").first()).over("x"), unsure=pl.col("doubtful").any().over("x"),
        first_t=pl.col("t").first().over("x"),
    )  # fmt: skip
    short = found.filter(pl.col("span") <= pl.col("remember")).select(
        "row", duplicate="first", earlier=pl.when("first").then("first_t"), unsure="unsure"
    )
    chains = _follow_chains(found.filter(pl.col("span") > pl.col("remember")))
    return pl.concat([short.cast(TWICE), chains])  # type: ignore[arg-type]


def _follow_chains(found: pl.DataFrame) -> pl.DataFrame:
    """Keys that outlive `remember`: each hit is measured from the last accepted one, so one goes from hit to hit."""
    rows: list[tuple[int, bool, int | None, bool]] = []
    for _, members in groupby(found.select("x", "row", "t", "remember", "unsure").iter_rows(), itemgetter(0)):
        accepted: int | None = None
        for _, row, time_us, remember_us, unsure in members:
            duplicate = accepted is not None and time_us - accepted <= remember_us
            rows.append((row, duplicate, accepted, unsure))
            accepted = accepted if duplicate else time_us
    return pl.DataFrame(rows, TWICE, orient="row")
