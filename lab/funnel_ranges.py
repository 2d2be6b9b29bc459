"""The range of every number of a funnel over all orders of hits of the same time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.funnel_steps import Asked, marked_sql
from lab.funnel_ties import Kind, Outcome, Range, outcomes, range_of
from lab.sets.session import Session

if TYPE_CHECKING:
    from lab.funnel import Way

Possible = frozenset[Outcome] | None  # None: too many to follow


def ranges(way: Way, asked: Asked, by: str) -> pl.DataFrame:
    """A row per value and step: see `Funnel.ties`."""
    from lab.funnel import count_attempts

    possible = tied_visitors(way.events, way.attempts, asked)
    certain = way.attempts.filter(~pl.col("visitor").is_in(list(possible)))
    rows = []
    frame = count_attempts(way.attempts, asked.labels)
    for value in frame["by_value"].unique(maintain_order=True):
        mine = certain.filter(pl.col("by_value") == value)
        rows += [_range(mine, possible, value, k) for k in range(1, len(asked.steps) + 1)]
    low, high, low_median, high_median = zip(*rows, strict=True)
    medians = pl.Series("median_seconds", frame["median_seconds_from_previous"], pl.Float64)
    found = frame.select("by_value", "step_number", "step", "visitors").with_columns(
        pl.Series("lowest", low, pl.Int64), pl.Series("highest", high, pl.Int64), medians,
        pl.Series("lowest_median", low_median, pl.Float64), pl.Series("highest_median", high_median, pl.Float64),
    )  # fmt: skip
    return found.rename({"by_value": by}) if by else found.drop("by_value")


def tied_visitors(events: pl.DataFrame, attempts: pl.DataFrame, asked: Asked) -> dict[str, Possible]:
    """Per visitor with two different hits of one time that matter: all that it may come to."""
    marks = ", ".join(f"s{k}" for k in range(1, len(asked.steps) + 1))
    matters = "true" if asked.mode == "strict" else f"barred OR {marks.replace(',', ' OR')}"
    kind = f"[{marks}, starts, barred]"
    value = "CASE WHEN starts THEN by_value ELSE '' END"
    with Session() as session:
        session.put("events", events)
        session.put("attempts", attempts.select("visitor"))
        session.make(
            "mine",
            f"SELECT visitor, time_us, {kind} AS kind, {value} AS value FROM ({marked_sql(asked, 'events')}) "
            f"SEMI JOIN attempts USING (visitor) WHERE {matters}",
        )
        rows = session.rows(
            "FROM mine SEMI JOIN (SELECT visitor FROM mine GROUP BY visitor, time_us HAVING count(*) > 1 "
            "AND min((kind, value)) <> max((kind, value))) USING (visitor) ORDER BY visitor, time_us"
        )
    return {visitor: outcomes(asked, _hits(hits)) for visitor, hits in groupby(rows, key=lambda row: row[0])}


def _hits(rows: Any) -> Iterator[tuple[int, Kind]]:
    for _, time_us, (*steps, starts, barred), value in rows:
        yield time_us, Kind(frozenset(n for n, is_step in enumerate(steps) if is_step), starts, barred, value)


def _range(certain: pl.DataFrame, possible: dict[str, Possible], value: str, k: int) -> Range:
    """The range of step number k among the attempts with this value."""
    since = pl.col(f"t{k}") - pl.col(f"t{k - 1}") if k > 1 else pl.lit(0)
    came = certain.filter(pl.col(f"t{k}").is_not_null())
    seconds = came.select((since / 1e6).alias("seconds").cast(pl.Float64))["seconds"] if k > 1 else [0.0] * came.height
    found = range_of(list(seconds), (_reached(ways, value, k) for ways in possible.values()))
    return found if k > 1 else found._replace(lowest_median=None, highest_median=None)


def _reached(ways: Possible, value: str, k: int) -> tuple[bool, list[float]]:
    """Whether a visitor surely counts there, and the seconds it may take."""
    if ways is None:
        return False, [0.0]
    there = [way for way in ways if way.value == value and len(way.times) >= k]
    return len(there) == len(ways), [(w.times[k - 1] - w.times[k - 2]) / 1e6 if k > 1 else 0.0 for w in there]
