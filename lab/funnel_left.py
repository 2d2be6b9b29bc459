"""What the visitors who left a funnel did next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from lab.funnel_steps import Asked, marked_sql

if TYPE_CHECKING:
    from lab.funnel import Way

NOTHING = "(nothing)"


def left(way: Way, asked: Asked, by: str, events: int) -> pl.DataFrame:
    """The next events of those who left: see `Funnel.left`."""
    from lab.sets.session import Session, text

    following = way.all_events().select(
        "visitor", pl.col("time").dt.epoch("us").alias("time_us"), "partition", "seq", "event"
    )
    with Session() as session:
        session.put("events", way.events)
        session.put("attempts", way.attempts)
        session.put("following", way.owned(following.collect()))
        session.run(f"CREATE TEMP VIEW marked AS {marked_sql(asked, 'events')}")
        labels = ", ".join(map(text, asked.labels))
        found = session.frame(
            f"SELECT by_value, step_number::INT AS step_number, [{labels}][step_number] AS step, "
            f"coalesce(path, {text(NOTHING)}) AS next, count(*)::BIGINT AS visitors, "
            "count(*) / sum(count(*)) OVER (PARTITION BY by_value, step_number) AS share "
            f"FROM ({_ended(asked)}) AS e LEFT JOIN ({_paths(asked, events)}) AS p USING (visitor) "
            "GROUP BY by_value, step_number, path "
            "ORDER BY by_value, step_number, visitors DESC, next"
        )
    return found.rename({"by_value": by}) if by else found.drop("by_value")


def _ended(asked: Asked) -> str:
    """Where the attempts ended that did not reach the last step: visitor, by_value, step_number, and the last hit."""
    count = len(asked.steps)
    last = f"greatest({', '.join(f't{k}' for k in range(1, count + 1))})"
    depth = " + ".join(f"(t{k} IS NOT NULL)::INT" for k in range(1, count + 1))
    is_step = " ".join(f"WHEN {k} THEN s{k}" for k in range(2, count + 1))
    first = f"CASE step_number {is_step} ELSE starts END" if is_step else "starts"
    return (
        "SELECT a.visitor, a.by_value, a.step_number, a.at, "
        "min((coalesce(a.end_partition, m.partition), coalesce(a.end_seq, m.seq))) AS place "
        f"FROM (SELECT *, {last} AS at, {depth} AS step_number FROM attempts WHERE t{count} IS NULL) AS a "
        f"JOIN marked AS m ON a.visitor = m.visitor AND a.at = m.time_us AND (a.end_seq IS NOT NULL OR {first}) "
        "GROUP BY a.visitor, a.by_value, a.step_number, a.at"
    )


def _paths(asked: Asked, events: int) -> str:
    """The first events of each visitor behind the last hit of its attempt: visitor, path."""
    return (
        "SELECT visitor, string_agg(event, ' → ' ORDER BY place) AS path FROM ("
        "SELECT f.visitor, f.event, "
        "row_number() OVER (PARTITION BY f.visitor ORDER BY f.time_us, f.partition, f.seq) AS place "
        f"FROM following AS f JOIN ({_ended(asked)}) AS e USING (visitor) "
        "WHERE f.time_us > e.at OR (f.time_us = e.at AND (f.partition, f.seq) > e.place)"
        f") WHERE place <= {events} GROUP BY visitor"
    )
