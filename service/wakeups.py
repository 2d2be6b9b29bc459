"""Wake-ups: dramatiq messages that say "there is work". The work itself lies in the journal; a lost one costs only time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import TimeLimit

from service.servers import client
from service.settings import Settings

log = logging.getLogger("backtrack.wakeups")

TRACKING, DELIVERY, ARCHIVE = "tracking", "delivery", "archive"
QUEUES = (TRACKING, DELIVERY, ARCHIVE)
WORKER_TIMEOUT_MS = 80
# one who is at work finds new work without being woken: the courier for hours, the archive always
RARE_POLL_MS = {DELIVERY: 500, ARCHIVE: 500}
TIME_LIMIT_MS = 600_000


class Broker(RedisBroker):  # type: ignore[misc]
    """The broker, asked more rarely where nobody waits for the answer: every poll costs two processes."""

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Any:
        """What takes messages from a queue. timeout: milliseconds between polls while none comes."""
        return super().consume(queue_name, prefetch, RARE_POLL_MS.get(queue_name, timeout))


def make_broker(settings: Settings) -> RedisBroker:
    """The broker. A worker's death is noticed within seconds: every poll does the maintenance, heartbeats are short."""
    return Broker(
        client=client(settings.broker_url),  # with time limits: a broker that hangs must hold up nobody
        namespace="backtrack",
        maintenance_chance=1_000_000,
        heartbeat_timeout=2_000,
        middleware=[
            TimeLimit(time_limit=TIME_LIMIT_MS)
        ],  # actors ask for the end themselves, so no Shutdown is raised in them
    )


def message(queue: str, actor: str, args: tuple[Any, ...]) -> dramatiq.Message[Any]:
    """A wake-up for an actor."""
    return dramatiq.Message(queue_name=queue, actor_name=actor, args=args, kwargs={}, options={})


class UnderWay(dramatiq.Middleware):  # type: ignore[misc]
    """Knows how many actors are at work in this process, whatever the broker does with their messages afterwards."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def before_process_message(self, *_: Any) -> None:
        """An actor begins."""
        with self._changed:
            self._count += 1

    def after_process_message(self, *_: Any, **__: Any) -> None:
        """An actor has ended, well or not."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait_for_all(self, seconds: float) -> bool:
        """Whether all have ended within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, seconds)


class Wakeups:
    """Sends wake-ups. An unreachable broker is noted and left to the reconciler."""

    def __init__(self, settings: Settings, broker: RedisBroker | None = None) -> None:
        self._broker = broker or make_broker(settings)
        for queue in QUEUES:
            self._broker.declare_queue(queue)

    def track(self, partitions: Iterable[int]) -> None:
        """Wake the tracking of partitions."""
        for partition in partitions:
            self._send(message(TRACKING, "track", (partition,)))

    def deliver(self) -> None:
        """Wake a delivery actor."""
        self._send(message(DELIVERY, "deliver", ()))

    def archive(self) -> None:
        """Wake the archive."""
        self._send(message(ARCHIVE, "archive", ()))

    def _send(self, wakeup: dramatiq.Message[Any]) -> None:
        try:
            self._broker.enqueue(wakeup)
        except Exception as error:
            log.warning("a wake-up for %s was not sent: %s", wakeup.queue_name, error)
