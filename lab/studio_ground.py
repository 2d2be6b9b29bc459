"""What does not depend on the trigger that is being written: read and recognised once, when a studio opens.

All hits as events, whose they are, what each says, and the requests of the visitors that are hard for the set engine. This
is the only file of the studio that asks the set engine's steps (`lab.sets.decide` has the same road for a whole rulebook).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from lab.sets.candidates import all_rows
from lab.sets.duplicates import find_duplicates, find_unsure
from lab.sets.events import Source, entries_of, read_events
from lab.sets.names import Names
from lab.sets.past import Past
from lab.sets.people import People, split
from lab.sets.reading import FIELDS
from lab.sets.said import Said
from lab.sets.session import Session
from service.engine import Entry, Event, Rejection, Rulebook, parse
from service.engine.rulebook import Trigger, index_triggers

if TYPE_CHECKING:
    from lab.log import Log

Report = Callable[[float, str], None]  # share done from 0 to 1, what is being done

SHARE = 16  # one visitor of so many is in the sample
SMALL = 60_000  # hits: a log up to here is never sampled
MAX_EVENTS = 2_000  # names of events that are told apart


class Asked(NamedTuple):
    """A hit for the reference engine. label: of its group of visitors; earlier_us: time of the accepted hit of its txid."""

    place: int
    label: int
    entry: Entry
    parsed: Event | Rejection
    earlier_us: int | None


class Ground:
    """A log, prepared for drafts. Not thread-safe: one thread asks at a time.

    hits: how many the log holds. hard: the requests of hard visitors and tests; drawn_hard: labels of those in the sample.
    kinds: client, event, hits, visitors of all counted events that are no tests, most hits
    first. frame: a row per hit in a view of a plain visitor: view, label, row, speaks, counted, ev, cid, t.
    share: one visitor in so many is in the sample; 1 up to `small` hits.
    """

    def __init__(
        self, log: Log, rulebook: Rulebook, report: Report = lambda share, what: None, small: int = SMALL
    ) -> None:
        self.log = log
        self.rulebook = rulebook
        self.session = Session()
        report(0.02, "reading the hits")
        self.source, self.events = self._read()
        self.hits = self.events.height
        self.share = SHARE if self.hits > small else 1
        self.codes = _Codes(self.source.names)
        self.cids = {name: cid for cid, name in enumerate(rulebook.clients)}
        report(0.4, "recognising visitors")
        self._recognise()
        report(0.6, "reading what they said")
        self.said = self._read_said()
        report(0.85, "reading the hard ones")
        self.hard = self._read_hard()
        labels = pl.Series([hit.label for hit in self.hard], dtype=pl.UInt32)
        self.drawn_hard = set(labels.filter(_drawn(labels, self.share)))
        self._keep_drawn()
        self.kinds = self._count()
        report(1.0, "ready")

    def close(self) -> None:
        """Give back what DuckDB holds."""
        self.session.__exit__(None, None, None)

    def _read(self) -> tuple[Source, pl.DataFrame]:
        """The events, every name told apart: a second reading if the rulebook does not name all."""
        partitions = self.log.cuts["partition"].to_list()
        source = Source(self.session, self.log, self.rulebook, partitions)
        events = read_events(source)
        if events.filter(pl.col("ev").is_null(), pl.col("reason").is_null()).is_empty():
            return source, events
        names = {event.name for event in source.parsed.values() if isinstance(event, Event)}
        found = sorted(source.others.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_EVENTS]
        names |= {name for name, _ in found}
        source = Source(self.session, self.log, _naming(self.rulebook, names), partitions)
        return source, read_events(source)

    def _recognise(self) -> None:
        events, clients = self.events, list(self.rulebook.clients.values())
        remember = pl.Series([client.remember_us for client in clients], dtype=pl.Int64)
        unsure = find_unsure(events)
        twice = find_duplicates(events, unsure, remember)
        self.names = Names(self.source, frozenset(name for client in clients for name in client.params))
        doubtful = [unsure.cast(pl.UInt32), twice.filter("unsure")["row"]]
        doubtful.append(self.names.wide(self.source, events).cast(pl.UInt32))
        self.counted = _mask(events.height, twice.filter("duplicate")["row"], False)
        people = People(events)
        rows = all_rows(events, people)
        row = rows["row"]
        rows = rows.with_columns(
            t=events["t"].gather(row), counted=self.counted.gather(row),
            unsure=_mask(events.height, pl.concat(doubtful), True).gather(row),
            remember=remember.gather(events["cid"].gather(row)),
        )  # fmt: skip
        views, self._hard_rows, _ = split(people, rows)
        self.labels = people.labels
        row = views["row"]
        self.frame = views.with_columns(
            counted=self.counted.gather(row),
            drawn=_drawn(views["label"], self.share),
            **{name: events[name].gather(row) for name in ("ev", "cid", "t")},
        )
        known = twice.filter(pl.col("earlier").is_not_null() & ~pl.col("unsure"))
        self._earlier = dict(zip(events["ord"].gather(known["row"]).to_list(), known["earlier"].to_list(), strict=True))

    def _read_said(self) -> tuple[pl.DataFrame, pl.Series]:
        self._reader = Said(self.source, self.names, self.events)
        columns = ["hit_id", *(f"f_{name}" for name in FIELDS), *self.names.columns.values()]
        return self._placed(self._reader.of(self.frame["row"], columns))

    def _placed(self, said: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        """The same with, by row of `events`, its place in it."""
        nothing = pl.repeat(None, self.events.height, dtype=pl.UInt32, eager=True)
        return said, nothing.scatter(said["row"], pl.int_range(said.height, dtype=pl.UInt32, eager=True))

    def _read_hard(self) -> list[Asked]:
        """The requests of hard visitors and tests, in log order, parsed."""
        tests = self.events.select(pl.col("test") & pl.col("reason").is_null()).to_series().arg_true().cast(pl.UInt32)
        rows = pl.concat([self._hard_rows, tests]).unique().sort()
        labels = dict(zip(self.events["ord"].gather(rows).to_list(), self.labels.gather(rows).to_list(), strict=True))
        return [self._asked(place, labels[place], entry) for place, entry in self.entries(rows)]

    def _asked(self, place: int, label: int, entry: Entry) -> Asked:
        assert entry.hit is not None
        return Asked(place, label, entry, parse(entry.hit, self.rulebook), self._earlier.get(place))

    def _count(self) -> pl.DataFrame:
        """What `kinds` says; of hard visitors too."""
        valid = pl.col("reason").is_null() & ~pl.col("test") & pl.col("counted") & pl.col("ev").is_not_null()
        events = self.events.select("cid", "ev", "reason", "test", counted=self.counted, label=self.labels)
        found = events.filter(valid).group_by("cid", "ev").agg(hits=pl.len(), visitors=pl.col("label").n_unique())
        names = {code: name for name, code in self.codes.items()}
        clients = list(self.rulebook.clients)
        return found.select(
            client=pl.col("cid").replace_strict(dict(enumerate(clients)), return_dtype=pl.String, default=None),
            event=pl.col("ev").replace_strict(names, return_dtype=pl.String, default=None),
            hits=pl.col("hits").cast(pl.Int64), visitors=pl.col("visitors").cast(pl.Int64),
        ).sort(["hits", "client", "event"], descending=[True, False, False])  # fmt: skip

    def past(self, cid: int, code: int, drawn: bool) -> Past:
        """The views in which an event of a client is decided, whole; of the sample only, if `drawn`."""
        frame, (said, places) = (self._drawn_frame, self._drawn_said) if drawn else (self.frame, self.said)
        mine = frame.filter(pl.col("cid") == cid, pl.col("ev") == code, "speaks", "counted")["view"].unique()
        kept = frame.filter(pl.col("view").is_in(mine.implode()))
        return _Seen(kept, said, self._reader.brings, places)

    def entries(self, rows: pl.Series) -> list[tuple[int, Entry]]:
        """The requests of these rows of `events`, in log order."""
        return self.source.entries(self.events[rows])

    def groups(self, labels: Iterable[int]) -> dict[int, list[Asked]]:
        """Every request of these groups of visitors, in log order, by label. Those in the sample are at hand."""
        wanted = pl.Series(sorted(set(labels)), dtype=pl.UInt32)
        rows = (self.labels.is_in(wanted.implode()) & self.events["reason"].is_null()).arg_true()
        found = pl.DataFrame({"ord": self.events["ord"].gather(rows), "label": self.labels.gather(rows)})
        label_of = dict(found.iter_rows())
        entries = self._drawn(found["ord"])
        if len(entries) < found.height:
            entries = self.source.entries(self.events[rows])
        groups: dict[int, list[Asked]] = {}
        for place, entry in entries:
            groups.setdefault(label_of[place], []).append(self._asked(place, label_of[place], entry))
        return groups

    def _keep_drawn(self) -> None:
        """Requests of the visitors in the sample, so that examples need not be looked for in the files."""
        self._drawn_frame = self.frame.filter("drawn").drop("drawn")
        self.frame = self.frame.drop("drawn")
        rows = self._drawn_frame["row"].unique()
        self._drawn_said = self._placed(self.said[0].filter(pl.col("row").is_in(rows.implode())))
        self._drawn_hits = self.source.requests(self.events[rows]) if rows.len() else None

    def _drawn(self, places: pl.Series) -> list[tuple[int, Entry]]:
        found = self._drawn_hits
        return [] if found is None else entries_of(found.filter(pl.col("ord").is_in(places.implode())))

    def at_hand(self, labels: pl.Series) -> pl.Series:
        """Whether the requests of these groups are in the sample, and so in memory."""
        return labels.is_in(self._drawn_frame["label"].implode()).fill_null(False)


class _Seen(Past):
    """A past that finds what its hits said by number: to join a million rows for each kind of event is slow."""

    def __init__(
        self, frame: pl.DataFrame, said: pl.DataFrame, brings: Callable[[str], pl.Series], places: pl.Series
    ) -> None:
        self._places = places
        super().__init__(frame, said, brings)

    def hears(self, said: pl.DataFrame) -> None:
        self.said = said
        self._at = self._places.gather(self.frame["row"])


class _Codes(dict[str, int]):
    """Numbers of events; one that never came has a number that no hit has."""

    def __missing__(self, event: str) -> int:
        return -1


def _naming(rulebook: Rulebook, events: Iterable[str]) -> Rulebook:
    """The rulebook with a trigger on each event, so that the set engine tells them apart."""
    client = next(iter(rulebook.clients), "")
    more = tuple(Trigger(f"~{event}", client, event) for event in sorted(events))
    triggers = rulebook.triggers + more
    return Rulebook(
        rulebook.id, rulebook.text, rulebook.clients, rulebook.affiliates, triggers, index_triggers(triggers)
    )


def _drawn(labels: pl.Series, share: int) -> pl.Series:
    """Which groups of visitors are in the sample."""
    return labels.hash(3) % share == 0


def _mask(length: int, rows: pl.Series, value: bool) -> pl.Series:
    mask = pl.repeat(not value, length, eager=True)
    return mask.scatter(rows, value) if rows.len() else mask
