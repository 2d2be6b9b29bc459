"""A table written as Parquet files of our own and committed at the end, once: many times quicker than append by append."""

from __future__ import annotations

from pathlib import Path
from time import time

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

from service.archive import tables

# written as numbers of a dictionary, beside what is one already: values that come again and again
_AGAIN = frozenset({"event", "method", "path", "user_agent", "referrer"})


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
            self._write(rows.slice(start, length), f"{day:%Y-%m-%d}", name)
            start += length

    def _write(self, rows: pa.Table, day: str, name: str) -> None:
        path = f"day={day}/{name}.parquet"
        file = self.root / self.name / path
        file.parent.mkdir(exist_ok=True)
        pq.write_table(
            rows, file, compression="snappy", use_dictionary=_dictionaries(rows.schema), write_statistics=False,
            store_schema=False,
        )  # fmt: skip
        stats = msgspec.json.encode({"numRecords": rows.num_rows}).decode()
        self._actions.append(AddAction(path, file.stat().st_size, {"day": day}, int(time() * 1000), True, stats))

    def commit(self) -> None:
        """Make all files rows of the table."""
        table = tables.open_table(self.root, self.name)
        assert table is not None
        table.create_write_transaction(self._actions, "append", table.schema(), ["day"])


def _dictionaries(schema: pa.Schema) -> list[str]:
    found = []
    for field in schema:
        if pa.types.is_dictionary(field.type) or field.name in _AGAIN:
            found.append(field.name)
        elif pa.types.is_map(field.type):
            found.append(f"{field.name}.key_value.key")
    return found
