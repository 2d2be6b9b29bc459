"""What went wrong with a value: two texts, and the name of the defect that makes the one out of the other.

Each test answers for one class of defect; the first that holds names it. The order matters where one difference could be
two things: `12` for `12.0` is a number in another form before it is a text cut short.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from urllib.parse import unquote, unquote_plus

DEFECTS = {
    "literal_macro": "a macro that was never filled in went out as it is written",
    "swapped": "two values changed places, in one message or between two",
    "truncated": "the end of the value is missing",
    "double_encoded": "the value was percent-encoded twice",
    "number_format": "the same number in another form, such as 12 for 12.0",
    "time_zone": "the same time in another zone, or shifted by whole quarters of an hour",
    "currency": "another currency",
    "left_out": "the parameter is not there",
    "added": "a parameter that was not expected",
    "other_value": "another value",
    "missing_here": "expected, and never promised or sent by this side",
    "missing_there": "sent, and not in the partner's record",
    "not_delivered": "promised, and no attempt has succeeded",
    "doubled": "a second id for the same hit, trigger and recipient",
    "wrong_recipient": "gone to another recipient than expected",
    "unexpected": "there, and not expected",
    "late": "delivered later than allowed",
}

_MACRO = re.compile(
    r"\$?\{\{?\s*[A-Za-z_][\w.|:%! -]*\}?\}|\[\[?[A-Za-z_]\w*\]\]?|#[A-Za-z_]\w*#|%[A-Za-z_][A-Za-z0-9_]*%"
)
_KIND = " (a number)"  # how parameters.py writes a JSON number
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{0,18})?(?:[eE][+-]?[0-9]{1,3})?")
_GROUPED = re.compile(r"([+-]?[0-9]{1,3}(?:[ ,.'\u00a0\u202f][0-9]{3})+)(?:[.,]([0-9]{1,9}))?")
_COMMA = re.compile(r"([+-]?[0-9]{1,30}),([0-9]{1,9})")
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_EPOCH = re.compile(r"[1-9][0-9]{9}(?:[0-9]{3}|[0-9]{6})?")
_SHIFT = timedelta(minutes=15)
_WIDEST = timedelta(hours=26)  # between the zones -12 and +14


def defect_of(parameter: str, expected: str | None, found: str | None) -> str:
    """The name of the defect, a key of `DEFECTS`. None: there is no such parameter on that side."""
    if expected is None:
        return "added"
    if found is None:
        return "left_out"
    return next((name for name, test in _TESTS if test(parameter, expected, found)), "other_value")


def _literal_macro(_: str, expected: str, found: str) -> bool:
    return any(macro not in expected for macro in _MACRO.findall(found))


def _number_format(_: str, expected: str, found: str) -> bool:
    mine, theirs = number_of(expected), number_of(found)
    return mine is not None and mine == theirs


def _double_encoded(_: str, expected: str, found: str) -> bool:
    if "%" not in found:
        return False
    once = {unquote(found), unquote_plus(found)}
    return expected in once or expected in {decode(text) for text in once for decode in (unquote, unquote_plus)}


def _time_zone(_: str, expected: str, found: str) -> bool:
    mine, theirs = time_of(expected), time_of(found)
    if mine is None or theirs is None or type(mine) is not type(theirs):
        return False
    apart = abs(mine - theirs)
    if not isinstance(mine, datetime):
        return apart == timedelta(days=1)  # a date turns over at another midnight
    return apart <= _WIDEST and not apart % _SHIFT


def _currency(parameter: str, expected: str, found: str) -> bool:
    if not (_CURRENCY.fullmatch(expected) and _CURRENCY.fullmatch(found)):
        return False
    return "cur" in parameter.lower() or (expected.isupper() and found.isupper() and expected != found)


def _truncated(_: str, expected: str, found: str) -> bool:
    kept = found.removesuffix("...").removesuffix("…")
    return len(kept) < len(expected) and expected.startswith(kept)


_TESTS: tuple[tuple[str, Callable[[str, str, str], bool]], ...] = (
    ("double_encoded", _double_encoded),
    ("literal_macro", _literal_macro),
    ("number_format", _number_format),
    ("time_zone", _time_zone),
    ("currency", _currency),
    ("truncated", _truncated),
)


def number_of(text: str) -> Decimal | None:
    """The number that a text means in any usual form: 12, 12.0, 12,50, 1 234.50, 1.234,50, 1e3. None if it is none."""
    plain = text.removesuffix(_KIND).strip()
    if not _PLAIN_NUMBER.fullmatch(plain):
        grouped, comma = _GROUPED.fullmatch(plain), _COMMA.fullmatch(plain)
        if comma is not None:
            plain = f"{comma[1]}.{comma[2]}"
        elif grouped is not None:
            plain = re.sub(r"[^0-9+-]", "", grouped[1]) + (f".{grouped[2]}" if grouped[2] else "")
        else:
            return None
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None


def time_of(text: str) -> datetime | date | None:
    """The time that a text means: ISO 8601 (UTC without a zone), a date, or a count since 1970 (s, ms or microseconds)."""
    plain = text.removesuffix(_KIND).strip()
    if _EPOCH.fullmatch(plain):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(plain.ljust(16, "0")))
    if not plain[:4].isdigit() or plain[4:5] != "-":
        return None
    try:
        if len(plain) == 10:
            return date.fromisoformat(plain)
        found = datetime.fromisoformat(plain)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
