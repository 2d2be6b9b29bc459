"""Columns of texts, and lists of names and values, as one column of maps, for all rows at once.

Names and texts are written as numbers of a dictionary: each distinct one is looked at once, all else is numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from itertools import accumulate, groupby

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lab.coded import Coded, polars_of

_VIEWS = pl.CompatLevel.newest()
_ABOVE = 1 << 32  # a name's number stands above its text's: what is fetched by number is fetched once for both


class Lists(msgspec.Struct, frozen=True):
    """Lists of names and texts, one behind the other, and which of them each line has. names may be numbers, too."""

    names: pl.Series
    texts: pl.Series
    lengths: pl.Series
    rows: pl.Series

    @classmethod
    def of(cls, keys: pl.Series, values: pl.Series, rows: pl.Series) -> Lists:
        """Two columns of lists of the same lengths, without any null."""
        lengths = keys.list.len().cast(pl.UInt32)
        return cls(keys.explode(empty_as_null=False), values.explode(empty_as_null=False), lengths, rows)


def mapped(coded: Coded, columns: Mapping[str, str], lists: Lists | None = None) -> pa.MapArray:
    """A map per line: the given names with the values of the columns, where these are not null, then those of `lists`.

    columns: of the tables. No name may come twice in a row.
    """
    groups = groupby(enumerate(columns.values()), lambda one: coded.part_of(one[1]))
    pieces = [_piece(coded, part, dict(some)) for part, some in groups]
    names = list(columns)
    if lists is not None:
        own = pc.dictionary_encode(lists.names.to_arrow())
        names += own.dictionary.to_pylist()
        pieces.append(
            Lists(polars_of(own.indices).cast(pl.Int32) + len(columns), lists.texts, lists.lengths, lists.rows)
        )
    pieces = [piece for piece in pieces if piece.names.len()]
    texts = pc.dictionary_encode(pl.concat([piece.texts.rename("") for piece in pieces]).to_arrow())
    numbers = pl.concat([piece.names.rename("") for piece in pieces])
    both = (numbers.cast(pl.Int64) * _ABOVE + polars_of(texts.indices)).to_arrow()
    found = pa.ListArray.from_arrays(_offsets(pieces), both).take(_wanted(pieces))
    return pa.MapArray.from_arrays(
        polars_of(found.offsets).gather_every(len(pieces)).to_arrow(),
        pa.DictionaryArray.from_arrays(_narrow(pc.shift_right(found.values, 32)), pa.array(names, pa.string())),
        pa.DictionaryArray.from_arrays(_narrow(found.values), texts.dictionary),
    )


def _narrow(numbers: pa.Array) -> pa.Array:
    """The lower half of each number."""
    return numbers.cast(pa.int32(), safe=False)


def _piece(coded: Coded, part: str | None, columns: dict[int, str]) -> Lists:
    """The columns of one table as lists with a text for each that is not null, and the number of its column as name."""
    assert part is not None
    known = coded.parts[part].select(columns.values())
    texts = known.select(pl.concat_arr(pl.all()).explode(empty_as_null=False)).to_series()
    numbers = pl.Series(list(columns), dtype=pl.Int32)
    names = numbers.gather(pl.int_range(texts.len(), dtype=pl.UInt32, eager=True) % len(columns))
    if texts.null_count():
        there = texts.is_not_null()
        names, texts = names.filter(there), texts.filter(there)
    lengths = known.select(pl.sum_horizontal(pl.all().is_not_null())).to_series().cast(pl.UInt32)
    return Lists(names, texts, lengths, coded.lines[part])


def _offsets(pieces: list[Lists]) -> pa.Array:
    """Where the lists of all pieces begin, and where they end."""
    lengths = pl.concat([piece.lengths.rename("") for piece in pieces])
    return pl.concat([pl.Series([0], dtype=pl.UInt32), lengths.cum_sum()]).cast(pl.Int32).to_arrow()


def _wanted(pieces: list[Lists]) -> pa.Array:
    """Line by line, which list of each piece belongs to it."""
    starts = accumulate((piece.lengths.len() for piece in pieces[:-1]), initial=0)
    rows = pl.DataFrame({str(start): piece.rows + start for start, piece in zip(starts, pieces, strict=True)})
    return rows.select(pl.concat_arr(pl.all()).explode(empty_as_null=False)).to_series().to_arrow()


@lru_cache(maxsize=16)
def nothing(kind: pa.DataType, rows: int) -> pa.Array:
    """A column of empty lists or maps."""
    offsets = pa.repeat(pa.scalar(0, pa.int32()), rows + 1)
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(offsets, pa.array([], kind.key_type), pa.array([], kind.item_type))
    return pa.ListArray.from_arrays(offsets, pa.array([], kind.value_type))


@lru_cache(maxsize=64)
def repeated(value: Hashable, kind: pa.DataType, rows: int) -> pa.Array:
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
    return pa.DictionaryArray.from_arrays(found.indices.take(coded.lines[part].to_arrow()), found.dictionary)
