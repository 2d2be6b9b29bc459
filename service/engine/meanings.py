"""What the operators of `when` mean, per hit: a tree of the grammar to a function of the facts.

Two-valued: a comparison with a missing value is false and `not` is the exact complement. The other evaluator, in SQL, is
the lab's; both are tested against the table of the README.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol

import re2
from lark import Token, Tree

from service.engine.errors import ConditionError
from service.engine.grammar import literal_number, unquote
from service.engine.parse import NUMBER

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Facts(Protocol):
    """What a condition may ask about the event at hand."""

    def value(self, name: str) -> str | None:
        """The value of a name, None if it is missing."""

    def count(self, event: str) -> int:
        """How many earlier counted events of this name the visitor has."""

    def since_us(self, event: str) -> int | None:
        """Microseconds since the last earlier counted event of this name, None if there is none."""


Predicate = Callable[[Facts], bool]


def build(tree: Tree[Token]) -> Predicate:
    """The meaning of a tree. Raises ConditionError for kinds of values that do not fit, and for what is no RE2."""
    return _BUILDERS[tree.data](tree.children)


def _either(children: list[Any]) -> Predicate:
    parts = tuple(build(child) for child in children)
    if len(parts) == 2:  # which most are
        first, second = parts
        return lambda facts: first(facts) or second(facts)

    def test(facts: Facts) -> bool:
        for part in parts:  # noqa: SIM110  (a generator costs twice the time)
            if part(facts):
                return True
        return False

    return test


def _both(children: list[Any]) -> Predicate:
    parts = tuple(build(child) for child in children)
    if len(parts) == 2:  # which most are
        first, second = parts
        return lambda facts: first(facts) and second(facts)

    def test(facts: Facts) -> bool:
        for part in parts:  # noqa: SIM110
            if not part(facts):
                return False
        return True

    return test


def _inverse(children: list[Any]) -> Predicate:
    part = build(children[0])
    return lambda facts: not part(facts)


def _exists(children: list[Any]) -> Predicate:
    name = str(children[0])
    return lambda facts: facts.value(name) is not None


def _compare(children: list[Any]) -> Predicate:
    left, sign, right = children
    kinds = {_kind(left), _kind(right)}
    compare = COMPARE[str(sign)]
    if kinds == {"text", "number"}:
        column = sign.column or 1
        raise ConditionError("a number is compared with a text, which is never true; drop or add the quotes", column)
    read = _as_number if "number" in kinds else (_as_text if "text" in kinds else None)
    if read is None:
        return _compare_names(_operand(left), _operand(right), compare)
    if left.data in ("name", "count") and right.data == "operand":
        return _compare_literal(left, compare, _constant(right), read)
    first, second = _read(left, read), _read(right, read)

    def test(facts: Facts) -> bool:
        a = first(facts)
        if a is None:
            return False
        b = second(facts)
        return b is not None and compare(a, b)

    return test


def _compare_literal(left: Tree[Token], compare: Callable[[Any, Any], bool], constant: Any, read: Any) -> Predicate:
    """What most comparisons are: a name, or a count, on the left and a literal on the right. The same in fewer calls."""
    if left.data == "count":
        event = unquote(left.children[0])
        whole = int(constant) if constant == int(constant) else constant
        return lambda facts: compare(facts.count(event), whole)
    name = str(left.children[0])

    def number(facts: Facts) -> bool:
        value = facts.value(name)
        if value is None:
            return False
        decimal = _as_number(value)
        return decimal is not None and compare(decimal, constant)

    def text(facts: Facts) -> bool:
        value = facts.value(name)
        return value is not None and compare(value, constant)

    return number if read is _as_number else text


def _compare_names(left: Operand, right: Operand, compare: Callable[[Any, Any], bool]) -> Predicate:
    def test(facts: Facts) -> bool:
        a, b = left(facts), right(facts)
        if a is None or b is None:
            return False
        x, y = _as_number(a), _as_number(b)
        return compare(a, b) if x is None or y is None else compare(x, y)

    return test


def _member(children: list[Any]) -> Predicate:
    if _kind(children[0]) == "number":
        text = next((item.children[0] for item in children[1:] if item.data == "text"), None)
        if text is not None:
            raise ConditionError(f"a number is looked for among texts; drop the quotes of {text}", text.column or 1)
    operand = _operand(children[0])
    texts = frozenset(unquote(item.children[0]) for item in children[1:] if item.data == "text")
    numbers = frozenset(literal_number(item) for item in children[1:] if item.data != "text")

    def test(facts: Facts) -> bool:
        value = operand(facts)
        if value is None:
            return False
        if value in texts:
            return True
        return bool(numbers) and _as_number(value) in numbers

    return test


def _matches(children: list[Any]) -> Predicate:
    token = children[1]
    if _kind(children[0]) == "number":
        raise ConditionError("matches reads a text, and a number is none", token.column or 1)
    operand = _operand(children[0])
    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(unquote(token), options)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ConditionError(f"{token} is no regular expression of RE2: {reason}", token.column or 1) from None

    def test(facts: Facts) -> bool:
        value = operand(facts)
        return value is not None and pattern.search(value) is not None

    return test


_BUILDERS: dict[str, Callable[[list[Any]], Predicate]] = {
    "either": _either,
    "both": _both,
    "inverse": _inverse,
    "exists": _exists,
    "compare": _compare,
    "member": _member,
    "matches": _matches,
}

Operand = Callable[[Facts], "str | None"]


def _kind(operand: Tree[Token]) -> str:
    """How the operand wants the other side to be read: `number`, `text`, or `name` for whatever is there."""
    if operand.data == "operand":
        return "text" if operand.children[0].data == "text" else "number"  # type: ignore[union-attr]
    return "name" if operand.data == "name" else "number"


def _operand(operand: Tree[Token]) -> Operand:
    """The operand as written text."""
    data, child = operand.data, operand.children[0]
    if data == "name":
        name = str(child)
        return lambda facts: facts.value(name)
    if data == "count":
        event = unquote(child)
        return lambda facts: str(facts.count(event))
    if data == "since":
        return _since(unquote(child))
    assert isinstance(child, Tree)
    fixed = unquote(child.children[0]) if child.data == "text" else format(literal_number(child), "f")
    return lambda facts: fixed


def _since(event: str) -> Operand:
    def read(facts: Facts) -> str | None:
        age_us = facts.since_us(event)
        return None if age_us is None else f"{age_us // 1_000_000}.{age_us % 1_000_000:06d}"

    return read


def _read(operand: Tree[Token], convert: Callable[[str], Any]) -> Callable[[Facts], Any]:
    if operand.data == "operand":
        constant = _constant(operand)
        return lambda facts: constant
    if operand.data == "count":
        event = unquote(operand.children[0])
        return lambda facts: facts.count(event)
    plain = _operand(operand)

    def read(facts: Facts) -> Any:
        value = plain(facts)
        return None if value is None else convert(value)

    return read


def _constant(operand: Tree[Token]) -> Any:
    literal = operand.children[0]
    assert isinstance(literal, Tree)
    return unquote(literal.children[0]) if literal.data == "text" else literal_number(literal)


@lru_cache(maxsize=4096)  # amounts come again and again
def _as_number(value: str) -> Decimal | None:
    return Decimal(value) if NUMBER.match(value) else None


def _as_text(value: str) -> str:
    return value
