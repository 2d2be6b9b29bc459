"""Placed requests to rows of `hits` and `decisions`: what the engine would decide, batch by batch.

The rulebook of an import has one client, no alias and no trigger, so that a decision is the visitor and the remembered
parameters. Plain visitors are decided as columns or, where they brought parameters of their own, by merging these; hard
ones by the engine itself. Tests hold all of it to a replay.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pyarrow as pa

from service.archive.schemas import SCHEMAS, decision_row, table
from service.engine import Entry, Hit, Rulebook, State, process
from service.engine.model import DECODER_VERSION

PARTITION, EPOCH = 0, 1
_RESERVED = 3  # client, event and tag_id lead the names of every hit


class Deciding:
    """Batches in log order, each to its rows; the counts of all of them."""

    def __init__(self, rulebook: Rulebook, client: str) -> None:
        self.rulebook, self.client = rulebook, client
        self.verdicts: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.visitors: set[str] = set()
        self._state = State()  # of the hard visitors
        self._remembered: dict[str, dict[str, str]] = {}  # of those with parameters of their own, by visitor

    def rows(self, batch: pa.Table) -> tuple[pa.Table, pa.Table]:
        """hits, decisions."""
        frame = _dated(batch)
        hits = self._hits(frame)
        hard = frame.filter("hard")
        plain = frame.filter(~pl.col("hard"))
        own = plain.filter("own_params")
        others = plain.filter(~pl.col("own_params"))
        decisions = [self._plain(others, _map(others, "kept_names", "kept_texts")), self._plain(own, self._merged(own))]
        self._count(plain)
        if not hard.is_empty():
            decisions.append(table("decisions", self._by_engine(hard)))
        return hits, pa.concat_tables(decisions)

    def _count(self, plain: pl.DataFrame) -> None:
        self.verdicts["accepted"] += plain.height
        for event, count in plain["event"].value_counts().iter_rows():
            self.events[event] += count
        self.visitors.update(plain.filter("new_visitor")["visitor"])

    def _hits(self, frame: pl.DataFrame) -> pa.Table:
        columns = _columns("hits", frame)
        columns |= _constants(frame.height, {
            "kind": "hit", "route": "import", "body": b"", "content_type": "", "refusal": "", "decoder": DECODER_VERSION,
            "rulebook_id": None,
        }, "hits")  # fmt: skip
        columns["received_at"] = columns["time"]
        columns["params"] = _map(frame, "names", "texts")
        columns["flags"] = _empty_lists(frame.height)
        return _table("hits", columns)

    def _plain(self, frame: pl.DataFrame, params: pa.Array) -> pa.Table:
        columns = _columns("decisions", frame)
        columns |= _constants(frame.height, {
            "verdict": "accepted", "reason": "", "detail": "", "client": self.client, "affiliate": "", "test": False,
            "rulebook_id": self.rulebook.id,
        }, "decisions")  # fmt: skip
        fields = frame.select(
            pl.col("names").list.head(_RESERVED).alias("names"), pl.col("texts").list.head(_RESERVED).alias("texts")
        )
        columns["fields"] = _map(fields, "names", "texts")
        columns["params"] = params
        for name in ("absorbed", "conflicts", "fired", "not_fired"):
            columns[name] = _nothing(name, frame.height)
        return _table("decisions", columns)

    def _merged(self, own: pl.DataFrame) -> pa.Array:
        """The made-up parameters and behind them the visitor's own ones as they stand at each hit.

        Only hits that bring own ones change anything: these are merged one by one, the others take the last state over.
        """
        states: list[tuple[list[str], list[str]]] = []
        changes: dict[int, int] = {}
        latest: dict[str, int] = {}  # state of each visitor before the batch
        for visitor in own["visitor"].unique():
            if visitor in self._remembered:
                latest[visitor] = len(states)
                known = self._remembered[visitor]
                states.append((list(known), list(known.values())))
        frame = own.with_row_index("row")
        bringing = frame.filter(pl.col("keys").list.len() > 0).select("row", "visitor", "keys", "values")
        for row, visitor, keys, values in bringing.iter_rows():
            known = self._remembered.setdefault(visitor, {})
            known.update(zip(keys, values, strict=True))
            changes[row] = len(states)
            states.append((list(known), list(known.values())))
        return _with_states(frame, states, changes, latest)

    def _by_engine(self, hard: pl.DataFrame) -> list[dict[str, Any]]:
        rows = []
        columns = ("seq", "time_us", "hit_id", "method", "path", "query", "address", "user_agent", "referrer")
        for seq, time_us, hit_id, method, path, query, address, agent, referrer in hard.select(columns).iter_rows():
            hit = Hit(
                hit_id, time_us, "import", method, path, query, address=address, user_agent=agent, referrer=referrer
            )
            outcome = process(Entry(PARTITION, EPOCH, seq, time_us, hit), self._state, self.rulebook)
            self.verdicts[outcome.verdict] += 1
            if outcome.verdict == "accepted":
                self.events[outcome.event] += 1
                self.visitors.add(outcome.visitor)
            rows.append(decision_row(PARTITION, EPOCH, outcome))
        return rows


def _with_states(
    frame: pl.DataFrame, states: list[tuple[list[str], list[str]]], changes: dict[int, int], latest: dict[str, int]
) -> pa.Array:
    """kept_names and kept_texts of each row with those of its state. changes: row to state; latest: visitor to state."""
    number, kind = pl.Int64, pl.List(pl.String)
    changed = pl.DataFrame(
        {"row": list(changes), "state": list(changes.values())}, schema={"row": pl.UInt32, "state": number}
    )
    before = pl.DataFrame(
        {"visitor": list(latest), "before": list(latest.values())}, schema={"visitor": pl.String, "before": number}
    )
    known = pl.DataFrame({
        "state": range(len(states)), "more_names": _lists([names for names, _ in states]),
        "more_texts": _lists([texts for _, texts in states]),
    }, schema={"state": number, "more_names": kind, "more_texts": kind})  # fmt: skip
    placed = (
        frame.select("row", "visitor", "kept_names", "kept_texts")
        .join(changed, on="row", how="left", maintain_order="left")
        .join(before, on="visitor", how="left", maintain_order="left")
        .with_columns(pl.col("state").forward_fill().over("visitor").fill_null(pl.col("before")))
        .join(known, on="state", how="left", maintain_order="left")
        .with_columns(pl.col("more_names", "more_texts").fill_null([]))
        .select(names=pl.concat_list("kept_names", "more_names"), texts=pl.concat_list("kept_texts", "more_texts"))
    )
    return _map(placed, "names", "texts")


def _lists(values: list[list[str]]) -> pl.Series:
    return pl.Series(pa.array(values, pa.large_list(pa.large_string())), dtype=pl.List(pl.String))


def _dated(batch: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(batch)
    time = pl.col("time_us").cast(pl.Datetime("us", "UTC"))
    return frame.with_columns(time=time, day=time.dt.strftime("%Y-%m-%d"))


def _columns(name: str, frame: pl.DataFrame) -> dict[str, Any]:
    """The columns of a table that stand in the frame as they are, with the place of every row."""
    wanted = [column for column in SCHEMAS[name].names if column in frame.columns]
    found = frame.select(wanted).to_arrow()
    return {column: found[column] for column in wanted} | _constants(
        frame.height, {"partition": PARTITION, "epoch": EPOCH}, name
    )


def _constants(rows: int, values: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        column: pa.repeat(pa.scalar(value, SCHEMAS[name].field(column).type), rows) for column, value in values.items()
    }


def _map(frame: pl.DataFrame, names: str, texts: str) -> pa.Array:
    """Two columns of lists of the same lengths as a map."""
    ends = frame[names].list.len().cast(pl.Int32).cum_sum()
    offsets = pl.concat([pl.Series([0], dtype=pl.Int32), ends.alias("")]).to_arrow()
    keys, values = (frame[name].explode(empty_as_null=False).to_arrow().cast(pa.string()) for name in (names, texts))
    return pa.MapArray.from_arrays(offsets, keys, values)


def _empty_lists(rows: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows + 1), pa.array([], pa.string()))


def _nothing(name: str, rows: int) -> pa.Array:
    """A column of empty lists or maps."""
    kind = SCHEMAS["decisions"].field(name).type
    offsets = pa.repeat(pa.scalar(0, pa.int32()), rows + 1)
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(offsets, pa.array([], kind.key_type), pa.array([], kind.item_type))
    return pa.ListArray.from_arrays(offsets, pa.array([], kind.value_type))


def _table(name: str, columns: dict[str, Any]) -> pa.Table:
    schema = SCHEMAS[name]
    return pa.table({column: columns[column] for column in schema.names}).cast(schema)
