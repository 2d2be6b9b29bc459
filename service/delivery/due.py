"""The due index: what has to be delivered and when, in the journal's Redis. Taking is atomic, so any number may take."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import redis.asyncio as aioredis

from service.archive.schemas import Attempt
from service.engine.model import Postback
from service.keys import Partition
from service.scripts import script_text

_encode = msgspec.msgpack.Encoder().encode
_postback = msgspec.msgpack.Decoder(Postback).decode


class Taken(msgspec.Struct, frozen=True):
    """A postback that was taken for delivery. tries: recorded so far. lost: an earlier delivery never settled."""

    place: Partition
    postback: Postback
    tries: int
    lost: bool
    token: str


class DueIndex:
    """The due index of some partitions."""

    def __init__(self, connection: aioredis.Redis, places: Sequence[Partition]) -> None:
        self._redis = connection
        self._places = places
        self._take = connection.register_script(script_text("delivery/take"))
        self._settle = connection.register_script(script_text("delivery/settle"))
        self._putback = connection.register_script(script_text("delivery/putback"))

    async def take(self, now_us: int, lease_us: int, limit: int) -> list[Taken]:
        """Take what is due, at most `limit` per partition, in one round trip."""
        token = secrets.token_hex(8)
        pipeline = self._redis.pipeline(transaction=False)
        for place in self._places:
            keys = [place.due, place.promises, place.tries, place.inflight]
            await self._take(keys=keys, args=[now_us, now_us + lease_us, limit, token], client=pipeline)
        answers = await pipeline.execute()
        return [
            taken for place, answer in zip(self._places, answers, strict=True) for taken in _read(place, answer, token)
        ]

    async def settle(self, done: Sequence[tuple[Taken, Sequence[Attempt]]], now_us: int) -> None:
        """Record tries and what the postbacks are after them, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for taken, attempts in done:
            place, last = taken.place, attempts[-1]
            keys = [
                place.due, place.promises, place.tries, place.inflight, place.head, place.attempts, place.dead,
            ]  # fmt: skip
            args: list[Any] = [taken.postback.id, taken.token, last.state, last.next_due_us, now_us]
            await self._settle(keys=keys, args=[*args, *map(_encode, attempts)], client=pipeline)
        await pipeline.execute()

    async def put_back(self, untried: Sequence[tuple[Taken, int]]) -> None:
        """Put back what was taken and not tried, each with the time when it is due again."""
        pipeline = self._redis.pipeline(transaction=False)
        for one, due_us in untried:
            keys = [one.place.due, one.place.inflight]
            await self._putback(keys=keys, args=[due_us, one.token, one.postback.id, int(one.lost)], client=pipeline)
        await pipeline.execute()

    async def next_due_us(self) -> int | None:
        """When the earliest postback is due, None if none waits."""
        pipeline = self._redis.pipeline(transaction=False)
        for place in self._places:
            pipeline.zrange(place.due, 0, 0, withscores=True)
        scores = [found[0][1] for found in await pipeline.execute() if found]
        return int(min(scores)) if scores else None


def _read(place: Partition, answer: list[Any], token: str) -> list[Taken]:
    return [
        Taken(place, _postback(answer[i + 3]), int(answer[i + 1]), bool(answer[i + 2]), token)
        for i in range(0, len(answer), 4)
    ]
