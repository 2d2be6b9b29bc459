"""Deletes what log time has forgotten and nobody asks for again: visitors who never return, old transactions, dead writers.

A little at a time, beside the commits. What is deleted has been forgotten for as long again as it was remembered, so a
rulebook that makes `remember` up to twice as long finds in the store what a replay finds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import redis

from service.engine import Rulebook
from service.engine.times import iso_time
from service.engine.visitors import Visitor
from service.keys import Partition
from service.scripts import Script
from service.tracking.counters import SEPARATOR

log = logging.getLogger("backtrack.tracking")

EVERY_S = 1.0  # between two steps in a partition
STEP = 200  # visitors and transactions looked at in a step, about
WRITERS = 1_000  # whose last batch is known, the newest; an older spool than that is not to be expected
TIMES_REMEMBERED = 2
DAY_US = 86_400_000_000

_visitor = msgspec.msgpack.Decoder(Visitor).decode


class Sweep:
    """Where the sweep of each partition is, in this process; a new one begins anew. keep_days: of the tables, 0: all."""

    def __init__(self, connection: redis.Redis, keep_days: int = 0) -> None:
        self._redis = connection
        self._keep_days = keep_days
        self._script = Script(connection, "tracking/sweep")
        self._cursors: dict[str, int] = {}
        self._next_s: dict[int, float] = {}

    def step(self, place: Partition, fence: int, rulebook: Rulebook, time_us: int) -> int:
        """Look at a few, unless that was done a moment ago. time_us: log time. Returns how many keys went."""
        now_s = time.monotonic()
        if now_s < self._next_s.get(place.number, 0.0):
            return 0
        self._next_s[place.number] = now_s + EVERY_S
        counts = self._drop_counts(place, time_us)
        oldest_us = {name: time_us - TIMES_REMEMBERED * client.remember_us for name, client in rulebook.clients.items()}
        visitors = self._forgotten(self._scan(place.visitors), oldest_us)
        txids = [
            (key, raw)
            for key, raw in self._scan(place.txids).items()
            if int(raw) < oldest_us.get(key.decode().partition(SEPARATOR)[0], 0)
        ]
        writers = self._dead_writers(place)
        if not (visitors or txids or writers):
            return counts
        owned = [(key, one.id) for one, _ in visitors for key in one.identifiers]
        args: list[Any] = [fence]
        for pairs in ([(one.id, raw) for one, raw in visitors], owned, txids):
            args += [len(pairs), *(part for pair in pairs for part in pair)]
        args += [len(writers), *writers]
        names = [place.fence, place.owners, place.visitors, place.txids, place.writers]
        gone = int(self._script(names, args))
        if gone > 0:
            log.info(
                "partition %d: %d forgotten visitors, %d transactions deleted", place.number, len(visitors), len(txids)
            )
        return max(0, gone) + counts

    def _drop_counts(self, place: Partition, time_us: int) -> int:
        """Counters of days that the tables keep no more: nothing is left that could prove them. Log time never falls, so no
        commit counts there again, whoever holds the partition."""
        if not self._keep_days:
            return 0
        since = iso_time(time_us - (self._keep_days - 1) * DAY_US)[:10].encode()  # as retention's `first_kept`
        old = [field for field in self._scan(place.counts) if field < since]  # a field begins with its hour
        return int(self._redis.hdel(place.counts, *old)) if old else 0

    def _scan(self, key: str) -> dict[bytes, bytes]:
        found: Any = self._redis.hscan(key, self._cursors.get(key, 0), count=STEP)
        self._cursors[key], items = found
        return dict(items)

    def _forgotten(self, stored: dict[bytes, bytes], oldest_us: dict[str, int]) -> list[tuple[Visitor, bytes]]:
        found = []
        for raw in stored.values():
            try:
                visitor = _visitor(raw)
            except msgspec.MsgspecError:
                continue  # set aside when somebody asks for it
            if visitor.last_us < oldest_us.get(_client_of(visitor.identifiers), 0):
                found.append((visitor, raw))
        return found

    def _dead_writers(self, place: Partition) -> list[bytes]:
        """The oldest of too many. Their names begin with the time of their start, in hex."""
        if int(self._redis.hlen(place.writers)) <= WRITERS:
            return []
        names: Any = self._redis.hkeys(place.writers)
        return sorted(names, key=_started_s)[:-WRITERS]


def _client_of(identifiers: Iterable[str]) -> str:
    return next((key.partition(SEPARATOR)[0] for key in identifiers), "")


def _started_s(writer: bytes) -> int:
    try:
        return int(writer.partition(b"-")[0], 16)
    except ValueError:
        return 0
