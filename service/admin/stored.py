"""What lies in the tables: rows by id, out of the files of one day, and of those only the parts that can hold it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from service.archive import tables
from service.archive.schemas import day_of
from service.archive.writer import Row

LATER_DAYS = 7  # how long a hit may have waited in a spool, or a postback been tried
LAST_MS = 250_000_000_000_000  # year 9892; an id may claim to be later than any calendar goes
_PLACE = {"hits": "seq", "decisions": "seq", "postbacks": "n", "attempts": "n"}

File = dict[str, Any]


class Stored:
    """Finds rows in the tables below `root`. Tables are opened once and brought up to date at each question."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._handles: dict[str, DeltaTable] = {}

    def of_hit(self, name: str, hit_id: str) -> list[Row]:
        """Rows of a hit. Its id says when it came; log time is hardly ever of another day, and those are asked next."""
        for days in days_of(hit_id):
            found = self._rows(name, "hit_id", [hit_id], days)
            if found:
                return found
        return []

    def attempts(self, postback_ids: Sequence[str], day: str) -> list[Row]:
        """The tries of postbacks that were promised on `day`."""
        return self._rows("attempts", "postback_id", postback_ids, _days(day, 0, LATER_DAYS)) if postback_ids else []

    def postback(self, postback_id: str) -> Row | None:
        """A postback by its id, which says no time: the latest day first, all that are kept."""
        days = sorted({file["day"] for file in self._files("postbacks")}, reverse=True)
        found = (self._rows("postbacks", "postback_id", [postback_id], [day]) for day in days)
        return next((rows[0] for rows in found if rows), None)

    def _rows(self, name: str, column: str, values: Sequence[str], days: Sequence[str]) -> list[Row]:
        try:
            return self._read(name, column, values, days)
        except FileNotFoundError:  # merged into others since the table was opened
            with self._lock:
                self._handles.pop(name, None)
            return self._read(name, column, values, days)

    def _read(self, name: str, column: str, values: Sequence[str], days: Sequence[str]) -> list[Row]:
        chosen = [file for file in self._files(name) if file["day"] in days and _may_hold(file, column, values)]
        if not chosen:
            return []
        data = ds.dataset([str(self._root / name / file["path"]) for file in chosen], format="parquet")
        wanted = ds.field(column).isin(list(values))
        if column != "hit_id":  # nothing tells where such an id lies: its column alone first, then the rows
            number = _PLACE[name]
            places = data.to_table(columns=["partition", number], filter=wanted).to_pydict()
            if not places[number]:
                return []
            wanted &= ds.field(number).isin(places[number]) & ds.field("partition").isin(places["partition"])
            wanted &= (ds.field(number) >= min(places[number])) & (ds.field(number) <= max(places[number]))
        rows: list[Row] = data.to_table(filter=wanted).to_pylist()
        return rows

    def _files(self, name: str) -> list[File]:
        with self._lock:
            handle = self._handles.get(name)
            if handle is None:
                handle = tables.open_table(self._root, name)
                if handle is None:
                    return []
                self._handles[name] = handle
            else:
                handle.update_incremental()
            actions: Any = pa.table(handle.get_add_actions(flatten=True))
        names = [one for one in ("path", "partition.day", "min.hit_id", "max.hit_id") if one in actions.column_names]
        found: list[File] = actions.select(names).to_pylist()
        return [file | {"day": file["partition.day"]} for file in found]


def days_of(hit_id: str) -> list[list[str]]:
    """On which days a hit may be logged, the likeliest first. Its id begins with the milliseconds since 1970."""
    day = day_of(min(int(hit_id[:12], 16), LAST_MS) * 1000)
    return [[day], _days(day, -1, -1) + _days(day, 1, LATER_DAYS)]


def _days(day: str, first: int, last: int) -> list[str]:
    start = date.fromisoformat(day)
    return [(start + timedelta(days=shift)).isoformat() for shift in range(first, last + 1)]


def _may_hold(file: File, column: str, values: Sequence[str]) -> bool:
    least, most = file.get(f"min.{column}"), file.get(f"max.{column}")
    return least is None or most is None or any(least <= value <= most for value in values)
