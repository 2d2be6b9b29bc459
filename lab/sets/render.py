"""Outcomes of plain visitors: what SQL has decided, told in the engine's own values, postbacks rendered by its own code.

Only visitors with something to tell are walked through: those with a firing, or all of them if every outcome is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec
import polars as pl

from lab.sets.events import PLACE
from lab.sets.hard import Decided
from lab.sets.reading import FIELDS
from lab.sets.said import MADE
from lab.sets.session import Session
from service.engine import Event, Outcome, Visitor
from service.engine.model import RESERVED, Firing, Postback
from service.engine.postbacks import fire
from service.engine.rulebook import Rulebook, Trigger
from service.engine.triggers import Facts
from service.engine.visitors import write_event

_RESERVED = frozenset(RESERVED)
Asked = dict[
    tuple[int, int], list[tuple[int, str | None]]
]  # (ord, view): (number of the trigger, stage) in their order


class Told:
    """Makes outcomes row by row. details: by ord, which identifiers were none; absorbed: by ord, ids of visitors."""

    def __init__(
        self, rulebook: Rulebook, asked: Asked, details: dict[int, str], absorbed: dict[int, list[str]]
    ) -> None:
        self.rulebook = rulebook
        self.clients = list(rulebook.clients)
        self._asked = asked
        self._details = details
        self._absorbed = absorbed

    def past(self, rows: Iterator[dict[str, Any]], everything: bool) -> Iterator[Decided]:
        """The rows of one view in log order. everything: also the hits on which nothing fired."""
        visitor = Visitor("")
        for row in rows:
            visitor.id = row["visitor"]
            client = self.clients[row["cid"]]
            event = Event(client, row["event"], _fields(row), _custom(row))
            stages = self._asked.get((row["ord"], row["view"]), [])
            if row["speaks"] and (everything or any(stage is None for _, stage in stages)):
                yield row["ord"], row["epoch"], self._outcome(row, event, visitor, stages)
            if row["counted"]:
                write_event(visitor, event, row["ord"], row["t"], [])

    def _outcome(
        self, row: dict[str, Any], event: Event, visitor: Visitor, stages: Sequence[tuple[int, str | None]]
    ) -> Outcome:
        params = {name: value.last for name, value in visitor.params.items()} | event.params
        params = {name: params[name] for name in sorted(params)}
        seq = row["ord"] % PLACE
        facts = Facts(event, visitor, row["affiliate"] or "", params, row["hit_id"], seq, row["t"])
        fired: list[Firing] = []
        postbacks: list[Postback] = []
        for number, stage in stages:
            if stage is None:
                firing, made = fire(self._trigger(number), facts, self.rulebook, False)
                fired.append(firing)
                postbacks += made
        not_fired = {self._trigger(number).name: stage for number, stage in stages if stage is not None}
        return Outcome(
            row["hit_id"], seq, row["t"], "accepted" if row["counted"] else "duplicate", "",
            self._details.get(row["ord"], ""), event.client, event.name, row["affiliate"] or "", visitor.id, False,
            row["hit_id"] == visitor.id, event.fields, params, tuple(fired), not_fired, tuple(postbacks),
            tuple(self._absorbed.get(row["ord"], ())), (), self.rulebook.id,
        )  # fmt: skip

    def _trigger(self, number: int) -> Trigger:
        return self.rulebook.triggers[number]


def tell(
    session: Session, rulebook: Rulebook, asked: pl.DataFrame, details: dict[int, str], absorbed: dict[int, list[str]],
    everything: bool,
) -> Iterator[Decided]:  # fmt: skip
    """Outcomes of the plain hits on which something fired, or of all of them; in the order of their views.

    asked: ord, view, number and stage of all triggers that were asked, the caps included.
    """
    by_hit: Asked = {}
    for place, view, number, stage in asked.sort("ord", "number").select("ord", "view", "number", "stage").iter_rows():
        by_hit.setdefault((place, view), []).append((number, stage))
    told = Told(rulebook, by_hit, details, absorbed)
    winners = asked.filter(pl.col("stage").is_null()).group_by("view").agg(pl.col("ord").max().alias("last"))
    session.put("telling", winners)
    some = "" if everything else "JOIN telling AS w ON w.view = v.view AND v.ord <= w.last"
    query = (
        "SELECT v.view, v.speaks, e.ord, e.t, e.cid, e.event, s.* EXCLUDE (ord, params, ignored), "
        "CAST(to_json(s.params) AS VARCHAR) AS params, r.hit_id AS visitor, coalesce(NOT d.duplicate, true) AS counted, "
        f"f.affiliate FROM views AS v {some} JOIN events AS e ON e.ord = v.ord JOIN said AS s ON s.ord = v.ord "
        "JOIN said AS r ON r.ord = v.view LEFT JOIN twice AS d ON d.ord = v.ord "
        "LEFT JOIN facts AS f ON f.ord = v.ord AND f.view = v.view ORDER BY v.view, e.ord"
    )
    rows = session.frame(query).iter_rows(named=True)
    for _, mine in groupby(rows, itemgetter("view")):
        yield from told.past(mine, everything)


_FIELDS = [(name, f"f_{name}") for name in FIELDS]
_decode = msgspec.json.Decoder(dict[str, str]).decode


def _fields(row: dict[str, Any]) -> dict[str, str]:
    return {name: row[column] for name, column in _FIELDS if row[column] is not None}


def _custom(row: dict[str, Any]) -> dict[str, str]:
    params = {name: value for name, value in _decode(row["params"]).items() if name not in _RESERVED}
    if row["brought"] is not None:
        params[MADE] = row["brought"]
    return params
