"""What a funnel asks: its steps with their conditions, its mode, its window, what ends an attempt; and all of it as SQL.

A step is the name of an event, if need be with a condition in the language of the rulebook's `when`:
`sale[amount >= 20]`. A condition sees the hit itself and what is remembered of its visitor: the parameters, `affiliate`,
`visitor` and `hit_id`. It sees no other hit: an earlier step is what a funnel has steps for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import polars as pl

from lab.log import LabError
from lab.sets.conditions import condition_sql, names_of
from lab.sets.session import text
from service.engine.conditions import UNITS_S, Node, syntax
from service.engine.document import nearest
from service.engine.errors import ConditionError

MODES = ("ordered", "strict", "any")
_STEP = re.compile(r"\s*([^\[\]]*?)\s*(?:\[(.*)\]\s*)?\Z", re.DOTALL)
_WITHIN = re.compile(r"([0-9]{1,9})([smhdw])\Z")


class Step(NamedTuple):
    """One step. label: as it was written; event: its name; when: its condition, None for none."""

    label: str
    event: str
    when: Node | None


class Asked(NamedTuple):
    """A question. within_us: None for any time. where: a condition on the hit that starts an attempt, None for none."""

    steps: tuple[Step, ...]
    within_us: int | None = None
    mode: str = "ordered"
    exclude: tuple[Step, ...] = ()
    where: Node | None = None
    by: bool = True  # whether there are values to break down by

    @property
    def labels(self) -> tuple[str, ...]:
        """How the rows of the funnel are called: the steps, and `1 of 3`, `2 of 3`, ... where any order counts."""
        if self.mode == "any":
            return tuple(f"{number} of {len(self.steps)}" for number in range(1, len(self.steps) + 1))
        return tuple(step.label for step in self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a condition asks for, sorted; the value of number i is the column `v{i}` of the events."""
        nodes = [step.when for step in (*self.steps, *self.exclude)]
        return tuple(sorted(frozenset().union(*map(names_of, [*nodes, self.where]))))


def read_step(written: str) -> Step:
    """A step from its text. Raises LabError for one without an event, or with a condition that is none."""
    found = _STEP.match(written) if isinstance(written, str) else None
    if found is None or not found[1]:
        raise LabError(f"step {written!r} is none; write an event, such as sale, or sale[amount >= 20]")
    return Step(written.strip(), found[1], None if found[2] is None else read_condition(found[2]))


def read_condition(written: str) -> Node:
    """A condition from its text. Raises LabError if it is none, or asks for more than its own hit."""
    try:
        node = syntax(written)
    except ConditionError as error:
        raise LabError(f"condition {written!r}: {error}") from None
    for name in sorted(names_of(node)):
        scope, dot, _ = name.partition(".")
        if name == "time" or "(" in name or (dot and scope != "param"):
            raise LabError(f"condition {written!r}: a funnel's condition sees one hit, not {name}; make it a step")
    return node


def read_window(within: str | timedelta | None) -> tuple[int | None, str]:
    """Microseconds of a window and how it is written; None for no bound. Raises LabError for what is no duration."""
    if within is None:
        return None, ""
    if isinstance(within, timedelta):
        return within // timedelta(microseconds=1), str(within)
    found = _WITHIN.match(within) if isinstance(within, str) else None
    if found is None:
        raise LabError(f"within {within!r} is no duration; write a number and s, m, h, d or w, such as 30d")
    return int(found[1]) * UNITS_S[found[2]] * 1_000_000, within


def read_question(
    steps: Sequence[str], within_us: int | None, mode: str, exclude: Sequence[str], where: str | None
) -> Asked:
    """A question from its texts. Raises LabError for what cannot be read."""
    if not steps:
        raise LabError('a funnel needs steps, such as funnel("click", "registration", "sale")')
    if mode not in MODES:
        raise LabError(f"mode {mode!r} is none{nearest(str(mode), MODES)}")
    read = tuple(map(read_step, steps))
    barred = tuple(map(read_step, [exclude] if isinstance(exclude, str) else exclude))
    for step in barred:
        if (step.event, step.when) in [(other.event, other.when) for other in read]:
            raise LabError(f"{step.label} is a step and excluded; take it from one of the two")
    return Asked(read, within_us, mode, barred, read_condition(where) if where else None)


def value_of(name: str) -> pl.Expr:
    """The value of a condition's name in a row of the decisions: a text, null if it is missing."""
    if name in ("affiliate", "visitor", "hit_id"):
        return pl.col(name).replace("", None)
    if name.startswith("param."):
        return pl.col("params").map.get(name.removeprefix("param."))
    return pl.coalesce(pl.col("fields").map.get(name), pl.col("params").map.get(name))


def marked_sql(asked: Asked, events: str) -> str:
    """SQL of the events that can matter with what they are: s1, s2, ... (which steps), starts, barred.

    events: SQL of a relation with visitor, time_us, partition, seq, event, by_value and v0, v1, ... An excluded event
    is no step. Where the mode is strict every event matters, because it stands between its neighbours.
    """
    columns = _Columns(asked.names)
    barred = " OR ".join(_step_sql(step, columns) for step in asked.exclude) or "false"
    found = [f"({_step_sql(step, columns)}) AND NOT ({barred})" for step in asked.steps]
    marks = ", ".join(f"({test}) AS s{number}" for number, test in enumerate(found, 1))
    first = " OR ".join(f"({test})" for test in found) if asked.mode == "any" else found[0]
    where = condition_sql(asked.where, columns) if asked.where else "true"
    names = sorted({step.event for step in (*asked.steps, *asked.exclude)})
    matter = "true" if asked.mode == "strict" else f"event IN ({', '.join(map(text, names))})"
    return (
        f"SELECT visitor, time_us, partition, seq, by_value, {marks}, (({first}) AND {where}) AS starts, "
        f"({barred}) AS barred FROM {events} WHERE {matter}"
    )


class _Columns:
    """The columns of the events as `condition_sql` asks for them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def value(self, name: str) -> str:
        return f"v{self._names.index(name)}"

    def count(self, event: str) -> str:
        raise AssertionError(event)  # `read_condition` refuses it

    def since_us(self, event: str) -> str:
        raise AssertionError(event)


def _step_sql(step: Step, columns: _Columns) -> str:
    named = f"event = {text(step.event)}"
    return f"({named} AND {condition_sql(step.when, columns)})" if step.when else f"({named})"
