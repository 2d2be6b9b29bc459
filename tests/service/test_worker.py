"""Workers as processes: killed, they are replaced; asked to end, they end; what nobody was woken for gets done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dramatiq
import msgspec
import pytest
import redis

from service import keys
from service.archive import tables
from service.backlog import backlog
from service.servers import check_journal
from service.settings import Settings
from service.wakeups import make_broker
from service.worker import reconcile, start
from tests.service.hits import a_hit
from tests.service.ownserver import own_server
from tests.service.partitions import RULES, assert_as_replayed, decided, put_in_force, store_all
from tests.waiting import until

PLACES = keys.partitions(16)


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, settings.partitions)
    put_in_force(opened, RULES, 1)
    yield opened
    opened.close()


class Workers:
    """Worker processes that do not outlive their test."""

    def __init__(self, settings: Settings, queues: str = "tracking,archive") -> None:
        self.settings = settings
        self.queues = queues
        self.log = settings.var / "worker.log"
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        """Start one; it may take a second until it works."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "worker", "--queues", self.queues],
                env={**os.environ, **self.settings.environment()}, stdout=log, stderr=log,
            )  # fmt: skip
        self.running.append(process)
        return process

    def ready(self, count: int = 1) -> None:
        """Wait until so many have said that they are ready."""
        until(
            lambda: self.log.exists() and self.log.read_text().count("worker ready") >= count,
            f"a worker; see {self.log}",
        )


@pytest.fixture
def workers(settings: Settings) -> Iterator[Workers]:
    found = Workers(settings)
    yield found
    for process in found.running:
        process.kill()
        process.wait(10)


def sales(first: int, last: int) -> list[bytes]:
    return [b"client=acme&event=sale&uid=u%d&amount=5&affiliate=best" % (n % 50) for n in range(first, last)]


def put(connection: redis.Redis, first: int, last: int) -> None:
    """Store sales in the journal; nobody is woken."""
    store_all(connection, [a_hit(query.decode()) for query in sales(first, last)])


def tracked(connection: redis.Redis) -> int:
    """How many decisions have been made."""
    return sum(len(decided(connection, place.number)) for place in PLACES)


def holder(connection: redis.Redis) -> bool:
    """Whether somebody is at work on some partition."""
    return any(connection.exists(place.lease) for place in PLACES)


def test_a_worker_finds_what_nobody_was_woken_for(connection: redis.Redis, workers: Workers) -> None:
    # given hits for which no message was sent
    put(connection, 0, 100)
    # when a worker starts
    workers.start()
    # then it decides and archives them all
    until(lambda: backlog(connection, 16).to_decide == backlog(connection, 16).to_archive == 0, "the work to be done")
    assert archived_once(workers.settings) == 100


def archived_once(settings: Settings) -> int:
    """Number of decisions in the table. Fails if one is there twice."""
    table = tables.open_table(settings.tables_path, "decisions")
    assert table is not None
    ids = table.to_pyarrow_table().column("hit_id").to_pylist()
    assert len(ids) == len(set(ids))
    return len(ids)


def test_a_worker_that_is_killed_in_mid_work_holds_nobody_up(settings: Settings, connection: redis.Redis) -> None:
    # given a worker that holds a partition and does not let go, another one, and work that takes a while
    small = msgspec.structs.replace(settings, batch_hits=2, linger_ms=60_000)
    pool = Workers(small, "tracking")
    put(connection, 0, 20)
    try:
        first = pool.start()
        until(lambda: tracked(connection) == 20, "the first worker to be at work")
        pool.start()
        pool.ready(2)
        put(connection, 20, 1_200)
        until(lambda: tracked(connection) > 100, "the work to go on")
        # when the first is killed with SIGKILL while it is under way
        first.kill()
        first.wait(10)
        killed_at = time.monotonic()
        done = tracked(connection)
        assert done < 1_200
        # then the other one takes the partition within five seconds, and ends the work
        until(lambda: tracked(connection) > done, "the partition to move on")
        assert time.monotonic() - killed_at < 5
        until(lambda: backlog(connection, 16).to_decide == 0, "the work to be done", timeout_s=40)
    finally:
        for process in pool.running:
            process.kill()
            process.wait(10)
    # and every decision was made once
    assert assert_as_replayed(connection, settings) == 1_200


def test_a_lone_worker_that_is_killed_is_replaced_by_the_next(connection: redis.Redis, workers: Workers) -> None:
    # given a worker that lingers on a partition, and is killed there
    workers.queues = "tracking"
    first = workers.start()
    put(connection, 0, 50)
    until(lambda: tracked(connection) == 50 and holder(connection), "the worker to be at work")
    first.kill()
    first.wait(10)
    put(connection, 50, 60)
    # when the next one starts
    workers.start()
    workers.ready(2)
    ready_at = time.monotonic()
    # then it takes the partition as soon as the lease of the dead one has run out
    until(lambda: tracked(connection) == 60, "the partition to move on")
    assert time.monotonic() - ready_at < 5
    assert_as_replayed(connection, workers.settings)


def test_a_worker_that_is_asked_to_end_ends_in_time_with_everything_in_place(
    connection: redis.Redis, workers: Workers
) -> None:
    # given a worker with all queues in the middle of its work
    workers.queues = "tracking,delivery,archive"
    process = workers.start()
    put(connection, 0, 2_000)
    until(lambda: 0 < tracked(connection) < 2_000, "the work to begin")
    # when it is asked to end
    process.send_signal(signal.SIGTERM)
    asked_at = time.monotonic()
    # then it ends with status 0 within five seconds, and has let go of everything
    assert process.wait(20) == 0
    assert time.monotonic() - asked_at < 5
    assert not holder(connection) and not connection.exists(keys.ARCHIVE_LEASE)
    assert "Traceback" not in workers.log.read_text()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_ends_in_time_although_the_broker_is_away(
    settings: Settings, connection: redis.Redis, tmp_path: Path, sign: signal.Signals
) -> None:
    with own_server(tmp_path / "broker") as broker:
        # given a worker with all queues at work, and a broker that is dead or hangs
        pool = Workers(msgspec.structs.replace(settings, broker_url=broker.url), "tracking,delivery,archive")
        process = pool.start()
        try:
            put(connection, 0, 200)
            until(lambda: connection.exists(keys.ARCHIVE_LEASE) and tracked(connection) > 0, "the work to begin")
            broker.send(sign)
            put(connection, 200, 2_000)
            # when it is asked to end
            process.terminate()
            asked_at = time.monotonic()
            # then it ends with status 0 within eight seconds, and has let go of everything
            assert process.wait(20) == 0
            assert time.monotonic() - asked_at < 8
            assert not holder(connection) and not connection.exists(keys.ARCHIVE_LEASE)
        finally:
            process.kill()
            process.wait(10)


def test_a_worker_survives_that_its_servers_go_away(settings: Settings, tmp_path: Path) -> None:
    with own_server(tmp_path / "journal") as journal, own_server(tmp_path / "broker") as broker:
        own = msgspec.structs.replace(settings, journal_url=journal.url, broker_url=broker.url)
        connection = check_journal(own.journal_url, 16)
        put_in_force(connection, RULES, 1)
        workers = Workers(own, "tracking,archive")
        process = workers.start()
        workers.ready()
        try:
            # given a worker whose servers both die and come back
            for server in (journal, broker):
                server.kill()
            until(lambda: "the journal" in workers.log.read_text(), "the worker to notice")
            for server in (broker, journal):
                server.start()
            # when there is work
            with contextlib.suppress(redis.ConnectionError):
                connection.ping()
            put(connection, 0, 20)
            # then the same process does it
            until(lambda: backlog(connection, 16).to_decide == backlog(connection, 16).to_archive == 0, "the work", 30)
            assert process.poll() is None
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait(10)
            connection.close()


class RecordingWakeups:
    """Wake-ups that are kept instead of sent."""

    def __init__(self) -> None:
        self.partitions: list[int] = []
        self.others: list[str] = []

    def track(self, partitions: list[int]) -> None:
        self.partitions += partitions

    def deliver(self) -> None:
        self.others.append("deliver")

    def archive(self) -> None:
        self.others.append("archive")


def test_the_reconciler_goes_on_whatever_it_meets(
    settings: Settings, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # given a partition with work, and a key that is not what it should be
    put(connection, 0, 5)
    number = next(place.number for place in PLACES if connection.hget(place.head, "seq") == b"6")
    connection.set(keys.Partition(9).tracked, "?")
    wakeups, stopping = RecordingWakeups(), threading.Event()
    quick = msgspec.structs.replace(settings, reconcile_ms=10)
    arguments = (quick, wakeups, ("tracking", "delivery", "archive"), lambda: False, stopping)
    thread = threading.Thread(target=reconcile, args=arguments)
    thread.start()
    try:
        # when it has met that, and the key is put right
        until(lambda: "the reconciler waits" in caplog.text, "the reconciler to say so")
        connection.delete(keys.Partition(9).tracked)
        # then the reconciler is still there, and wakes whoever has work
        until(lambda: number in wakeups.partitions and {"deliver", "archive"} <= set(wakeups.others), "the wake-ups")
    finally:
        stopping.set()
        thread.join(10)


def test_nobody_polls_for_delayed_messages(settings: Settings) -> None:
    # given a broker with our queues
    broker = make_broker(settings)
    for queue in ("tracking", "delivery", "archive"):
        broker.declare_queue(queue)
    # when the threads of a worker start
    worker = start(broker, settings, ("tracking", "archive"))
    try:
        # then each chosen queue has one poller
        assert sorted(worker.consumers) == ["archive", "tracking"]
    finally:
        worker.stop(5_000)
        broker.close()


def test_a_wake_up_is_picked_up_soon(settings: Settings) -> None:
    # given an idle worker
    broker = make_broker(settings)
    came = threading.Event()
    dramatiq.actor(came.set, broker=broker, queue_name="tracking", actor_name="hear")
    worker = start(broker, settings, ("tracking",))
    delays = []
    try:
        for _ in range(10):
            # when a message is sent
            came.clear()
            sent = time.monotonic()
            broker.enqueue(dramatiq.Message("tracking", "hear", (), {}, {}))
            assert came.wait(5)
            delays.append(time.monotonic() - sent)
        # then half of them come within the poll of 50 ms, and a bit
        assert sorted(delays)[5] < 0.15
    finally:
        worker.stop(5_000)
        broker.close()
