"""A batch of hits on its way to one partition of the journal."""

from __future__ import annotations

import asyncio

import msgspec

from service.engine.model import Hit

_encoder = msgspec.msgpack.Encoder()


class Batch:
    """Hits that are appended together. `id` is given when the batch is closed and stays with it for ever."""

    __slots__ = ("args", "bytes", "count", "counter", "partition", "stored", "writer")

    def __init__(self, partition: int, writer: str) -> None:
        self.partition = partition
        self.writer = writer
        self.counter = 0
        self.args: list[bytes | int] = []
        self.count = 0
        self.bytes = 0
        self.stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def add(self, hit: Hit) -> None:
        """Take one hit."""
        data = _encoder.encode(hit)
        self.args += (hit.received_at_us, data)
        self.count += 1
        self.bytes += len(data)


class SpooledBatch(msgspec.Struct, array_like=True, frozen=True):
    """A batch as it lies in the spool."""

    partition: int
    writer: str
    counter: int
    args: list[bytes | int]
