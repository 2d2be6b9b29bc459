"""What the tables know of a partition's past: for the time after Redis came back with less than they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from service.archive import tables
from service.archive.schemas import SCHEMAS, entry_of
from service.engine import Entry

_ENTRY_COLUMNS = [
    "partition", "epoch", "seq", "time", "kind", "hit_id", "received_at", "route", "method", "path", "query", "body",
    "content_type", "address", "user_agent", "referrer", "refusal", "flags", "rulebook_id",
]  # fmt: skip


def rows(root: Path, name: str, partition: int, number: str, after: int, to: int | None, columns: Sequence[str]) -> Any:
    """Rows of one partition as an Arrow table, in order. number: its column; after it begins, at `to` it ends (None: all).

    Empty if there is no such table. Raises TableError for one that cannot be used.
    """
    table = tables.open_table(root, name)
    if table is None:
        return SCHEMAS[name].empty_table().select(list(columns))
    wanted = (ds.field("partition") == partition) & (ds.field(number) > after)
    if to is not None:
        wanted &= ds.field(number) <= to
    return table.to_pyarrow_dataset().to_table(columns=list(columns), filter=wanted).sort_by(number)


def entries(root: Path, partition: int, after: int, to: int) -> list[Entry]:
    """The entries `after` + 1 to `to` of a partition, those that are in the table and can be read."""
    found = rows(root, "hits", partition, "seq", after, to, _ENTRY_COLUMNS).to_pylist()
    return [entry_of(row) for row in found if row["kind"] != "unreadable"]


def rulebook_text(root: Path, rulebook_id: str) -> str | None:
    """The text of a rulebook that was ever published, None if the table has no such."""
    table = tables.open_table(root, "rulebooks")
    if table is None:
        return None
    found = table.to_pyarrow_dataset().to_table(columns=["text"], filter=ds.field("rulebook_id") == rulebook_id)
    return str(found["text"][0]) if len(found) else None
