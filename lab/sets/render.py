"""Outcomes of plain visitors: what SQL has decided, told in the engine's own values, postbacks rendered by its own code.

Only visitors with something to tell are walked through: those with a firing, or all of them if every outcome is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

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
from service.engine.visitors import EventStat, Remembered

_RESERVED = frozenset(RESERVED)
# by (ord, view): number of the trigger and stage, in their order
Asked = dict[tuple[int, int], list[tuple[int, str | None]]]


class Row(NamedTuple):
    """A hit in a view. params, fields: JSON objects; fields are there only where somebody reads them."""

    view: int
    ord: int
    t: int
    cid: int
    event: str
    speaks: bool
    counted: bool
    epoch: int
    hit_id: str
    visitor: str
    affiliate: str | None
    brought: str | None
    params: str
    fields: str | None


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

    def past(self, rows: Iterable[Row], everything: bool) -> Iterator[Decided]:
        """The rows of one view in log order. everything: also the hits on which nothing fired."""
        visitor = Visitor("")
        for row in rows:
            custom, fields = _custom(row), _fields(row)
            stages = self._asked.get((row.ord, row.view), ())
            if row.speaks and (everything or any(stage is None for _, stage in stages)):
                visitor.id = row.visitor
                event = Event(self.clients[row.cid], row.event, fields, custom)
                yield row.ord, row.epoch, self._outcome(row, event, visitor, stages)
            if row.counted:
                _keep(visitor, row, custom, fields)

    def _outcome(self, row: Row, event: Event, visitor: Visitor, stages: Sequence[tuple[int, str | None]]) -> Outcome:
        params = {name: value.last for name, value in visitor.params.items()} | event.params
        params = {name: params[name] for name in sorted(params)}
        seq = row.ord % PLACE
        facts = Facts(event, visitor, row.affiliate or "", params, row.hit_id, seq, row.t)
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
            self._details.get(row.ord, ""), event.client, event.name, row.affiliate or "", visitor.id, False,
            row.hit_id == visitor.id, event.fields, params, tuple(fired), not_fired, tuple(postbacks),
            tuple(self._absorbed.get(row.ord, ())), (), self.rulebook.id,
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
    session.put("telling", asked.filter(pl.col("stage").is_null()).select("view", "ord").unique())
    rows = map(Row._make, session.frame(_query(rulebook, everything)).iter_rows())
    for _, mine in groupby(rows, itemgetter(0)):
        yield from told.past(mine, everything)


def _query(rulebook: Rulebook, everything: bool) -> str:
    """The columns of `Row`, for the views that tell something, up to the last hit that does."""
    fields = "CAST(to_json({" + ", ".join(f"'{name}': s.f_{name}" for name in FIELDS) + "}) AS VARCHAR)"
    if not (everything or _reads_last(rulebook)):
        fields = f"CASE WHEN f.told THEN {fields} END"
    some = "" if everything else "JOIN (SELECT view, max(ord) AS until FROM telling GROUP BY view) AS w "
    some += "" if everything else "ON w.view = v.view AND v.ord <= w.until"
    facts = (
        "(SELECT f.view, f.ord, f.affiliate, g.ord IS NOT NULL AS told FROM facts AS f "
        "LEFT JOIN telling AS g USING (view, ord))"
    )
    return (
        "SELECT v.view, e.ord, e.t, e.cid, e.event, v.speaks, coalesce(NOT d.duplicate, true), s.epoch, s.hit_id, "
        f"r.hit_id AS visitor, f.affiliate, s.brought, CAST(to_json(s.params) AS VARCHAR), {fields} FROM views AS v {some} "
        "JOIN events AS e ON e.ord = v.ord JOIN said AS s ON s.ord = v.ord JOIN said AS r ON r.ord = v.view "
        f"LEFT JOIN twice AS d ON d.ord = v.ord LEFT JOIN {facts} AS f ON f.ord = v.ord AND f.view = v.view "
        "ORDER BY v.view, e.ord"
    )


def _reads_last(rulebook: Rulebook) -> bool:
    """Whether some template or payout reads a field of an earlier event."""
    return "last." in rulebook.text


_decode = msgspec.json.Decoder(dict[str, str]).decode
_decode_fields = msgspec.json.Decoder(dict[str, str | None]).decode


def _fields(row: Row) -> dict[str, str]:
    if row.fields is None:
        return {}
    return {name: value for name, value in _decode_fields(row.fields).items() if value is not None}


def _custom(row: Row) -> dict[str, str]:
    params = {name: value for name, value in _decode(row.params).items() if name not in _RESERVED}
    if row.brought is not None:
        params[MADE] = row.brought
    return params


def _keep(visitor: Visitor, row: Row, custom: dict[str, str], fields: dict[str, str]) -> None:
    """What templates may ask of the past: remembered parameters, and the fields of the last event of each name."""
    remembered = visitor.params
    for name, value in custom.items():
        known = remembered.get(name)
        if known is None:
            remembered[name] = Remembered(value, row.ord, value, row.ord)
        else:
            known.last = value
    visitor.events[row.event] = EventStat(1, row.t, row.t, row.ord, fields)
