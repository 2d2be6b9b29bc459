"""The condition language of `when`: one grammar, one defined meaning, compiled to closures.

A value is a number if it is written as one (`parse.NUMBER`), else text. The literal decides how a value is read: against a
number literal only numbers compare, against a text literal the written text compares, by code point. Two names compare
as numbers where both are numbers, else as texts. `count` and `since` see earlier counted events only.
grammar: a text to a tree. meanings: a tree to a function.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from lark import Token, Tree

from service.engine.errors import ConditionError
from service.engine.grammar import (
    GRAMMAR,
    MAX_DEPTH,
    UNITS_S,
    events_in,
    filled,
    literal_number,
    names_in,
    numbered,
    parse_condition,
    unquote,
)
from service.engine.meanings import COMPARE, Facts, Predicate, build

__all__ = ["COMPARE", "GRAMMAR", "MAX_DEPTH", "UNITS_S", "Condition", "Facts", "Node", "compile_condition", "syntax"]


class Condition:
    """A compiled condition: call it with the facts. `names` and `events` are what it refers to."""

    __slots__ = ("events", "names", "predicate", "text")

    def __init__(self, text: str, predicate: Predicate, names: frozenset[str], events: frozenset[str]) -> None:
        self.text = text
        self.predicate = predicate
        self.names = names
        self.events = events

    def __call__(self, facts: Facts) -> bool:
        return self.predicate(facts)


@lru_cache(maxsize=1024)
def compile_condition(text: str) -> Condition:
    """Compile a condition. Raises ConditionError with the column of what is wrong."""
    literals, form = numbered(text)
    try:
        shape = _shape(form)
    except ConditionError:
        return _compile_plainly(text)  # whose columns are those of the text; it refuses the same
    if shape.patterns:
        return _compile_plainly(text)  # whether a pattern is one depends on its text

    def first_asked(facts: Facts) -> bool:
        condition.predicate = build(filled(shape.tree, literals))
        return condition.predicate(facts)

    events = frozenset([unquote(literals[place]) for place in shape.events])
    condition = Condition(text, first_asked, shape.names, events)  # of thousands, few are ever asked
    return condition


class _Shape(NamedTuple):
    """What all conditions have in common that differ in their literals only. events: which literals name one."""

    tree: Tree[Token]
    names: frozenset[str]
    events: tuple[int, ...]
    patterns: bool


@lru_cache(maxsize=256)
def _shape(form: str) -> _Shape:
    """Parse and check a condition whose literals are numbered. A rulebook has few shapes, and parsing is what costs."""
    tree = parse_condition(form)
    build(tree)  # raises for kinds that do not fit, which no literal can change
    events = tuple([int(number) - 1 for number in events_in(tree)])
    return _Shape(tree, names_in(tree), events, any(tree.find_data("matches")))


def _compile_plainly(text: str) -> Condition:
    tree = parse_condition(text)
    return Condition(text, build(tree), names_in(tree), frozenset(events_in(tree)))


Node = tuple[Any, ...]


def syntax(text: str) -> Node:
    """A condition as nested tuples, for an evaluator that is not this one.

    ("either", part, ...), ("both", part, ...), ("inverse", part), ("exists", name), ("compare", left, sign, right),
    ("member", operand, literal, ...), ("matches", operand, pattern). An operand is ("name", x), ("count", event),
    ("since", event), ("text", x) or ("number", Decimal). Raises ConditionError as `compile_condition` does.
    """
    compile_condition(text)  # refuses what is none
    literals, form = numbered(text)
    return _node(filled(_shape(form).tree, literals))


def _node(tree: Any) -> Node:
    kind, children = tree.data, tree.children
    if kind in ("exists", "name"):
        return kind, str(children[0])
    if kind in ("count", "since", "text"):
        return kind, unquote(children[0])
    if kind in ("number", "duration"):
        return "number", literal_number(tree)
    if kind == "operand":
        return _node(children[0])
    if kind == "compare":
        return kind, _node(children[0]), str(children[1]), _node(children[2])
    if kind == "matches":
        return kind, _node(children[0]), unquote(children[1])
    return kind, *map(_node, children)
