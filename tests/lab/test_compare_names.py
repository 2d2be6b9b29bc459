"""The names of what differs, for many postbacks at once, are those that a postback by itself is told to differ in."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any

import polars as pl
import pytest

from lab.compare_cases import PLAIN, differences_of
from lab.compare_names import _of_requests, names_of

QUERIES = ("", "sum=1", "sum=2", "sum=2&cid=a%20b", "sum=2&cid=a+b", "cid=a+b&sum=2", "sum=1&sum=2", "sum=2&sum=1",
           "payout=", "payout", "a%62=1", "cid=%E9", "cid=\\xe9", "x#2=1", "sum=1#f", "sum=1;cid=2", "&sum=1")  # fmt: skip
BODIES = ("", "{}", "[]", "text", '{"sum":"1"}', '{"sum":"2"}', '{"sum":1}', '{"sum":1.0}', '{"sum":1.00}', '{"sum": 1}',
          '{"a":{"b":1,"c":[1,2]},"sum":"1"}', '{"a":{"b":2,"c":[1]},"sum":"1"}', '{"a.b":1,"a":{"b":2}}',
          '{"sum":"1","a":{}}', '{"a":[],"sum":"1"}', '{"sum":"1","sum":"2"}', '{"sum":"2","sum":"2"}', '{"":1}',
          '{"é":"1"}', '{"\\u00e9":"1"}', '{"sum":"\\u0031"}', '{"sum":NaN}', '{"sum":"\\ud800"}', '{"a":{"b":1,"b":2}}',
          '{"a":{"b":3,"b":2}}', '{"payout":"2"}', '{"sum":null}')  # fmt: skip
VALUES: dict[str, tuple[Any, ...]] = {
    "state": ("pending", "withheld"), "method": ("webhook", "email"), "affiliate": ("best", ""),
    "payout": (None, Decimal("1.000"), Decimal("2.000")), "currency": ("EUR", ""), "test": (True, False),
}  # fmt: skip


def postback(random: Random) -> dict[str, Any]:
    verb, host = random.choice(("GET", "POST", "POST", "POST")), random.choice(("a.example", "a.example", "b.example"))
    query = random.choice(QUERIES) if random.random() < 0.6 else ""
    said = {
        "verb": verb,
        "url": f"http://{host}/x" + f"?{query}" * bool(query),
        "body": random.choice(BODIES) if random.random() < 0.6 else "",
    }
    return said | {name: random.choice(values) for name, values in VALUES.items()}


def changed(many: int) -> pl.DataFrame:
    random = Random(3)
    rows = []
    for _ in range(many):
        mine, other = postback(random), postback(random)
        theirs = {name: other[name] if random.random() < 0.4 else value for name, value in mine.items()}
        rows.append({f"{name}_before": value for name, value in mine.items()}
                    | {f"{name}_after": value for name, value in theirs.items()})  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def test_names_found_for_many_are_those_of_each_postback_by_itself() -> None:
    # given requests as plain and as odd as they come, in any pair
    frame = changed(8_000)

    # when what differs is named
    names = names_of(frame)

    # then it is what the comparison of one postback names, by the short way and by the long one
    each = [", ".join(name for name, _, _ in differences_of(row)) for row in frame.iter_rows(named=True)]
    assert names == each
    short = [_of_requests(*row) is not None for row in frame.select(
        f"{name}_{side}" for name in ("verb", "url", "body") for side in ("before", "after")).iter_rows()]  # fmt: skip
    assert 1_000 < sum(short) < 7_000
    assert set(PLAIN) <= set(names)


@pytest.mark.parametrize(("before", "after", "names"), [
    ("http://a/x?sum=1&cid=2", "http://a/x?sum=2&cid=2&id=7", ["sum", "id"]),
    ("http://a/x?sum=1+2", "http://a/x?sum=1%202", []),
])  # fmt: skip
def test_a_plain_query_is_named_without_the_long_way(before: str, after: str, names: list[str]) -> None:
    assert _of_requests("GET", "GET", before, after, "", "") == names


def test_a_plain_body_is_named_without_the_long_way() -> None:
    # given bodies as a client's webhook gets them
    mine, theirs = '{"payout":"1","params":{"a":"1","b":"2"}}', '{"payout":"1","params":{"a":"3","b":"2"},"uid":"x"}'

    assert _of_requests("POST", "POST", "http://a/x", "http://a/x", mine, theirs) == ["params.a", "uid"]
