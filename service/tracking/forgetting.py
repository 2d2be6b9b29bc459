"""Taking one person out of the live state of a partition, safely beside the actor that decides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import redis

from service.engine.visitors import Visitor, identifier_keys, space
from service.keys import Partition
from service.scripts import Script

TRIES = 100  # against an actor that changes the visitor meanwhile

_visitor = msgspec.msgpack.Decoder(Visitor).decode


class Forgotten(NamedTuple):
    """What was taken out. seq: the last entry that was decided with it; what comes later meets a stranger."""

    seq: int
    visitors: int
    identifiers: int


def living(
    connection: redis.Redis, place: Partition, client: str, kind: str, value: str, ids: Iterable[str]
) -> set[str]:
    """Ids of visitors in the live state: those of `ids` and the owner of the identifier, tests among them."""
    wanted = set(ids)
    if kind == "visitor":
        wanted.add(value)
    else:
        names = [key for test in (False, True) for key in identifier_keys(space(client, test), {kind: value})]
        owners: Any = connection.hmget(place.owners, names)
        wanted |= {owner.decode() for owner in owners if owner}
    return {one for one, raw in _stored(connection, place, wanted).items() if raw}


def forget(
    connection: redis.Redis, place: Partition, client: str, kind: str, value: str, ids: Iterable[str]
) -> Forgotten:
    """Take the person's visitors and their identifiers out of the partition. ids: as for `living`.

    Raises ResponseError if the visitors keep changing while it tries.
    """
    script = Script(connection, "tracking/forget")
    known = set(ids)
    for tries_left in reversed(range(TRIES)):
        stored = _stored(connection, place, living(connection, place, client, kind, value, known))
        owners = sorted({key for raw in stored.values() if raw for key in _visitor(raw).identifiers})
        pairs = [part for pair in stored.items() for part in pair]
        names = [place.fence, place.lease, place.tracked, place.owners, place.visitors]
        try:
            seq, identifiers = script(names, [len(stored), *pairs, *owners])
        except redis.ResponseError as error:
            if not str(error).startswith("CHANGED") or not tries_left:
                raise
            continue
        return Forgotten(seq, len(stored), identifiers)
    raise AssertionError


def forget_promises(connection: redis.Redis, place: Partition, postbacks: Iterable[str], txids: Iterable[str]) -> int:
    """Take out what is not delivered, and the transactions. Returns how many postbacks will not be sent any more."""
    ids, keys = list(postbacks), list(txids)
    pipeline = connection.pipeline(transaction=True)
    for start in range(0, len(ids), 1_000):
        part = ids[start : start + 1_000]
        pipeline.hdel(place.promises, *part)
        for index in (place.due, place.dead):
            pipeline.zrem(index, *part)
        for names in (place.tries, place.bases, place.ended, place.settled):
            pipeline.hdel(names, *part)
    if keys:
        pipeline.hdel(place.txids, *keys)
    done = pipeline.execute()
    return sum(done[::7][: (len(ids) + 999) // 1_000])


def _stored(connection: redis.Redis, place: Partition, ids: Iterable[str]) -> dict[str, bytes]:
    wanted = sorted(ids)
    found: Any = connection.hmget(place.visitors, wanted) if wanted else []
    return {one: raw or b"" for one, raw in zip(wanted, found, strict=True)}
