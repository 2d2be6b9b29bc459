"""What hits said, for the hits that matter: further scans of the table, because parameters are wide.

`said` has a row per hit, in no order: row (of `events`) and columns such as hit_id, epoch, f_NAME per reserved name (null
if absent), p_0, p_1, ... per custom name of `Names`, params (all custom parameters as JSON) and ignored (an identifier that
came may be none). Facts ask for a few columns of many hits, postbacks for most columns of the few hits they quote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl

from lab.sets.events import Source
from lab.sets.reading import FIELDS
from lab.sets.session import texts
from service.engine import Event
from service.engine.model import RESERVED
from service.engine.visitors import MAX_REMEMBERED

MADE = "affiliate_click_id"  # a custom parameter that no request brings: the click id of a tracker link
MAX_NAMES = MAX_REMEMBERED * 3 // 4  # below the bound of a visitor, so that no plain one can reach it


class Names:
    """The custom names that sets work with; hits with others are `wide`, and theirs is for the reference engine."""

    def __init__(self, source: Source, asked: frozenset[str]) -> None:
        patterns = list(source.reading.patterns.values())
        known = Counter(name for names in patterns for name in names if name not in RESERVED)
        parsed = [event.params for event in source.parsed.values() if isinstance(event, Event)]
        known.update(name for params in parsed for name in params)
        common = [name for name, _ in sorted(known.items(), key=lambda pair: (-pair[1], pair[0]))]
        first = [MADE, *sorted(asked & known.keys() - {MADE})]
        kept = [*first, *(name for name in common if name not in asked and name != MADE)][:MAX_NAMES]
        self.custom = sorted(kept)
        self.columns = {name: f"p_{number}" for number, name in enumerate(self.custom)}
        self._left_out = known.keys() - set(kept)

    def wide(self, source: Source, events: pl.DataFrame) -> pl.Series:
        """Rows of `events` with a name that was left out."""
        if not self._left_out:
            return pl.Series([], dtype=pl.UInt32)
        clients = max(1, len(source.reading.clients))
        patterns = enumerate(source.reading.patterns.values())
        wide = [number for number, names in patterns if not self._left_out.isdisjoint(names)]
        odd = [
            place
            for place, e in source.parsed.items()
            if isinstance(e, Event) and not self._left_out.isdisjoint(e.params)
        ]
        mask = (pl.col("slot") // clients).is_in(wide).fill_null(False) | pl.col("ord").is_in(odd)
        return events.select(mask).to_series().arg_true()


class Said:
    """Reads `said`."""

    def __init__(self, source: Source, names: Names, events: pl.DataFrame) -> None:
        self._source = source
        self._names = names
        self._events = events
        self._slots = source.reading.slots(names.custom)

    @property
    def all(self) -> list[str]:
        """The columns that facts and postbacks are made of."""
        return ["hit_id", *(f"f_{name}" for name in FIELDS), *self._names.columns.values()]

    def of(self, rows: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """These columns for these rows of `events`."""
        rows, events = rows.unique(), self._events
        heard = pl.DataFrame({"row": rows, **{name: events[name].gather(rows) for name in ("ord", "slot", "link")}})
        asked = ", ".join(f"{self._column(name)} AS {name}" for name in columns)
        query = self._source.read_again(f'"row", {asked}', heard, self._names.custom)
        said = self._source.session.frame(query)
        return _with_parsed(self._source, self._names, heard, said) if self._source.parsed else said

    def brings(self, column: str) -> pl.Series:
        """For every row of `events` whether it brings the custom name of a column, which its pattern tells."""
        told = self._slots[column].is_not_null().gather(self._events["slot"]).fill_null(False)
        name = next(name for name, mine in self._names.columns.items() if mine == column)
        parsed = self._source.parsed.items()
        own = [place for place, event in parsed if isinstance(event, Event) and name in event.params]
        return told | self._events["ord"].is_in(own) if own else told

    def _column(self, column: str) -> str:
        reading = self._source.reading
        if column.startswith("f_"):
            return reading.field(column.removeprefix("f_"))
        if column == self._names.columns[MADE]:
            return f"coalesce({self._brought}, {column})"
        if column == "params":
            return f"CAST(to_json({_custom_params(self._brought)}) AS VARCHAR)"
        return f"({reading.ignored()})" if column == "ignored" else column

    @property
    def _brought(self) -> str:
        return f"CASE WHEN linked THEN {self._source.reading.sent('click_id')} END"


def _custom_params(brought: str) -> str:
    """All custom parameters of a hit as a map."""
    plain = f"map_from_entries(list_filter(map_entries(params), lambda pair: pair.key NOT IN ({texts(RESERVED)})))"
    return f"CASE WHEN {brought} IS NULL THEN {plain} ELSE map_concat({plain}, MAP {{'{MADE}': {brought}}}) END"


def _with_parsed(source: Source, names: Names, heard: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """The hits that the engine's parser read say what it found."""
    mine = heard.filter(pl.col("ord").is_in(list(source.parsed)))
    known = said.join(mine.select("row", "ord"), on="row").unique("row")
    rows: list[dict[str, Any]] = []
    for row in known.iter_rows(named=True):
        event = source.parsed[row.pop("ord")]
        if isinstance(event, Event):
            made: dict[str, Any] = {f"f_{name}": event.fields.get(name) for name in FIELDS}
            made |= {column: event.params.get(name) for name, column in names.columns.items()}
            made |= {"ignored": bool(event.detail), "params": msgspec.json.encode(event.params).decode()}
            rows.append({name: made.get(name, value) for name, value in row.items()})
    by_parser = pl.DataFrame(rows, said.schema)
    return pl.concat([said.join(by_parser, on="row", how="anti"), by_parser])
