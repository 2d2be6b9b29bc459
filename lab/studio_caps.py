"""Caps over the rows of an answer: the first so many that reach one, of everybody or of a sample."""

from __future__ import annotations

from math import ceil

import polars as pl

from lab.sets.spans import PLACE
from service.engine import Stage
from service.engine.rulebook import Trigger

FIRED = "fired"

_PERIODS = {
    "hour": pl.col("t") // 3_600_000_000, "day": pl.col("t") // 86_400_000_000,
    "month": pl.from_epoch("t", time_unit="us").dt.strftime("%Y%m").cast(pl.Int64), "total": pl.lit(0, pl.Int64),
}  # fmt: skip


def _cap_keys(trigger: Trigger) -> list[pl.Expr]:
    """What a cap counts by."""
    cap = trigger.cap
    assert cap is not None
    keys = [(pl.col("place") // PLACE).alias("partition"), _PERIODS[cap.every].alias("period")]
    return keys + ([pl.col("affiliate").fill_null("").alias("whose")] if cap.per == "affiliate" else [])


def capped(rows: pl.DataFrame, trigger: Trigger, share: int) -> pl.DataFrame:
    """With the cap: the first so many that reach it. In a sample each hit stands for `share`, or for less under a cap."""
    rows = rows.with_columns(weight=pl.lit(float(share)))
    cap = trigger.cap
    if cap is None:
        return rows
    reached = rows.filter(pl.col("stage") == FIRED).sort("place")
    keys, first = _cap_keys(trigger), ceil(cap.count / share)
    passes = pl.int_range(pl.len()).over(keys) < first
    stands_for = (cap.count / pl.min_horizontal(pl.len().over(keys), first)).clip(upper_bound=float(share))
    reached = reached.with_columns(
        stage=pl.when(passes).then(pl.lit(FIRED)).otherwise(pl.lit(Stage.CAP.value)),
        weight=pl.when(passes).then(stands_for).otherwise(pl.lit(float(share))),
    )
    return pl.concat([rows.filter(pl.col("stage") != FIRED), reached])


def before_in_cap(rows: pl.DataFrame, trigger: Trigger, place: int) -> int:
    """How many reached the cap before an event that it refused. rows: of an exact answer."""
    reached = rows.filter(pl.col("stage").is_in([FIRED, Stage.CAP.value])).sort("place")
    number = pl.int_range(pl.len()).over(_cap_keys(trigger))
    return int(reached.select("place", number=number).filter(pl.col("place") == place)["number"][0])
