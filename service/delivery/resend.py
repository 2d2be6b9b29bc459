"""Sending postbacks again: one, those that a filter finds, or everything that was given up.

The id stays, tries are numbered on, the ladder begins anew. Nothing swallows a resend, not even a delivery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc
import redis

from service import keys
from service.archive import tables
from service.archive.schemas import Attempt, moment, postback_of
from service.engine.model import Postback, PostbackState
from service.keys import Partition
from service.scripts import Script

_encode = msgspec.msgpack.Encoder().encode
_postback = msgspec.msgpack.Decoder(Postback).decode
_attempt = msgspec.msgpack.Decoder(Attempt).decode


class Wanted(msgspec.Struct, frozen=True):
    """Which postbacks: all that fit everything that is given. ids: empty for any. dead: only those that were given up."""

    ids: frozenset[str] = frozenset()
    recipient: str = ""
    trigger: str = ""
    since_us: int = 0
    until_us: int = 0
    dead: bool = False

    def fits(self, postback: Postback) -> bool:
        """Whether a postback is wanted. One that was never to be sent is not."""
        return (
            postback.state == PostbackState.DUE.value
            and (not self.ids or postback.id in self.ids)
            and self.recipient in ("", postback.recipient)
            and self.trigger in ("", postback.trigger)
            and postback.time_us >= self.since_us
            and (not self.until_us or postback.time_us < self.until_us)
        )


class Resender:
    """Finds postbacks in the journal's Redis and in the tables, and makes them due."""

    def __init__(self, connection: redis.Redis, partitions: int, root: Path) -> None:
        self._redis = connection
        self._places = {place.number: place for place in keys.partitions(partitions)}
        self._root = root
        self._resend = Script(connection, "delivery/resend")

    def find(self, wanted: Wanted) -> list[tuple[Partition, Postback]]:
        """The postbacks that are wanted, each once, in the order of their times."""
        found: dict[str, tuple[Partition, Postback]] = {}
        sources = [self._dead()] if wanted.dead else [self._promised(), self._archived(wanted)]
        for source in sources:
            for place, postback in source:
                if wanted.fits(postback):
                    found.setdefault(postback.id, (place, postback))
        return sorted(found.values(), key=lambda one: one[1].time_us)

    def resend(self, found: Iterable[tuple[Partition, Postback]]) -> Counter[str]:
        """Make them due. Returns how many were resent, due anyway, waiting for their recipient, or under way."""
        found = list(found)
        last = self._last_numbers({postback.id for _, postback in found})
        said: Counter[str] = Counter()
        for place, postback in found:
            names = [place.due, place.promises, place.tries, place.inflight, place.bases, place.dead, place.ended]
            args = [postback.id, _encode(postback), last.get(postback.id, 0), f"{place.number}/{postback.id}"]
            said[self._resend([*names, keys.room(postback.recipient)], args).decode()] += 1
        return said

    def _dead(self) -> Iterator[tuple[Partition, Postback]]:
        for place in self._places.values():
            ids: Any = self._redis.zrange(place.dead, 0, -1)
            for start in range(0, len(ids), 500):
                values: Any = self._redis.hmget(place.promises, ids[start : start + 500])
                yield from ((place, _postback(value)) for value in values if value is not None)

    def _promised(self) -> Iterator[tuple[Partition, Postback]]:
        for place in self._places.values():
            for _, value in self._redis.hscan_iter(place.promises, count=500):
                yield place, _postback(value)
            for _, fields in self._items(place.postbacks):
                yield place, _postback(fields[b"p"])

    def _archived(self, wanted: Wanted) -> Iterator[tuple[Partition, Postback]]:
        table = tables.open_table(self._root, "postbacks")
        if table is None:
            return
        field, rows = pc.field, table.to_pyarrow_dataset()
        tests = [field("state") == PostbackState.DUE.value]
        if wanted.ids:
            tests.append(field("postback_id").isin(sorted(wanted.ids)))
        for name, value in (("recipient", wanted.recipient), ("trigger", wanted.trigger)):
            if value:
                tests.append(field(name) == value)
        if wanted.since_us:
            tests.append(field("time") >= moment(wanted.since_us))
        condition = tests[0]
        for test in tests[1:]:
            condition &= test
        for batch in rows.to_batches(filter=condition):
            for row in batch.to_pylist():
                yield self._places[row["partition"]], postback_of(row | {"seq": row.get("seq") or 0})

    def _last_numbers(self, ids: set[str]) -> dict[str, int]:
        """The highest number of a try that tables and streams know, per postback."""
        last: dict[str, int] = {}

        def note(identity: str, number: int) -> None:
            last[identity] = max(last.get(identity, 0), number)

        table = tables.open_table(self._root, "attempts")
        if table is not None and ids:
            wanted = pc.field("postback_id").isin(sorted(ids))
            for batch in table.to_pyarrow_dataset().to_batches(columns=["postback_id", "number"], filter=wanted):
                for row in batch.to_pylist():
                    note(row["postback_id"], row["number"])
        for place in self._places.values():
            for _, fields in self._items(place.attempts):
                attempt = _attempt(fields[b"a"])
                if attempt.postback_id in ids:
                    note(attempt.postback_id, attempt.number)
        return last

    def _items(self, stream: str) -> Iterator[Any]:
        """What the archive has not trimmed yet."""
        start = "-"
        while True:
            items: Any = self._redis.xrange(stream, min=start, count=1_000)
            if not items:
                return
            yield from items
            start = f"({items[-1][0].decode()}"
