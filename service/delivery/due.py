"""The due index: what has to be delivered and when, in the journal's Redis. Taking is atomic, so any number may take.

All times are those of the journal's Redis, whose clock has also written the log.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any

import msgspec
import redis.asyncio as aioredis

from service import keys
from service.archive.schemas import Attempt
from service.engine.model import Postback
from service.keys import Partition
from service.scripts import script_text

_encode = msgspec.msgpack.Encoder().encode
_postback = msgspec.msgpack.Decoder(Postback).decode

NEW_US = 60_000_000  # for so long what was never tried is new; then it belongs to the backlog
LATE_S = 3_600  # for how long a try of a postback that was delivered meanwhile can still be numbered


class Taken(msgspec.Struct, frozen=True, gc=False):
    """A postback that was taken for delivery.

    number: of the try. first: lowest number that nobody recorded; below `number` if earlier deliveries never settled. base:
    tries before the last resend, from which on the ladder begins anew. token: what marks it as ours.
    """

    place: Partition
    postback: Postback
    number: int
    first: int
    base: int
    token: str

    @property
    def tries(self) -> int:
        """Tries that are recorded."""
        return self.first - 1

    def new(self, now_us: int) -> bool:
        """Whether it was never tried and was promised a short while ago: all others are the backlog."""
        return self.number == 1 and now_us - self.postback.time_us <= NEW_US

    @property
    def lost(self) -> bool:
        """Whether an earlier delivery never settled."""
        return self.first < self.number


class Waiting(msgspec.Struct, frozen=True):
    """Who waits in a room, as its member there. new: promised a short while ago."""

    member: str
    new: bool


Scored = list[tuple[bytes, float]]
Done = tuple[Taken, Sequence[Attempt]]


class DueIndex:
    """The due index of some partitions. now_us: the moment of the last exchange."""

    def __init__(self, connection: aioredis.Redis, places: Sequence[Partition]) -> None:
        self._redis = connection
        self._places = list(places)
        begin = script_text("delivery/hand_out")
        self._take = connection.register_script(begin + script_text("delivery/take"))
        self._draw = connection.register_script(begin + script_text("delivery/draw"))
        self._settle = connection.register_script(script_text("delivery/settle"))
        self._room = connection.register_script(script_text("delivery/room"))
        self._late = connection.register_script(script_text("delivery/late"))
        self._record = connection.register_script(script_text("delivery/record"))
        self._newest_first = False
        self.now_us = 0

    async def take(self, now_us: int | None, lease_us: int, limit: int) -> list[Taken]:
        """Take what is due, at most `limit`. now_us: None for the clock of Redis."""
        return await self.exchange((), now_us, lease_us, limit, limit)

    async def settle(self, done: Sequence[Done], now_us: int) -> None:
        """Record tries and what the postbacks are after them."""
        await self.exchange(done, now_us, 0, 0, 0)

    async def exchange(
        self, done: Sequence[Done], now_us: int | None, lease_us: int, limit: int, backlog: int
    ) -> list[Taken]:
        """Settle and take in one round trip, which is one fsync. backlog: how many of the `limit` need not be new."""
        pipeline = self._redis.pipeline(transaction=False)
        groups: dict[int, list[Done]] = {}
        for one in done:
            groups.setdefault(one[0].place.number, []).append(one)
        for group in groups.values():
            await self._settle_group(group, now_us or self.now_us, pipeline)
        if limit > 0:
            self._places.append(self._places.pop(0))  # no partition is always the first one asked
            takes = [key for place in self._places for key in _hand_out_keys(place)]
            moment = "" if now_us is None else now_us
            args: list[Any] = [moment, lease_us, limit, backlog, secrets.token_hex(8), NEW_US]
            await self._take(keys=takes, args=args, client=pipeline)
        answers = await pipeline.execute() if groups or limit > 0 else []
        for group, late in zip(groups.values(), answers, strict=False):
            for taken, attempts in group if late else ():
                if taken.postback.id.encode() in late:
                    await self._add_late(taken, attempts[-1])
        return self._read(self._places, answers[-1]) if limit > 0 else []

    async def _settle_group(self, group: Sequence[Done], now_us: int, client: Any) -> None:
        place = group[0][0].place
        args: list[Any] = [now_us, LATE_S, f"{place.late}:"]
        for taken, attempts in group:
            last = attempts[-1]
            args += [taken.postback.id, taken.token, last.number, last.state, last.next_due_us, len(attempts)]
            args += map(_encode, attempts)
        names = [
            place.due, place.promises, place.tries, place.inflight, place.head, place.attempts, place.dead, place.bases,
            place.ended,
        ]  # fmt: skip
        await self._settle(keys=names, args=args, client=client)

    async def _add_late(self, taken: Taken, attempt: Attempt) -> None:
        """Record a try whose lease was lost, under a number of its own; the postback stays what the others made of it."""
        place, identity = taken.place, taken.postback.id
        names = [place.tries, place.bases, place.ended, f"{place.late}:{identity}"]
        found: Any = await self._late(keys=names, args=[identity, LATE_S])
        if found:
            late = msgspec.structs.replace(attempt, number=int(found[0]), state=found[1].decode(), next_due_us=0)
            await self._record(keys=[place.head, place.attempts], args=[_encode(late)])

    async def put_in_room(self, untried: Iterable[Taken]) -> None:
        """Put what was taken and not tried into the rooms of its recipients."""
        pipeline = self._redis.pipeline(transaction=False)
        for one in untried:
            place, postback = one.place, one.postback
            names = [place.due, place.inflight, place.tries, keys.room(postback.recipient), keys.ROOMS]
            member = f"{place.number}/{postback.id}"
            args: list[Any] = [one.token, postback.id, member, postback.time_us, postback.recipient]
            await self._room(keys=names, args=args, client=pipeline)
        await pipeline.execute()

    async def look_into_rooms(self, rooms: Mapping[str, int], now_us: int) -> dict[str, list[Waiting]]:
        """Who may come out of some rooms, by recipient. rooms: how many of each.

        The newest and the oldest in turns, so that in no room a new one waits for a backlog, nor a backlog for new ones.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for recipient, most in rooms.items():
            room = keys.room(recipient)
            pipeline.zrevrangebyscore(room, "+inf", now_us - NEW_US, 0, (most + 1) // 2, withscores=True)
            pipeline.zrange(room, 0, most - 1, withscores=True)
        found = await pipeline.execute() if rooms else []
        self._newest_first = not self._newest_first
        return {
            recipient: _in_turns((newest, oldest) if self._newest_first else (oldest, newest), most, now_us - NEW_US)
            for (recipient, most), newest, oldest in zip(rooms.items(), found[0::2], found[1::2], strict=True)
        }

    async def draw(self, waiting: Mapping[str, Sequence[Waiting]], lease_us: int) -> list[Taken]:
        """Take some out of the rooms of their recipients, in one round trip."""
        by_number = {place.number: place for place in self._places}
        pipeline = self._redis.pipeline(transaction=False)
        places = []
        for recipient, chosen in waiting.items():
            for one in chosen:
                number, _, identity = one.member.partition("/")
                places.append(by_number[int(number)])
                names = [keys.room(recipient), keys.ROOMS, *_hand_out_keys(places[-1])]
                args: list[Any] = ["", lease_us, secrets.token_hex(8), one.member, identity, recipient]
                await self._draw(keys=names, args=args, client=pipeline)
        answers = await pipeline.execute() if places else []
        return [taken for place, answer in zip(places, answers, strict=True) for taken in self._read([place], answer)]

    async def next_due_us(self) -> int | None:
        """When the earliest postback is due, None if none waits."""
        pipeline = self._redis.pipeline(transaction=False)
        for place in self._places:
            pipeline.zrange(place.due, 0, 0, withscores=True)
        scores = [found[0][1] for found in await pipeline.execute() if found]
        return int(min(scores)) if scores else None

    def _read(self, places: Sequence[Partition], answer: list[Any]) -> list[Taken]:
        self.now_us = int(answer[0])
        return [
            Taken(
                places[answer[i]], _postback(answer[i + 5]), answer[i + 1], answer[i + 2], answer[i + 3],
                answer[i + 4].decode(),
            )
            for i in range(1, len(answer), 6)
        ]  # fmt: skip


def _in_turns(lists: tuple[Scored, Scored], most: int, since_us: int) -> list[Waiting]:
    """At most so many: the first of one list, the first of the other, the second of the one and so on, each once."""
    both = (one for pair in zip_longest(*lists) for one in pair if one is not None)
    once = dict(both)
    return [Waiting(member.decode(), score >= since_us) for member, score in islice(once.items(), most)]


def _hand_out_keys(place: Partition) -> list[str]:
    return [place.due, place.promises, place.tries, place.inflight, place.bases, place.new]
