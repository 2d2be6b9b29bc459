"""What log time has forgotten is deleted from Redis, a little at a time, and no decision changes by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis

from service import keys
from service.archive.retention import first_kept
from service.archive.writer import Archiver
from service.counts_command import compared, read_counts, recounted
from service.engine import Hit, load
from service.engine.partition import partition_of
from service.servers import check_journal
from service.settings import Settings
from service.tracking import sweep
from service.tracking.sweep import Sweep
from tests.service.hits import a_hit
from tests.service.partitions import DAY_US, RULES, assert_as_replayed, put_in_force, store, track_all

ACME = partition_of("acme", 16)
PLACE = keys.Partition(ACME)
NOW_US = time.time_ns() // 1000


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, settings.partitions)
    put_in_force(opened, RULES, 1)  # acme remembers for two days
    yield opened
    opened.close()


def days_ago(days: float, query: str) -> Hit:
    return a_hit(f"client=acme&{query}", received_at_us=int(NOW_US - days * DAY_US))


def swept(settings: Settings, connection: redis.Redis, times: int = 1) -> int:
    """How many keys go in so many steps."""
    one, gone = Sweep(connection, settings.keep_days), 0
    latest: Any = connection.hget(PLACE.tracked, "time")
    fence: Any = connection.get(PLACE.fence)
    for _ in range(times):
        one._next_s.clear()
        gone += one.step(PLACE, int(fence), load(RULES), int(latest))
    return gone


def identifiers(connection: redis.Redis) -> set[str]:
    found: Any = connection.hkeys(PLACE.owners)
    return {key.decode().rpartition("\x1f")[2] for key in found}


def test_a_visitor_who_never_returns_goes_after_twice_the_span(settings: Settings, connection: redis.Redis) -> None:
    # given visitors who were last seen more than four, more than two and less than two days ago, with transactions
    store(
        connection,
        ACME,
        [days_ago(5, "event=sale&uid=long&tag_id=t&txid=x1"), days_ago(3, "event=sale&uid=some&txid=x2")],
    )
    store(connection, ACME, [days_ago(1, "event=sale&uid=late&txid=x3"), days_ago(0, "event=login&uid=now")])
    track_all(connection, settings)
    # when the partition is swept
    swept(settings, connection)
    # then only the first is gone, with identifiers and transaction
    assert identifiers(connection) == {"some", "late", "now"}
    assert connection.hlen(PLACE.visitors) == 3 and connection.hlen(PLACE.txids) == 2
    # and whoever comes is decided as a replay decides
    store(connection, ACME, [days_ago(0, f"event=sale&uid={uid}&txid=x1") for uid in ("long", "some", "late")])
    track_all(connection, settings)
    assert assert_as_replayed(connection, settings) == 7


def test_a_visitor_who_returns_after_being_forgotten_leaves_no_identifier_behind(
    settings: Settings, connection: redis.Redis
) -> None:
    # given a visitor with two identifiers, and one who comes three days later with one of them
    store(connection, ACME, [days_ago(3, "event=login&uid=u&tag_id=old"), days_ago(0, "event=login&uid=u")])
    # when that is tracked
    track_all(connection, settings)
    # then the other one leads to nobody
    assert identifiers(connection) == {"u"} and connection.hlen(PLACE.visitors) == 1
    assert_as_replayed(connection, settings)


def test_caps_of_a_day_that_is_over_go_with_the_next_commit(settings: Settings, connection: redis.Redis) -> None:
    # given sales that reached a daily cap two days ago
    store(connection, ACME, [days_ago(2, f"event=sale&uid=u{n}&affiliate=best&amount=5") for n in range(3)])
    track_all(connection, settings)
    before: Any = connection.hgetall(PLACE.caps)
    # when one comes today
    store(connection, ACME, [days_ago(0, "event=sale&uid=u9&affiliate=best&amount=5")])
    track_all(connection, settings)
    # then only today's is left
    after: Any = connection.hgetall(PLACE.caps)
    assert len(before) == 1 and list(before.values()) == [b"3"]
    assert len(after) == 1 and list(after.values()) == [b"1"]
    assert_as_replayed(connection, settings)


def test_a_step_looks_at_a_few_and_the_steps_get_round(settings: Settings, connection: redis.Redis) -> None:
    # given more forgotten visitors than a step looks at
    count = 5 * sweep.STEP
    for start in range(0, count, 200):
        store(connection, ACME, [days_ago(9, f"event=login&uid=u{n}") for n in range(start, start + 200)])
    store(connection, ACME, [days_ago(0, "event=login&uid=now")])
    track_all(connection, settings)
    left = int(connection.hlen(PLACE.visitors))
    # when it is swept once, then no more than a few are gone
    assert 0 < swept(settings, connection) < 2 * 2 * sweep.STEP < 2 * left
    # and after some steps all
    swept(settings, connection, times=40)
    assert identifiers(connection) == {"now"}


def test_a_sweep_by_somebody_who_lost_the_partition_deletes_nothing(
    settings: Settings, connection: redis.Redis
) -> None:
    # given a forgotten visitor, and a holder that has been replaced
    store(connection, ACME, [days_ago(9, "event=login&uid=u"), days_ago(0, "event=login&uid=now")])
    track_all(connection, settings)
    before: Any = connection.hlen(PLACE.visitors)
    one = Sweep(connection)
    # when it sweeps, then nothing goes
    assert one.step(PLACE, 10**9, load(RULES), NOW_US + 30 * DAY_US) == 0
    assert connection.hlen(PLACE.visitors) == before


def test_the_oldest_of_too_many_writers_go(settings: Settings, connection: redis.Redis) -> None:
    # given more writers than are remembered
    for n in range(sweep.WRITERS + 7):
        connection.hset(PLACE.writers, f"{0x65000000 + n:x}-a-b", "3")
    store(connection, ACME, [days_ago(0, "event=login&uid=now")], writer=f"{0x66000000:x}-a-b")
    # when it is swept
    track_all(connection, settings)
    swept(settings, connection)
    # then the newest are left
    left: Any = connection.hkeys(PLACE.writers)
    assert len(left) == sweep.WRITERS and b"66000000-a-b" in left and b"65000000-a-b" not in left


def test_tracking_sweeps_while_it_works(settings: Settings, connection: redis.Redis) -> None:
    # given visitors that were forgotten long ago, in a partition that was decided
    store(connection, ACME, [days_ago(9, f"event=login&uid=u{n}") for n in range(20)])
    store(connection, ACME, [days_ago(0, "event=login&uid=now")])
    track_all(connection, settings)
    # when tracking comes by again
    store(connection, ACME, [days_ago(0, "event=login&uid=now")])
    track_all(connection, settings)
    # then they are gone
    assert identifiers(connection) == {"now"}
    assert_as_replayed(connection, settings)


def test_counters_of_days_that_the_tables_keep_no_more_go_and_a_recount_still_proves_the_others(
    settings: Settings, connection: redis.Redis
) -> None:
    # given events of four days, all of them counted and archived, and tables that keep today and the two days before it
    store(connection, ACME, [days_ago(days, f"event=login&uid=u{days}") for days in (5, 3, 2, 1, 0)])
    track_all(connection, settings)
    Archiver(connection, settings.tables_path, settings.partitions, 1_000).round()
    kept = msgspec.structs.replace(settings, keep_days=3)
    swept(settings, connection)
    assert len(read_counts(connection, 16)) == 5  # without the setting none goes
    # when the partition is swept
    gone = swept(kept, connection, 3)
    # then the counters of older days are gone, those of the days that are kept are there and are proved
    since = first_kept(NOW_US, 3)
    assert gone == 2 and min(read_counts(connection, 16)) >= since and len(read_counts(connection, 16)) == 3
    assert compared(read_counts(connection, 16), recounted(kept), since) == {}
    assert compared(read_counts(connection, 16), recounted(kept)) != {}
