"""The dramatiq actor of delivery: one courier at a time in a worker process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine

import dramatiq
import redis

from service.delivery.courier import Courier
from service.servers import is_away
from service.settings import Settings
from service.wakeups import DELIVERY

try:
    import uvloop
except ImportError:  # there is none for Windows
    uvloop = None  # type: ignore[assignment]

log = logging.getLogger("backtrack.delivery")

TURN_S = 43_200.0  # then the courier starts anew, when what is under way has ended; the reconciler wakes it
TIME_LIMIT_MS = 86_400_000  # the broker's own limit would cut a turn off in the middle


def run(work: Coroutine[None, None, None]) -> None:
    """Run a courier on the quick event loop; one that has no uvloop is only slower."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop is not None else None) as runner:
        runner.run(work)


def register(broker: dramatiq.Broker, settings: Settings, stopping: Callable[[], bool]) -> Callable[[], bool]:
    """Make the actor `deliver` known to a worker's broker. Returns whether a courier runs in this process."""
    at_work = threading.Lock()

    def deliver() -> None:
        if stopping() or not at_work.acquire(blocking=False):
            return
        try:
            run(Courier(settings, stopping).run(TURN_S))
        except (redis.RedisError, OSError) as error:
            if not is_away(error):
                raise
            log.warning("delivery waits for the journal: %s", error)
        finally:
            at_work.release()

    dramatiq.actor(deliver, broker=broker, queue_name=DELIVERY, actor_name="deliver", time_limit=TIME_LIMIT_MS)
    return at_work.locked
