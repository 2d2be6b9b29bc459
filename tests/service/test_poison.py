"""Poison: what cannot be decided is set aside with its error, nothing behind it waits; a broken connection is no poison."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis
from click.testing import CliRunner

import lab
from service import keys
from service.archive import tables
from service.archive.writer import Archiver
from service.counts_command import counts_command
from service.engine.model import Outcome
from service.engine.partition import partition_of
from service.rulebooks import publish
from service.servers import check_journal, client
from service.settings import Settings
from service.tracking import poison
from tests.service.hits import a_hit
from tests.service.ownserver import CuttingProxy
from tests.service.partitions import RULES, decided, store, tracker

PARTITIONS = 2
ACME = partition_of("acme", PARTITIONS)
PLACE = keys.Partition(ACME)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, partitions=PARTITIONS, linger_ms=0)


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, PARTITIONS)
    publish(opened, PARTITIONS, settings.tables_path, RULES, "test")
    yield opened
    opened.close()


def sale(connection: redis.Redis, uid: str) -> None:
    store(connection, ACME, [a_hit(f"client=acme&event=sale&uid={uid}&amount=5&affiliate=best")])


def spoil(connection: redis.Redis, **words: Any) -> int:
    """An item of the journal that nobody has written like this. Returns its number."""
    seq = int(connection.hincrby(PLACE.head, "seq", 1))
    fields: dict[Any, Any] = {**words}
    connection.xadd(PLACE.journal, fields, id=f"1-{seq}")
    return seq


def track(settings: Settings, connection: redis.Redis) -> list[Outcome]:
    for number in range(PARTITIONS):
        tracker(connection, number, settings).run()
    return decided(connection, ACME)


@pytest.mark.parametrize(
    "fields",
    [
        {"t": "1", "h": b"\xc1 no msgpack"}, {"t": "1", "h": msgspec.msgpack.encode(["id", "when"])}, {"t": "1"},
        {"t": "soon", "r": "x"}, {"r": "x"}, {"h": b""},
    ],
)  # fmt: skip
def test_an_item_that_is_no_entry_is_set_aside(
    settings: Settings, connection: redis.Redis, fields: dict[Any, Any]
) -> None:
    # given something between two sales that is no entry
    sale(connection, "a")
    seq = spoil(connection, **fields)
    sale(connection, "b")
    # when tracking and archive come by
    outcomes = track(settings, connection)
    Archiver(connection, settings.tables_path, PARTITIONS, 100).round()
    # then both sales are decided, and it is noted with its reason
    assert [outcome.verdict for outcome in outcomes] == ["accepted", "accepted"]
    (note,) = poison.notes(connection, PLACE)
    assert (note["partition"], note["seq"], note["reason"]) == (ACME, seq, "unreadable") and note["error"]
    # and it stands in the table with its bytes and its error, so that no number is missing
    table = tables.open_table(settings.tables_path, "hits")
    assert table is not None
    (row,) = [row for row in table.to_pyarrow_table().to_pylist() if row["kind"] == "unreadable"]
    assert row["seq"] == seq and dict(row["params"])["error"] == note["error"]
    log = lab.open(settings.tables_path)
    assert log.gaps().is_empty()
    # and a replay passes it over, too
    assert log.replay().digest == log.digest()


def test_a_hit_whose_visitor_cannot_be_read_is_set_aside_alone(settings: Settings, connection: redis.Redis) -> None:
    # given a batch of sales, of which one belongs to a visitor that is damaged in the store
    for uid in "abc":
        sale(connection, uid)
    track(settings, connection)
    damaged = decided(connection, ACME)[1].visitor
    connection.hset(PLACE.visitors, damaged, b"\xc1")
    for uid in "cbac":
        sale(connection, uid)
    # when they are tracked
    outcomes = track(settings, connection)[3:]
    # then that one says what was wrong, the others are accepted, in the order of the log
    assert [outcome.verdict for outcome in outcomes] == ["accepted", "engine_error", "accepted", "accepted"]
    assert "DecodeError" in outcomes[1].detail
    (note,) = poison.notes(connection, PLACE)
    assert (note["reason"], note["seq"]) == ("undecidable", outcomes[1].seq)
    # and the damaged visitor is as it was
    assert connection.hget(PLACE.visitors, damaged) == b"\xc1"


def test_a_rulebook_without_its_text_leaves_the_last_one_in_force(settings: Settings, connection: redis.Redis) -> None:
    # given an entry that puts a rulebook in force that is nowhere, and one whose text is none
    sale(connection, "a")
    connection.hset(keys.RULEBOOKS, "broken", "this = is not [a rulebook")
    spoil(connection, t="1", r="nowhere")
    spoil(connection, t="1", r="broken")
    sale(connection, "b")
    # when it is tracked, by one turn and by another
    outcomes = track(settings, connection)
    sale(connection, "c")
    outcomes = track(settings, connection)
    # then the hits behind it are decided by the rulebook before it
    assert [outcome.verdict for outcome in outcomes] == ["accepted"] * 3
    assert len({outcome.rulebook_id for outcome in outcomes}) == 1
    assert [note["reason"] for note in poison.notes(connection, PLACE)] == ["no_rulebook", "no_rulebook"]


def test_a_text_that_redis_has_lost_is_found_in_the_tables(settings: Settings, connection: redis.Redis) -> None:
    # given hits, and no text of their rulebook in Redis
    sale(connection, "a")
    connection.delete(keys.RULEBOOKS)
    # then they are decided by the text in the tables
    assert [outcome.verdict for outcome in track(settings, connection)] == ["accepted"]


def test_hits_under_a_rulebook_that_is_nowhere_say_so(settings: Settings, connection: redis.Redis) -> None:
    # given a rulebook in force whose text is gone everywhere
    sale(connection, "a")
    track(settings, connection)
    connection.hset(PLACE.tracked, "rulebook", "0123456789abcdef")
    sale(connection, "b")
    # when a hit comes
    outcomes = track(settings, connection)
    # then it is not decided by another one
    assert (outcomes[1].verdict, outcomes[1].rulebook_id) == ("engine_error", "0123456789abcdef")
    assert "0123456789abcdef is missing" in outcomes[1].detail
    # and the next rulebook ends that
    later = RULES.replace('"25", of', '"20", of')
    publish(connection, PARTITIONS, settings.tables_path, later, "test")
    sale(connection, "c")
    assert track(settings, connection)[2].verdict == "accepted"


def test_a_connection_that_breaks_is_never_taken_for_poison(settings: Settings, connection: redis.Redis) -> None:
    # given sales, and a connection that breaks at one answer after the other
    for n in range(6):
        sale(connection, f"u{n}")
    port = int(settings.journal_url.rpartition(":")[2].partition("/")[0])
    for answers in range(3, 20):
        proxy = CuttingProxy(port, answers)
        with client(proxy.url) as broken:
            try:
                tracker(broken, ACME, settings).run()
            except (redis.ConnectionError, OSError):
                pass
        proxy.close()
        connection.delete(PLACE.lease)
    # then nothing was set aside
    assert [outcome.verdict for outcome in track(settings, connection)] == ["accepted"] * 6
    assert poison.notes(connection, PLACE) == []


def test_counts_names_what_was_set_aside(settings: Settings, connection: redis.Redis) -> None:
    # given 21 items that are no entries
    numbers = [spoil(connection, t="1") for _ in range(21)]
    track(settings, connection)
    # when the counters are read
    runs = [CliRunner().invoke(counts_command, options, env=settings.environment()) for options in ([], ["--json"])]
    # then a person sees how many, which and why, and a program sees all
    assert "21 entries could not be decided and were set aside" in runs[0].stdout
    assert f"partition {ACME}, entry {numbers[0]}: unreadable: ValueError" in runs[0].stdout
    assert "and 1 more; --json names them all" in runs[0].stdout
    assert [note["seq"] for note in json.loads(runs[1].stdout)["set_aside"]] == numbers
