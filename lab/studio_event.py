"""The hits that a draft is asked about: those of one client and event, with whatever it asks of each, found once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import polars as pl

from lab.sets.facts import Asked, Finder, asked_hits, find_facts
from lab.studio_ground import Ground
from service.engine import Rulebook
from service.engine.rulebook import Trigger


class Hits:
    """The hits of plain visitors on one client's event. drawn: of the sample only.

    What was found for one draft is kept for the next: typing mostly changes literals.
    """

    def __init__(self, ground: Ground, trigger: Trigger, drawn: bool) -> None:
        self.ground = ground
        cid, code = ground.cids[trigger.client], ground.codes[trigger.on]
        past = ground.past(cid, code, drawn)
        where = asked_hits(past, [trigger], ground.cids, ground.codes)
        self._finder = Finder(past, where, ground.names, ground.codes)
        self._facts: dict[tuple[object, ...], tuple[Asked, pl.DataFrame]] = {}
        self._values: dict[str, pl.Series] = {}

    @property
    def count(self) -> int:
        """How many they are."""
        return self._finder.hits.height

    def facts(self, trigger: Trigger, rulebook: Rulebook) -> tuple[Asked, pl.DataFrame]:
        """What the set engine's stages ask: see `lab.sets.facts.find_facts`."""
        asked = Asked([trigger])
        key = (*asked.counts, 0, *asked.sinces, 0, *asked.values, 0, *asked.steps, asked.visitor)
        if key not in self._facts:
            if len(self._facts) > 8:
                self._facts.clear()
            facts = find_facts(self._finder, asked, rulebook)
            self._facts[key] = asked, facts.drop("i", "start", "speaks", "counted")
        return self._facts[key]

    def values(self, rows: pl.Series, names: Iterable[str]) -> pl.DataFrame:
        """What these rows say of each name, as conditions and payouts find it; in columns of that name, row by row."""
        places = self._places.gather(rows)
        for name in names:
            if name not in self._values:
                (self._values[name],) = self._finder.values([name])
        return pl.DataFrame({name: self._values[name].gather(places) for name in names})

    @cached_property
    def _places(self) -> pl.Series:
        """By row of `Ground.events`, the place among these hits."""
        rows = self._finder.hits["row"]
        nothing = pl.repeat(None, self.ground.hits, dtype=pl.UInt32, eager=True)
        return nothing.scatter(rows, pl.int_range(rows.len(), dtype=pl.UInt32, eager=True))
