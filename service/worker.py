"""Composition root of a worker process: dramatiq workers for the chosen queues, and the reconciler beside them."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence

import dramatiq
import redis
from dramatiq import Worker

from service import epochs, keys
from service.archive import actor as archive_actor
from service.archive import tables
from service.delivery import actor as delivery_actor
from service.processes import collect_garbage_rarely, few_arenas, when_told_to_end
from service.scripts import Script
from service.servers import check_broker, check_journal, client
from service.settings import Settings, make_writable
from service.tracking import actor as tracking_actor
from service.wakeups import ARCHIVE, DELIVERY, QUEUES, TRACKING, WORKER_TIMEOUT_MS, UnderWay, Wakeups, make_broker

log = logging.getLogger("backtrack.worker")

STOP_TIMEOUT_MS = 25_000
AWAY_TIMEOUT_MS = 500  # for what only tells the broker that messages are done
THREAD_TIMEOUT_S = 0.5
SWITCH_INTERVAL_S = 0.001  # one thread that makes rows of the tables must not hold up all who wait for an answer


def run(settings: Settings, queues: Sequence[str] = QUEUES) -> None:
    """Work until SIGTERM or SIGINT, then finish what is under way.

    Raises ServerError for a server, SettingsError for a folder and TableError for a table that cannot be used.
    """
    few_arenas()
    check_journal(settings.journal_url, settings.partitions).close()
    check_broker(settings.broker_url).close()
    make_writable(settings.tables_path)
    for name in tables.TABLES:
        tables.open_table(settings.tables_path, name)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    collect_garbage_rarely()
    stopping = threading.Event()
    when_told_to_end(stopping.set)
    broker = make_broker(settings)
    wakeups = Wakeups(settings, broker)
    tracking_actor.register(broker, settings, wakeups, stopping.is_set)
    delivering = delivery_actor.register(broker, settings, stopping.is_set)
    archive_actor.register(broker, settings, stopping.is_set)
    under_way = UnderWay()
    broker.add_middleware(under_way)
    worker = start(broker, settings, queues)
    log.info("worker ready: %s", ", ".join(queues))
    if settings.allow_addresses:
        log.warning("postbacks may go to internal addresses in %s", settings.allow_addresses)
    try:
        reconcile(settings, wakeups, queues, delivering, stopping)
    finally:
        stopping.set()
        stop(worker, settings, under_way)
        broker.close()
    log.info("worker ended")


def stop(worker: Worker, settings: Settings, under_way: UnderWay) -> None:
    """Let the actors end; then the threads, without waiting for a broker that is away: the library would ask it for ever to
    take back messages that mean nothing any more."""
    under_way.wait_for_all(STOP_TIMEOUT_MS / 1000)
    worker.stop(timeout=AWAY_TIMEOUT_MS if _is_away(settings.broker_url) else STOP_TIMEOUT_MS)


def _is_away(url: str) -> bool:
    try:
        with client(url, timeout_s=1.0) as connection:
            return not connection.ping()
    except (redis.RedisError, OSError):
        return True


def start(broker: dramatiq.Broker, settings: Settings, queues: Sequence[str]) -> Worker:
    """The threads that take messages. Made to rest well: nobody sends delayed messages, so nobody looks for them; a thread
    that waits for a message is told when one comes, so only the pollers have to wake often."""
    broker.delay_queues.clear()
    worker = Worker(
        broker, queues=set(queues), worker_timeout=WORKER_TIMEOUT_MS, worker_threads=settings.worker_threads
    )
    worker.start()
    for thread in worker.workers:
        thread.timeout = THREAD_TIMEOUT_S
    return worker


def reconcile(
    settings: Settings,
    wakeups: Wakeups,
    queues: Sequence[str],
    delivering: Callable[[], bool],
    stopping: threading.Event,
) -> None:
    """Look again and again for work that nobody was woken for: lost messages, dead actors, a broker that forgot."""
    connection = epochs.journal_client(settings)
    complaint = ""
    while not stopping.is_set():
        try:
            if TRACKING in queues:
                wakeups.track(forgotten(connection, settings.partitions))
            if DELIVERY in queues and not delivering():
                wakeups.deliver()
            if ARCHIVE in queues and not connection.exists(keys.ARCHIVE_LEASE):
                wakeups.archive()
            complaint = ""
        except (redis.RedisError, OSError) as error:  # whatever it is, the worker must not end over it
            if not complaint:
                log.warning("the reconciler waits for the journal: %s", error)
            complaint = str(error)
        stopping.wait(settings.reconcile_ms / 1000)


def forgotten(connection: redis.Redis, partitions: int) -> list[int]:
    """Partitions whose journal is ahead of tracking and that no actor holds."""
    names = [name for place in keys.partitions(partitions) for name in (place.head, place.tracked, place.lease)]
    found: list[int] = Script(connection, "tracking/forgotten")(names, [])
    return found
