"""Publishing a rulebook: its text into the table, one entry into every partition, all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from service import keys
from service.archive import tables
from service.engine import RulebookError, load
from service.rulebooks import Shelf, current_id, publish
from service.servers import check_journal
from service.settings import Settings
from tests.service.hits import a_hit, gaps, logged
from tests.service.partitions import LATER_RULES, RULES, contents, store


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, settings.partitions)
    yield opened
    opened.close()


def texts(settings: Settings) -> list[str]:
    """The texts in the table, in the order of their times."""
    table = tables.open_table(settings.tables_path, "rulebooks")
    rows: list[dict[str, Any]] = table.to_pyarrow_table().to_pylist() if table is not None else []
    return [row["text"] for row in sorted(rows, key=lambda row: row["time"])]


def put(connection: redis.Redis, settings: Settings, text: str) -> tuple[str, bool]:
    return publish(connection, settings.partitions, settings.tables_path, text, "test")


def entries(connection: redis.Redis, partition: int) -> list[str]:
    """Rulebook ids in a partition's journal, "" for a hit."""
    return [entry.rulebook_id for entry in logged(connection, partition)]


def test_a_rulebook_is_an_entry_in_every_partition(settings: Settings, connection: redis.Redis) -> None:
    # given a partition with a hit
    store(connection, 5, [a_hit()])
    # when a rulebook is published
    identity, news = put(connection, settings, RULES)
    # then every partition says so, behind what was there, and everybody can look it up
    assert news and identity == load(RULES).id == current_id(connection)
    assert entries(connection, 5) == ["", identity]
    assert all(entries(connection, number) == [identity] for number in range(16) if number != 5)
    assert gaps(connection) == []
    assert texts(settings) == [RULES] and Shelf(connection).get(identity).id == identity


def test_publishing_the_one_in_force_again_changes_nothing(settings: Settings, connection: redis.Redis) -> None:
    # given a rulebook in force
    put(connection, settings, RULES)
    before = contents(connection)
    # when it is published again
    identity, news = put(connection, settings, RULES)
    # then nothing has changed
    assert (identity, news) == (load(RULES).id, False)
    assert contents(connection) == before and texts(settings) == [RULES]


def test_going_back_is_publishing_an_old_one(settings: Settings, connection: redis.Redis) -> None:
    # given two rulebooks, one after the other
    first, _ = put(connection, settings, RULES)
    second, _ = put(connection, settings, LATER_RULES)
    # when the first is published again
    put(connection, settings, RULES)
    # then the log tells the whole story
    assert entries(connection, 0) == [first, second, first]
    assert texts(settings) == [RULES, LATER_RULES, RULES]


def test_a_broken_rulebook_reaches_nobody(settings: Settings, connection: redis.Redis) -> None:
    # given a text with an error
    before = contents(connection)
    # when it is published
    with pytest.raises(RulebookError):
        put(connection, settings, "[client.acme]\nlandign = 'https://x.example'\n")
    # then neither table nor journal has it
    assert contents(connection) == before and texts(settings) == []


@pytest.mark.parametrize("name", ["journal", "head"])
def test_a_key_of_the_wrong_type_stops_it_before_anything_is_written(
    settings: Settings, connection: redis.Redis, name: str
) -> None:
    # given one partition that is broken
    connection.set(getattr(keys.Partition(11), name), "?")
    before = contents(connection, [keys.META])
    # when a rulebook is published
    with pytest.raises(redis.ResponseError, match="TYPE of bt:11:"):
        put(connection, settings, RULES)
    # then no partition has it
    assert contents(connection, [keys.META]) == before
    # and when it is put right, it can be published
    connection.delete(getattr(keys.Partition(11), name))
    assert put(connection, settings, RULES)[1]
    assert gaps(connection) == []


def test_several_publishers_at_once_agree_in_every_partition(settings: Settings, connection: redis.Redis) -> None:
    # given six rulebooks
    rulebooks = [f"# {number}\n{RULES}" for number in range(6)]
    put(connection, settings, RULES)
    # when they are published at the same time
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda text: put(connection, settings, text), rulebooks))
    # then every partition has them in one and the same order, and the last one is in force
    orders = {tuple(entries(connection, number)) for number in range(16)}
    assert len(orders) == 1 and sorted(orders.copy().pop()[1:]) == sorted(identity for identity, _ in done)
    assert orders.pop()[-1] == current_id(connection)
    assert sorted(texts(settings)) == sorted([RULES, *rulebooks])


def test_the_time_of_an_entry_never_falls(settings: Settings, connection: redis.Redis) -> None:
    # given a partition whose last entry is from the future, as after a change of clocks
    store(connection, 0, [a_hit()])
    future = 4_000_000_000_000_000
    connection.hset(keys.Partition(0).head, "time", str(future))
    # when a rulebook is published, then its entry is not older
    put(connection, settings, RULES)
    assert logged(connection, 0)[-1].time_us == future


def test_a_text_that_is_nowhere_is_an_error_with_its_id(connection: redis.Redis) -> None:
    # given an id that was never published, when it is looked up, then the error names it
    with pytest.raises(KeyError, match="rulebook cafe is missing"):
        Shelf(connection).get("cafe")
