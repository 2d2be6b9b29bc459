"""Tells at once when there are new postbacks in any partition."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio as aioredis

from service.keys import Partition

LOOK_MS = 1_000  # then the blocking read begins anew


class Watch:
    """A blocking read of the streams of postbacks, which goes on between two waits."""

    def __init__(self, connection: aioredis.Redis, places: Sequence[Partition]) -> None:
        self._redis = connection
        self._places = places
        self._seen: dict[str, str] = {}
        self._reading: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Look where the streams end: what is there already is in the due index."""
        pipeline = self._redis.pipeline(transaction=False)
        for place in self._places:
            pipeline.hget(place.head, "postbacks")
        for place, last in zip(self._places, await pipeline.execute(), strict=True):
            self._seen[place.postbacks] = f"1-{int(last or 0)}"

    async def wait(self, seconds: float, *others: asyncio.Task[Any]) -> None:
        """Wait for a new postback, one of the others or the end of the time, whichever comes first."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        await asyncio.wait({self._reading, *others}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._reading.done():
            reading, self._reading = self._reading, None
            reading.result()

    async def end(self) -> None:
        """Let go of the connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        found: Any = await self._redis.xread(dict(self._seen), count=1_000, block=LOOK_MS)  # type: ignore[arg-type]
        for stream, items in found.items() if isinstance(found, dict) else found:
            self._seen[stream.decode()] = items[-1][0].decode()
