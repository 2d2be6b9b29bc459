"""The dramatiq actor of tracking: one partition, one actor at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import dramatiq
import redis

from service import epochs, keys
from service.rulebooks import Shelf
from service.servers import is_away
from service.settings import Settings
from service.tracking.sweep import Sweep
from service.tracking.tracker import FencedError, Tracker
from service.wakeups import TRACKING, Wakeups

log = logging.getLogger("backtrack.tracking")


def register(broker: dramatiq.Broker, settings: Settings, wakeups: Wakeups, stopping: Callable[[], bool]) -> None:
    """Make the actor `track` known to a worker's broker."""
    connection = epochs.journal_client(settings, timeout_s=30)
    shelf = Shelf(connection, settings.tables_path)
    sweep = Sweep(connection, settings.keep_days)
    places = keys.partitions(settings.partitions)

    def track(partition: int) -> None:
        if stopping():
            return
        try:
            if Tracker(connection, places[partition], settings, shelf, stopping, sweep).run() and not stopping():
                wakeups.track([partition])
        except FencedError as fenced:
            log.info("partition %d went to another worker: %s", partition, fenced)
        except (redis.RedisError, OSError) as error:
            if not is_away(error):
                raise
            log.warning("partition %d waits for the journal: %s", partition, error)

    dramatiq.actor(track, broker=broker, queue_name=TRACKING, actor_name="track")
