"""A batch of hits on its way to one partition of the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from service.engine.model import Hit

_encode = msgspec.msgpack.Encoder().encode

Tell = Callable[[bool], None]  # hears once whether a hit is stored; raises nothing


class Batch:
    """Hits that are appended together. `id` is given when the batch is closed and stays with it for ever."""

    __slots__ = ("_waiting", "args", "bytes", "count", "counter", "partition", "writer")

    def __init__(self, partition: int, writer: str) -> None:
        self.partition = partition
        self.writer = writer
        self.counter = 0
        self.args: list[bytes | int] = []
        self.count = 0
        self.bytes = 0
        self._waiting: list[Tell] = []

    def add(self, hit: Hit) -> asyncio.Future[bool]:
        """Take one hit. The future says whether it is stored; it is this hit's own, so whoever waits for it may go away."""
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.put(hit, lambda told: None if stored.done() else stored.set_result(told))
        return stored

    def put(self, hit: Hit, tell: Tell) -> None:
        """Take one hit. tell: called when it is stored, or cannot be."""
        data = _encode(hit)
        self.args += (hit.received_at_us, data)
        self.count += 1
        self.bytes += len(data)
        self._waiting.append(tell)

    def settle(self, stored: bool) -> None:
        """Tell everybody who waits, once."""
        waiting, self._waiting = self._waiting, []
        for tell in waiting:
            tell(stored)


class SpooledBatch(msgspec.Struct, array_like=True, frozen=True):
    """A batch as it lies in the spool."""

    partition: int
    writer: str
    counter: int
    args: list[bytes | int]
