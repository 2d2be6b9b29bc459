"""A batch of hits on its way to one partition of the journal."""

from __future__ import annotations

import asyncio

import msgspec

from service.engine.model import Hit

_encode = msgspec.msgpack.Encoder().encode


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
        self._waiting: list[asyncio.Future[bool]] = []

    def add(self, hit: Hit) -> asyncio.Future[bool]:
        """Take one hit. The future says whether it is stored; it is this hit's own, so whoever waits for it may go away."""
        data = _encode(hit)
        self.args += (hit.received_at_us, data)
        self.count += 1
        self.bytes += len(data)
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(stored)
        return stored

    def settle(self, stored: bool) -> None:
        """Tell everybody who waits, once."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(stored)


class SpooledBatch(msgspec.Struct, array_like=True, frozen=True):
    """A batch as it lies in the spool."""

    partition: int
    writer: str
    counter: int
    args: list[bytes | int]
