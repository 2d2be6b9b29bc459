"""What the tests of the live path share: hits out of a few words, and a look at what lies in the journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import redis

from service import keys
from service.engine import Entry, Hit
from service.intake.ids import new_hit_id
from service.intake.journal import RedisJournal

_hit = msgspec.msgpack.Decoder(Hit).decode


def a_hit(query: str = "client=acme&event=click", *, received_at_us: int | None = None, body: bytes = b"") -> Hit:
    """A hit as the intake makes them."""
    now = time.time_ns() // 1000 if received_at_us is None else received_at_us
    return Hit(new_hit_id(now), now, "e", "POST" if body else "GET", b"/e", query.encode(), body)


def logged(connection: redis.Redis, partition: int) -> list[Entry]:
    """All entries that lie in a partition's journal."""
    found = []
    items: Any = connection.xrange(keys.Partition(partition).journal)
    for item_id, fields in items:
        epoch, _, seq = item_id.decode().partition("-")
        hit = _hit(fields[b"h"]) if b"h" in fields else None
        found.append(Entry(partition, int(epoch), int(seq), int(fields[b"t"]), hit, fields.get(b"r", b"").decode()))
    return found


def logged_hits(connection: redis.Redis, partitions: int = 16) -> list[Hit]:
    """All hits in the journal, partition by partition."""
    return [e.hit for number in range(partitions) for e in logged(connection, number) if e.hit is not None]


def gaps(connection: redis.Redis, partitions: int = 16) -> list[int]:
    """Partitions whose sequence is not 1, 2, 3, ... up to the head."""
    wrong = []
    for place in keys.partitions(partitions):
        numbers = [entry.seq for entry in logged(connection, place.number)]
        head: Any = connection.hget(place.head, "seq")
        if numbers != list(range(1, int(head or 0) + 1)):
            wrong.append(place.number)
    return wrong


async def comes_true(condition: Callable[[], object], what: str, timeout_s: float = 15) -> None:
    """Wait for a condition inside an event loop. Fails with the name of what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain for {what}"
        await asyncio.sleep(0.01)


async def drained(journal: RedisJournal) -> None:
    """Wait until nothing lies in the spool."""
    await comes_true(lambda: not len(journal.spool), "the spool to drain")
