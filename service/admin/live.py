"""What lies in the journal's Redis and not yet in the tables: about the last second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from service import keys
from service.archive.writer import STREAMS, Row, Stream, app_id
from service.keys import Partition

CHUNK = 500  # entries asked for at once, so that neither Redis nor the intake in this process waits for a lookup
MOST = 50_000  # entries looked through per stream, should the archive be far behind

_STREAMS = {stream.table: stream for stream in STREAMS}
_DECISIONS = _STREAMS["decisions"]


class Live:
    """Looks through the streams of all partitions for an id. Raises RedisError where the journal is away."""

    def __init__(self, connection: redis.Redis, partitions: int) -> None:
        self._redis = connection
        self._places = keys.partitions(partitions)

    def hit(self, hit_id: str) -> Row | None:
        """The row of `hits` that the hit will be, None if it is in the tables or nowhere."""
        found = self._find(_STREAMS["hits"], self._places, [hit_id])
        return next((row for row in found if row["hit_id"] == hit_id), None)

    def decision(self, hit: Row) -> Row | None:
        """The row of `decisions` about a hit, None if there is none or only in the table."""
        place = self._places[hit["partition"]]
        at = f"{hit['epoch']}-{hit['seq']}"
        items: Any = self._redis.xrange(place.decisions, min=at, max=at)
        return next((_row(_DECISIONS, place, *item) for item in items), None)

    def postbacks(self, partition: int, hit_id: str) -> list[Row]:
        """The rows of `postbacks` that a hit's firings will be."""
        found = self._find(_STREAMS["postbacks"], [self._places[partition]], [hit_id])
        return [row for row in found if row["hit_id"] == hit_id]

    def postback(self, postback_id: str) -> Row | None:
        """The row of `postbacks` that a postback will be, None if it is in the tables or nowhere."""
        found = self._find(_STREAMS["postbacks"], self._places, [postback_id])
        return next((row for row in found if row["postback_id"] == postback_id), None)

    def attempts(self, partition: int, postback_ids: Sequence[str]) -> list[Row]:
        """The rows of `attempts` that the latest tries will be."""
        found = self._find(_STREAMS["attempts"], [self._places[partition]], postback_ids)
        return [row for row in found if row["postback_id"] in postback_ids]

    def unsettled(self, partition: int, postback_ids: Sequence[str]) -> frozenset[str]:
        """Those of the postbacks that wait for a try, are under way, or were given up and can be sent again."""
        if not postback_ids:
            return frozenset()
        held: Any = self._redis.hmget(self._places[partition].promises, list(postback_ids))
        return frozenset(one for one, value in zip(postback_ids, held, strict=True) if value is not None)

    def _find(self, stream: Stream, places: Sequence[Partition], ids: Sequence[str]) -> list[Row]:
        """Rows of items that are not archived and mention one of the ids."""
        wanted = [one.encode() for one in ids]
        archived: Any = self._redis.hmget(keys.ARCHIVED, [app_id(stream.table, place.number) for place in places])
        starts = {place: f"1-{int(last or 0) + 1}" for place, last in zip(places, archived, strict=True)}
        rows: list[Row] = []
        for _ in range(MOST // CHUNK):
            pipeline = self._redis.pipeline(transaction=False)
            for place, start in starts.items():
                pipeline.xrange(stream.key(place), min=start, count=CHUNK)
            asked, starts = list(starts), {}
            for place, items in zip(asked, pipeline.execute(), strict=True):
                rows += [_row(stream, place, *item) for item in items if _mentions(item[1], wanted)]
                if len(items) == CHUNK:
                    starts[place] = f"({items[-1][0].decode()}"
            if not starts:
                break
        return rows


def _mentions(fields: dict[bytes, bytes], wanted: Sequence[bytes]) -> bool:
    """A look at the bytes, since reading each item would take ten times as long."""
    return any(one in value for value in fields.values() for one in wanted)


def _row(stream: Stream, place: Partition, item_id: bytes, fields: dict[bytes, bytes]) -> Row:
    epoch, _, number = item_id.partition(b"-")
    return stream.row(place.number, int(epoch), int(number), fields)
