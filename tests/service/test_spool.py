"""The spool: what is acknowledged while Redis is away arrives later, in order, once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from service.engine import Hit
from service.intake.batch import SpooledBatch
from service.intake.journal import NotStoredError, RedisJournal
from service.intake.spool import Spool, SpoolFullError, orphans
from service.servers import check_journal
from service.settings import Settings
from tests.service.hits import a_hit, comes_true, drained, gaps, logged, logged_hits
from tests.service.ownserver import OwnServer, own_server


def batch(counter: int, partition: int = 0, size: int = 10) -> SpooledBatch:
    return SpooledBatch(partition, "w", counter, [counter, b"x" * size])


def fronts(spool: Spool) -> list[list[int]]:
    """Counters of everything that waits, as it would be drained."""
    found = []
    while len(spool):
        front = spool.front()
        found.append([one.counter for one in front])
        spool.pop([one.partition for one in front])
    return found


# the file


def test_batches_come_back_in_order_and_never_two_of_a_partition_at_once(tmp_path: Path) -> None:
    # given batches of three partitions, appended in three writes
    spool = Spool(tmp_path, "w")
    spool.append([batch(1, 0), batch(2, 1)])
    spool.append([batch(3, 2)])
    spool.append([batch(4, 1), batch(5, 0)])
    spool.append([batch(6, 0), batch(7, 3)])
    # then the front holds the first batch of each partition
    assert fronts(spool) == [[1, 2, 3, 7], [5, 4], [6]]
    spool.append([batch(1, 0)])
    spool.append([batch(2, 0), batch(3, 1)])
    assert fronts(spool) == [[1, 3], [2]]
    # and nothing is left on disk
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_was_empty_starts_a_file_of_another_name(tmp_path: Path) -> None:
    # given a spool that was filled and drained
    spool = Spool(tmp_path, "w")
    spool.append([batch(1)])
    first = spool.path
    spool.pop([0])
    # when it is needed again
    spool.append([batch(2)])
    # then somebody who is about to remove the first file cannot hit the second
    assert spool.path != first and spool.path.is_file() and not first.exists()


@contextlib.contextmanager
def file_size_limit(most_bytes: int) -> Iterator[None]:
    """The kernel writes up to this size and then refuses, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    # given a spool with a batch, and a disk that is nearly full
    spool = Spool(tmp_path, "w")
    spool.append([batch(1)])
    with file_size_limit(3_000):
        # when batches come that do not fit
        for _ in range(2):
            with pytest.raises(SpoolFullError, match="cannot be written"):
                spool.append([batch(2), batch(3, size=5_000)])
        # and one that does
        spool.append([batch(4)])
    spool.append([batch(5)])
    # then the refused ones are gone without a trace
    crashed = copy(spool.path, tmp_path / "crashed")
    assert [one.counter for one in adopted(crashed)] == [1, 4, 5] and list(crashed.iterdir()) == []
    assert fronts(spool) == [[1], [4], [5]]


def test_a_folder_that_vanishes_is_a_full_spool(tmp_path: Path) -> None:
    # given a spool whose folder somebody removes
    spool = Spool(tmp_path / "gone", "w")
    (tmp_path / "gone").rmdir()
    # when a batch comes, then it is refused and nothing breaks
    with pytest.raises(SpoolFullError, match="gone"):
        spool.append([batch(1)])


def test_below_the_floor_nothing_is_taken(tmp_path: Path) -> None:
    # given a floor that no disk has
    spool = Spool(tmp_path, "w", floor_mb=10**9)
    # when a batch comes, then it is refused and nothing is written
    with pytest.raises(SpoolFullError, match="less than 1000000000 MB free"):
        spool.append([batch(1)])
    assert list(tmp_path.iterdir()) == []


# what dead processes leave


def copy(path: Path, folder: Path) -> Path:
    """The file as a crash would leave it: the bytes, and nobody's lock. Returns its folder."""
    folder.mkdir()
    (folder / path.name).write_bytes(path.read_bytes())
    return folder


def adopted(folder: Path) -> list[SpooledBatch]:
    """What an adopter reads; everything is settled."""
    found = []
    for orphan in orphans(folder):
        found += list(orphan.batches())
        orphan.settle()
        orphan.close()
    return found


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="the last byte is missing"),
        pytest.param(lambda data: data + b"\x09", id="the header is torn"),
        pytest.param(lambda data: data + b"\x09\0\0\0\1\2\3\4only", id="the record is torn"),
        pytest.param(lambda data: data + bytes(4096), id="a block of zeros follows"),
        pytest.param(lambda data: data[:-3] + b"???", id="the end is overwritten"),
        pytest.param(lambda data: data + b"\xff\xff\xff\xff\1\2\3\4x", id="a length of four gigabytes"),
    ],
)
def test_a_torn_end_is_no_record_and_is_kept_aside(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    # given a spool of three batches whose end a crash has damaged
    spool = Spool(tmp_path, "w")
    spool.append([batch(1), batch(2), batch(3)])
    folder = copy(spool.path, tmp_path / "crashed")
    file = folder / spool.path.name
    file.write_bytes(damage(file.read_bytes()))
    # when it is adopted
    counters = [one.counter for one in adopted(folder)]
    # then the whole records are read, and what is left is not thrown away
    assert counters in ([1, 2], [1, 2, 3])
    assert [path.suffix for path in folder.iterdir()] == [".torn"]


def test_a_whole_file_is_adopted_and_removed(tmp_path: Path) -> None:
    # given the spool of a process that is dead
    spool = Spool(tmp_path, "w")
    spool.append([batch(1), batch(2, 1)])
    folder = copy(spool.path, tmp_path / "crashed")
    # when it is adopted, then all of it is read and the folder is clean
    assert [(one.counter, one.partition, one.writer) for one in adopted(folder)] == [(1, 0, "w"), (2, 1, "w")]
    assert list(folder.iterdir()) == []


def test_the_spool_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    # given a spool in use
    spool = Spool(tmp_path, "w")
    spool.append([batch(1)])
    # when somebody looks for orphans, then there is none; after its end there is
    assert adopted(tmp_path) == []
    spool.close()
    assert [one.counter for one in adopted(tmp_path)] == [1]


def test_two_adopters_never_hold_the_same_spool(tmp_path: Path) -> None:
    # given an orphan that one adopter holds
    spool = Spool(tmp_path, "w")
    spool.append([batch(1)])
    spool.close()
    held = next(orphans(tmp_path))
    # when another one looks, then it finds nothing
    assert list(orphans(tmp_path)) == []
    held.close()


# with a server that goes away


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnServer]:
    with own_server(tmp_path / "redis") as running:
        check_journal(running.url, 16).close()
        yield running


@pytest.fixture
def own(server: OwnServer, settings: Settings) -> Settings:
    """Settings that lead to a server of the test's own."""
    return msgspec.structs.replace(settings, journal_url=server.url, journal_timeout_ms=250)


@contextlib.asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[RedisJournal]:
    journal = RedisJournal(settings, lambda _: None)
    await journal.start()
    try:
        yield journal
    finally:
        await asyncio.wait_for(journal.stop(), 20)


async def append_all(journal: RedisJournal, hits: list[Hit], partitions: int = 4) -> None:
    await asyncio.gather(*(journal.append(number % partitions, hit) for number, hit in enumerate(hits)))


def numbered(first: int, last: int) -> list[Hit]:
    return [a_hit(f"n={number}") for number in range(first, last)]


def test_what_came_while_redis_was_dead_arrives_in_order_once(server: OwnServer, own: Settings) -> None:
    # given hits in three waves: before, while, and after the server is dead
    waves = [numbered(0, 300), numbered(300, 900), numbered(900, 1200)]

    async def go() -> None:
        async with started(own) as journal:
            await append_all(journal, waves[0])
            server.kill()
            # when the second wave comes, in many small batches
            for start in range(0, 600, 20):
                await append_all(journal, waves[1][start : start + 20])
            assert len(journal.spool) >= 4 and journal.spool.path.is_file()
            # and the server is back, with new hits at its heels
            server.start()
            await append_all(journal, waves[2])
            await drained(journal)
            assert not journal.spool.path.exists()

    asyncio.run(go())
    # then every partition has its hits in the order of their calls
    connection = server.connect()
    for partition in range(4):
        expected = [hit for wave in waves for number, hit in enumerate(wave) if number % 4 == partition]
        assert [entry.hit for entry in logged(connection, partition)] == expected
    assert gaps(connection) == []


def test_a_hit_of_which_nobody_knows_whether_it_arrived_is_there_once(server: OwnServer, own: Settings) -> None:
    async def go() -> list[Hit]:
        async with started(own) as journal:
            await append_all(journal, numbered(0, 8))
            # given a server that reads and does not answer
            hits = numbered(8, 60)
            with server.hanging():
                # when hits come, so that their batches wait both in its sockets and in the spool
                for start in range(0, 52, 4):
                    await append_all(journal, hits[start : start + 4])
                assert len(journal.spool)
            # and it goes on
            await drained(journal)
            return hits

    hits = asyncio.run(go())
    # then it took each of them once
    connection = server.connect()
    stored = [hit.id for hit in logged_hits(connection)]
    assert len(stored) == len(set(stored)) == 60 and {hit.id for hit in hits} <= set(stored)
    assert gaps(connection) == []


def test_a_server_that_hangs_slows_the_first_answers_only(server: OwnServer, own: Settings) -> None:
    async def go() -> list[float]:
        took = []
        async with started(msgspec.structs.replace(own, journal_timeout_ms=1_000)) as journal:
            await journal.append(0, a_hit())
            with server.hanging():
                # when hits come one after the other
                for _ in range(20):
                    began = time.monotonic()
                    await journal.append(0, a_hit())
                    took.append(time.monotonic() - began)
            await drained(journal)
        return took

    # then only the first waits for the time limit
    first, *others = asyncio.run(go())
    assert first > 0.9 and max(others) < 0.5


def test_new_hits_do_not_wait_until_a_long_spool_is_drained(server: OwnServer, own: Settings) -> None:
    async def go() -> None:
        async with started(own) as journal:
            # given a spool of 1,500 batches of one partition, a round trip each
            server.kill()
            for number in range(1_500):
                await journal.append(0, a_hit(f"n={number}"))
            assert len(journal.spool) > 1_000
            server.start()
            await comes_true(lambda: len(journal.spool) < 1_500, "the drain to begin")
            # when a hit comes
            await journal.append(0, a_hit("n=new"))
            # then it is answered while most of the spool still waits, behind which it lies
            assert len(journal.spool) > 100
            await drained(journal)

    asyncio.run(go())
    connection = server.connect()
    queries = [hit.query for hit in logged_hits(connection)]
    assert queries == [b"n=%d" % number for number in range(1_500)] + [b"n=new"]


def test_hits_that_no_disk_takes_are_not_promised(server: OwnServer, own: Settings) -> None:
    async def go() -> None:
        async with started(msgspec.structs.replace(own, spool_floor_mb=10**9)) as journal:
            # given a dead server and a full disk
            server.kill()
            # when a hit comes, then it is refused at once
            with pytest.raises(NotStoredError):
                await asyncio.wait_for(journal.append(0, a_hit("n=lost")), 5)
            # and when the server is back, the next one is stored
            server.start()
            await journal.append(0, a_hit("n=kept"))

    asyncio.run(go())
    assert [hit.query for hit in logged_hits(server.connect())] == [b"n=kept"]


def test_a_spool_folder_that_is_gone_refuses_hits_and_hangs_nobody(server: OwnServer, own: Settings) -> None:
    async def go() -> None:
        async with started(own) as journal:
            # given a dead server and a spool folder that somebody has removed
            server.kill()
            own.spool_path.rmdir()
            # when hits come, then each is refused
            for _ in range(2):
                with pytest.raises(NotStoredError):
                    await asyncio.wait_for(journal.append(0, a_hit()), 5)
            # and when the folder is back, taken
            own.spool_path.mkdir()
            await asyncio.wait_for(journal.append(0, a_hit()), 5)
            assert len(journal.spool) == 1

    asyncio.run(go())


CHILD = """
import asyncio, sys
from service.intake.journal import RedisJournal
from service.settings import from_environment
from tests.service.hits import a_hit
import os

async def go():
    journal = RedisJournal(from_environment(os.environ), print)
    await journal.start()
    for number in range(50):
        hit = a_hit(f"n={number}")
        await journal.append(number % 3, hit)
        print(hit.id, flush=True)
    await asyncio.Event().wait()

asyncio.run(go())
"""


def test_a_killed_process_leaves_its_hits_to_the_next(server: OwnServer, own: Settings) -> None:
    # given a process that has acknowledged 50 hits while the server was dead, and is killed
    server.kill()
    environment = {**os.environ, **own.environment()}
    child = subprocess.Popen([sys.executable, "-c", CHILD], env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    promised = [child.stdout.readline().strip() for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    server.start()

    # when another one starts
    async def go() -> None:
        async with started(own):
            await comes_true(lambda: not list(own.spool_path.glob("*.spool")), "the spool to be adopted")

    asyncio.run(go())
    # then the journal holds what was promised, in order
    connection = server.connect()
    for partition in range(3):
        stored = [entry.hit.id for entry in logged(connection, partition) if entry.hit is not None]
        assert stored == promised[partition::3]


def test_the_spool_of_an_ended_process_is_adopted_by_one_that_runs_already(server: OwnServer, own: Settings) -> None:
    async def go() -> None:
        # given two processes, of which one ends while its hits wait
        async with started(own):
            async with started(own) as ending:
                server.kill()
                await append_all(ending, numbered(0, 12))
            assert len(list(own.spool_path.glob("*.spool"))) == 1
            # when the server is back
            server.start()
            # then the other one takes them over
            await comes_true(lambda: not list(own.spool_path.glob("*.spool")), "the spool to be adopted")

    asyncio.run(go())
    assert len(logged_hits(server.connect())) == 12


def test_a_server_that_is_full_is_away_until_it_has_room(server: OwnServer, own: Settings) -> None:
    connection = server.connect()

    async def go() -> None:
        async with started(own) as journal:
            await journal.append(0, a_hit("n=1"))
            # given a server without memory
            connection.config_set("maxmemory", "1")
            # when hits come
            await journal.append(0, a_hit("n=2"))
            await journal.append(0, a_hit("n=3"))
            # then they wait in the spool until it has some again
            assert len(journal.spool) == 2
            connection.config_set("maxmemory", "0")
            await drained(journal)

    asyncio.run(go())
    assert [hit.query for hit in logged_hits(connection)] == [b"n=1", b"n=2", b"n=3"]
