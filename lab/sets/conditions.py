"""A condition to SQL: the second evaluator of the language whose meaning stands in `service.engine.conditions`.

Two-valued like the first: every test is wrapped so that it yields true or false and never null, so `NOT` is the exact
complement. A text is a number if RE2 finds the pattern over the whole of it, and only then is it cast.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol

from lab.sets.session import number, text
from service.engine.conditions import Node

NUMBER_PATTERN = r"-?[0-9]{1,18}(\.[0-9]{1,9})?"
_SIGNS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


class Columns(Protocol):
    """Where the SQL of a fact comes from."""

    def value(self, name: str) -> str:
        """A nullable text."""

    def count(self, event: str) -> str:
        """A whole number."""

    def since_us(self, event: str) -> str:
        """A nullable whole number of microseconds."""


def condition_sql(node: Node, columns: Columns) -> str:
    """A boolean expression that is never null."""
    kind, *parts = node
    if kind in ("either", "both"):
        word = " OR " if kind == "either" else " AND "
        return "(" + word.join(condition_sql(part, columns) for part in parts) + ")"
    if kind == "inverse":
        return f"(NOT {condition_sql(parts[0], columns)})"
    return f"coalesce({_TESTS[kind](parts, columns)}, false)"


def is_number(value: str) -> str:
    """Whether a text is written as a number."""
    return f"regexp_full_match({value}, '{NUMBER_PATTERN}')"


def as_number(value: str) -> str:
    """The number that a text is, null if it is none."""
    return f"(CASE WHEN {is_number(value)} THEN CAST({value} AS DECIMAL(27, 9)) END)"


def _exists(parts: list[Any], columns: Columns) -> str:
    return f"{columns.value(parts[0])} IS NOT NULL"


def _compare(parts: list[Any], columns: Columns) -> str:
    left, sign, right = parts
    sign = _SIGNS[sign]
    kinds = {_kind(left), _kind(right)}
    if "number" in kinds:
        return f"{_number_of(left, columns)} {sign} {_number_of(right, columns)}"
    a, b = _text_of(left, columns), _text_of(right, columns)
    if "text" in kinds:
        return f"{a} {sign} {b}"
    return (
        f"CASE WHEN {is_number(a)} AND {is_number(b)} THEN {as_number(a)} {sign} {as_number(b)} ELSE {a} {sign} {b} END"
    )


def _member(parts: list[Any], columns: Columns) -> str:
    operand, *literals = parts
    words = [value for kind, value in literals if kind == "text"]
    numbers = [value for kind, value in literals if kind != "text"]
    tests = []
    if words:
        tests.append(f"{_text_of(operand, columns)} IN ({', '.join(map(text, words))})")
    if numbers:
        tests.append(f"{_number_of(operand, columns)} IN ({', '.join(map(number, numbers))})")
    return " OR ".join(f"coalesce({test}, false)" for test in tests)


def _matches(parts: list[Any], columns: Columns) -> str:
    return f"regexp_matches({_text_of(parts[0], columns)}, {text(parts[1])})"


_TESTS: dict[str, Callable[[list[Any], Columns], str]] = {
    "exists": _exists, "compare": _compare, "member": _member, "matches": _matches,
}  # fmt: skip


def _kind(operand: Node) -> str:
    return {"name": "name", "text": "text"}.get(operand[0], "number")


def _text_of(operand: Node, columns: Columns) -> str:
    """A name or a text: numbers are never read as text."""
    return text(operand[1]) if operand[0] == "text" else columns.value(operand[1])


def _number_of(operand: Node, columns: Columns) -> str:
    kind, value = operand
    if kind == "number":
        return number(value)
    if kind == "count":
        return f"CAST({columns.count(value)} AS DECIMAL(27, 9))"
    if kind == "since":  # no division: it would leave the decimals
        micros = f"CAST({columns.since_us(value)} AS DECIMAL(18, 0))"
        return f"CAST({micros} * CAST('0.000001' AS DECIMAL(7, 6)) AS DECIMAL(27, 9))"
    return as_number(_text_of(operand, columns))


def needed_events(node: Node) -> frozenset[str]:
    """Events that must have happened before, or the condition is false: a cheap question to ask first."""
    kind, *parts = node
    if kind == "both":
        return frozenset().union(*map(needed_events, parts))
    if kind == "either":
        first, *others = map(needed_events, parts)
        return first.intersection(*others)
    if kind != "compare":
        return frozenset()
    left, sign, right = parts
    needed = {side[1] for side in (left, right) if side[0] == "since"}
    for mine, other, at_least, more in ((left, right, ">=", ">"), (right, left, "<=", "<")):
        if mine[0] == "count" and other[0] == "number":
            least: Decimal = other[1]
            if (sign in (at_least, "==") and least > 0) or (sign == more and least >= 0):
                needed.add(mine[1])
    return frozenset(needed)


def conjuncts(node: Node) -> tuple[Node, ...]:
    """Parts that must all hold."""
    return tuple(deeper for part in node[1:] for deeper in conjuncts(part)) if node[0] == "both" else (node,)


def names_of(node: Any) -> frozenset[str]:
    """Every name, count and since that a node asks for; counts as `count(x)`, so that they are no parameter's name."""
    if not isinstance(node, tuple):
        return frozenset()
    if node[0] in ("name", "exists"):
        return frozenset({node[1]})
    if node[0] in ("count", "since"):
        return frozenset({f"{node[0]}({node[1]})"})
    return frozenset().union(*map(names_of, node[1:]))
