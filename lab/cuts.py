"""Where a log ends: per partition, the last entry that is committed in all tables.

The archive commits table by table, so at any moment one of them is ahead. A hit is complete if its decision is there and,
where a trigger fired, its postbacks: they are stored in the order of the log, so none is missing below the newest one.
"""

from __future__ import annotations

import polars as pl


def find_cuts(entries: pl.LazyFrame, decisions: pl.LazyFrame | None, postbacks: pl.LazyFrame | None) -> pl.DataFrame:
    """partition, seq and time of the last entry before the first incomplete hit, and `beyond`: how many hits follow it.

    entries: partition, seq, time, kind. decisions: partition, seq, fired. postbacks: partition, seq. None for a table that
    was never written: an imported log need not have it.
    """
    stops = [frame for frame in (_undecided(entries, decisions), _unposted(decisions, postbacks)) if frame is not None]
    hits = (pl.col("kind") == "hit").alias("hit")
    placed = entries.select("partition", "seq", "time", hits)
    if stops:
        first = pl.concat(stops).group_by("partition").agg(pl.col("stop").min())
        placed = placed.join(first, on="partition", how="left")
    else:
        placed = placed.with_columns(stop=pl.lit(None, pl.Int64))
    inside = pl.col("stop").is_null() | (pl.col("seq") < pl.col("stop"))
    return (
        placed.group_by("partition")
        .agg(pl.col("seq", "time").filter(inside).max(), (pl.col("hit") & ~inside).sum().alias("beyond"))
        .sort("partition")
        .collect()
    )


def _undecided(entries: pl.LazyFrame, decisions: pl.LazyFrame | None) -> pl.LazyFrame | None:
    """The first hit behind the last decision. Rulebook entries have no decision and stop nothing."""
    if decisions is None:
        return None
    last = decisions.group_by("partition").agg(pl.col("seq").max().alias("last"))
    hits = entries.filter(pl.col("kind") == "hit").join(last, on="partition", how="left")
    return _first(hits.filter(pl.col("seq") > pl.col("last").fill_null(-1)))


def _unposted(decisions: pl.LazyFrame | None, postbacks: pl.LazyFrame | None) -> pl.LazyFrame | None:
    """The first decision with a firing behind the last postback."""
    if decisions is None or postbacks is None:
        return None
    last = postbacks.group_by("partition").agg(pl.col("seq").max().alias("last"))
    fired = decisions.filter(pl.col("fired").list.len() > 0).join(last, on="partition", how="left")
    return _first(fired.filter(pl.col("seq") > pl.col("last").fill_null(-1)))


def _first(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.group_by("partition").agg(pl.col("seq").min().alias("stop"))
