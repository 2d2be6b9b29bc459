"""Columns of texts, and lists of names and values, as one column of maps, for all rows at once.

Names and texts are written as numbers of a dictionary: each distinct one is looked at once, all else is numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lab.coded import Coded, polars_of

_VIEWS = pl.CompatLevel.newest()


class Lists(msgspec.Struct, frozen=True):
    """Names and texts per row: those of `names` and `texts` from `starts` on, as many as `lengths`. Rows may share them."""

    names: pl.Series
    texts: pl.Series
    starts: pl.Series
    lengths: pl.Series

    @classmethod
    def of(cls, keys: pl.Series, values: pl.Series) -> Lists:
        """Two columns of lists of the same lengths, without any null."""
        lengths = keys.list.len().cast(pl.UInt32)
        starts = (lengths.cum_sum() - lengths).cast(pl.UInt32)
        return cls(keys.explode(empty_as_null=False), values.explode(empty_as_null=False), starts, lengths)

    def gather(self, rows: pl.Series) -> Lists:
        """The lists of these rows."""
        return Lists(self.names, self.texts, self.starts.gather(rows), self.lengths.gather(rows))


def mapped(coded: Coded, columns: Mapping[str, str], lists: Lists | None = None) -> pa.MapArray:
    """A map per line: the given names with the values of the columns, where these are not null, then those of `lists`.

    No name may come twice in a row.
    """
    rows, wide = coded.height, len(columns)
    lists = lists if lists is not None and lists.lengths.sum() > 0 else None
    numbers, texts = _texts(coded, list(columns.values()), lists)
    names, own_names = _names(list(columns), None if lists is None else lists.names)
    places = _even_places(wide, rows) if lists is None else _places(lists, wide, rows)
    said = places["name"] if lists is None else own_names.gather(places["name"])
    found = pl.concat(numbers).gather(places["text"])
    absent = [column.is_null() for column in numbers[:wide] if column.null_count()]
    if absent:
        there = found.is_not_null()
        said, found = said.filter(there), found.filter(there)
    counts = pl.repeat(wide, rows, dtype=pl.Int32, eager=True) - sum(one.cast(pl.Int32) for one in absent)
    counts = counts if lists is None else counts + lists.lengths.cast(pl.Int32)
    return pa.MapArray.from_arrays(
        _offsets(counts), _dictionary(said, pa.array(names, pa.string())), _dictionary(found, texts)
    )


def _texts(coded: Coded, columns: list[str], lists: Lists | None) -> tuple[list[pl.Series], pa.Array]:
    """All texts, and which of them the columns have line by line, and the lists below."""
    known, rows = [], []
    for name in columns:
        part = coded.part_of(name)
        known.append(coded.lines[name] if part is None else coded.parts[part][name])
        rows.append(None if part is None else coded.lines[part])
    if lists is not None:
        known.append(lists.texts)
        rows.append(None)
    found = pc.dictionary_encode(pl.concat([one.rename("") for one in known]).to_arrow())
    flat, numbers, start = polars_of(found.indices), [], 0
    for one, row in zip(known, rows, strict=True):
        told = flat.slice(start, one.len())
        numbers.append(told if row is None else told.gather(row))
        start += one.len()
    return numbers, found.dictionary


def _dictionary(numbers: pl.Series, texts: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(numbers.cast(pl.Int32).to_arrow(), texts)


def _names(fixed: list[str], own: pl.Series | None) -> tuple[list[str], pl.Series]:
    """All names, and which of them each column and each own name is."""
    first = pl.int_range(len(fixed), dtype=pl.Int32, eager=True)
    if own is None:
        return fixed, first
    found = pc.dictionary_encode(own.to_arrow())
    numbers = polars_of(found.indices).cast(pl.Int32) + len(fixed)
    return [*fixed, *found.dictionary.to_pylist()], pl.concat([first.rename(""), numbers.rename("")])


def _offsets(counts: pl.Series) -> pa.Array:
    return pl.concat([pl.Series([0], dtype=pl.Int32), counts.cum_sum().cast(pl.Int32).rename("")]).to_arrow()


def _even_places(wide: int, rows: int) -> pl.DataFrame:
    """Row by row, where each name and each text lies: the columns lie one below the other."""
    flat = pl.DataFrame({"at": pl.int_range(rows * wide, dtype=pl.UInt32, eager=True)})
    return flat.select(name=pl.col("at") % wide, text=pl.col("at") % wide * rows + pl.col("at") // wide)


def _places(lists: Lists, wide: int, rows: int) -> pl.DataFrame:
    """The same with lists, whose names and texts lie behind the columns."""
    counts = lists.lengths + wide
    ends = counts.cum_sum()
    starts = (ends - counts).cast(pl.UInt32)
    row = pl.repeat(0, int(ends[-1]), dtype=pl.UInt32, eager=True).scatter(starts, 1).cum_sum() - 1
    slot = pl.int_range(row.len(), dtype=pl.UInt32, eager=True) - starts.gather(row)
    flat = pl.DataFrame({"row": row, "slot": slot, "behind": lists.starts.gather(row) + slot})
    fixed = pl.col("slot") < wide
    return flat.select(
        name=pl.when(fixed).then("slot").otherwise("behind"),
        text=pl.when(fixed).then(pl.col("slot") * rows + pl.col("row")).otherwise(pl.col("behind") + wide * (rows - 1)),
    )


def nothing(kind: pa.DataType, rows: int) -> pa.Array:
    """A column of empty lists or maps."""
    offsets = pa.repeat(pa.scalar(0, pa.int32()), rows + 1)
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(offsets, pa.array([], kind.key_type), pa.array([], kind.item_type))
    return pa.ListArray.from_arrays(offsets, pa.array([], kind.value_type))


def repeated(value: object, kind: pa.DataType, rows: int) -> pa.Array:
    """A column of one value; a text as numbers of a dictionary, which are written many times quicker."""
    if value is not None and (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), pa.array([value], kind))
    return pa.repeat(pa.scalar(value, kind), rows)


def arrow(column: pl.Series) -> pa.Array:
    """A column as it is."""
    return column.to_arrow(compat_level=_VIEWS)


def numbered(coded: Coded, name: str) -> pa.Array:
    """A column of one of the tables, as numbers of a dictionary."""
    part = coded.part_of(name)
    assert part is not None
    found = pc.dictionary_encode(coded.parts[part][name].to_arrow())
    return _dictionary(polars_of(found.indices).gather(coded.lines[part]), found.dictionary)
