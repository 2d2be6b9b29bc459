"""The custom names that sets work with: a column for each."""

from __future__ import annotations

from collections import Counter

import polars as pl

from lab.sets.events import Source
from service.engine import Event
from service.engine.model import RESERVED
from service.engine.visitors import MAX_REMEMBERED

MADE = "affiliate_click_id"  # a custom parameter that no request brings: the click id of a tracker link
MAX_NAMES = MAX_REMEMBERED * 3 // 4  # below the bound of a visitor, so that no plain one can reach it


class Names:
    """The custom names that sets work with; hits with others are `wide`, and theirs is for the reference engine."""

    def __init__(self, source: Source, asked: frozenset[str]) -> None:
        patterns = source.reading.patterns
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
        patterns = enumerate(source.reading.patterns)
        wide = [number for number, names in patterns if not self._left_out.isdisjoint(names)]
        odd = [
            place
            for place, e in source.parsed.items()
            if isinstance(e, Event) and not self._left_out.isdisjoint(e.params)
        ]
        mask = pattern_of(source, events["slot"]).is_in(wide).fill_null(False) | pl.col("ord").is_in(odd)
        return events.select(mask).to_series().arg_true()


def pattern_of(source: Source, slot: pl.Series) -> pl.Series:
    """The numbers of the patterns of slots."""
    return (slot // max(1, len(source.reading.clients))).cast(pl.UInt32)
