"""Erasing one person from the tables: what leads to the person goes, rows and accounting stay.

A row of `hits` keeps its place, time and id, and is refused as `erased`; what was asked and by whom goes. `decisions` keep
verdict, client, event, affiliate, firings and payouts, which the counters are proved by; visitor, identifiers and
parameters go. Postbacks and attempts keep recipient, trigger, money and result; addresses, bodies and answers go.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake.exceptions import CommitFailedError

from service.archive import tables
from service.archive.compaction import vacuum
from service.archive.schemas import table as arrow_table
from service.engine.model import IDENTIFIERS, Reason
from service.engine.visitors import space

ERASED = Reason.ERASED.value
CHUNK = 2_000  # rows replaced by one commit
TRIES = 50  # against the archive, which appends every second

Numbers = dict[str, list[int]]  # day -> numbers of rows

# what a blanked row loses; the rest of it stays as it is
BLANK: dict[str, dict[str, Any]] = {
    "hits": {
        "route": "e", "path": b"", "query": b"", "body": b"", "content_type": "", "address": "", "user_agent": "",
        "referrer": "", "refusal": ERASED, "flags": [], "params": [],
    },
    "decisions": {
        "detail": ERASED, "visitor": "", "new_visitor": False, "fields": [], "params": [], "absorbed": [], "conflicts": [],
    },
    "postbacks": {"state": ERASED, "url": "", "body": "", "missing": []},
    "attempts": {"verb": ERASED, "url": "", "body": "", "headers": [], "answer": "", "error": ""},
}  # fmt: skip
NUMBER = {"hits": "seq", "decisions": "seq", "postbacks": "n", "attempts": "n"}


class Person(msgspec.Struct, frozen=True):
    """Whom to erase. kind: uid, tag_id, click_id or visitor. names: of the client's parameters that hold an identifier,
    its aliases among them, so that rejected hits are found too."""

    client: str
    kind: str
    value: str
    partition: int
    names: tuple[str, ...] = IDENTIFIERS


class Traces(msgspec.Struct):
    """Where a person stands in the tables: row numbers by day and table.

    visitors: ids. txids: keys of transactions. others: decisions of other visitors that name one of the ids as a conflict.
    """

    visitors: frozenset[str]
    rows: dict[str, Numbers]
    others: Numbers
    postbacks: frozenset[str]
    txids: frozenset[str]

    def count(self, name: str) -> int:
        """How many rows of a table."""
        return sum(map(len, self.rows.get(name, {}).values()))


def find(root: Path, person: Person, last_seq: int | None = None) -> Traces:
    """Where the person stands. last_seq: the last entry that is looked at, None for all.

    A visitor that was absorbed by another, or absorbed it, is the same person. Raises TableError.
    """
    mine = (ds.field("partition") == person.partition) & (ds.field("client") == person.client)
    if last_seq is not None:
        mine &= ds.field("seq") <= last_seq
    columns = ["day", "seq", "verdict", "event", "visitor", "test", "fields", "params", "absorbed", "conflicts"]
    decisions = _read(root, "decisions", columns, mine)
    visitors = _closure(decisions, _seeds(decisions, person))
    own = decisions.filter(pc.is_in(decisions["visitor"], pa.array(sorted(visitors), pa.string())))
    rejected = _rejected(decisions, _identifiers(own, person), person.names)
    rows = {"decisions": _numbers([own, rejected], "seq")}
    rows["hits"] = rows["decisions"]
    seqs = [seq for found in rows["decisions"].values() for seq in found]
    place = ds.field("partition") == person.partition
    postbacks = _read(
        root, "postbacks", ["day", "n", "postback_id"], place & ds.field("seq").isin(pa.array(seqs, pa.int64()))
    )
    ids = postbacks["postback_id"].to_pylist()
    attempts = _read(root, "attempts", ["day", "n"], place & ds.field("postback_id").isin(pa.array(ids, pa.string())))
    rows |= {"postbacks": _numbers([postbacks], "n"), "attempts": _numbers([attempts], "n")}
    others = _mentioning(decisions, visitors)
    return Traces(visitors, rows, others, frozenset(ids), frozenset(_txids(own, person.client)))


def blank(
    root: Path, partition: int, traces: Traces, quiet: Callable[[], AbstractContextManager[None]]
) -> dict[str, int]:
    """Blank the rows in all tables and delete the files that held them. Returns how many rows of each table.

    quiet: keeps the archive from appending for the time of one commit. Effects come first and hits last: where it is
    broken off, the same call finds the rest.
    """
    done: dict[str, int] = {}
    for name in ("attempts", "postbacks", "hits", "decisions"):
        for day, numbers in sorted(traces.rows[name].items()):
            for start in range(0, len(numbers), CHUNK):
                part = numbers[start : start + CHUNK]
                with quiet():
                    _replace(root, name, partition, day, part, partial(_blanked, name))
                done[name] = done.get(name, 0) + len(part)
    for day, numbers in traces.others.items():
        with quiet():
            _replace(root, "decisions", partition, day, numbers, lambda row: _without(row, traces.visitors))
    for name in done:
        with quiet():
            _delete_files(root, name)
    return done


def _blanked(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return row | BLANK[name]


def _without(row: dict[str, Any], visitors: frozenset[str]) -> dict[str, Any]:
    return row | {"conflicts": [one for one in row["conflicts"] if one not in visitors]}


def _replace(
    root: Path,
    name: str,
    partition: int,
    day: str,
    numbers: list[int],
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Rows of one day in one commit, again until nobody else has written meanwhile."""
    number = NUMBER[name]
    wanted = (ds.field("day") == day) & (ds.field("partition") == partition) & ds.field(number).isin(numbers)
    predicate = f"day = '{day}' AND partition = {partition} AND {number} IN ({','.join(map(str, numbers))})"
    for tries_left in reversed(range(TRIES)):
        table = tables.open_table(root, name)
        assert table is not None
        rows = [change(row) for row in table.to_pyarrow_dataset().to_table(filter=wanted).to_pylist()]
        erased = tables.erased(table) + (len(rows) if name == "hits" else 1)
        try:
            tables.replace(table, arrow_table(name, rows), predicate, erased)
            return
        except CommitFailedError:
            if not tries_left:
                raise
            time.sleep(0.05)


def _delete_files(root: Path, name: str) -> None:
    """Delete what no longer belongs to the table at once: it holds what was erased."""
    table = tables.open_table(root, name)
    if table is not None:
        vacuum(table, 0)  # what left the table more than an hour ago, which its log names no more
        table.vacuum(0, dry_run=False, enforce_retention_duration=False)


def _read(root: Path, name: str, columns: list[str], wanted: ds.Expression) -> pa.Table:
    table = tables.open_table(root, name)
    if table is None:
        return arrow_table(name, []).select(columns)
    return table.to_pyarrow_dataset().to_table(columns=columns, filter=wanted)


def _seeds(decisions: pa.Table, person: Person) -> frozenset[str]:
    """Ids of visitors that the identifier leads to."""
    column = decisions["visitor"] if person.kind == "visitor" else _value(decisions["fields"], person.kind)
    found = decisions.filter(pc.fill_null(pc.equal(column, person.value), False))["visitor"].to_pylist()
    return frozenset(found) - {""}


def _closure(decisions: pa.Table, seeds: frozenset[str]) -> frozenset[str]:
    """The visitors that were united with the seeds, however indirectly."""
    united = decisions.filter(pc.greater(pc.list_value_length(decisions["absorbed"]), 0))
    groups = [{row["visitor"], *row["absorbed"]} for row in united.select(["visitor", "absorbed"]).to_pylist()]
    found = set(seeds)
    while more := [group for group in groups if group & found and not group <= found]:
        found.update(*more)
    return frozenset(found)


def _identifiers(own: pa.Table, person: Person) -> frozenset[str]:
    """The values of all identifiers of the person."""
    values = {value for kind in IDENTIFIERS for value in _value(own["fields"], kind).to_pylist() if value}
    return frozenset(values if person.kind == "visitor" else values | {person.value})


def _rejected(decisions: pa.Table, identifiers: frozenset[str], names: Iterable[str]) -> pa.Table:
    """Rejected hits that bring one of the identifiers under a name that means one."""
    rejected = decisions.filter(pc.equal(decisions["verdict"], "rejected"))
    values = pa.array(sorted(identifiers), pa.string())
    found = pa.array([False] * len(rejected), pa.bool_())  # named, since none at all would have no type
    for name in names:
        found = pc.or_(found, pc.is_in(_value(rejected["params"], name), values))
    return rejected.filter(found)


def _mentioning(decisions: pa.Table, visitors: frozenset[str]) -> Numbers:
    """Decisions of others that name one of the visitors."""
    conflicting = decisions.filter(pc.greater(pc.list_value_length(decisions["conflicts"]), 0))
    found: Numbers = defaultdict(list)
    for row in conflicting.select(["day", "seq", "visitor", "conflicts"]).to_pylist():
        if row["visitor"] not in visitors and visitors & set(row["conflicts"]):
            found[row["day"]].append(row["seq"])
    return dict(found)


def _txids(own: pa.Table, client: str) -> Iterator[str]:
    """Keys under which tracking remembers the person's transactions; their last part is made as in the engine."""
    for event, test, txid in zip(
        own["event"].to_pylist(), own["test"].to_pylist(), _value(own["fields"], "txid").to_pylist(), strict=True
    ):
        if txid:
            yield f"{space(client, test)}{event}\x1f{txid}"


def _value(maps: Any, name: str) -> Any:
    return pc.map_lookup(maps, pa.scalar(name), "first")


def _numbers(found: Iterable[pa.Table], number: str) -> Numbers:
    by_day: Mapping[str, set[int]] = defaultdict(set)
    for rows in found:
        for day, one in zip(rows["day"].to_pylist(), rows[number].to_pylist(), strict=True):
            by_day[day].add(one)
    return {day: sorted(numbers) for day, numbers in by_day.items()}
