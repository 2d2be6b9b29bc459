"""How the engine's values read to a person: spans, moments, lists and the parts of a condition."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from service.engine.conditions import UNITS_S, Node
from service.engine.rulebook import DAY_US
from service.engine.templates import iso_time

_UNITS = (
    ("day", DAY_US), ("hour", 3_600_000_000), ("minute", 60_000_000), ("second", 1_000_000), ("millisecond", 1_000),
    ("microsecond", 1),
)  # fmt: skip
_SIGNS = {"==": "is", "!=": "is not", "<": "less than", "<=": "at most", ">": "more than", ">=": "at least"}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def span(length_us: int, parts: int = 2) -> str:
    """A span of time in its largest units, `12 days 3 hours`; the rest is dropped. `0 seconds` for none."""
    found: list[str] = []
    for unit, unit_us in _UNITS:
        count, length_us = divmod(length_us, unit_us)
        if count:
            found.append(plural(count, unit))
        if found and (len(found) == parts or unit == "second"):
            break
    return " ".join(found) or "0 seconds"


def whole_span(length_us: int) -> str:
    """A span of a rulebook in one unit, the largest that fits: `30 days`, `36 hours`."""
    unit, unit_us = next(pair for pair in _UNITS if length_us % pair[1] == 0)
    return plural(length_us // unit_us, unit)


def moment(time_us: int) -> str:
    """2026-11-23 09:47:17 UTC."""
    iso = iso_time(time_us)
    return f"{iso[:10]} {iso[11:19]} UTC"


def plural(count: int, noun: str) -> str:
    """`1 day`, `2,000 days`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(items: Iterable[str], word: str = "and", limit: int = 10) -> str:
    """`a, b and c`; past `limit` the rest is counted."""
    names = list(items)
    if len(names) > limit:
        names = [*names[:limit], f"{len(names) - limit:,} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}" if names else "none"


def number(value: Decimal) -> str:
    """A decimal as a person writes it."""
    return format(value, "f")


def in_words(node: Node) -> str:
    """A condition or a part of one in words: `amount at least 20 and country one of DE, AT or CH`."""
    kind = node[0]
    if kind in ("either", "both"):
        word = "or" if kind == "either" else "and"
        return f" {word} ".join(f"({in_words(c)})" if c[0] in ("either", "both") else in_words(c) for c in node[1:])
    if kind == "inverse":
        return f"not ({in_words(node[1])})"
    if kind == "exists":
        return f"a value for {node[1]}"
    if kind == "matches":
        return f'{operand(node[1])} matches "{node[2]}"'
    if kind == "member":
        return f"{operand(node[1])} {'one of ' if len(node) > 3 else ''}{listed(map(literal, node[2:]), 'or', 20)}"
    return _comparison(node[1], node[2], node[3])


def _comparison(left: Node, sign: str, right: Node) -> str:
    if left[0] in ("number", "text") and right[0] not in ("number", "text"):
        left, sign, right = right, _MIRRORED.get(sign, sign), left
    if left[0] == "count" and right[0] == "number":
        return _count(str(left[1]), sign, right[1])
    if left[0] == "since" and right[0] == "number":
        asked = {"<": "less than ", "<=": "at most ", ">": "more than ", ">=": "at least "}.get(
            sign, f"{_SIGNS[sign]} "
        )
        return f"the last {left[1]} {asked}{seconds(right[1])} ago"
    return f"{operand(left)} {_SIGNS[sign]} {operand(right)}"


def _count(event: str, sign: str, count: Decimal) -> str:
    if (sign == "==" and count == 0) or (sign == "<" and count == 1):
        return f"no earlier {event}"
    if (sign == ">" and count == 0) or (sign == ">=" and count == 1):
        return f"an earlier {event}"
    asked = "exactly" if sign == "==" else "not exactly" if sign == "!=" else _SIGNS[sign]
    return f"{asked} {number(count)} earlier {event}"


def seconds(value: Decimal) -> str:
    """A number of seconds as a span."""
    whole_us = int(value * 1_000_000)
    return whole_span(whole_us) if whole_us > 0 else f"{number(value)} seconds"


def operand(node: Node) -> str:
    """One side of a test."""
    if node[0] == "count":
        return f"the number of earlier {node[1]}"
    if node[0] == "since":
        return f"the age of the last {node[1]}"
    return literal(node) if node[0] in ("number", "text") else str(node[1])


def literal(node: Node) -> str:
    """A literal: numbers plainly, texts in quotes where they are not one plain word."""
    if node[0] == "number":
        return number(node[1])
    text = str(node[1])
    return text if text.isalpha() else f'"{text}"'


def as_written(node: Node) -> str:
    """A condition in its own language."""
    kind = node[0]
    if kind in ("either", "both"):
        word = " or " if kind == "either" else " and "
        return word.join(f"({as_written(c)})" if c[0] in ("either", "both") else as_written(c) for c in node[1:])
    if kind == "inverse":
        return f"not ({as_written(node[1])})"
    if kind == "member":
        return f"{as_written(node[1])} in [{', '.join(map(as_written, node[2:]))}]"
    if kind == "compare":
        aged = "since" in (node[1][0], node[3][0])
        left, right = (_duration(side) if aged else as_written(side) for side in (node[1], node[3]))
        return f"{left} {node[2]} {right}"
    if kind == "matches":
        return f"{as_written(node[1])} matches {_quoted(node[2])}"
    if kind in ("exists", "count", "since"):
        return f"{kind}({node[1] if kind == 'exists' else _quoted(node[1])})"
    return number(node[1]) if kind == "number" else _quoted(node[1]) if kind == "text" else str(node[1])


def _duration(node: Node) -> str:
    """A number beside an age as people write it, `7d`."""
    if node[0] != "number" or node[1] <= 0 or node[1] != int(node[1]):
        return as_written(node)
    whole = int(node[1])
    unit = next(unit for unit in ("d", "h", "m", "s") if whole % UNITS_S[unit] == 0)
    return f"{whole // UNITS_S[unit]}{unit}" if whole // UNITS_S[unit] < 1_000_000_000 else as_written(node)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return '"' + escaped.replace("\t", "\\t") + '"'
