"""The attempts of visitors to take ordered steps, in SQL: which attempt of each visitor counts, and its times."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import polars as pl


def best_attempts(events: pl.DataFrame, steps: Sequence[str], within_us: int | None) -> pl.DataFrame:
    """The attempt that counts, one row per visitor that took the first step.

    events: visitor, time_us, partition, seq, event, by_value. within_us: how much later than the first step the others
    may be, None for any time. Returns by_value (of the first step) and t1, t2, ... in microseconds, null from where
    the attempt ended. The longest attempt counts, of equally long ones the first.
    """
    with duckdb.connect() as connection:
        connection.register("events", events.to_arrow())
        found = connection.sql(_query(len(steps), within_us), params=list(steps)).to_arrow_table()
    frame = pl.from_arrow(found)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _query(count: int, within_us: int | None) -> str:
    """The SQL of a funnel of so many steps; their names are its parameters."""
    parts = [
        "numbered AS (SELECT visitor, event, by_value, time_us, "
        "row_number() OVER (ORDER BY time_us, partition, seq) AS pos FROM events "
        "WHERE visitor IN (SELECT visitor FROM events WHERE event = $1))",
        "attempt1 AS (SELECT visitor, by_value, pos AS start, pos, time_us AS t1 FROM numbered WHERE event = $1)",
    ]
    for number in range(2, count + 1):
        before = ", ".join(f"a.t{earlier}" for earlier in range(1, number))
        inside = "true" if within_us is None else f"e.time_us - a.t1 <= {within_us}"
        parts.append(
            f"attempt{number} AS (SELECT a.visitor, a.by_value, a.start, {before}, "
            f"CASE WHEN {inside} THEN e.pos END AS pos, CASE WHEN {inside} THEN e.time_us END AS t{number} "
            f"FROM attempt{number - 1} a ASOF LEFT JOIN "
            f"(SELECT visitor, pos, time_us FROM numbered WHERE event = ${number}) e "
            "ON a.visitor = e.visitor AND a.pos < e.pos)"
        )
    times = ", ".join(f"t{number}" for number in range(1, count + 1))
    depth = " + ".join(f"(t{number} IS NOT NULL)::INT" for number in range(1, count + 1))
    return (
        f"WITH {', '.join(parts)} SELECT by_value, {times} FROM attempt{count} "
        f"QUALIFY row_number() OVER (PARTITION BY visitor ORDER BY {depth} DESC, start) = 1"
    )
