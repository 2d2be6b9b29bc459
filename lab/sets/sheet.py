"""The events of all pages in memory, a row for each row of the pages, in one piece: whoever reads a page writes there.

The kernel writes plain hits; `put` writes those that others have read. No two may write the same row.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, cast

import polars as pl
import pyarrow as pa

from lab.sets.kernel import Job, Kernel, cleared, whole
from lab.sets.spans import Span, spans_of

COLUMNS = {
    "ord": pa.int64(), "t": pa.int64(), "cid": pa.int32(), "ev": pa.int16(), "uid": pa.uint64(), "tag": pa.uint64(),
    "click": pa.uint64(), "x": pa.uint64(), "link": pa.int32(), "slot": pa.int32(),
}  # fmt: skip
SOME = ("uid", "tag", "click", "x", "link")  # that not every plain hit has
_ALL = ("cid", "ev", "slot")  # that every plain hit has


# ord: place in the log, partition and seq in one number. t: log time in microseconds. cid: position of the client in the
# rulebook. ev: number of an event that the rulebook names, null for others. uid, tag, click: hashes of (value, client), and
# x of (txid, event, client), null if absent; 64 bits, so that among ten million values two meet once in 300,000 logs.
# link: number of the tracker link it came over, null for none. reason: of the rejection, null if it is a valid event.
# slot: see `Reading`. read: whether it was read by columns, and not by the engine's parser. at: its row among all pages.
EVENTS: dict[str, Any] = {
    "ord": pl.Int64, "t": pl.Int64, "cid": pl.Int32, "ev": pl.Int16, "uid": pl.UInt64, "tag": pl.UInt64,
    "click": pl.UInt64, "x": pl.UInt64, "test": pl.Boolean, "link": pl.Int32, "reason": pl.Categorical,
    "slot": pl.Int32, "read": pl.Boolean, "at": pl.UInt32,
}  # fmt: skip


class Ids:
    """The hit ids and epochs of all rows, for those who ask later: sixteen bytes for an id as the service makes them."""

    def __init__(self, compiled: Kernel, rows: int) -> None:
        self._kernel = compiled
        self._ids, self._epochs = pa.allocate_buffer(16 * rows), pa.allocate_buffer(4 * rows)
        self._bits = cleared(rows // 8 + 1)
        self._rows = rows

    def open(self, job: Job) -> None:
        """Let a job write here."""
        job.to_id, job.to_epoch, job.id_bits = self._ids.address, self._epochs.address, self._bits.address

    def of(self, at: pl.Series) -> pa.Table | None:
        """hit_id and epoch of some rows; None where another kind of id is among them."""
        ids = self._kernel.ids(at, self._ids, self._bits)
        if ids is None:
            return None
        epochs = cast(pl.Series, pl.from_arrow(whole(pa.int32(), self._rows, self._epochs)))
        return pa.table({"hit_id": ids, "epoch": epochs.gather(at).to_arrow()})


class Sheet:
    """Room for so many rows. `here` says where a hit before the cut is, `plain` where the kernel has read it."""

    def __init__(self, compiled: Kernel, rows: int) -> None:
        self.ids = Ids(compiled, rows)
        self._kernel = compiled
        self._rows = rows
        self._values = {name: pa.allocate_buffer(rows * kind.bit_width // 8) for name, kind in COLUMNS.items()}
        self._bits = {name: cleared(rows // 8 + 1) for name in (*SOME, *_ALL, "test", "here", "plain")}
        self._reasons = pl.DataFrame(schema={"at": pl.UInt32, "reason": pl.Categorical})
        self._unread = pl.Series("at", [], pl.UInt32)
        self._lock = Lock()

    def open(self, job: Job) -> None:
        """Let a job write here."""
        self.ids.open(job)
        for name, buffer in self._values.items():
            setattr(job, f"to_{name}", buffer.address)
        for name in (*SOME, "test", "here", "plain"):
            setattr(job, f"{name}_bits", self._bits[name].address)

    def put(self, events: pl.DataFrame) -> None:
        """Write hits that the kernel has left. events: in the columns of `EVENTS`."""
        at = events["at"]
        for name in COLUMNS:
            bits = self._bits.get(name)
            self._kernel.scatter(at, events[name].fill_null(0), self._values[name])
            if bits is not None:
                self._kernel.mark(at, events[name].is_not_null(), bits)
        self._kernel.mark(at, events["test"], self._bits["test"])
        with self._lock:
            self._reasons = pl.concat([self._reasons, events.select("at", "reason")])
            self._unread = pl.concat([self._unread, at.filter(~events["read"])])

    def spans(self) -> list[Span]:
        """Of every entry, hit or not. Where a log was written in its order, one look at each is enough."""
        found = self._kernel.spans(self._rows, self._values["ord"])
        return spans_of(self._column("ord").sort()) if found is None else [Span(*one) for one in found]

    def events(self) -> pl.DataFrame:
        """All hits before the cut, in the columns of `EVENTS`."""
        columns = {name: self._column(name) for name in COLUMNS}
        columns |= {"test": _bits(self._rows, self._bits["test"]), "reason": self._reason()}
        read = pl.repeat(True, self._rows, eager=True)
        read = read.scatter(self._unread, False) if self._unread.len() else read
        numbers = pl.int_range(self._rows, dtype=pl.UInt32, eager=True)
        frame = pl.DataFrame(columns | {"read": read, "at": numbers}).select(list(EVENTS))
        here = _bits(self._rows, self._bits["here"])
        return frame if here.all() else frame.filter(here)

    def _reason(self) -> pl.Series:
        told = self._reasons.filter(pl.col("reason").is_not_null())
        number = pl.repeat(None, self._rows, dtype=pl.UInt32, eager=True)
        if told.is_empty():
            return number.cast(pl.String).cast(pl.Categorical)
        number = number.scatter(told["at"], pl.int_range(told.height, dtype=pl.UInt32, eager=True))
        return told["reason"].gather(number)

    def _column(self, name: str) -> pl.Series:
        bits = self._bits.get(name)
        if name in _ALL:  # every plain hit has these, and `put` has said of each other one what it has
            there = _bits(self._rows, self._bits["plain"]) | _bits(self._rows, self._bits[name])
            bits = there.to_arrow().buffers()[1]
        return cast(pl.Series, pl.from_arrow(whole(COLUMNS[name], self._rows, self._values[name], bits)))


def _bits(rows: int, bits: pa.Buffer) -> pl.Series:
    return cast(pl.Series, pl.from_arrow(whole(pa.bool_(), rows, bits)))
