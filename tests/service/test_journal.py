"""The journals: both pass one suite; the one in Redis is asked for more: order, ids, time, group commit, connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from service import keys
from service.engine import Hit
from service.intake.appender import Appender
from service.intake.batch import Batch, SpooledBatch
from service.intake.journal import Journal, MemoryJournal, NotStoredError, RedisJournal
from service.servers import check_journal
from service.settings import Settings
from tests.service.hits import a_hit, drained, gaps, logged, logged_hits
from tests.service.journal_suite import JournalSuite, Opened

Test = Callable[[RedisJournal], Coroutine[Any, Any, None]]


@asynccontextmanager
async def started(settings: Settings, wake: Callable[[list[int]], None] = print) -> AsyncIterator[RedisJournal]:
    """A journal that writes, and that has written everything when it ends."""
    journal = RedisJournal(settings, wake)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.stop()


def run(settings: Settings, body: Test, wake: Callable[[list[int]], None] = lambda _: None) -> None:
    """Run a test's body on a journal."""

    async def go() -> None:
        async with started(settings, wake) as journal:
            await asyncio.wait_for(body(journal), 30)

    asyncio.run(go())


class TestMemoryJournal(JournalSuite):
    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Journal]:
        yield MemoryJournal()

    def open_journal(self) -> Opened:
        return self._opened()

    def read(self, journal: Journal, partition: int) -> list[Hit]:
        assert isinstance(journal, MemoryJournal)
        return journal.hits.get(partition, [])


class TestRedisJournal(JournalSuite):
    @pytest.fixture(autouse=True)
    def _servers(self, settings: Settings) -> Iterator[None]:
        self._settings = settings
        self._connection = check_journal(settings.journal_url, settings.partitions)
        yield
        self._connection.close()

    def open_journal(self) -> Opened:
        return started(self._settings)

    def read(self, journal: Journal, partition: int) -> list[Hit]:
        return [entry.hit for entry in logged(self._connection, partition) if entry.hit is not None]


@pytest.fixture
def redis_journal(settings: Settings) -> Iterator[redis.Redis]:
    """The journal's Redis, ready to be used."""
    connection = check_journal(settings.journal_url, settings.partitions)
    yield connection
    connection.close()


def scripts_run(connection: redis.Redis) -> int:
    """How often a script was called since the statistics were reset."""
    found: Any = connection.info("commandstats")
    return int(found.get("cmdstat_evalsha", {}).get("calls", 0))


def test_many_writers_at_once_leave_no_gap_and_no_double(settings: Settings, redis_journal: redis.Redis) -> None:
    async def go() -> list[Hit]:
        # given four writers
        async with (
            started(settings) as a, started(settings) as b, started(settings) as c, started(settings) as d,
        ):  # fmt: skip
            writers = [a, b, c, d]
            hits = [a_hit(f"n={number}") for number in range(2000)]
            # when all of them append to all partitions at once
            await asyncio.gather(*(writers[n % 4].append(n % 16, hit) for n, hit in enumerate(hits)))
            return hits

    hits = asyncio.run(go())
    # then each hit is there once, and each partition counts 1, 2, 3, ...
    stored = [hit.id for hit in logged_hits(redis_journal)]
    assert sorted(stored) == sorted(hit.id for hit in hits)
    assert gaps(redis_journal) == []


def test_hits_of_one_moment_share_their_round_trips(settings: Settings, redis_journal: redis.Redis) -> None:
    async def body(journal: RedisJournal) -> None:
        # given a script that the server knows
        await journal.append(0, a_hit())
        redis_journal.config_resetstat()
        # when 600 hits come at once
        await asyncio.gather(*(journal.append(0, a_hit()) for _ in range(600)))
        # then they went in batches of 256, and not one by one
        assert scripts_run(redis_journal) == 3

    run(settings, body)


def batch_of(hits: list[Hit], counter: int, writer: str = "w", partition: int = 0) -> SpooledBatch:
    """A batch with an id of our choice."""
    args: list[bytes | int] = []
    for hit in hits:
        args += [hit.received_at_us, msgspec.msgpack.encode(hit)]
    return SpooledBatch(partition, writer, counter, args)


def send(settings: Settings, *batches: SpooledBatch) -> list[list[SpooledBatch]]:
    """Append batches one after the other; what each time did not arrive."""

    async def go() -> list[list[SpooledBatch]]:
        appender = Appender(settings, lambda _: None)
        left = [await appender.append([batch]) for batch in batches]
        await appender.connection.aclose()
        return left

    return asyncio.run(go())


def test_a_batch_that_is_sent_twice_is_appended_once(settings: Settings, redis_journal: redis.Redis) -> None:
    # given a batch of two hits
    batch = batch_of([a_hit("n=1"), a_hit("n=2")], counter=1)
    # when it is sent twice
    left = send(settings, batch, batch)
    # then both times it is said to be there, and it is there once
    assert left == [[], []]
    assert [hit.query for hit in logged_hits(redis_journal)] == [b"n=1", b"n=2"]


def test_a_batch_below_the_last_one_of_its_writer_is_taken_for_an_old_one(
    settings: Settings, redis_journal: redis.Redis
) -> None:
    # given batch 5 of writer w
    send(settings, batch_of([a_hit("n=5")], counter=5))
    # when its batch 4, another partition's batch 4, and another writer's batch 4 come
    send(
        settings,
        batch_of([a_hit("n=4")], counter=4),
        batch_of([a_hit("n=4p")], counter=4, partition=1),
        batch_of([a_hit("n=4v")], counter=4, writer="v"),
    )
    # then only the first of them is dropped
    assert [hit.query for hit in logged_hits(redis_journal)] == [b"n=5", b"n=4v", b"n=4p"]


def test_log_time_never_falls_and_never_runs_ahead_of_the_server(
    settings: Settings, redis_journal: redis.Redis
) -> None:
    # given hits whose clocks go back, forth, and a day into the future
    now = time.time_ns() // 1000
    clocks = [now - 5_000_000, now - 9_000_000, now - 1_000_000, now + 86_400_000_000, now - 3_000_000]
    # when they are appended, in one batch and in another
    send(settings, batch_of([a_hit(received_at_us=t) for t in clocks], 1), batch_of([a_hit(received_at_us=now - 1)], 2))
    # then time follows the clocks where they rise, and ends at the server's
    times = [entry.time_us for entry in logged(redis_journal, 0)]
    assert times[:3] == [now - 5_000_000, now - 5_000_000, now - 1_000_000]
    assert times == sorted(times)
    assert now <= times[3] <= time.time_ns() // 1000 and times[3] == times[4] == times[5]


def test_the_answer_comes_after_the_script_and_not_before(settings: Settings, redis_journal: redis.Redis) -> None:
    async def body(journal: RedisJournal) -> None:
        await journal.append(0, a_hit("n=1"))
        # given a server that holds all writes back
        redis_journal.client_pause(60_000, all=False)
        try:
            # when a hit is appended
            waiting = asyncio.ensure_future(journal.append(0, a_hit("n=2")))
            done, _ = await asyncio.wait({waiting}, timeout=0.3)
            # then nothing is answered, until the server goes on
            assert not done and redis_journal.xlen(keys.Partition(0).journal) == 1
        finally:
            redis_journal.client_unpause()
        await waiting
        assert redis_journal.xlen(keys.Partition(0).journal) == 2

    run(msgspec.structs.replace(settings, journal_timeout_ms=30_000), body)


def test_a_partition_is_woken_once_until_its_flag_is_cleared(settings: Settings, redis_journal: redis.Redis) -> None:
    woken: list[list[int]] = []

    async def body(journal: RedisJournal) -> None:
        # when hits come for partitions 3 and 5, again for 3, and again after its flag was cleared
        await journal.append(3, a_hit())
        await journal.append(5, a_hit())
        await journal.append(3, a_hit())
        redis_journal.delete(keys.Partition(3).wake)
        await journal.append(3, a_hit())
        # then each newly set flag sent one wake-up
        assert woken == [[3], [5], [3]]

    run(settings, body, woken.append)


def test_a_server_that_forgot_the_script_gets_it_again(settings: Settings, redis_journal: redis.Redis) -> None:
    async def body(journal: RedisJournal) -> None:
        # given a server that knew the script
        await journal.append(0, a_hit())
        redis_journal.script_flush()
        # when hits for several partitions come
        await asyncio.gather(*(journal.append(number, a_hit()) for number in range(8)))
        # then they are stored, without the spool
        assert len(logged_hits(redis_journal)) == 9 and len(journal.spool) == 0

    run(settings, body)


def test_a_journal_that_ends_writes_what_waits_and_takes_nothing_more(
    settings: Settings, redis_journal: redis.Redis
) -> None:
    async def go() -> None:
        journal = RedisJournal(settings, lambda _: None)
        await journal.start()
        # given hits that nobody has begun to write
        waiting = [asyncio.ensure_future(journal.append(number % 4, a_hit())) for number in range(600)]
        await asyncio.sleep(0)  # all of them have begun
        # when the journal is told to end
        await asyncio.wait_for(journal.stop(), 20)
        # then all of them are stored and answered, and a later one is refused at once
        await asyncio.gather(*waiting)
        assert len(logged_hits(redis_journal)) == 600
        with pytest.raises(NotStoredError):
            await asyncio.wait_for(journal.append(0, a_hit()), 5)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("setting", "bad", "said"),
    [("appendfsync", "everysec", "appendfsync"), ("maxmemory-policy", "allkeys-lru", "evict")],
)
def test_a_server_that_comes_back_with_settings_that_break_promises_counts_as_away(
    settings: Settings, redis_journal: redis.Redis, setting: str, bad: str, said: str
) -> None:
    good: Any = redis_journal.config_get(setting)

    async def body(journal: RedisJournal) -> None:
        # given a server with such a setting
        redis_journal.config_set(setting, bad)
        try:
            # when a hit comes over a new connection
            await journal.append(0, a_hit())
            # then it lies in the spool and the journal says why
            assert len(journal.spool) == 1 and said in journal.away
        finally:
            redis_journal.config_set(setting, good[setting])
        # and with the setting put right it drains
        await drained(journal)
        assert len(logged_hits(redis_journal)) == 1

    run(settings, body)


def test_a_server_without_its_data_counts_as_away(settings: Settings) -> None:
    async def body(journal: RedisJournal) -> None:
        # given a server that holds no state at all, so that sequences would begin at 1 again
        # when a hit comes
        await journal.append(0, a_hit())
        # then it goes to the spool
        assert len(journal.spool) == 1 and "other state" in journal.away
        # and when the server is itself again, to the journal
        check_journal(settings.journal_url, settings.partitions).close()
        await drained(journal)

    run(settings, body)


def test_a_key_of_the_wrong_type_delays_hits_and_loses_none(settings: Settings, redis_journal: redis.Redis) -> None:
    async def body(journal: RedisJournal) -> None:
        # given a partition whose journal is no stream
        redis_journal.set(keys.Partition(2).journal, "?")
        # when hits come for it and for another one
        hits = [a_hit("n=1"), a_hit("n=2"), a_hit("n=3")]
        await asyncio.gather(journal.append(2, hits[0]), journal.append(7, hits[1]))
        await journal.append(2, hits[2])
        # then the other one's is in the journal, and only those of this one wait, while others still come
        assert len(logged(redis_journal, 7)) == 1 and len(journal.spool) == 2
        await journal.append(7, a_hit("n=4"))
        assert len(logged(redis_journal, 7)) == 2 and len(journal.spool) == 2 and not journal.away
        # and all are in the journal once somebody has put it right
        redis_journal.delete(keys.Partition(2).journal)
        await drained(journal)
        assert [hit.query for hit in logged_hits(redis_journal)] == [b"n=1", b"n=3", b"n=2", b"n=4"]
        assert gaps(redis_journal) == []

    run(settings, body)


def test_what_nobody_has_foreseen_sends_hits_to_the_spool_and_refuses_none(
    settings: Settings, redis_journal: redis.Redis
) -> None:
    woken: list[int] = []

    def wake(numbers: list[int]) -> None:
        woken.extend(numbers)
        raise ValueError("a bug of ours")

    async def body(journal: RedisJournal) -> None:
        # when an append fails in a way that it should not know, after the journal has the hit
        await journal.append(0, a_hit())
        # then the hit is acknowledged, and the journal has it once
        await drained(journal)
        assert len(logged_hits(redis_journal)) == 1 and woken == [0]

    run(settings, body, wake)


def test_the_folder_of_the_spool_appears_with_the_journal(settings: Settings, tmp_path: Path) -> None:
    # given a folder that is not there
    deep = msgspec.structs.replace(settings, var=tmp_path / "a" / "b")

    async def go() -> RedisJournal:
        return RedisJournal(deep, lambda _: None)

    # when a journal is made
    asyncio.run(go())
    # then it is
    assert deep.spool_path.is_dir()


def test_batches_of_hits_measure_their_bytes() -> None:
    async def go() -> None:
        # given a batch
        batch = Batch(0, "w")
        # when hits of 10,000 bytes are added
        batch.add(a_hit(body=b"x" * 10_000))
        batch.add(a_hit(body=b"x" * 10_000))
        # then it knows
        assert batch.count == 2 and 20_000 < batch.bytes < 20_600

    asyncio.run(go())
