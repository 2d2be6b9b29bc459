"""What every rulebook that reads hits alike has in common: the hits, what came twice, who belongs together.

events -> duplicates -> narrow (in a lean run) -> people -> said

Two rulebooks that are compared stand on one ground: the log is read and recognised once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import polars as pl

from lab.sets.candidates import kinds
from lab.sets.duplicates import find_duplicates, find_unsure
from lab.sets.events import Source, read_events, webhooks_of
from lab.sets.names import Names
from lab.sets.narrow import key_of, keys, rarest, tied
from lab.sets.people import People
from lab.sets.reading import shape_of
from lab.sets.said import Said
from lab.sets.stored import Known, known
from service.engine.rulebook import Rulebook, Trigger


def alike(one: Rulebook, other: Rulebook) -> bool:
    """Whether both make the same events of all hits, and recognise the same visitors."""

    def reading(rulebook: Rulebook) -> list[object]:
        return [(name, shape_of(client), client.remember_us) for name, client in rulebook.clients.items()]

    return reading(one) == reading(other)


class Ground:
    """The hits as all of `rulebooks` read them.

    everything: every hit matters; else events holds only hits that could concern a trigger of one of the rulebooks, and
    tests. events: see `lab.sets.events`, in log order. twice: see `lab.sets.duplicates`. counted: by row, false for
    duplicates. doubtful: rows that only the engine can tell. hits, judged: of the whole log, how many and how they are
    judged, see `judged`.
    """

    def __init__(self, source: Source, rulebooks: Sequence[Rulebook], everything: bool) -> None:
        self.source = source
        self.rulebooks = rulebooks
        self.everything = everything
        clients = list(source.rulebook.clients.values())
        self.remember = pl.Series([client.remember_us for client in clients], dtype=pl.Int64)
        self._known: dict[int, Known] = {}
        self._cids = {name: cid for cid, name in enumerate(source.rulebook.clients)}
        events = read_events(source, ordered=everything)
        with ThreadPoolExecutor(1) as pool:
            keyed = pool.submit(keys, events)
            unsure = find_unsure(events)
            self.twice = find_duplicates(events, unsure, self.remember)
            key = keyed.result()
        self.counted = mask(events.height, self.twice.filter("duplicate")["row"], False)
        self.doubtful = pl.concat([unsure.cast(pl.UInt32), self.twice.filter("unsure")["row"]]).unique()
        self._present: dict[int, int] = dict(key.value_counts(name="hits").drop_nulls().iter_rows())
        self.hits, self.judged = events.height, judged(events, self.counted)
        self.events = events if everything else self._narrow(events, key)

    def triggers(self, rulebook: Rulebook) -> list[tuple[int, Trigger]]:
        """Number and trigger of those whose event occurs."""
        return [(n, t) for n, t in enumerate(rulebook.triggers) if self._key(t.client, t.on) in self._present]

    @cached_property
    def people(self) -> People:
        """Who belongs together."""
        return People(self.events)

    @cached_property
    def names(self) -> Names:
        """The custom names that sets work with."""
        return Names(self.source, frozenset().union(*map(_custom_names, self.rulebooks)))

    @cached_property
    def said(self) -> Said:
        """What reads the hits' parameters."""
        return Said(self.source, self.names, self.events)

    def known(self, rows: pl.Series) -> list[Known]:
        """Some hits in log order; each is made once, whichever rulebook asks for it."""
        places = self.events["ord"].gather(rows)
        missing = rows.filter(~places.is_in(pl.Series(list(self._known), dtype=pl.Int64).implode()))
        self._known |= {hit[0]: hit for hit in known(self.source, self.said, self.events, missing)}
        return [self._known[place] for place in places.unique().sort()]

    def _narrow(self, events: pl.DataFrame, key: pl.Series) -> pl.DataFrame:
        """Only hits that could concern a trigger, and tests; in log order. key: see `lab.sets.narrow`."""
        asked = {kind for book in self.rulebooks for kind in kinds(trigger for _, trigger in self.triggers(book))}
        needed = [tuple(self._key(client, event) for event in (on, *after)) for client, on, after in asked]
        seeds = key.is_in(rarest(needed, self._present)).fill_null(False).arg_true().cast(pl.UInt32)
        wanted = tied(events, pl.concat([seeds, self.doubtful]), self.source.session.kernel)
        kept = events.select(wanted | (pl.col("test") & pl.col("reason").is_null())).to_series().arg_true()
        kept = kept.gather(events["ord"].gather(kept).arg_sort())
        moved = pl.repeat(None, events.height, dtype=pl.UInt32, eager=True)
        moved = moved.scatter(kept, pl.int_range(kept.len(), dtype=pl.UInt32, eager=True)) if kept.len() else moved
        self.counted = self.counted.gather(kept)
        self.twice = self.twice.with_columns(row=moved.gather(self.twice["row"])).drop_nulls("row")
        self.doubtful = moved.gather(self.doubtful).drop_nulls()
        return events[kept]

    def _key(self, client: str, event: str) -> int:
        return key_of(self._cids[client], self.source.names[event])


def judged(events: pl.DataFrame, counted: pl.Series) -> dict[tuple[str, str], int]:
    """(verdict, reason) -> hits. counted: by row, false for duplicates."""
    reasons = events["reason"].drop_nulls().cast(pl.String)
    valid = events.height - len(reasons)
    twice = int((~counted & events["reason"].is_null()).sum())
    tally = {("rejected", reason): hits for reason, hits in reasons.value_counts(name="hits").iter_rows()}
    return tally | {("accepted", ""): valid - twice, ("duplicate", ""): twice}


def mask(length: int, rows: pl.Series, value: bool) -> pl.Series:
    """By row: `value` for these rows, its opposite for all others."""
    found = pl.repeat(not value, length, eager=True)
    return found.scatter(rows, value) if rows.len() else found


def _custom_names(rulebook: Rulebook) -> frozenset[str]:
    """Names that the rulebook itself asks for, without their scope."""
    names = {macro.name for webhook in webhooks_of(rulebook) for macro in webhook.macros}
    for trigger in rulebook.triggers:
        names |= trigger.when.names if trigger.when else frozenset()
        names |= {trigger.payout.of} if trigger.payout else set()
    return frozenset(name.removeprefix("param.").removeprefix("first.") for name in names)
