"""Which rows of a batch bring the same names."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lab.sets.kernel import Kernel
from lab.sets.reading import Reading


class Patterns(NamedTuple):
    """local: for each row a number within the batch. numbers: for each of these, that of the pattern in the `Reading`,
    null if it has too many already."""

    local: pa.Array
    numbers: pa.Array


def tell_patterns(compiled: Kernel | None, reading: Reading, starts: pa.Array, names: pa.Array) -> Patterns:
    """Rows are told apart by the codes of their names. starts: for each row where its names begin, and the end."""
    codes = names.indices.cast(pa.int32())
    local, firsts = _by_bytes(starts, codes) if compiled is None else compiled.patterns(starts, codes)
    texts = names.dictionary.to_pylist()
    found = []
    for first in firsts:
        begin, end = starts[first].as_py(), starts[first + 1].as_py()
        found.append(reading.number_of(tuple(texts[code] for code in codes.slice(begin, end - begin).to_pylist())))
    return Patterns(local, pa.array(found, pa.int32()))


def _by_bytes(starts: pa.Array, codes: pa.Array) -> tuple[pa.Array, list[int]]:
    """Lists of codes, each as one string of bytes."""
    if codes.offset:
        codes = pa.concat_arrays([codes, codes.slice(0, 0)])
    offsets = pc.multiply(starts, pa.scalar(4, pa.int32()))
    lists = pa.BinaryArray.from_buffers(pa.binary(), len(starts) - 1, [None, offsets.buffers()[1], codes.buffers()[1]])
    local = lists.dictionary_encode().indices
    rows = pa.table({"number": local, "row": pa.array(range(len(local)), pa.int32())})
    return local, rows.group_by("number").aggregate([("row", "min")]).sort_by("number")["row_min"].to_pylist()
