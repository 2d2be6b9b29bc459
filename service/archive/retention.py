"""How long the past is kept: whole days are dropped from the tables; journal, visitors, counters and rulebooks stay.

A day counts by log time. The tables of what is kept begin in mid-stream then, and a replay says so.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from service.archive import tables
from service.archive.compaction import sizes
from service.archive.schemas import day_of

DROPPED = ("attempts", "postbacks", "decisions", "hits")  # effects before causes, so that no firing loses its postbacks


def first_kept(now_us: int, days: int) -> str:
    """The first day that is kept: today and the `days` - 1 days before it, in UTC."""
    return day_of(now_us - timedelta(days=days - 1) // timedelta(microseconds=1))


def drop(root: Path, day: str) -> dict[str, int]:
    """Drop all days before `day`. Returns how many days each table lost; tables that lost none are left out.

    Raises CommitFailedError where somebody else removed the files meanwhile; it can be done again.
    """
    lost: dict[str, int] = {}
    for name in DROPPED:
        table = tables.open_table(root, name)
        old = [] if table is None else [found for found in sizes(table) if found < day]
        if table is not None and old:
            tables.leave_to_readers(root, name, table, old)
            table.delete(f"day < '{day}'")
            lost[name] = len(old)
    return lost
