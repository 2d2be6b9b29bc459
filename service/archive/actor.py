"""The dramatiq actor of the archive: one at a time in the whole installation."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import redis
from deltalake.exceptions import DeltaError

from service import epochs, keys
from service.archive.tables import TableError
from service.archive.upkeep import Upkeep
from service.archive.writer import Archiver, GapError, LostError
from service.servers import is_away
from service.settings import Settings
from service.wakeups import ARCHIVE

log = logging.getLogger("backtrack.archive")

TURN_S = 300.0
LEASE_MS = 4_000
STEP_S = 0.1
STAND_STILL_S = 3.0  # below the lease


def register(broker: dramatiq.Broker, settings: Settings, stopping: Callable[[], bool]) -> None:
    """Make the actor `archive` known to a worker's broker."""
    connection = epochs.journal_client(settings, timeout_s=30)
    upkeep = Upkeep(settings)

    def archive() -> None:
        token = secrets.token_hex(8)
        if stopping() or not connection.set(keys.ARCHIVE_LEASE, token, nx=True, px=LEASE_MS):
            return
        try:
            _work(connection, settings, upkeep, token, stopping)
        except LostError as error:
            log.error("%s", error)
            epochs.compare(connection, settings.partitions, settings.tables_path, again=True)
        except (TableError, GapError, DeltaError) as error:
            log.error("the archive stands still: %s", error)
            _pause(STAND_STILL_S, stopping)
        except (redis.RedisError, OSError) as error:
            if not is_away(error):
                raise
            log.warning("the archive waits for the journal: %s", error)
        finally:
            _release(connection, token)

    dramatiq.actor(archive, broker=broker, queue_name=ARCHIVE, actor_name="archive")


def _work(
    connection: redis.Redis, settings: Settings, upkeep: Upkeep, token: str, stopping: Callable[[], bool]
) -> None:
    archiver = Archiver(connection, settings.tables_path, settings.partitions, settings.archive_rows)
    deadline = time.monotonic() + TURN_S
    try:
        while time.monotonic() < deadline and not stopping():
            if not _keep(connection, token):
                return  # it took too long and another one has taken over; the tables tell both how far they are
            started = time.monotonic()
            rows = archiver.round(lambda: not stopping() and _keep(connection, token))
            upkeep.look(rows)
            _pause(started + settings.archive_ms / 1000 - time.monotonic(), stopping)
    finally:
        if stopping():
            upkeep.stop()


def _keep(connection: redis.Redis, token: str) -> bool:
    """Hold the lease for longer; False if it is not ours any more."""
    held: Any = connection.get(keys.ARCHIVE_LEASE)
    return held is not None and held.decode() == token and bool(connection.pexpire(keys.ARCHIVE_LEASE, LEASE_MS))


def _pause(seconds: float, stopping: Callable[[], bool]) -> None:
    """Wait, but not past the end of the process."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stopping():
        time.sleep(min(left, STEP_S))


def _release(connection: redis.Redis, token: str) -> None:
    try:
        held: Any = connection.get(keys.ARCHIVE_LEASE)
        if held is not None and held.decode() == token:
            connection.delete(keys.ARCHIVE_LEASE)
    except (redis.RedisError, OSError):
        pass  # it expires by itself
