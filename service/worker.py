"""Composition root of a worker process: dramatiq workers for the chosen queues, and the reconciler beside them."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Sequence

import redis
from dramatiq import Worker

from service import keys
from service.archive import actor as archive_actor
from service.delivery import actor as delivery_actor
from service.servers import check_broker, check_journal, client, is_away
from service.settings import Settings
from service.tracking import actor as tracking_actor
from service.wakeups import ARCHIVE, DELIVERY, QUEUES, TRACKING, WORKER_TIMEOUT_MS, Wakeups, make_broker

log = logging.getLogger("backtrack.worker")

STOP_TIMEOUT_MS = 25_000


def run(settings: Settings, queues: Sequence[str] = QUEUES) -> None:
    """Work until SIGTERM or SIGINT, then finish what is under way. Raises ServerError if a server cannot be used."""
    check_journal(settings.journal_url, settings.partitions).close()
    check_broker(settings.broker_url).close()
    settings.tables_path.mkdir(parents=True, exist_ok=True)
    stopping = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stopping.set())
    broker = make_broker(settings)
    wakeups = Wakeups(settings, broker)
    tracking_actor.register(broker, settings, wakeups, stopping.is_set)
    delivering = delivery_actor.register(broker, settings, stopping.is_set)
    archive_actor.register(broker, settings, stopping.is_set)
    worker = Worker(
        broker, queues=set(queues), worker_timeout=WORKER_TIMEOUT_MS, worker_threads=settings.worker_threads
    )
    worker.start()
    log.info("worker ready: %s", ", ".join(queues))
    if settings.allow_addresses:
        log.warning("postbacks may go to internal addresses in %s", settings.allow_addresses)
    reconcile(settings, wakeups, queues, delivering, stopping)
    worker.stop(timeout=STOP_TIMEOUT_MS)
    broker.close()
    log.info("worker ended")


def reconcile(
    settings: Settings,
    wakeups: Wakeups,
    queues: Sequence[str],
    delivering: Callable[[], bool],
    stopping: threading.Event,
) -> None:
    """Look again and again for work that nobody was woken for: lost messages, dead actors, a broker that forgot."""
    connection = client(settings.journal_url)
    away = False
    while not stopping.is_set():
        try:
            if TRACKING in queues:
                wakeups.track(forgotten(connection, settings.partitions))
            if DELIVERY in queues and not delivering():
                wakeups.deliver()
            if ARCHIVE in queues and not connection.exists(keys.ARCHIVE_LEASE):
                wakeups.archive()
            away = False
        except (redis.RedisError, OSError) as error:
            if not is_away(error):
                raise
            if not away:
                log.warning("the reconciler waits for the journal: %s", error)
            away = True
        stopping.wait(settings.reconcile_ms / 1000)


def forgotten(connection: redis.Redis, partitions: int) -> list[int]:
    """Partitions whose journal is ahead of tracking and that no actor holds."""
    pipeline = connection.pipeline(transaction=False)
    places = keys.partitions(partitions)
    for place in places:
        pipeline.hget(place.head, "seq")
        pipeline.hget(place.tracked, "seq")
        pipeline.exists(place.lease)
    found = pipeline.execute()
    return [
        place.number
        for place, head, tracked, held in zip(places, found[0::3], found[1::3], found[2::3], strict=True)
        if int(head or 0) > int(tracked or 0) and not held
    ]
