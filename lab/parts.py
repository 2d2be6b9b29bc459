"""A table written as Parquet files of our own and committed at the end, once: many times quicker than append by append."""

from __future__ import annotations

from pathlib import Path
from time import time

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

from service.archive import tables

_DICTIONARY_BYTES = 1 << 28  # of a batch it never comes near; the writer gives up dictionaries over this
_FEW = 16  # texts that may stay in a dictionary although nobody needs them
_LEVELS = 1 << 16  # rows that are written at once


class Parts:
    """The files of one table below root. The table is created at once, and stays empty until `commit`."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self._actions: list[AddAction | RemoveAction] = []
        tables.create(root, name)

    def write(self, rows: pa.Table, name: str) -> None:
        """Write rows, one file per day. rows: in the order of time, with or without `day`. name: of the files, a new one.

        Several threads may write at the same time.
        """
        days = pl.Series(rows["time"]).dt.date().rle().struct.unnest()
        rows, start = rows.drop_columns(["day"]) if "day" in rows.column_names else rows, 0
        for length, day in days.iter_rows():
            some = rows if length == rows.num_rows else _alone(rows.slice(start, length))
            self._write(some, f"{day:%Y-%m-%d}", name)
            start += length

    def _write(self, rows: pa.Table, day: str, name: str) -> None:
        path = f"day={day}/{name}.parquet"
        file = self.root / self.name / path
        file.parent.mkdir(exist_ok=True)
        pq.write_table(
            rows, file, compression="snappy", use_dictionary=_dictionaries(rows.schema), write_statistics=False,
            store_schema=False, dictionary_pagesize_limit=_DICTIONARY_BYTES, write_batch_size=_LEVELS,
        )  # fmt: skip
        stats = msgspec.json.encode({"numRecords": rows.num_rows}).decode()
        self._actions.append(AddAction(path, file.stat().st_size, {"day": day}, int(time() * 1000), True, stats))

    def commit(self) -> None:
        """Make all files rows of the table."""
        table = tables.open_table(self.root, self.name)
        assert table is not None
        table.create_write_transaction(self._actions, "append", table.schema(), ["day"])


def _dictionaries(schema: pa.Schema) -> list[str]:
    """The columns that are written as numbers of a dictionary, as they came."""
    found = []
    for field in schema:
        if pa.types.is_dictionary(field.type):
            found.append(field.name)
        elif pa.types.is_map(field.type):
            found += [f"{field.name}.key_value.key", f"{field.name}.key_value.value"]
    return found


def _alone(rows: pa.Table) -> pa.Table:
    """Some rows of a table, with dictionaries of no more than is in them."""
    return pa.table({name: _used(rows[name].combine_chunks()) for name in rows.column_names})


def _used(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        if len(column.dictionary) <= _FEW:
            return column
        found = pc.dictionary_encode(column.indices)
        return pa.DictionaryArray.from_arrays(found.indices, column.dictionary.take(found.dictionary))
    if pa.types.is_map(column.type):
        start, stop = column.offsets[0].as_py(), column.offsets[-1].as_py()
        keys, items = (_used(flat.slice(start, stop - start)) for flat in (column.keys, column.items))
        return pa.MapArray.from_arrays(pc.subtract(column.offsets, start), keys, items)
    return column
