"""A table written as Parquet files of our own and committed at the end, once: many times quicker than append by append."""

from __future__ import annotations

from pathlib import Path
from time import time

import msgspec
import polars as pl
from deltalake.transaction import AddAction, RemoveAction

from service.archive import tables
from service.archive.schemas import SCHEMAS


class Parts:
    """The files of one table below root. The table is created at once, and stays empty until `commit`."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self._actions: list[AddAction | RemoveAction] = []
        self._columns = [column for column in SCHEMAS[name].names if column != "day"]  # that stands in the path
        tables.create(root, name)

    def write(self, frame: pl.DataFrame, number: int) -> None:
        """Write rows, one file per day. frame: the columns of the table, sorted by day. number: not used before.

        Several threads may write at the same time.
        """
        days = (
            [frame] if frame["day"].first() == frame["day"].last() else frame.partition_by("day", maintain_order=True)
        )
        for rows in days:
            self._write(rows, number)

    def _write(self, rows: pl.DataFrame, number: int) -> None:
        day = str(rows["day"][0])
        path = f"day={day}/import-{number:06}.parquet"
        file = self.root / self.name / path
        file.parent.mkdir(exist_ok=True)
        rows.select(self._columns).write_parquet(file, compression="snappy", statistics=False)
        stats = msgspec.json.encode({"numRecords": rows.height}).decode()
        self._actions.append(AddAction(path, file.stat().st_size, {"day": day}, int(time() * 1000), True, stats))

    def commit(self) -> None:
        """Make all files rows of the table."""
        table = tables.open_table(self.root, self.name)
        assert table is not None
        table.create_write_transaction(self._actions, "append", table.schema(), ["day"])
