"""Whether a condition is the same for every event: decided by trying every value that could make a difference.

The tests of one operand can only change their truth at the values they name, so a few witnesses stand for all values:
each named value, its nearest neighbours, another way to write it, a text that nobody names, and no value at all. What
is not decided that way (`matches`, texts by order, one name against another) may be either, so the answer errs towards
"it depends".
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_FLOOR, Context, Decimal
from functools import lru_cache

import msgspec

from service.engine.conditions import COMPARE, Node, syntax
from service.engine.model import IDENTIFIERS
from service.engine.parse import CURRENCY, NUMBER, is_no_id
from service.engine.rulebook import Rulebook, Trigger

MAX_CASES = 4096  # situations tried for one condition; beyond that it depends
MAX_UNDECIDED = 4  # tests of one operand that may be either

_EXACT = Context(prec=60, rounding=ROUND_FLOOR)
_FINEST = Decimal("0.000000001")  # numbers have nine places
_MICROSECOND = Decimal("0.000001")
_ALWAYS_THERE = frozenset({"client", "event", "time", "hit_id", "visitor"})

parsed = lru_cache(maxsize=16_384)(syntax)  # several rules of the lint ask about each condition of a large rulebook

Values = dict[Node, "str | None"]  # operand to its written value, None if it is missing
Truths = dict[Node, bool]


class Part(msgspec.Struct, frozen=True):
    """A part of a condition that never changes. whole: it is the condition itself."""

    node: Node
    holds: bool
    whole: bool


def constant_parts(trigger: Trigger, rulebook: Rulebook) -> tuple[Part, ...]:
    """The largest parts of a trigger's condition that are the same whenever the condition is asked."""
    if trigger.when is None:
        return ()
    return tuple(_constant(parsed(trigger.when.text), trigger, rulebook, True))


def tests_of(node: Node) -> Iterator[Node]:
    """The tests that `and`, `or` and `not` join, from left to right."""
    if node[0] in ("either", "both", "inverse"):
        for child in node[1:]:
            yield from tests_of(child)
    else:
        yield node


def operands_of(test: Node) -> tuple[Node, ...]:
    """What a test asks about the event: names, counts, ages; literals are none."""
    sides = (
        (("name", test[1]),) if test[0] == "exists" else (test[1], test[3] if test[0] == "compare" else ("text", ""))
    )
    return tuple(side for side in sides if side[0] in ("name", "count", "since"))


def evaluate(node: Node, truths: Truths) -> bool:
    """The truth of a condition by the truths of its tests."""
    if node[0] == "either":
        return any(evaluate(child, truths) for child in node[1:])
    if node[0] == "both":
        return all(evaluate(child, truths) for child in node[1:])
    return not evaluate(node[1], truths) if node[0] == "inverse" else truths[node]


def _constant(node: Node, trigger: Trigger, rulebook: Rulebook, whole: bool) -> Iterator[Part]:
    always = _always(node, trigger, rulebook)
    if always is not None:
        yield Part(node, always, whole)
    elif node[0] in ("either", "both", "inverse"):
        for child in node[1:]:
            yield from _constant(child, trigger, rulebook, False)


def _always(node: Node, trigger: Trigger, rulebook: Rulebook) -> bool | None:
    """What the node always is, None if it depends or is too large to say."""
    cases: list[Truths] = [{}]
    for operands, tests in _groups(node).items():
        possible = _possible(operands, tests, trigger, rulebook)
        if len(cases) * len(possible) > MAX_CASES:
            return None
        cases = [case | more for case in cases for more in possible]
    found = {evaluate(node, case) for case in cases}
    return found.pop() if len(found) == 1 else None


def _groups(node: Node) -> dict[tuple[str, ...], list[Node]]:
    """The tests by what they ask about; a count and an age of the same event belong together."""
    groups: dict[tuple[str, ...], list[Node]] = {}
    for test in tests_of(node):
        asked = {_subject(operand): None for operand in operands_of(test)}
        tests = groups.setdefault(tuple(asked), [])
        if test not in tests:
            tests.append(test)
    return groups


def _subject(operand: Node) -> str:
    return f"name {operand[1]}" if operand[0] == "name" else f"event {operand[1]}"


def _possible(subjects: tuple[str, ...], tests: list[Node], trigger: Trigger, rulebook: Rulebook) -> list[Truths]:
    """Every combination of truths that the tests about one subject can have."""
    if len(subjects) > 1:  # one name against another
        return _free(tests)
    found: list[Truths] = []
    for values in _witnesses(subjects, tests, trigger, rulebook):
        decided = {test: decide(test, values) for test in tests}
        undecided = [test for test, held in decided.items() if held is None]
        if len(undecided) > MAX_UNDECIDED:
            return _free(tests[:12])
        for free in _free(undecided):
            truths = {test: bool(held) for test, held in decided.items()} | free
            if truths not in found:
                found.append(truths)
    return found


def _free(tests: list[Node]) -> list[Truths]:
    cases: list[Truths] = [{}]
    for test in tests:
        cases = [case | {test: held} for case in cases for held in (False, True)]
    return cases


def decide(test: Node, values: Values) -> bool | None:
    """Whether a test holds for these values, by the meaning in conditions.py; None if these values do not say."""
    if test[0] == "exists":
        return values["name", test[1]] is not None
    left = _value(test[1], values)
    if left is None:
        return False
    if test[0] == "matches":
        return None
    if test[0] == "member":
        return any(_equal(left, literal) for literal in test[2:])
    right = _value(test[3], values)
    if right is None:
        return False
    return _compare(test, left, right)


def _value(operand: Node, values: Values) -> str | None:
    if operand[0] in ("name", "count", "since"):
        return values[operand]
    return format(operand[1], "f") if operand[0] == "number" else str(operand[1])


def _equal(value: str, literal: Node) -> bool:
    if literal[0] == "text":
        return bool(value == literal[1])
    return NUMBER.match(value) is not None and bool(Decimal(value) == literal[1])


def _compare(test: Node, left: str, right: str) -> bool | None:
    compare = COMPARE[test[2]]
    kinds = {test[1][0], test[3][0]}
    numbers = NUMBER.match(left) is not None and NUMBER.match(right) is not None
    if "text" in kinds:  # by order, the neighbours of a text are no witnesses
        return bool(compare(left, right)) if test[2] in ("==", "!=") or kinds == {"text"} else None
    if kinds & {"number", "count", "since"} or numbers:
        return numbers and bool(compare(Decimal(left), Decimal(right)))
    return bool(compare(left, right))


def _witnesses(subjects: tuple[str, ...], tests: list[Node], trigger: Trigger, rulebook: Rulebook) -> Iterator[Values]:
    named = [literal for test in tests for literal in test[1:] if isinstance(literal, tuple)]
    literals = [literal for literal in named if literal[0] in ("text", "number")]
    if not subjects:  # literals only
        yield {}
    elif subjects[0].startswith("name "):
        name = subjects[0].removeprefix("name ")
        for value in _of_name(name, literals, trigger, rulebook):
            yield {("name", name): value}
    else:
        yield from _of_event(subjects[0].removeprefix("event "), literals, trigger)


def _of_name(name: str, literals: list[Node], trigger: Trigger, rulebook: Rulebook) -> list[str | None]:
    """Values of a name: those it can have at the moment at which the condition is asked."""
    if name in ("client", "event"):
        return [trigger.client if name == "client" else trigger.on]
    texts = _texts(literals)
    values: list[str | None] = [*texts, *_written(_numbers(literals, _FINEST)), _unnamed(texts, "\x00")]
    if name == "amount":
        values = [value for value in values if value is not None and NUMBER.match(value)] or ["1"]
    elif name == "currency":
        values = [text for text in texts if CURRENCY.match(text)]
        values += [code for code in _CURRENCIES if code not in texts][:1]
    elif name in IDENTIFIERS:
        client = rulebook.clients.get(trigger.client)
        values = [value for value in values if value and (client is None or not is_no_id(value, client))]
    elif name == "affiliate" and "affiliate" in trigger.to:
        known = [text for text in texts if text in rulebook.affiliates]
        others = [affiliate for affiliate in rulebook.affiliates if affiliate not in texts]
        return [*known, *others[:1]] or [None]
    return values if name in _ALWAYS_THERE else [None, *values]


_CURRENCIES = tuple(f"Q{first}{second}" for first in "QXZ" for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _unnamed(texts: list[str], seed: str) -> str:
    return seed + max(texts, key=len, default="")


def _of_event(event: str, literals: list[Node], trigger: Trigger) -> Iterator[Values]:
    """How often an event came and how long ago: none and missing together. Steps have come by then."""
    least = trigger.after.count(event)
    counts = [n for n in {Decimal(0): 0, Decimal(1): 0, **dict.fromkeys(_numbers(literals, Decimal(1)))} if n >= least]
    ages = [age for age in {Decimal(0): 0, **dict.fromkeys(_numbers(literals, _MICROSECOND))} if age >= 0]
    for count in [*counts, Decimal(max(least, 1))]:
        if count == 0:
            yield {("count", event): "0", ("since", event): None}
            continue
        for age in ages:
            yield {("count", event): format(count, "f"), ("since", event): format(age, "f")}


def _numbers(literals: list[Node], step: Decimal) -> list[Decimal]:
    """The named numbers and their nearest neighbours, on a grid of `step`."""
    found: dict[Decimal, None] = {}
    for kind, value in literals:
        if kind == "text" and not NUMBER.match(value):
            continue
        below = _EXACT.quantize(Decimal(value), step)
        found.update(dict.fromkeys(_EXACT.add(below, step * shift) for shift in (-1, 0, 1, 2)))
    return list(found)


def _written(numbers: list[Decimal]) -> list[str]:
    """Numbers as a request may write them, each in two ways where there is room for both."""
    plain = [format(number.normalize(_EXACT), "f") for number in numbers]
    padded = [f"-0{text[1:]}" if text.startswith("-") else f"0{text}" for text in plain]
    return [text for text in [*plain, *padded] if NUMBER.match(text)]


def _texts(literals: list[Node]) -> list[str]:
    return list(dict.fromkeys(value for kind, value in literals if kind == "text"))
