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
from polars.exceptions import ComputeError

from lab.coded import Coded
from lab.maps import Lists, arrow, mapped, nothing, numbered, repeated
from lab.placing import LASTING
from lab.remembered import Remembered
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

    coded: Coded
    plain: Coded
    memory: Lists
    by_engine: list[pa.Table]
    rulebook_id: str
    of_requests: bool

    def hits(self) -> pa.Table:
        """Rows of the table `hits`."""
        coded = self.coded
        said = FIELDS | MADE_UP if self.of_requests else {"client": "client", "event": "event"}
        requests = coded.parts["request"]
        own = Lists.of(requests["keys"], requests["values"], coded.lines["request"])
        return _rows(
            "hits", coded, kind="hit", route="import", body=b"", content_type="", refusal="", decoder=DECODER_VERSION,
            received_at=arrow(_times(coded)), rulebook_id=None, query=arrow(query_of(coded)),
            params=mapped(coded, said, own),
        )  # fmt: skip

    def decisions(self) -> list[pa.Table]:
        """Rows of the table `decisions`: of plain visitors, then of the others."""
        coded = self.plain
        if not coded.height:
            return self.by_engine
        kept = MADE_UP | {name: f"last_{name}" for name in LASTING}
        found = _rows(
            "decisions", coded, verdict="accepted", reason="", detail="", affiliate="", test=False,
            rulebook_id=self.rulebook_id, fields=mapped(coded, FIELDS), params=mapped(coded, kept, self.memory),
        )  # fmt: skip
        return [found, *self.by_engine]


_SOME = 10_000  # decisions of the engine that are Python values at the same time


def _times(coded: Coded) -> pl.Series:
    return coded.lines["time_us"].cast(pl.Datetime("us", "UTC"))


def query_of(coded: Coded) -> pl.Series:
    """The query of each hit, put together."""
    pieces = coded.frame(["before", "tag", "between", "said"])
    after, request = coded.parts["request"]["after"], coded.lines["request"]
    try:
        texts = pieces.with_columns(after.cast(pl.String).gather(request))
        return texts.select(pl.concat_str(pl.all()).cast(pl.Binary)).to_series()
    except ComputeError:  # bytes that are no UTF-8, hardly ever
        made = pieces.select(made=pl.concat_str(pl.all()).cast(pl.Binary)).with_columns(after.gather(request))
        return made.select(pl.col("made") + pl.col("after")).to_series()


def _rows(name: str, coded: Coded, **values: Any) -> pa.Table:
    """Rows of a table but for `day`: these values or columns, else what the lines or their tables say, else nothing."""
    values |= {"partition": PARTITION, "epoch": EPOCH, "time": arrow(_times(coded))}
    made = {}
    for field in (field for field in SCHEMAS[name] if field.name != "day"):
        value = values.get(field.name)
        if isinstance(value, pa.Array):
            made[field.name] = value
        elif field.name in values:
            made[field.name] = repeated(value, field.type, coded.height)
        elif field.name in coded.lines.columns:
            made[field.name] = arrow(coded.lines[field.name])
        elif coded.part_of(field.name) is not None:
            made[field.name] = numbered(coded, field.name)
        else:
            made[field.name] = nothing(field.type, coded.height)
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
        self._remembered = Remembered()

    @property
    def visitors(self) -> int:
        """How many there are."""
        return self._plain_visitors + len(self._hard_visitors)

    def decide(self, coded: Coded) -> Decided:
        """What has to be found out in log order. coded: as `Placing.batches` makes it."""
        is_hard = coded.lines["hard"]
        plain = coded.filter(~is_hard) if is_hard.any() else coded
        self.verdicts["accepted"] += plain.height
        for event, count in plain.column("event").value_counts().iter_rows():
            self.events[event] += count
        self._plain_visitors += int(plain.lines["new_visitor"].sum())
        hard = coded.filter(is_hard).lines.iter_slices(_SOME) if is_hard.any() else ()
        by_engine = [table("decisions", self._by_engine(coded.with_lines(some))) for some in hard]
        return Decided(coded, plain, self._remembered.at_each(plain), by_engine, self.rulebook.id, self._of_requests)

    def _by_engine(self, hard: Coded) -> list[dict[str, Any]]:
        rows = []
        frame = hard.frame(("seq", "time_us", "hit_id", "method", "path", "address", "user_agent", "referrer"))
        for found, query in zip(frame.iter_rows(), query_of(hard), strict=True):
            seq, time_us, hit_id, method, path, address, agent, referrer = found
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
