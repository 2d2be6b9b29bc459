"""scan.c, where it was compiled: the way to it, array by array. `python -m lab.compile` makes it."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa

SOURCE = Path(__file__).with_name("scan.c")
FOLDER = Path(__file__).parent.parent / "_native"
MANY_PARTITIONS = 1 << 12
FIELDS = ("client", "event", "uid", "tag_id", "click_id", "txid", "test", "amount", "currency")
_POINTER = ctypes.c_void_p


def library() -> Path:
    """Where the compiled form of the source as it stands here lies, on this kind of machine."""
    made_from = hashlib.sha256(SOURCE.read_bytes() + platform.platform().encode()).hexdigest()[:16]
    return FOLDER / f"scan-{made_from}.so"


@cache
def kernel() -> Kernel | None:
    """The kernel, None if it was not compiled, cannot be loaded, or Python was started with `-X interpreted`."""
    if "interpreted" in sys._xoptions or not library().exists():
        return None
    try:
        return Kernel(ctypes.CDLL(str(library())))
    except OSError:  # half a file, or a folder from which nothing may be run
        return None


class _Texts(ctypes.Structure):
    _fields_ = (("offsets", _POINTER), ("data", _POINTER))


class _Numbering(ctypes.Structure):
    _fields_ = (("size", ctypes.c_int64), ("table", _POINTER), ("names", _Texts))


class Job(ctypes.Structure):
    """`job` of scan.c, name for name."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "base", "keys", "cuts")),
        *((name, ctypes.c_int32) for name in ("shapes", "clients", "longest", "decoder", "click")),
        ("first", ctypes.c_int32 * (len(FIELDS) + 1)),
        *((name, _POINTER) for name in ("places", "shape_of")),
        ("client_names", _Numbering), ("event_names", _Numbering), ("no_ids", _Numbering),
        *((name, _POINTER) for name in (
            "kind", "route", "path", "refusal", "hit", "way", "refused", "link", "link_client", "partition", "decoded",
            "epoch", "seq", "time", "cut", "local", "pattern", "starts",
        )),
        ("values", _Texts), ("ids", _Texts),
        *((name, _POINTER) for name in (
            "to_ord", "to_t", "to_cid", "to_link", "to_slot", "to_ev", "to_uid", "to_tag", "to_click", "to_x",
            "to_id", "to_epoch", "id_bits", "uid_bits", "tag_bits", "click_bits", "x_bits", "link_bits", "test_bits",
            "plain_bits", "here_bits", "odd",
        )),
        ("odds", ctypes.c_int64),
    )  # fmt: skip


class Names:
    """Texts with numbers, by open addressing."""

    def __init__(self, library: ctypes.CDLL, names: Sequence[str]) -> None:
        self.texts = pa.array(names, pa.string())
        size = 1 << (2 * len(names) + 1).bit_length()
        self._table = pa.allocate_buffer(4 * size)
        self.pointer = _Numbering(size, self._table.address, texts_at(self.texts))
        library.number_names(len(names), *_addresses(self.pointer.names), size, self._table.address)


class Kernel:
    """The functions of scan.c. They let other threads go on."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        wide, pointer = ctypes.c_int64, _POINTER
        for name, takes, gives in (
            ("hash_texts", (wide, pointer, pointer, pointer), None),
            ("number_names", (wide, pointer, pointer, wide, pointer), None),
            ("tell_patterns", (wide, pointer, pointer, wide, pointer, pointer, pointer), wide),
            ("read_hits", (ctypes.POINTER(Job),), None),
            ("scatter", (wide, pointer, wide, pointer, pointer), None),
            ("mark", (wide, pointer, pointer, pointer), None),
            ("spread", (wide, pointer, pointer, wide, wide, pointer, wide, *[pointer] * 4), wide),
            ("find", (wide, pointer, pointer, pointer), wide),
            ("spans", (wide, pointer, wide, *[pointer] * 3), wide),
            ("write_ids", (wide, *[pointer] * 4), wide),
        ):
            function = getattr(library, name)
            function.argtypes, function.restype = takes, gives

    def names(self, names: Sequence[str]) -> Names:
        """A table of names; the number of each is its place."""
        return Names(self._library, names)

    def hashes(self, texts: pl.Series) -> pl.Series:
        """64 bits for each text."""
        array = texts.to_arrow().cast(pa.string())
        found = pa.allocate_buffer(8 * len(array))
        self._library.hash_texts(len(array), *_addresses(texts_at(array)), found.address)
        return cast(pl.Series, pl.from_arrow(whole(pa.uint64(), len(array), found)))

    def patterns(self, starts: pa.Array, codes: pa.Array) -> tuple[pa.Array, list[int]]:
        """A number for each list of codes, equal ones the same, and the first row of each number."""
        rows = len(starts) - 1
        size = 1 << (2 * rows + 1).bit_length()
        table, local, firsts = (pa.allocate_buffer(4 * length) for length in (size, rows, rows))
        count = self._library.tell_patterns(
            rows, address_of(starts), address_of(codes), size, table.address, local.address, firsts.address
        )
        return whole(pa.int32(), rows, local), whole(pa.int32(), count, firsts).to_pylist()

    def read(self, job: Job) -> None:
        """Read a batch."""
        self._library.read_hits(ctypes.byref(job))

    def spread(self, values: pl.Series, there: pl.Series, fresh: pl.Series, found: pa.Buffer) -> pl.Series:
        """The rows that are not found yet and share a value with a fresh one, among those that are there. found: a byte
        for each row."""
        numbers, bits, rows = (one.rechunk().to_arrow() for one in (values, there, fresh))
        size = 1 << max(10, (2 * len(rows)).bit_length())
        table, mesh, reached = cleared(8 * size), cleared(2 * size), pa.allocate_buffer(4 * len(numbers))
        count = self._library.spread(
            len(numbers), address_of(numbers), bits.buffers()[1].address, bits.offset, len(rows), address_of(rows), size,
            table.address, mesh.address, found.address, reached.address,
        )  # fmt: skip
        return cast(pl.Series, pl.from_arrow(whole(pa.uint32(), count, reached)))

    def find(self, reached: pl.Series, found: pa.Buffer) -> pl.Series:
        """Note rows as found; those that were not yet."""
        rows = reached.rechunk().to_arrow()
        fresh = pa.allocate_buffer(4 * len(rows))
        count = self._library.find(len(rows), address_of(rows), found.address, fresh.address)
        return cast(pl.Series, pl.from_arrow(whole(pa.uint32(), count, fresh)))

    def ids(self, at: pl.Series, kept: pa.Buffer, bits: pa.Buffer) -> pa.Array | None:
        """The hit ids of some rows, None where one of them is not kept."""
        rows = at.rechunk().to_arrow()
        texts = pa.allocate_buffer(32 * len(rows))
        if not self._library.write_ids(len(rows), address_of(rows), kept.address, bits.address, texts.address):
            return None
        ends = pl.int_range(0, 32 * len(rows) + 1, 32, dtype=pl.Int32, eager=True).to_arrow()
        return pa.StringArray.from_buffers(len(rows), ends.buffers()[1], texts)

    def spans(self, rows: int, places: pa.Buffer) -> list[tuple[int, int, int, int, int]] | None:
        """Of each partition its number, first and last seq, and twice how many rows; None if they do not rise in some."""
        first, last, count = (cleared(8 * MANY_PARTITIONS) for _ in range(3))
        if not self._library.spans(rows, places.address, MANY_PARTITIONS, first.address, last.address, count.address):
            return None
        columns = (whole(pa.int64(), MANY_PARTITIONS, one).to_pylist() for one in (first, last, count))
        told = enumerate(zip(*columns, strict=True))
        return [(number, begin, end, held, held) for number, (begin, end, held) in told if held]

    def scatter(self, at: pl.Series, values: pl.Series, to: pa.Buffer) -> None:
        """Write numbers to some places."""
        places, found = at.rechunk().to_arrow(), values.rechunk().to_arrow()
        width = found.type.bit_width // 8
        self._library.scatter(len(places), address_of(places), width, address_of(found), to.address)

    def mark(self, at: pl.Series, marked: pl.Series, bits: pa.Buffer) -> None:
        """Set the bits of those of some places that are marked."""
        places, found = at.rechunk().to_arrow(), marked.cast(pl.UInt8).rechunk().to_arrow()
        self._library.mark(len(places), address_of(places), address_of(found), bits.address)


def cleared(size: int) -> pa.Buffer:
    """Bytes that are all zero."""
    found = pa.allocate_buffer(size)
    ctypes.memset(found.address, 0, size)
    return found


def address_of(array: pa.Array) -> int:
    """Where the values of an array of numbers begin."""
    return int(array.buffers()[1].address + array.offset * array.type.bit_width // 8)


def texts_at(array: pa.Array) -> _Texts:
    """Where the texts of an array lie."""
    _, offsets, data = array.buffers()
    return _Texts(offsets.address + array.offset * 4, 0 if data is None else data.address)


def whole(kind: pa.DataType, length: int, values: pa.Buffer, there: pa.Buffer | None = None) -> pa.Array:
    """Results as an array. there: bits, null where one is not set."""
    return pa.Array.from_buffers(kind, length, [there, values])


def _addresses(texts: _Texts) -> tuple[Any, Any]:
    return texts.offsets, texts.data
