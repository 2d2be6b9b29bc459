"""How far behind everything is: what is logged and not yet decided, promised and not yet settled, decided and not yet
in the tables."""

from __future__ import annotations

from typing import Any

import msgspec
import redis

from service import keys
from service.archive.writer import app_id


class Backlog(msgspec.Struct, frozen=True):
    """Entries to be decided, postbacks to be settled, rows to be archived, and entries logged so far."""

    logged: int
    to_decide: int
    to_deliver: int
    to_archive: int

    @property
    def nothing_left(self) -> bool:
        """Whether everything is done."""
        return self.to_decide == self.to_deliver == self.to_archive == 0


def backlog(connection: redis.Redis, partitions: int) -> Backlog:
    """Look once, in one round trip."""
    places = keys.partitions(partitions)
    pipeline = connection.pipeline(transaction=False)
    pipeline.hgetall(keys.ARCHIVED)
    for place in places:
        pipeline.hmget(place.head, "seq", "postbacks", "attempts")
        pipeline.hget(place.tracked, "seq")
        pipeline.zcard(place.due)
        pipeline.xrevrange(place.decisions, count=1)
    archived, *found = pipeline.execute()
    logged = to_decide = to_deliver = to_archive = 0
    looks = zip(places, found[0::4], found[1::4], found[2::4], found[3::4], strict=True)
    for place, head, tracked, due, last_decision in looks:
        seq, postbacks, attempts = (int(value or 0) for value in head)
        logged += seq
        to_decide += seq - int(tracked or 0)
        to_deliver += due
        for table, number in (("hits", seq), ("postbacks", postbacks), ("attempts", attempts)):
            to_archive += max(0, number - int(archived.get(app_id(table, place.number).encode(), 0)))
        if last_decision:  # rulebook entries have none, so the end of the journal tells nothing here
            decided = int(last_decision[0][0].partition(b"-")[2])
            to_archive += max(0, decided - int(archived.get(app_id("decisions", place.number).encode(), 0)))
    to_deliver += _in_rooms(connection)
    return Backlog(logged, to_decide, to_deliver, to_archive)


def _in_rooms(connection: redis.Redis) -> int:
    """Postbacks that wait until their recipient can be called."""
    pipeline = connection.pipeline(transaction=False)
    waiting: Any = connection.smembers(keys.ROOMS)
    for recipient in waiting:
        pipeline.zcard(keys.room(recipient.decode()))
    return sum(pipeline.execute())
