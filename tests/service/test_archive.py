"""The archive: every row once, in order, whoever races or crashes; nothing trimmed that is not safe; nothing half told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import msgspec
import pytest
import redis
from dramatiq.brokers.stub import StubBroker

from service import keys
from service.archive import actor, tables
from service.archive.schemas import Attempt, entry_of, outcome_of, postback_of
from service.archive.tables import TableError
from service.archive.writer import Archiver, GapError, LostError
from service.backlog import backlog
from service.servers import check_journal, client
from service.settings import Settings
from tests.service.hits import a_hit, logged
from tests.service.partitions import (
    RULES,
    a_past,
    decided,
    promised,
    put_in_force,
    store,
    store_all,
    track_all,
    traffic,
)
from tests.waiting import until

NUMBERS = {"hits": "seq", "decisions": "seq", "postbacks": "n", "attempts": "n"}


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, settings.partitions)
    yield opened
    opened.close()


def archiver(settings: Settings, rows: int = 20_000) -> Archiver:
    """An archiver with a connection of its own."""
    return Archiver(client(settings.journal_url, 30), settings.tables_path, settings.partitions, rows)


def rows(settings: Settings, name: str) -> list[dict[str, Any]]:
    """All rows of a table, by partition and number."""
    table = tables.open_table(settings.tables_path, name)
    found: list[dict[str, Any]] = table.to_pyarrow_table().to_pylist() if table is not None else []
    return sorted(found, key=lambda row: (row["partition"], row[NUMBERS[name]]))


def sizes(settings: Settings) -> dict[str, int]:
    return {name: len(rows(settings, name)) for name in NUMBERS}


def attempt(connection: redis.Redis, partition: int, count: int) -> None:
    """Attempts as the delivery records them."""
    place = keys.Partition(partition)
    for _ in range(count):
        n = int(connection.hincrby(place.head, "attempts", 1))
        one = Attempt(f"p{n}", 1, 1_772_452_800_000_000 + n, "client:acme", "GET", "http://x", "", {"a": "b"}, "delivered",
                      200, "ok", "", 10, "delivered")  # fmt: skip
        connection.xadd(place.attempts, {"a": msgspec.msgpack.encode(one)}, id=f"1-{n}")


def assert_contiguous(settings: Settings, name: str) -> None:
    """The numbers of each partition are 1, 2, 3, ..., each once."""
    found: dict[int, list[int]] = {}
    for row in rows(settings, name):
        found.setdefault(row["partition"], []).append(row[NUMBERS[name]])
    for partition, numbers in found.items():
        assert numbers == list(range(1, len(numbers) + 1)), (name, partition)


def track_and_archive(settings: Settings, connection: redis.Redis, hits: int) -> None:
    store_all(connection, [a_hit(f"client=acme&event=sale&uid=u{n % 9}&amount=5") for n in range(hits)])
    track_all(connection, settings)
    archiver(settings).round()


# what comes into the tables


def test_the_tables_hold_what_the_streams_held(settings: Settings) -> None:
    # given a past that was tracked, and a few attempts
    connection = a_past(settings, traffic(250))
    track_all(connection, settings)
    attempt(connection, 3, 5)
    streams = {number: (logged(connection, number), decided(connection, number), promised(connection, number))
               for number in range(16)}  # fmt: skip
    # when it is archived
    archiver(settings).round()
    # then every row gives back the value it was made of, in order
    found = {name: rows(settings, name) for name in NUMBERS}
    for number, (entries, outcomes, postbacks) in streams.items():
        mine = {name: [row for row in found[name] if row["partition"] == number] for name in NUMBERS}
        assert [entry_of(row) for row in mine["hits"]] == entries
        assert [outcome_of(row) for row in mine["decisions"]] == outcomes
        assert [postback_of(row) for row in mine["postbacks"]] == postbacks
    assert sizes(settings)["attempts"] == 5 and sizes(settings)["postbacks"] > 20
    assert backlog(connection, 16).to_archive == 0


def test_a_second_round_finds_nothing_and_a_new_process_goes_on(settings: Settings) -> None:
    # given a past that was archived
    connection = a_past(settings, traffic(100))
    track_all(connection, settings)
    first = archiver(settings)
    assert first.round() > 200
    # when nothing new has come, then nothing is written, by the same or by another
    assert first.round() == 0 and archiver(settings).round() == 0
    # and when more comes, then both go on where the tables end
    for one in (archiver(settings), first):
        store_all(connection, [a_hit("client=acme&event=login&uid=u")])
        track_all(connection, settings)
        assert one.round() == 2
    assert_contiguous(settings, "hits")


def test_a_backlog_goes_into_appends_of_no_more_rows_than_allowed(settings: Settings) -> None:
    # given 300 hits over all partitions
    connection = a_past(settings, traffic(300))
    track_all(connection, settings)
    # when at most 30 rows go into an append
    asked: list[int] = []

    def go_on() -> bool:
        asked.append(len(rows(settings, "hits")))
        return True

    archiver(settings, rows=30).round(go_on)
    # then all are there, and no append brought more than that
    found = rows(settings, "hits")
    assert len([row for row in found if row["kind"] == "hit"]) == len(rows(settings, "decisions")) == 300
    steps = [later - before for before, later in zip([0, *asked], [*asked, len(found)], strict=True)]
    assert max(steps) == 30 and steps.count(30) >= 10
    assert_contiguous(settings, "hits")


def test_a_round_that_may_not_go_on_is_ended_by_the_next_one(settings: Settings) -> None:
    # given a backlog, and an archiver that is stopped after each append
    connection = a_past(settings, traffic(120))
    track_all(connection, settings)
    one = archiver(settings, rows=50)
    # when it is called again and again
    while one.round(lambda: False):
        # then a decision is never there before its hit
        assert len(rows(settings, "decisions")) <= len([row for row in rows(settings, "hits") if row["kind"] == "hit"])
    assert sizes(settings)["decisions"] == 120
    for name in ("hits", "postbacks"):
        assert_contiguous(settings, name)


def test_decisions_come_no_further_than_tracking_was(settings: Settings, connection: redis.Redis) -> None:
    # given hits of which the last are not decided
    put_in_force(connection, RULES, 1)
    track_and_archive(settings, connection, 10)
    store_all(connection, [a_hit("client=acme&event=login") for _ in range(7)])
    # when they are archived, then the hits are there and their decisions are not
    archiver(settings).round()
    assert len(rows(settings, "hits")) - 16 == 17 and len(rows(settings, "decisions")) == 10


# whoever races or crashes


def test_two_archivers_at_once_write_every_row_once(settings: Settings) -> None:
    # given a past, and archivers that know of each other only through the tables
    connection = a_past(settings, traffic(200))
    racers = [archiver(settings, rows=40) for _ in range(2)]
    for racer in racers:
        racer.round()  # all of them have opened the tables
    stop = threading.Event()

    def race(racer: Archiver) -> None:
        while not stop.is_set():
            racer.round()

    # when they race while tracking goes on and hits keep coming
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(race, racer) for racer in racers]
        try:
            for _ in range(3):
                store_all(connection, [a_hit(f"client=bolt&event=sale&txid=t{n}") for n in range(40)])
                track_all(connection, settings)
            until(lambda: backlog(connection, 16).to_archive == 0, "the archive")
        finally:
            stop.set()
        for one in running:
            one.result(30)
    # then every row is there once, in order
    for name in ("hits", "postbacks", "attempts"):
        assert_contiguous(settings, name)
    assert len(rows(settings, "decisions")) == len({row["hit_id"] for row in rows(settings, "decisions")}) == 320


def test_an_archiver_that_was_overtaken_does_not_take_back_what_the_other_noted(settings: Settings) -> None:
    # given an archiver that has just begun, and one that appends, notes and trims all that is new before it is done
    connection = a_past(settings, traffic(200))
    slower, faster = archiver(settings, rows=50), archiver(settings)

    def overtaken() -> bool:
        track_all(connection, settings)
        return faster.round() >= 0

    # when the slower one goes on
    slower.round(overtaken)
    # then what it had seen of the tables is not what is noted in the end
    assert backlog(connection, 16).to_archive == 0


def test_a_crash_between_the_table_and_the_note_changes_nothing(settings: Settings, connection: redis.Redis) -> None:
    # given rows that are in the tables, of which Redis was not told
    put_in_force(connection, RULES, 1)
    track_and_archive(settings, connection, 20)
    before = sizes(settings)
    connection.delete(keys.ARCHIVED)
    assert backlog(connection, 16).to_archive > 0
    # when the next archiver starts
    archiver(settings).round()
    # then it writes no row again, and Redis is told
    assert sizes(settings) == before and backlog(connection, 16).to_archive == 0


CHILD = """
import os
from service.archive.writer import Archiver
from service.servers import client
from service.settings import from_environment

settings = from_environment(os.environ)
archiver = Archiver(client(settings.journal_url), settings.tables_path, settings.partitions, 10)
while True:
    archiver.round()
    print("round", flush=True)
"""


def test_archivers_that_are_killed_at_any_moment_double_nothing(settings: Settings) -> None:
    # given a past that takes many small appends
    connection = a_past(settings, traffic(300))
    track_all(connection, settings)
    environment = {**os.environ, **settings.environment()}
    # when archivers are killed as soon as each has got a little further
    for _ in range(3):
        done = _committed(settings)
        child = subprocess.Popen([sys.executable, "-c", CHILD], env=environment, stdout=subprocess.DEVNULL)
        try:
            until(lambda seen=done: _committed(settings) > seen + 2, "the archive to go on")  # type: ignore[misc]
        finally:
            child.kill()
            child.wait(10)
    archiver(settings).round()
    # then the tables are whole
    for name in ("hits", "postbacks"):
        assert_contiguous(settings, name)
    decisions = rows(settings, "decisions")
    assert len(decisions) == len({row["hit_id"] for row in decisions}) == 300


def _committed(settings: Settings) -> int:
    """Number of commits so far, in all tables."""
    return len(list(settings.tables_path.glob("*/_delta_log/*.json")))


def test_an_archiver_that_slept_takes_what_others_did_for_no_gap(settings: Settings, connection: redis.Redis) -> None:
    # given an archiver that knows the tables as they were long ago
    put_in_force(connection, RULES, 1)
    sleeper = archiver(settings)
    sleeper.round()
    # when another one has archived and trimmed hundreds of rows since
    for _ in range(4):
        track_and_archive(settings, connection, 150)
    assert connection.xlen(keys.Partition(_acme(connection)).journal) < 200
    store_all(connection, [a_hit("client=acme&event=login")])
    track_all(connection, settings)
    # then it looks at the tables again and goes on
    assert sleeper.round() == 2
    assert_contiguous(settings, "hits")


def _acme(connection: redis.Redis) -> int:
    """The partition with the most entries."""
    lengths = {place.number: int(connection.hget(place.head, "seq") or 0) for place in keys.partitions(16)}
    return max(lengths, key=lambda number: lengths[number])


def commits(settings: Settings, name: str) -> list[tuple[int, dict[int, int]]]:
    """The commits of a table in order: time in milliseconds, and how far each partition came."""
    found = []
    for path in sorted((settings.tables_path / name / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in path.read_text().splitlines()]
        (time_ms,) = [action["commitInfo"]["timestamp"] for action in actions if "commitInfo" in action]
        reached = [action["txn"] for action in actions if "txn" in action]
        found.append((time_ms, {int(txn["appId"].partition("/")[2]): txn["version"] for txn in reached}))
    return found


def test_no_decision_is_committed_before_its_hit_and_its_postbacks(settings: Settings) -> None:
    # given hits that keep coming, tracking and an archiver at work
    connection = a_past(settings, traffic(50))
    stop = threading.Event()
    mine = archiver(settings)

    def work(one: Any) -> None:
        while not stop.is_set():
            one()

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(work, mine.round), pool.submit(work, lambda: track_all(connection, settings))]
        try:
            for number in range(40):
                store_all(connection, [a_hit(f"client=bolt&event=sale&txid={number}&uid=u")])
                until(lambda: backlog(connection, 16).to_decide == 0, "the decision")
            until(lambda: backlog(connection, 16).to_archive == 0, "the archive")
        finally:
            stop.set()
        for one in running:
            one.result(30)
    # when we look at the order of all commits
    promises = [(row["partition"], row["seq"], row["n"]) for row in rows(settings, "postbacks")]
    hits, postbacks, decisions = (commits(settings, name) for name in ("hits", "postbacks", "decisions"))
    assert len(decisions) > 5 and len(promises) > 40
    for time_ms, reached in decisions:
        for partition, seq in reached.items():
            # then whatever a commit of decisions holds was there before: the hits, and all that was promised for them
            last = max((n for place, of, n in promises if place == partition and of <= seq), default=0)
            assert _at(hits, time_ms, partition) >= seq and _at(postbacks, time_ms, partition) >= last


def _at(found: list[tuple[int, dict[int, int]]], time_ms: int, partition: int) -> int:
    """How far a partition had come in a table at a moment."""
    return max((reached.get(partition, 0) for at_ms, reached in found if at_ms <= time_ms), default=0)


# gaps and losses


@pytest.mark.parametrize("name", ["journal", "postbacks", "attempts"])
def test_a_gap_in_a_stream_stops_the_archive_before_anything_is_written(
    settings: Settings, connection: redis.Redis, name: str
) -> None:
    # given a stream that has lost an item in the middle
    put_in_force(connection, RULES, 1)
    track_and_archive(settings, connection, 5)
    number = _acme(connection)
    store_all(connection, [a_hit(f"client=acme&event=sale&uid=v{n}&amount=5&affiliate=best") for n in range(6)])
    track_all(connection, settings)
    attempt(connection, number, 6)
    stream = getattr(keys.Partition(number), name)
    items: Any = connection.xrevrange(stream)
    connection.xdel(stream, items[2][0])
    before = sizes(settings)
    # when it is archived
    table = "hits" if name == "journal" else name
    with pytest.raises(GapError, match=f"{table}, partition {number}: the table ends at "):
        archiver(settings).round()
    # then nothing of this stream nor of a later one was written
    after = sizes(settings)
    assert after[table] == before[table] and after["decisions"] == before["decisions"]


@pytest.mark.parametrize("field", ["seq", "postbacks", "attempts"])
def test_a_journal_that_came_back_without_its_end_is_told_from_one_that_is_quiet(
    settings: Settings, connection: redis.Redis, field: str
) -> None:
    # given tables that are ahead of the journal, since its Redis has lost data
    put_in_force(connection, RULES, 1)
    store_all(connection, [a_hit(f"client=acme&event=sale&uid=v{n}&amount=5&affiliate=best") for n in range(6)])
    track_all(connection, settings)
    number = _acme(connection)
    attempt(connection, number, 6)
    archiver(settings).round()
    connection.hset(keys.Partition(number).head, field, "2")
    before = sizes(settings)
    # when it is archived, then it says so instead of skipping what comes under old numbers
    with pytest.raises(LostError, match="has lost data, a new epoch has to begin"):
        archiver(settings).round()
    assert sizes(settings) == before


def test_a_table_of_another_version_is_left_alone(settings: Settings, connection: redis.Redis) -> None:
    # given a table that another version has written
    put_in_force(connection, RULES, 1)
    tables.create(settings.tables_path, "hits")
    log = settings.tables_path / "hits" / "_delta_log" / "00000000000000000000.json"
    log.write_text(log.read_text().replace("version 1", "version 99"))
    # when something is to be archived
    with pytest.raises(TableError) as caught:
        archiver(settings).round()
    # then one line says so, and nothing was written
    assert "version 99" in str(caught.value) and "\n" not in str(caught.value)
    assert _committed(settings) == 1


# trimming


def test_nothing_is_trimmed_that_is_not_both_decided_and_archived(settings: Settings, connection: redis.Redis) -> None:
    # given 600 entries that are decided and archived, and 600 that are archived only
    put_in_force(connection, RULES, 1)
    track_and_archive(settings, connection, 600)
    number = _acme(connection)
    for _ in range(3):
        store_all(connection, [a_hit(f"client=acme&event=login&uid=u{n}") for n in range(200)])
    one = archiver(settings)
    assert one.round() == 600 and one.round() == 0
    # then the journal still holds all that tracking will read, and not all of the rest
    left = [entry.seq for entry in logged(connection, number)]
    assert left == list(range(left[0], 1202)) and 300 < left[0] <= 602
    # and when it is decided, then nothing is missing
    track_all(connection, settings)
    archiver(settings).round()
    assert len(rows(settings, "decisions")) == 1200
    assert len(decided(connection, number)) < 300 and len(logged(connection, number)) < 300


def test_what_redis_was_told_of_the_tables_is_never_believed(settings: Settings, connection: redis.Redis) -> None:
    # given entries that are decided, and a note that all of them and more were archived, as after a change of folders
    put_in_force(connection, RULES, 1)
    store_all(connection, [a_hit(f"client=acme&event=sale&uid=u{n}&amount=5&affiliate=best") for n in range(300)])
    track_all(connection, settings)
    connection.hset(keys.ARCHIVED, mapping={f"{name}/{n}": "9999" for name in NUMBERS for n in range(16)})
    # when they are archived in many appends
    archiver(settings, rows=50).round()
    # then nothing was trimmed before its time
    assert_contiguous(settings, "hits")
    assert len(rows(settings, "decisions")) == 300 and len(rows(settings, "postbacks")) == 25  # the cap
    assert connection.hget(keys.ARCHIVED, f"decisions/{_acme(connection)}") == b"301"


# the actor


def test_one_archive_works_at_a_time_and_the_lease_is_given_back(settings: Settings, connection: redis.Redis) -> None:
    put_in_force(connection, RULES, 1)
    store(connection, 3, [a_hit()])
    stopping = threading.Event()
    archive = _actor(settings, stopping)
    # given an archive somewhere else
    connection.set(keys.ARCHIVE_LEASE, "somebody")
    # when the actor is woken, then it goes away
    archive()
    assert connection.get(keys.ARCHIVE_LEASE) == b"somebody" and not settings.tables_path.exists()
    # and when nobody is there, then it works until the process ends, and lets go
    connection.delete(keys.ARCHIVE_LEASE)
    thread = threading.Thread(target=archive)
    thread.start()
    until(lambda: len(rows(settings, "hits")) == 17, "the rows")
    stopping.set()
    thread.join(10)
    assert not thread.is_alive() and not connection.exists(keys.ARCHIVE_LEASE)


def test_an_archive_that_has_lost_its_lease_stops(settings: Settings, connection: redis.Redis) -> None:
    # given an archive at work
    thread = threading.Thread(target=_actor(settings, threading.Event()))
    thread.start()
    until(lambda: connection.exists(keys.ARCHIVE_LEASE), "the lease")
    # when another one has taken over
    connection.set(keys.ARCHIVE_LEASE, "another")
    # then it ends and leaves the lease alone
    thread.join(10)
    assert not thread.is_alive() and connection.get(keys.ARCHIVE_LEASE) == b"another"


def _actor(settings: Settings, stopping: threading.Event) -> Any:
    """The function behind the actor `archive`."""
    broker: dramatiq.Broker = StubBroker()
    actor.register(broker, msgspec.structs.replace(settings, archive_ms=50), stopping.is_set)
    return broker.get_actor("archive").fn
