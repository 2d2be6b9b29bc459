"""Whom a trigger could concern is known before anybody is recognised: nobody is left out who is tied to one of them."""

from __future__ import annotations

import random

import polars as pl
import pytest

from lab.sets.kernel import Kernel, kernel
from lab.sets.narrow import key_of, keys, rarest, tied

COLUMNS = {"uid": pl.UInt64, "tag": pl.UInt64, "click": pl.UInt64, "test": pl.Boolean}


@pytest.fixture(params=["by columns", "compiled"])
def compiled(request: pytest.FixtureRequest) -> Kernel | None:
    if request.param == "by columns":
        return None
    if (found := kernel()) is None:
        pytest.skip("the kernel is not compiled here: no C compiler")
    return found


def events(*rows: tuple[int | None, int | None, int | None, bool]) -> pl.DataFrame:
    return pl.DataFrame(rows, COLUMNS, orient="row")


def rows(*numbers: int) -> pl.Series:
    return pl.Series(numbers, dtype=pl.UInt32)


def test_whoever_shares_an_identifier_over_others_is_tied(compiled: Kernel | None) -> None:
    # given a chain: click 9 - tag 5 - uid 1, somebody else, and a hit that names nobody
    log = events(
        (None, None, 9, False), (None, 5, 9, False), (1, 5, None, False), (2, 6, 8, False), (None,) * 3 + (False,)
    )
    # when one end is asked for
    # then the whole chain is found and nobody else
    assert tied(log, rows(0), compiled).to_list() == [True, True, True, False, False]
    # and a hit without identifiers is tied to itself alone
    assert tied(log, rows(4), compiled).to_list() == [False, False, False, False, True]


def test_the_same_number_as_another_kind_of_identifier_ties_nothing(compiled: Kernel | None) -> None:
    assert tied(events((7, None, None, False), (None, 7, None, False)), rows(0), compiled).to_list() == [True, False]


def test_an_identifier_whose_number_is_0_is_one_and_none_is_none(compiled: Kernel | None) -> None:
    log = events((0, None, None, False), (None, 3, 3, False), (0, None, None, False), (None, None, None, False))
    assert tied(log, rows(0), compiled).to_list() == [True, False, True, False]
    assert tied(log, rows(1), compiled).to_list() == [False, True, False, False]


def test_a_test_ties_nobody(compiled: Kernel | None) -> None:
    log = events((1, None, None, False), (1, 5, None, True), (None, 5, None, False))
    assert tied(log, rows(0), compiled).to_list() == [True, False, False]


def test_nobody_asked_for_is_nobody_found(compiled: Kernel | None) -> None:
    assert tied(events((1, None, None, False)), rows(), compiled).to_list() == [False]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_tied_is_what_a_search_finds(seed: int, compiled: Kernel | None) -> None:
    # given hits that share few identifiers at random
    draw = random.Random(seed)

    def number() -> int | None:
        return draw.randrange(12) if draw.random() < 0.5 else None

    log = events(*((number(), number(), number(), draw.random() < 0.1) for _ in range(40)))
    start = draw.randrange(40)
    # when neighbours are followed one by one
    found, waiting = {start}, [start]
    while waiting:
        one = log.row(waiting.pop(), named=True)
        for other, two in enumerate(log.iter_rows(named=True)):
            shared = any(one[kind] is not None and one[kind] == two[kind] for kind in ("uid", "tag", "click"))
            if shared and other not in found and not one["test"] and not two["test"]:
                found.add(other)
                waiting.append(other)
    # then the same ones are tied
    assert set(tied(log, rows(start), compiled).arg_true()) == found


def test_the_kernel_ties_thousands_as_columns_do(compiled: Kernel | None) -> None:
    # given identifiers of 64 bits, many of which are shared by two or three hits
    draw = random.Random(11)
    known = [draw.randrange(1 << 64) for _ in range(9_000)]

    def number() -> int | None:
        return draw.choice(known) if draw.random() < 0.4 else None

    log = events(*((number(), number(), number(), draw.random() < 0.05) for _ in range(10_000)))
    asked = rows(*draw.sample(range(10_000), 2_000))
    # then both find the same, and not everybody
    found = tied(log, asked, compiled)
    assert found.equals(tied(log, asked))
    assert 2_000 < found.sum() < 9_900


def test_of_what_somebody_must_have_the_rarest_is_looked_for() -> None:
    click, sale, login = key_of(0, 1), key_of(0, 2), key_of(0, 3)
    hits = {click: 900, sale: 20, login: 300}
    assert rarest([(sale, click), (login, sale), (login,)], hits) == sorted([sale, login])
    # and nothing is looked for where one of them never happened
    assert rarest([(click, key_of(0, 9))], hits) == []


def test_only_valid_events_that_are_no_tests_have_a_key() -> None:
    log = pl.DataFrame(
        [(0, 1, None, False), (2, None, None, False), (0, 1, "unknown_client", False), (0, 1, None, True)],
        {"cid": pl.Int32, "ev": pl.Int16, "reason": pl.String, "test": pl.Boolean}, orient="row",
    )  # fmt: skip
    assert keys(log).to_list() == [key_of(0, 1), None, None, None]
