"""Columns of texts, and lists of names and values, as one column of maps, for all rows of a frame at once."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

_VIEWS = pl.CompatLevel.newest()  # texts cross over to Arrow without being copied


def mapped(
    columns: Mapping[str, pl.Series], keys: pl.Series | None = None, values: pl.Series | None = None
) -> pl.Series:
    """A map per row: the names of the columns with their values, where these are not null, then the lists `keys` and
    `values`, of the same lengths and without any null. No name may come twice in a row."""
    rows, wide = next(iter(columns.values())).len(), len(columns)
    own = pl.Series(dtype=pl.String) if keys is None or values is None else keys.explode(empty_as_null=False)
    more = pl.Series(dtype=pl.String) if values is None else values.explode(empty_as_null=False)
    names = pl.concat([pl.Series(list(columns), dtype=pl.String), own.rename("")])
    texts = pl.concat([*(column.rename("") for column in columns.values()), more.rename("")])
    lengths = pl.repeat(0, rows, dtype=pl.UInt32, eager=True) if keys is None else keys.list.len()
    places = _places(lengths, wide, rows)
    flat_names, flat_texts = names.gather(places["name"]), texts.gather(places["text"])
    absent = [column.is_null() for column in columns.values() if column.null_count()]
    if absent:
        there = flat_texts.is_not_null()
        flat_names, flat_texts = flat_names.filter(there), flat_texts.filter(there)
    counts = wide + lengths.cast(pl.Int32) - sum(one.cast(pl.Int32) for one in absent)
    offsets = pl.concat([pl.Series([0], dtype=pl.Int32), counts.cum_sum().cast(pl.Int32).rename("")])
    made = pa.MapArray.from_arrays(
        offsets.to_arrow(), *(flat.to_arrow(compat_level=_VIEWS) for flat in (flat_names, flat_texts))
    )
    found = pl.from_arrow(made)
    assert isinstance(found, pl.Series)
    return found


def _places(lengths: pl.Series, wide: int, rows: int) -> pl.DataFrame:
    """Row by row, where each name and each text lies: the columns lie one below the other, all lists behind them."""
    slots = pl.int_range(pl.len(), dtype=pl.UInt32)
    if not lengths.sum():
        flat = pl.DataFrame({"row": pl.int_range(rows * wide, dtype=pl.UInt32, eager=True)})
        return flat.select(name=pl.col("row") % wide, text=pl.col("row") % wide * rows + pl.col("row") // wide)
    counts = lengths + wide
    each = pl.DataFrame({
        "start": (counts.cum_sum() - counts).cast(pl.UInt32), "own": (lengths.cum_sum() - lengths).cast(pl.UInt32),
        "count": counts,
    }).with_row_index("row")  # fmt: skip
    flat = each.select(pl.exclude("count").repeat_by("count").explode()).with_columns(slot=slots - pl.col("start"))
    fixed = pl.col("slot") < wide
    behind = pl.col("own") + pl.col("slot")
    return flat.select(
        name=pl.when(fixed).then("slot").otherwise(behind),
        text=pl.when(fixed).then(pl.col("slot") * rows + pl.col("row")).otherwise(behind + wide * (rows - 1)),
    )


def no_maps(rows: int) -> pl.Series:
    """A column of empty maps."""
    texts = pa.array([], pa.string())
    found = pl.from_arrow(pa.MapArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows + 1), texts, texts))
    assert isinstance(found, pl.Series)
    return found
