"""The attempts of visitors at a funnel, in SQL: which attempt of each visitor counts, and its times.

Most visitors need no sort. The earliest and the latest time of each step per visitor say enough where the earliest times
make a whole attempt, or where nothing of the next step comes late enough; only who is left has events put in order.
"""

from __future__ import annotations

from lab.funnel_steps import Asked, marked_sql
from lab.log import LabError
from lab.sets.session import Session

ATTEMPTS = "attempts"  # the table that `find_attempts` makes


def find_attempts(session: Session, asked: Asked, events: str) -> str:
    """Make the table `attempts`: the attempt that counts, one row per visitor that started. Answers with its name.

    events: SQL of a relation as `marked_sql` takes it. Columns: visitor, by_value (of the start), t1, t2, ...
    in microseconds, null from where the attempt ended, end_partition and end_seq of its last hit; these are null where
    that is simply the first hit of the step at its time. The longest attempt counts, of equally long ones the first.
    Raises LabError if the mode is `any` and one hit is two of the steps.
    """
    session.run(f"CREATE OR REPLACE TEMP VIEW marked AS {marked_sql(asked, events)}")
    if asked.mode == "any":
        _refuse_overlaps(session, asked)
    session.make("bounds", _bounds(asked))
    times = ", ".join(["m1 AS t1", *(f"CASE WHEN level >= {k} THEN m{k} END AS t{k}" for k in _numbers(asked)[1:])])
    easy = (
        f"SELECT visitor, by_value, {times}, NULL::INT AS end_partition, NULL::BIGINT AS end_seq FROM bounds WHERE easy"
    )
    session.make(
        "numbered",
        "SELECT *, row_number() OVER (ORDER BY time_us, partition, seq) AS pos "
        "FROM marked SEMI JOIN (SELECT visitor FROM bounds WHERE NOT easy) AS hard USING (visitor)",
    )
    hard = {"ordered": _ordered, "strict": _strict, "any": _any}[asked.mode](asked)
    session.make(ATTEMPTS, f"{easy} UNION ALL {_best(asked, hard)}")
    return ATTEMPTS


def _numbers(asked: Asked) -> list[int]:
    return list(range(1, len(asked.steps) + 1))


def _refuse_overlaps(session: Session, asked: Asked) -> None:
    both = " + ".join(f"s{k}::INT" for k in _numbers(asked))
    if session.rows(f"SELECT 1 FROM marked WHERE {both} > 1 LIMIT 1"):
        steps = ", ".join(step.label for step in asked.steps)
        raise LabError(f"in any order a hit may be one of the steps only, and here one is two of: {steps}")


def _bounds(asked: Asked) -> str:
    """Per visitor that started: how far the earliest times reach (`level`), and whether that is the answer (`easy`)."""
    kinds = ["min(time_us) FILTER (starts) AS m1, max(time_us) FILTER (starts) AS x1"]
    kinds += [f"min(time_us) FILTER (s{k}) AS m{k}, max(time_us) FILTER (s{k}) AS x{k}" for k in _numbers(asked)[1:]]
    if asked.mode == "any":  # the start may be any step
        kinds += ["(" + " + ".join(f"bool_or(s{k})::INT" for k in _numbers(asked)) + ") AS different"]
    if asked.exclude:
        kinds.append("bool_or(barred) AS barred")
    value = "arg_min(by_value, (time_us, partition, seq)) FILTER (starts)"
    return (
        f"SELECT *, {_level(asked)} AS level, coalesce({_easy(asked)}, false) AS easy FROM ("
        f"SELECT visitor, {', '.join(kinds)}, {value if asked.by else repr('')} AS by_value "
        "FROM marked GROUP BY visitor HAVING bool_or(starts))"
    )


def _level(asked: Asked) -> str:
    if asked.mode != "ordered":
        return "1"
    steps = ["1"]
    chain = []
    for k in _numbers(asked)[1:]:
        inside = "" if asked.within_us is None else f" AND m{k} - m1 <= {asked.within_us}"
        chain.append(f"m{k} > m{k - 1}{inside}")
        steps.append(f"coalesce({' AND '.join(chain)}, false)::INT")
    return " + ".join(steps)


def _easy(asked: Asked) -> str:
    if len(asked.steps) == 1:
        return "true"
    if asked.mode == "any":
        return "different = 1"
    if asked.mode == "strict":
        return "x2 IS NULL OR x2 < m1"
    cases = []
    for k in _numbers(asked)[:-1]:
        none_follows = f"x{k + 1} IS NULL OR x{k + 1} < m{k}"
        late = f"(x1 = m1 AND m{k + 1} > m{k})"  # a single start, and its next step comes after the window
        unbarred = (
            f"({none_follows} OR {late}) AND NOT barred" if asked.exclude and k > 1 else f"{none_follows} OR {late}"
        )
        cases.append(f"WHEN {k} THEN {unbarred}")
    whole = "NOT barred" if asked.exclude else "true"
    return f"CASE level {' '.join(cases)} ELSE {whole} END"


def _ordered(asked: Asked) -> str:
    """Attempts with each step at its earliest later event; start, pN, tN, barrier."""
    parts = [
        "attempt1 AS (SELECT a.visitor, a.by_value, a.pos AS start, a.pos AS p1, a.time_us AS t1, b.pos AS barrier "
        "FROM (FROM numbered WHERE starts) AS a ASOF LEFT JOIN (FROM numbered WHERE barred) AS b "
        "ON a.visitor = b.visitor AND a.pos < b.pos)"
    ]
    for k in _numbers(asked)[1:]:
        inside = _inside(asked, "e")
        parts.append(
            f"attempt{k} AS (SELECT a.*, CASE WHEN {inside} THEN e.pos END AS p{k}, "
            f"CASE WHEN {inside} THEN e.time_us END AS t{k} FROM attempt{k - 1} AS a "
            f"ASOF LEFT JOIN (FROM numbered WHERE s{k}) AS e ON a.visitor = e.visitor AND a.p{k - 1} < e.pos)"
        )
    return f"WITH {', '.join(parts)} SELECT *, {_last(asked)} AS ended FROM attempt{len(asked.steps)}"


def _inside(asked: Asked, event: str) -> str:
    """Whether an event comes in time and before what ends the attempt."""
    within = "" if asked.within_us is None else f" AND {event}.time_us - a.t1 <= {asked.within_us}"
    return f"(a.barrier IS NULL OR {event}.pos < a.barrier){within}"


def _last(asked: Asked) -> str:
    return f"greatest({', '.join(f'p{k}' for k in _numbers(asked))})"


def _strict(asked: Asked) -> str:
    """Attempts with each step right behind the one before, whatever else the visitor did."""
    ahead = ", ".join(
        f"lead(s{k}, {k - 1}) OVER one AS n{k}, lead(pos, {k - 1}) OVER one AS q{k}, "
        f"lead(time_us, {k - 1}) OVER one AS u{k}"
        for k in _numbers(asked)[1:]
    )
    within = "true" if asked.within_us is None else f"u{{k}} - time_us <= {asked.within_us}"
    steps, chain = [], []
    for k in _numbers(asked)[1:]:
        chain.append(f"n{k} AND {within.format(k=k)}")
        steps.append(f"CASE WHEN {' AND '.join(chain)} THEN q{k} END AS p{k}")
        steps.append(f"CASE WHEN {' AND '.join(chain)} THEN u{k} END AS t{k}")
    return (
        f"SELECT visitor, by_value, pos AS start, pos AS p1, time_us AS t1, {', '.join(steps)}, {_last(asked)} AS ended "
        f"FROM (SELECT *, {ahead} FROM numbered WINDOW one AS (PARTITION BY visitor ORDER BY pos)) WHERE starts"
        if steps
        else "SELECT visitor, by_value, pos AS start, pos AS p1, time_us AS t1, pos AS ended FROM numbered WHERE starts"
    )


def _any(asked: Asked) -> str:
    """Attempts with each step at its earliest event from the start on, then in the order in which they came."""
    joined = "attempt0"
    parts = [
        "attempt0 AS (SELECT a.visitor, a.by_value, a.pos AS start, a.time_us AS t1, b.pos AS barrier "
        "FROM (FROM numbered WHERE starts) AS a ASOF LEFT JOIN (FROM numbered WHERE barred) AS b "
        "ON a.visitor = b.visitor AND a.pos < b.pos)"
    ]
    for k in _numbers(asked):
        parts.append(
            f"attempt{k} AS (SELECT a.*, CASE WHEN e.pos IS NOT NULL AND {_inside(asked, 'e')} "
            f"THEN [e.pos, e.time_us] END AS e{k} "
            f"FROM {joined} "
            f"AS a ASOF LEFT JOIN (FROM numbered WHERE s{k}) AS e ON a.visitor = e.visitor AND a.start <= e.pos)"
        )
        joined = f"attempt{k}"
    came = f"list_sort(list_filter([{', '.join(f'e{k}' for k in _numbers(asked))}], lambda e: e IS NOT NULL))"
    times = ", ".join(f"came[{k}][1] AS p{k}, came[{k}][2] AS t{k}" for k in _numbers(asked))
    return (
        f"WITH {', '.join(parts)} SELECT visitor, by_value, start, {times}, came[-1][1] AS ended "
        f"FROM (SELECT visitor, by_value, start, {came} AS came FROM {joined})"
    )


def _best(asked: Asked, attempts: str) -> str:
    """The longest attempt of each visitor, of equally long ones the first, with the hit that it ended with."""
    times = ", ".join(f"t{k}" for k in _numbers(asked))
    depth = " + ".join(f"(t{k} IS NOT NULL)::INT" for k in _numbers(asked))
    chosen = (
        f"SELECT *, row_number() OVER (PARTITION BY visitor ORDER BY {depth} DESC, start) AS place FROM ({attempts})"
    )
    return (
        f"SELECT b.visitor, b.by_value, {', '.join(f'b.t{k}' for k in _numbers(asked))}, n.partition, n.seq "
        f"FROM (SELECT visitor, by_value, ended, {times} FROM ({chosen}) WHERE place = 1) AS b "
        "JOIN numbered AS n ON n.pos = b.ended"
    )
