"""How long the steps of a funnel took, and how it went day by day."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

QUANTILES = (10, 25, 50, 75, 90, 99)


def times(attempts: pl.DataFrame, steps: Sequence[str], by: str) -> pl.DataFrame:
    """Quantiles of the time to convert: see `Funnel.times`. attempts: as `find_attempts` makes them."""
    parts = []
    for number in range(2, len(steps) + 1):
        for since, start in (("previous", number - 1), ("first", 1)):
            seconds = (pl.col(f"t{number}") - pl.col(f"t{start}")) / 1e6
            parts.append(
                attempts.filter(pl.col(f"t{number}").is_not_null())
                .group_by("by_value")
                .agg(
                    pl.lit(number).alias("step_number"), pl.lit(steps[number - 1]).alias("step"),
                    pl.lit(since).alias("since"), pl.len().cast(pl.Int64).alias("visitors"),
                    *(seconds.quantile(q / 100, "linear").alias(f"p{q}") for q in QUANTILES),
                )
            )  # fmt: skip
    if not parts:  # a single step takes no time
        parts = [times(attempts.clear().with_columns(t2=pl.lit(None, pl.Int64)), [*steps, ""], "by_value")]
    found = pl.concat(parts).sort("by_value", "step_number", "since", descending=[False, False, True])
    return _named(found, by)


def trend(attempts: pl.DataFrame, steps: Sequence[str], by: str) -> pl.DataFrame:
    """The funnel by day of the start: see `Funnel.trend`."""
    dated = attempts.with_columns(day=pl.from_epoch("t1", "us").dt.date())
    parts = [
        dated.group_by("day", "by_value").agg(
            pl.lit(number).alias("step_number"), pl.lit(step).alias("step"),
            pl.col(f"t{number}").count().cast(pl.Int64).alias("visitors"),
            (pl.col(f"t{number}").count() / pl.len()).alias("share_of_first"),
        )
        for number, step in enumerate(steps, 1)
    ]  # fmt: skip
    return _named(pl.concat(parts).sort("day", "by_value", "step_number"), by)


def waits(attempts: pl.DataFrame, steps: int) -> pl.DataFrame:
    """Seconds from the first step to each later one: see `Funnel.waits`."""
    parts = [
        attempts.filter(pl.col(f"t{number}").is_not_null()).select(
            pl.lit(number).alias("step_number"), ((pl.col(f"t{number}") - pl.col("t1")) / 1e6).alias("seconds")
        )
        for number in range(2, steps + 1)
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema={"step_number": pl.Int32, "seconds": pl.Float64})


def _named(frame: pl.DataFrame, by: str) -> pl.DataFrame:
    return frame.rename({"by_value": by}) if by else frame.drop("by_value")
