"""Outcomes of plain visitors: what was decided by sets, told in the engine's own values, hit by hit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import msgspec
import polars as pl

from lab.sets.facts import Finder, visitors
from lab.sets.hard import Decided
from lab.sets.reading import FIELDS
from lab.sets.spans import PLACE
from service.engine import Event, Outcome, Visitor
from service.engine.model import Firing, Postback
from service.engine.postbacks import fire
from service.engine.rulebook import Rulebook, Trigger
from service.engine.triggers import Facts
from service.engine.visitors import EventStat, Remembered

Stages = dict[int, list[tuple[int, str | None]]]  # by row: number of the trigger and stage, in their order


class Row(NamedTuple):
    """A hit in a view. params: JSON; fields: the reserved names in the order of FIELDS."""

    view: int
    row: int
    ord: int
    t: int
    cid: int
    speaks: bool
    counted: bool
    epoch: int
    hit_id: str
    visitor: str
    affiliate: str | None
    params: str
    fields: tuple[str | None, ...]


class Told:
    """Makes outcomes row by row. details: by row, which identifiers were none; absorbed: by row, ids of visitors."""

    def __init__(
        self, rulebook: Rulebook, asked: Stages, details: dict[int, str], absorbed: dict[int, list[str]]
    ) -> None:
        self.rulebook = rulebook
        self.clients = list(rulebook.clients)
        self._asked = asked
        self._details = details
        self._absorbed = absorbed

    def past(self, rows: Iterable[Row]) -> Iterator[Decided]:
        """The rows of one view in log order."""
        visitor = Visitor("")
        for row in rows:
            custom = _decode(row.params)
            fields = {name: value for name, value in zip(FIELDS, row.fields, strict=True) if value is not None}
            fields = dict(sorted((fields | {"client": self.clients[row.cid]}).items()))
            if row.speaks:
                visitor.id = row.visitor
                event = Event(self.clients[row.cid], fields["event"], fields, custom)
                yield row.ord, row.epoch, self._outcome(row, event, visitor)
            if row.counted:
                _keep(visitor, row, custom, fields)

    def _outcome(self, row: Row, event: Event, visitor: Visitor) -> Outcome:
        params = {name: value.last for name, value in visitor.params.items()} | event.params
        params = {name: params[name] for name in sorted(params)}
        seq = row.ord % PLACE
        facts = Facts(event, visitor, row.affiliate or "", params, row.hit_id, seq, row.t)
        stages: Sequence[tuple[int, str | None]] = self._asked.get(row.row, ())
        fired: list[Firing] = []
        postbacks: list[Postback] = []
        for number, stage in stages:
            if stage is None:
                firing, made = fire(self._trigger(number), facts, self.rulebook, False)
                fired.append(firing)
                postbacks += made
        not_fired = {self._trigger(number).name: stage for number, stage in stages if stage is not None}
        return Outcome(
            row.hit_id, seq, row.t, "accepted" if row.counted else "duplicate", "",
            self._details.get(row.row, ""), event.client, event.name, row.affiliate or "", visitor.id, False,
            row.hit_id == visitor.id, event.fields, params, tuple(fired), not_fired, tuple(postbacks),
            tuple(self._absorbed.get(row.row, ())), (), self.rulebook.id,
        )  # fmt: skip

    def _trigger(self, number: int) -> Trigger:
        return self.rulebook.triggers[number]


def tell(
    finder: Finder, events: pl.DataFrame, rulebook: Rulebook, asked: pl.DataFrame, details: dict[int, str],
    absorbed: dict[int, list[str]],
) -> Iterator[Decided]:  # fmt: skip
    """Outcomes of all plain hits, view by view. finder: over all hits of the past. asked: with what the caps stop."""
    by_row: Stages = {}
    for row, number, stage in asked.sort("row", "number").select("row", "number", "stage").iter_rows():
        by_row.setdefault(row, []).append((number, stage))
    told = Told(rulebook, by_row, details, absorbed)
    hits = finder.hits
    columns = [
        hits["view"],
        hits["row"],
        events["ord"].gather(hits["row"]),
        hits["t"],
        hits["cid"],
        hits["speaks"],
        hits["counted"],
    ]
    columns += [
        finder.own("epoch"),
        finder.own("hit_id"),
        visitors(finder),
        finder.affiliates(rulebook),
        finder.own("params"),
    ]
    fields = zip(*(finder.own(f"f_{name}").to_list() for name in FIELDS), strict=True)
    rows = (Row(*values) for values in zip(*(column.to_list() for column in columns), fields, strict=True))
    for _, mine in groupby(rows, itemgetter(0)):
        yield from told.past(mine)


_decode = msgspec.json.Decoder(dict[str, str]).decode


def _keep(visitor: Visitor, row: Row, custom: dict[str, str], fields: dict[str, str]) -> None:
    """What templates may ask of the past: remembered parameters, and the fields of the last event of each name."""
    remembered = visitor.params
    for name, value in custom.items():
        known = remembered.get(name)
        if known is None:
            remembered[name] = Remembered(value, row.ord, value, row.ord)
        else:
            known.last = value
    visitor.events[fields["event"]] = EventStat(1, row.t, row.t, row.ord, fields)
