"""Placed requests to rows of `hits` and `decisions`: what the engine would decide, batch by batch.

The rulebook of an import has one client and no trigger, so that a decision is the visitor and the remembered parameters.
Plain visitors are decided as columns, those with parameters of their own by merging these; hard ones by the engine itself.
Tests hold all of it to a replay.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from lab.maps import Lists, arrow, mapped, nothing, repeated
from lab.placing import LASTING
from service.archive.schemas import SCHEMAS, decision_row, table
from service.engine import Entry, Hit, Rulebook, State, process
from service.engine.model import DECODER_VERSION

PARTITION, EPOCH = 0, 1
# what a hit says beside its own parameters, and the columns of `placing.WIDE` that hold it
FIELDS = {"client": "client", "event": "event", "tag_id": "tag"}
MADE_UP = {
    "path": "path_text",
    "status": "status",
    "method": "method",
    "referrer_host": "referrer_host",
    "host": "host",
}


class Decided(msgspec.Struct, frozen=True):
    """A batch of hits with what had to be found out in log order; `hits` and `decisions` may be made at any time.

    of_requests: they were made of requests, and say what is made up of these. plain: the hits of plain visitors, with all
    that is remembered of them beside what is made up in `memory`. by_engine: the decisions of the others.
    """

    frame: pl.DataFrame
    plain: pl.DataFrame
    memory: Lists
    by_engine: list[pa.Table]
    rulebook_id: str
    of_requests: bool

    def hits(self) -> pa.Table:
        """Rows of the table `hits`."""
        frame = self.frame
        said = FIELDS | MADE_UP if self.of_requests else {"client": "client", "event": "event"}
        return _rows(
            "hits", frame, kind="hit", route="import", body=b"", content_type="", refusal="", decoder=DECODER_VERSION,
            received_at=arrow(_times(frame)), rulebook_id=None,
            params=mapped(_taken(frame, said), Lists.of(frame["keys"], frame["values"])),
        )  # fmt: skip

    def decisions(self) -> list[pa.Table]:
        """Rows of the table `decisions`: of plain visitors, then of the others."""
        frame = self.plain
        if frame.is_empty():
            return self.by_engine
        kept = _taken(frame, MADE_UP) | {name: frame[f"last_{name}"] for name in LASTING}
        found = _rows(
            "decisions", frame, verdict="accepted", reason="", detail="", affiliate="", test=False,
            rulebook_id=self.rulebook_id, fields=mapped(_taken(frame, FIELDS)),
            params=mapped(kept, self.memory),
        )  # fmt: skip
        return [found, *self.by_engine]


_SOME = 10_000  # decisions of the engine that are Python values at the same time


def _taken(frame: pl.DataFrame, names: dict[str, str]) -> dict[str, pl.Series]:
    return {name: frame[column] for name, column in names.items()}


def _times(frame: pl.DataFrame) -> pl.Series:
    return frame["time_us"].cast(pl.Datetime("us", "UTC"))


def _rows(name: str, frame: pl.DataFrame, **values: Any) -> pa.Table:
    """Rows of a table but for `day`: what stands in the frame, these values or columns, else empty lists and maps."""
    values |= {"partition": PARTITION, "epoch": EPOCH, "time": arrow(_times(frame))}
    made = {}
    for field in (field for field in SCHEMAS[name] if field.name != "day"):
        value = values.get(field.name)
        if isinstance(value, pa.Array):
            made[field.name] = value
        elif field.name in values:
            made[field.name] = repeated(value, field.type, frame.height)
        elif field.name in frame.columns:
            made[field.name] = arrow(frame[field.name])
        else:
            made[field.name] = nothing(field.type, frame.height)
    return pa.table(made)


class Deciding:
    """Batches in log order; the counts of all of them. visitors: how many there are."""

    def __init__(self, rulebook: Rulebook, of_requests: bool) -> None:
        self.rulebook, self._of_requests = rulebook, of_requests
        self.verdicts: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self._plain_visitors = 0
        self._hard_visitors: set[str] = set()
        self._state = State()  # of the hard visitors
        self._remembered: dict[int, dict[str, str]] = {}  # of those with parameters of their own, by life

    @property
    def visitors(self) -> int:
        """How many there are."""
        return self._plain_visitors + len(self._hard_visitors)

    def decide(self, frame: pl.DataFrame) -> Decided:
        """What has to be found out in log order. frame: as `Placing.batches` makes it."""
        hard = frame.filter("hard")
        plain = frame.filter(~pl.col("hard")) if hard.height else frame
        self.verdicts["accepted"] += plain.height
        for event, count in plain["event"].value_counts().iter_rows():
            self.events[event] += count
        self._plain_visitors += int(plain["new_visitor"].sum())
        by_engine = [table("decisions", self._by_engine(some)) for some in hard.iter_slices(_SOME)]
        return Decided(frame, plain, self._memory(plain), by_engine, self.rulebook.id, self._of_requests)

    def _memory(self, plain: pl.DataFrame) -> Lists:
        """The visitor's own parameters as they stand at each hit.

        Only hits that bring some change anything: these are merged one by one, the others take the last state over.
        """
        earlier = plain.filter(pl.col("last_own") < pl.col("pos").first()).select("last_own", "life").unique()
        states = States(earlier["last_own"].to_list())
        for life in earlier["life"].to_list():
            states.add(self._remembered[life])
        bringing = plain.filter(pl.col("keys").list.len() > 0).select("pos", "life", "keys", "values")
        states.places += bringing["pos"].to_list()
        keys, values = (bringing[name].explode(empty_as_null=False).to_list() for name in ("keys", "values"))
        start = 0
        for life, count in zip(bringing["life"].to_list(), bringing["keys"].list.len().to_list(), strict=True):
            known = self._remembered.setdefault(life, {})
            known.update(zip(keys[start : start + count], values[start : start + count], strict=True))
            states.add(known)
            start += count
        return states.lists(plain["last_own"])

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
                self._hard_visitors.add(outcome.visitor)
                self._hard_visitors -= set(outcome.absorbed)
            rows.append(decision_row(PARTITION, EPOCH, outcome))
        return rows


class States:
    """What visitors had brought at some hits. places: pos of these, in the order of `add`."""

    def __init__(self, places: list[int]) -> None:
        self.places = places
        self._names: list[str] = []
        self._texts: list[str] = []
        self._ends = [0]

    def add(self, known: dict[str, str]) -> None:
        """One more state."""
        self._names += known
        self._texts += known.values()
        self._ends.append(len(self._names))

    def lists(self, wanted: pl.Series) -> Lists:
        """Those of the states at these places, nothing for null."""
        ends = pl.Series(self._ends, dtype=pl.UInt32)
        known = pl.DataFrame({
            "at": pl.Series(self.places, dtype=pl.Int64), "start": ends.head(-1), "length": ends.tail(-1) - ends.head(-1),
        })  # fmt: skip
        found = wanted.to_frame("at").join(known, on="at", how="left", maintain_order="left").fill_null(0)
        names, texts = (pl.Series(flat, dtype=pl.String) for flat in (self._names, self._texts))
        return Lists(names, texts, found["start"], found["length"])
