"""Conditions on a comparison, as a release pipeline states them: `gained>0`, `lost>10`, `changed>=5`, `money>1%`."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from lab.log import LabError
from lab.show import text_of
from service.engine.document import nearest

if TYPE_CHECKING:
    from lab.compare import Comparison

NAMES = {
    "gained": "postbacks that only the second rulebook makes",
    "lost": "postbacks that only the first rulebook makes",
    "changed": "postbacks of both that differ",
    "money": "the largest difference of payouts in one currency, as an amount or in percent of what it was",
}
_CONDITION = re.compile(r"\s*([A-Za-z_]+)\s*(>=|>|<=|<|==|=)\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*")
_COMPARE = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "=": operator.eq,
}


class Verdict(msgspec.Struct, frozen=True):
    """One condition and whether it holds, which is a failure. found: the value, as text."""

    condition: str
    failed: bool
    found: str


class Limit(msgspec.Struct, frozen=True):
    """One condition taken apart."""

    text: str
    name: str
    compare: str
    value: Decimal
    percent: bool


def limit_of(text: str) -> Limit:
    """Read a condition. Raises LabError that names what cannot be read."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise LabError(f"--fail-on {text!r} is no condition; write lost>0 or money>1%, of {', '.join(NAMES)}")
    name, compare, value, unit = found.groups()
    if name not in NAMES:
        raise LabError(f"--fail-on {text!r}: there is no figure {name!r}{nearest(name, NAMES)}")
    if unit and name != "money":
        raise LabError(f"--fail-on {text!r}: only money is compared in percent; write {name}{compare}{value}")
    return Limit(text.strip(), name, compare, Decimal(value), bool(unit))


def judge(comparison: Comparison, conditions: Iterable[str]) -> tuple[Verdict, ...]:
    """Whether each condition holds. Raises LabError for one that cannot be read."""
    return tuple(_judge(comparison, limit_of(text)) for text in conditions)


def _judge(comparison: Comparison, limit: Limit) -> Verdict:
    compare = _COMPARE[limit.compare]
    if limit.name != "money":
        count = comparison.kinds[limit.name].height
        return Verdict(limit.text, bool(compare(count, limit.value)), f"{count:,}")
    return _judge_money(comparison, limit)


def _judge_money(comparison: Comparison, limit: Limit) -> Verdict:
    """The currency that moves most. Money where there was none is more than any percentage."""
    compare, worst, said = _COMPARE[limit.compare], Decimal(0), "no difference"
    for currency, before, change in comparison.totals.select("currency", "before", "difference").iter_rows():
        size = abs(change)
        if limit.percent:
            size = size / abs(before) * 100 if before else Decimal("Infinity") if change else Decimal(0)
        if size > worst:
            worst, said = size, f"{text_of(change)} {currency}"
            if limit.percent:
                said += f", {size:.2f} %" if before else ", from nothing"
    return Verdict(limit.text, bool(compare(worst, limit.value)), said)
