"""From the streams in Redis to the tables, exactly once.

Every partition's rows for a table are one contiguous sequence, and each commit stores, as Delta application transactions,
how far each partition has come. The writer reads that from the handle it appends with: rows at or below are dropped, and
a concurrent writer makes the commit fail, after which everything is read anew. The library does not reject a repeated
transaction by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from service import keys
from service.archive import tables
from service.archive.schemas import Attempt, attempt_row, decision_row, hit_row, postback_row, table
from service.engine import Entry, Hit, Outcome, Postback
from service.engine.parse import parameters
from service.keys import Partition

log = logging.getLogger("backtrack.archive")

TRIES = 5

_hit = msgspec.msgpack.Decoder(Hit).decode
_outcome = msgspec.msgpack.Decoder(Outcome).decode
_postback = msgspec.msgpack.Decoder(Postback).decode
_attempt = msgspec.msgpack.Decoder(Attempt).decode

Fields = dict[bytes, bytes]
Row = dict[str, Any]


class GapError(Exception):
    """A stream does not continue where the table ends. The message names both."""


class Stream(msgspec.Struct, frozen=True):
    """One kind of stream and its table.

    key: of a partition's stream. row: of an item, from partition and the two parts of its id.
    """

    table: str
    key: Callable[[Partition], str]
    row: Callable[[int, int, int, Fields], Row]


def _hits(partition: int, epoch: int, seq: int, fields: Fields) -> Row:
    raw = fields.get(b"h")
    hit = _hit(raw) if raw is not None else None
    entry = Entry(partition, epoch, seq, int(fields[b"t"]), hit, fields.get(b"r", b"").decode())
    return hit_row(entry, parameters(hit) if hit is not None else {})


# in the order of their appends: a decision comes after its postbacks, so a reader never sees a firing without them
STREAMS = (
    Stream("hits", lambda place: place.journal, _hits),
    Stream("postbacks", lambda p: p.postbacks, lambda part, _, n, f: postback_row(part, n, _postback(f[b"p"]))),
    Stream("attempts", lambda p: p.attempts, lambda part, _, n, f: attempt_row(part, n, _attempt(f[b"a"]))),
    Stream("decisions", lambda p: p.decisions, lambda part, epoch, _, f: decision_row(part, epoch, _outcome(f[b"d"]))),
)
BY_SEQ = frozenset({"hits", "decisions"})
CONTIGUOUS = frozenset({"hits", "postbacks", "attempts"})  # decisions skip the numbers of rulebook entries


class Archiver:
    """Appends what is new to the tables. rows: per partition, table and round."""

    def __init__(self, connection: redis.Redis, root: Path, partitions: int, rows: int) -> None:
        self._redis = connection
        self._root = root
        self._places = keys.partitions(partitions)
        self._rows = rows
        self._handles: dict[str, DeltaTable] = {}

    def round(self) -> int:
        """Appends to each table what is new, then trims what is safe. Returns the number of rows written.

        Decisions are taken up to where tracking was at the start: their postbacks are in the streams by then.
        """
        decided = self._tracked()
        written = 0
        for stream in STREAMS:
            while rows := self._append(stream, decided):
                written += rows
                if rows < self._rows:
                    break
        if written:
            self._trim(decided)
        return written

    def _tracked(self) -> list[tuple[int, int]]:
        """Epoch and sequence of the last decided entry of each partition."""
        pipeline = self._redis.pipeline(transaction=False)
        for place in self._places:
            pipeline.hmget(place.tracked, "epoch", "seq")
        return [(int(epoch or 1), int(seq or 0)) for epoch, seq in pipeline.execute()]

    def _append(self, stream: Stream, decided: list[tuple[int, int]]) -> int:
        for attempt in range(TRIES):
            handle = self._handle(stream.table)
            rows, reached = self._collect(stream, handle, decided)
            if not rows:
                return 0
            try:
                tables.append(self._root, stream.table, table(stream.table, rows), handle, reached)
            except CommitFailedError as error:
                log.warning("%s: another writer was faster (%d): %s", stream.table, attempt + 1, error)
                self._handles.pop(stream.table, None)
                continue
            self._note(reached)
            return len(rows)
        return 0

    def _handle(self, name: str) -> DeltaTable:
        """The table as it is after our last append; a commit of somebody else shows as a conflict."""
        handle = self._handles.get(name)
        if handle is None:
            tables.create(self._root, name)
            handle = tables.open_table(self._root, name)
            assert handle is not None
            self._handles[name] = handle
        return handle

    def _collect(
        self, stream: Stream, handle: DeltaTable, decided: list[tuple[int, int]]
    ) -> tuple[list[Row], dict[str, int]]:
        """New rows of all partitions, and how far they reach."""
        done = [handle.transaction_version(app_id(stream.table, place.number)) or 0 for place in self._places]
        pipeline = self._redis.pipeline(transaction=False)
        for place, last, (epoch, seq) in zip(self._places, done, decided, strict=True):
            end = f"{epoch}-{seq}" if stream.table == "decisions" else "+"
            pipeline.xrange(stream.key(place), min=f"1-{last + 1}", max=end, count=self._rows)
        rows: list[Row] = []
        reached: dict[str, int] = {}
        for place, last, items in zip(self._places, done, pipeline.execute(), strict=True):
            new = [item for item in ((_place_of(i), f) for i, f in items) if item[0][1] > last]
            if not new:
                continue
            if stream.table in CONTIGUOUS:
                _check_contiguous(stream.table, place.number, last, [number for (_, number), _ in new])
            rows += [stream.row(place.number, epoch, number, fields) for (epoch, number), fields in new]
            reached[app_id(stream.table, place.number)] = new[-1][0][1]
        return rows, reached

    def _note(self, reached: dict[str, int]) -> None:
        self._redis.hset(keys.ARCHIVED, mapping={app: str(number) for app, number in reached.items()})

    def _trim(self, decided: list[tuple[int, int]]) -> None:
        """The journal behind tracking and archive, the other streams behind the archive; never beyond."""
        archived: Any = self._redis.hgetall(keys.ARCHIVED)
        reached = {app.decode(): int(number) for app, number in archived.items()}
        pipeline = self._redis.pipeline(transaction=False)
        for place, (epoch, seq) in zip(self._places, decided, strict=True):
            for stream in STREAMS:
                number = reached.get(app_id(stream.table, place.number), 0)
                number = min(number, seq) if stream.table == "hits" else number
                first = epoch if stream.table in BY_SEQ else 1
                pipeline.xtrim(stream.key(place), minid=f"{first}-{number + 1}", approximate=True)
        pipeline.execute()


def app_id(name: str, partition: int) -> str:
    """Application id under which a partition's progress in a table is stored."""
    return f"{name}/{partition}"


def _place_of(item_id: bytes) -> tuple[int, int]:
    first, _, second = item_id.partition(b"-")
    return int(first), int(second)


def _check_contiguous(name: str, partition: int, last: int, numbers: Sequence[int]) -> None:
    if numbers[0] != last + 1 or numbers[-1] - numbers[0] != len(numbers) - 1:
        raise GapError(f"{name}, partition {partition}: the table ends at {last}, the stream goes on at {numbers[0]}")
