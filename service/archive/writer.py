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
from typing import Any, NamedTuple

import msgspec
import redis
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from service import keys
from service.archive import tables
from service.archive.schemas import Attempt, attempt_row, decision_row, hit_row, postback_row, table
from service.engine import Entry, Outcome, Postback
from service.engine.parse import MAX_BODY_BYTES, parameters
from service.intake.entries import Unreadable, read
from service.keys import Partition
from service.scripts import Script

log = logging.getLogger("backtrack.archive")

TRIES = 5

_outcome = msgspec.msgpack.Decoder(Outcome).decode
_postback = msgspec.msgpack.Decoder(Postback).decode
_attempt = msgspec.msgpack.Decoder(Attempt).decode

Fields = dict[bytes, bytes]
Row = dict[str, Any]


class GapError(Exception):
    """A stream does not continue where the table ends. The message names both."""


def unreadable_row(entry: Unreadable) -> Row:
    """A row of `hits` for an item that is no entry: its bytes as the body, the error among the params."""
    row = hit_row(Entry(entry.partition, entry.epoch, entry.seq, entry.time_us), {})
    return row | {"kind": "unreadable", "body": entry.raw[:MAX_BODY_BYTES], "params": [("error", entry.error)]}


class Stream(msgspec.Struct, frozen=True):
    """One kind of stream and its table.

    key: of a partition's stream. end: key and field that hold the number of its last item. row: of an item, from partition
    and the two parts of its id.
    """

    table: str
    key: Callable[[Partition], str]
    end: Callable[[Partition], tuple[str, str]]
    row: Callable[[int, int, int, Fields], Row]


class LostError(GapError):
    """Redis has less than the tables. A new epoch has to begin."""


def _hits(partition: int, epoch: int, seq: int, fields: Fields) -> Row:
    entry = read(partition, b"%d-%d" % (epoch, seq), fields)
    if isinstance(entry, Unreadable):
        return unreadable_row(entry)
    if b"e" not in fields:
        return hit_row(entry, parameters(entry.hit) if entry.hit is not None else {})
    facts = [fact.partition("=")[::2] for fact in fields[b"e"].decode().split()]
    return hit_row(entry, {}) | {"kind": "epoch", "params": facts}


# in the order of their appends: a decision comes after its postbacks, so a reader never sees a firing without them
STREAMS = (
    Stream("hits", lambda p: p.journal, lambda p: (p.head, "seq"), _hits),
    Stream(
        "postbacks", lambda p: p.postbacks, lambda p: (p.head, "postbacks"),
        lambda part, _, n, f: postback_row(part, n, _postback(f[b"p"])),
    ),
    Stream(
        "attempts", lambda p: p.attempts, lambda p: (p.head, "attempts"),
        lambda part, _, n, f: attempt_row(part, n, _attempt(f[b"a"])),
    ),
    Stream(
        "decisions", lambda p: p.decisions, lambda p: (p.tracked, "seq"),
        lambda part, epoch, _, f: decision_row(part, epoch, _outcome(f[b"d"])),
    ),
)  # fmt: skip
CONTIGUOUS = frozenset({"hits", "postbacks", "attempts"})  # decisions skip the numbers of rulebook entries
# what lies in Redis alone until it is archived; decisions and postbacks are made again out of the hits, the same ones
ORIGINAL = frozenset({"hits", "attempts"})


class Tracked(NamedTuple):
    """How far tracking is in a partition: epoch and seq of the last decided entry, number of the last postback."""

    epoch: int
    seq: int
    postbacks: int


class Table:
    """A table as it was after our last append, and how far each partition has come in it: epoch and number."""

    def __init__(self, root: Path, name: str, partitions: int) -> None:
        tables.create(root, name)
        handle = tables.open_table(root, name)
        assert handle is not None
        self.handle: DeltaTable = handle
        self.done = [(1, handle.transaction_version(app_id(name, number)) or 0) for number in range(partitions)]


class Archiver:
    """Appends what is new to the tables. rows: of one append at most, so that a backlog takes no more memory."""

    def __init__(self, connection: redis.Redis, root: Path, partitions: int, rows: int) -> None:
        self._redis = connection
        self._root = root
        self._places = keys.partitions(partitions)
        self._rows = rows
        self._tables: dict[str, Table] = {}
        self._tell = Script(connection, "archive/note")
        self._noted = False

    def round(self, go_on: Callable[[], bool] = lambda: True) -> int:
        """Appends to each table what is new, then trims what is safe. Returns the number of rows written.

        go_on: asked between two appends; after a False the round ends where it is, and later tables wait.

        Decisions are taken up to where tracking was at the start: their postbacks are in the streams by then. So are
        postbacks: their hits are, and nothing in the tables ever follows from a hit that is not.

        Raises GapError, LostError, TableError, and CommitFailedError where other writers win again and again; no later
        table is touched then.
        """
        decided = self._tracked()
        written = 0
        for stream in STREAMS:
            while rows := self._append(stream, decided):
                written += rows
                if not go_on():
                    return written
                if rows < self._rows:
                    break
        if written or not self._noted:
            self._note()
            self._trim(decided)
        return written

    def _tracked(self) -> list[Tracked]:
        """How far tracking is in each partition, all of it at one moment."""
        pipeline = self._redis.pipeline(transaction=True)
        for place in self._places:
            pipeline.hmget(place.tracked, "epoch", "seq")
            pipeline.hget(place.head, "postbacks")
        found = pipeline.execute()
        return [
            Tracked(int(epoch or 1), int(seq or 0), int(postbacks or 0))
            for (epoch, seq), postbacks in zip(found[0::2], found[1::2], strict=True)
        ]

    def _append(self, stream: Stream, decided: list[Tracked]) -> int:
        """Number of rows appended. What was known of the table may be old, so it is read anew before anything is wrong."""
        for tries_left in reversed(range(TRIES)):
            fresh = stream.table not in self._tables
            known = self._table(stream.table)
            try:
                rows, reached = self._collect(stream, known, decided)
                if rows:
                    transactions = {app_id(stream.table, part): number for part, (_, number) in reached.items()}
                    tables.append(self._root, stream.table, table(stream.table, rows), known.handle, transactions)
            except (CommitFailedError, GapError) as error:
                del self._tables[stream.table]
                self._noted = False
                if not tries_left or (fresh and isinstance(error, GapError)):
                    raise
                log.warning("%s: another writer was faster: %s", stream.table, error)
                continue
            for part, place in reached.items():
                known.done[part] = place
            return len(rows)
        raise AssertionError

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            self._tables[name] = Table(self._root, name, len(self._places))
        return self._tables[name]

    def _collect(
        self, stream: Stream, known: Table, decided: list[Tracked]
    ) -> tuple[list[Row], dict[int, tuple[int, int]]]:
        """New rows of all partitions, and the id that each partition reaches with them."""
        pipeline = self._redis.pipeline(transaction=False)
        for place, (_, last), tracked in zip(self._places, known.done, decided, strict=True):
            ends = {"decisions": f"{tracked.epoch}-{tracked.seq}", "postbacks": f"1-{tracked.postbacks}"}
            end = ends.get(stream.table, "+")
            pipeline.hget(*stream.end(place))
            pipeline.xrange(stream.key(place), min=f"1-{last + 1}", max=end, count=self._rows)
        found = pipeline.execute()
        rows: list[Row] = []
        reached: dict[int, tuple[int, int]] = {}
        for place, (_, last), end, items in zip(self._places, known.done, found[0::2], found[1::2], strict=True):
            if stream.table in ORIGINAL or (stream.table == "postbacks" and self._all_decided(place, decided)):
                _check_not_lost(stream.table, place.number, last, int(end or 0))
            new = [item for item in ((_place_of(i), f) for i, f in items) if item[0][1] > last]
            if not new:
                continue
            if stream.table in CONTIGUOUS:
                _check_contiguous(stream.table, place.number, last, new)
            new = new[: self._rows - len(rows)]
            rows += [stream.row(place.number, epoch, number, fields) for (epoch, number), fields in new]
            reached[place.number] = new[-1][0]
            if len(rows) == self._rows:
                break
        return rows, reached

    def _all_decided(self, place: Partition, decided: list[Tracked]) -> bool:
        """Whether tracking has been where the table of hits ends, so that no stored postback is still to be made again."""
        return decided[place.number].seq >= self._table("hits").done[place.number][1]

    def _note(self) -> None:
        """Say in Redis how far the tables are, for whoever wants to know without opening them.

        What is there is believed except at the start and after a conflict. The tables are read once more then: another
        archiver that wrote and noted meanwhile may have nothing more to say, and its streams nothing that would tell us.
        """
        if not self._noted:
            self._say(believed=False)
            for name in self._tables:
                self._tables[name] = Table(self._root, name, len(self._places))
        self._say(believed=True)
        self._noted = True

    def _say(self, *, believed: bool) -> None:
        """believed: whether a note that is ahead of what we know stays."""
        reached: list[Any] = [
            part
            for name, known in self._tables.items()
            for number, (_, last) in enumerate(known.done)
            if last
            for part in (app_id(name, number), last)
        ]
        if reached:
            self._tell([keys.ARCHIVED, keys.META], [0 if believed else 1, *reached])

    def _trim(self, decided: list[Tracked]) -> None:
        """The journal behind tracking and archive, the other streams behind the archive; never beyond."""
        pipeline = self._redis.pipeline(transaction=False)
        for place, tracked in zip(self._places, decided, strict=True):
            for stream in STREAMS:
                reached = self._table(stream.table).done[place.number]
                decided_to = tracked.epoch, tracked.seq
                epoch, number = min(reached, decided_to, key=lambda at: at[1]) if stream.table == "hits" else reached
                if number:
                    pipeline.xtrim(stream.key(place), minid=f"{epoch}-{number + 1}", approximate=True)
        pipeline.execute()


def app_id(name: str, partition: int) -> str:
    """Application id under which a partition's progress in a table is stored."""
    return f"{name}/{partition}"


def _place_of(item_id: bytes) -> tuple[int, int]:
    first, _, second = item_id.partition(b"-")
    return int(first), int(second)


def _check_contiguous(name: str, partition: int, last: int, items: Sequence[tuple[tuple[int, int], Fields]]) -> None:
    """Raises GapError for a number that is missing, unless the entry behind it says that a new epoch began there."""
    before = last
    for (_, number), fields in items:
        if number != before + 1 and b"e" not in fields:
            raise GapError(f"{name}, partition {partition}: the table ends at {last}, the stream goes on at {number}")
        before = number


def _check_not_lost(name: str, partition: int, last: int, end: int) -> None:
    if end < last:
        raise LostError(
            f"{name}, partition {partition}: the table ends at {last}, the stream at {end}; "
            "the journal's Redis has lost data, a new epoch has to begin"
        )
