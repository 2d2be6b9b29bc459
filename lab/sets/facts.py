"""What triggers may ask about an event, for many events at once: counts, times, steps, remembered values, the affiliate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from lab.sets.conditions import names_of
from lab.sets.events import last_event
from lab.sets.names import MADE, Names
from lab.sets.past import Past
from service.engine.conditions import syntax
from service.engine.model import RESERVED
from service.engine.rulebook import Rulebook, Trigger

TIME = "strftime(make_timestamp(t), '%Y-%m-%dT%H:%M:%S.%fZ')"  # `templates.iso_time`, as SQL over t


class Asked:
    """What these triggers ask, each thing once, and the columns it has. It is where conditions find their columns."""

    def __init__(self, triggers: Iterable[Trigger]) -> None:
        self.counts: dict[str, str] = {}  # event -> column: how many before
        self.sinces: dict[str, str] = {}  # event -> column: log time of the last one
        self.values: dict[str, str] = {}  # name -> column: as `triggers.Facts.value` finds it
        self.steps: dict[tuple[str, ...], str] = {}  # steps -> column: the latest time at which they may have begun
        self.visitor = False
        for trigger in triggers:
            self._ask(trigger)

    def _ask(self, trigger: Trigger) -> None:
        if trigger.after:
            self.steps.setdefault(trigger.after, f"s{len(self.steps)}")
        if trigger.when is not None:
            for name in names_of(syntax(trigger.when.text)):
                kind, bracket, event = name.rstrip(")").partition("(")
                if not bracket:
                    self.value(name)
                elif kind == "count":
                    self.count(event)
                else:
                    self.since_us(event)
        self.visitor = self.visitor or bool(trigger.sample)

    def count(self, event: str) -> str:
        """How many earlier counted events of this name."""
        return self.counts.setdefault(event, f"n{len(self.counts)}")

    def since_us(self, event: str) -> str:
        """Microseconds since the last of them."""
        return f"(t - {self.sinces.setdefault(event, f't{len(self.sinces)}')})"

    def value(self, name: str) -> str:
        """The value of a name as `triggers.Facts.value` finds it, null if it is missing."""
        if name == "time":
            return TIME
        if name in ("affiliate", "visitor"):
            self.visitor = self.visitor or name == "visitor"
            return name
        return self.values.setdefault(name, f"v{len(self.values)}")

    def columns(self, names: Names) -> list[str]:
        """The columns of `said` that are picked for all this."""
        found = {"f_affiliate", names.columns[MADE]} | ({"hit_id"} if self.visitor else set())
        for name in self.values:
            scope, _, rest = name.partition(".")
            if name in RESERVED or scope == "last":
                found.add(f"f_{name if name in RESERVED else rest.rpartition('.')[2]}")
            elif name == "hit_id":
                found.add(name)
            else:
                custom = rest if scope in ("param", "first") else name
                found |= {names.columns[custom]} if custom in names.columns else set()
        return sorted(found - {"f_client"})

    def done(self, trigger: Trigger) -> str:
        """Whether the steps of a trigger are done."""
        if not trigger.after:
            return "true"
        start = self.steps[trigger.after]
        return f"coalesce({start} >= t - {trigger.within_us}, false)" if trigger.within_us else f"({start} IS NOT NULL)"


class Finder:
    """Finds what is asked for some hits of a past. where: these hits. names: the custom names; codes: of events."""

    def __init__(self, past: Past, where: pl.Series, names: Names, codes: dict[str, int]) -> None:
        self.past = past
        self.where = where
        self.names = names
        self.hits = past.frame.filter(where)
        self._codes = codes
        self._counted = past.frame["counted"]
        self._lasts: dict[str, pl.Series] = {}

    def did(self, event: str) -> pl.Series:
        """Which hits of the past are counted events of this name."""
        return self._counted & (self.past.frame["ev"] == self._codes[event]).fill_null(False)

    def values(self, wanted: Iterable[str]) -> list[pl.Series]:
        """The value of each name as `triggers.Facts.value` finds it: a text, null if it is missing."""
        names = list(wanted)
        custom = [name.removeprefix("param.") for name in names]
        self._find_lasts(name for name in custom if name in self.names.columns and name not in RESERVED)
        return [self._value(name) for name in names]

    def sources(self, wanted: Iterable[str]) -> pl.Series:
        """Rows of `events` whose values `values` will pick for these names."""
        names = list(wanted)
        custom = [name.removeprefix("param.") for name in names]
        self._find_lasts(name for name in custom if name in self.names.columns and name not in RESERVED)
        found = [self.hits["i"], self.hits["start"], *self._lasts.values()]
        for name in names:
            scope, _, rest = name.partition(".")
            if scope == "first" and rest in self.names.columns:
                found.append(self._first_place(self.names.columns[rest]))
            elif scope == "last" and last_event(name) in self._codes:
                found.append(self._last_place(last_event(name)))
        return self.past.frame["row"].gather(pl.concat(found).drop_nulls().unique())

    def _first_place(self, column: str) -> pl.Series:
        return self.past.first({column: self._counted & self.past.brings(column)}, self.where)[column]

    def _last_place(self, event: str) -> pl.Series:
        return self.past.last({"found": self.did(event)}, self.where)["found"]

    def _find_lasts(self, names: Iterable[str]) -> None:
        """Where each custom parameter was last said before."""
        columns = {self.names.columns[name] for name in names} - self._lasts.keys()
        marks = {column: self._counted & self.past.brings(column) for column in sorted(columns)}
        self._lasts |= {column.name: column for column in self.past.last(marks, self.where)} if marks else {}

    def _value(self, name: str) -> pl.Series:
        scope, dot, rest = name.partition(".")
        if name in RESERVED:
            return self.own(f"f_{name}") if name != "client" else self._nothing()
        if name == "hit_id":
            return self.own("hit_id")
        if not dot:
            return self._remembered(name)
        if scope == "param":
            return self._remembered(rest) if rest not in RESERVED else self._nothing()
        if scope == "first":
            return self._first(rest)
        return self._last_of(last_event(name), rest.rpartition(".")[2]) if scope == "last" else self._nothing()

    def own(self, column: str) -> pl.Series:
        """What the hits themselves say in a column of `said`."""
        return self.past.pick(column, self.hits["i"])

    def _remembered(self, name: str) -> pl.Series:
        column = self.names.columns.get(name)
        if column is None:
            return self._nothing()
        return _either(self.own(column), self.past.pick(column, self._lasts[column]))

    def _first(self, name: str) -> pl.Series:
        column = self.names.columns.get(name)
        if column is None:
            return self._nothing()
        return _either(self.past.pick(column, self._first_place(column)), self.own(column))

    def _last_of(self, event: str, field: str) -> pl.Series:
        if field not in RESERVED or event not in self._codes or field == "client":
            return self._nothing()
        return self.past.pick(f"f_{field}", self._last_place(event))

    def _nothing(self) -> pl.Series:
        return pl.repeat(None, self.hits.height, dtype=pl.String, eager=True)

    def affiliates(self, rulebook: Rulebook) -> pl.Series:
        """`visitors.attribute`: the event's own affiliate, else that of the last (or first) click in the window."""
        clicks = self.did("click") & self.past.brings("f_affiliate")
        clients = list(rulebook.clients.values())
        windows = pl.Series([client.click_window_us for client in clients], dtype=pl.Int64).gather(self.hits["cid"])
        oldest = self.hits["t"] - windows
        found = self.past.last({"click": clicks}, self.where)["click"]
        found = found.zip_with(
            (self.past.frame["t"].gather(found) >= oldest).fill_null(False),
            pl.repeat(None, found.len(), dtype=found.dtype, eager=True),
        )
        first = pl.Series([client.attribution == "first_click" for client in clients], dtype=pl.Boolean).gather(
            self.hits["cid"]
        )
        if first.any():
            found = found.zip_with(~first, self._first_clicks(clicks, oldest))
        return _either(self.own("f_affiliate"), self.past.pick("f_affiliate", found))

    def _first_clicks(self, clicks: pl.Series, oldest: pl.Series) -> pl.Series:
        """For each hit the i of the first click before it, in its view and no older than this; null if there is none."""
        places = clicks.arg_true().cast(pl.UInt32)
        times = self.past.frame["t"].gather(places)
        at = places.search_sorted(self.hits["start"], side="left").cast(pl.UInt32)
        end = places.search_sorted(self.hits["i"], side="left").cast(pl.UInt32)
        frame = pl.DataFrame({"at": at, "end": end, "oldest": oldest})
        while True:  # as often as somebody has clicks that are too old
            here = times.gather(frame.select(pl.when(pl.col("at") < pl.col("end")).then("at")).to_series())
            late = (here < frame["oldest"]).fill_null(False)
            if not late.any():
                break
            frame = frame.with_columns(at=pl.col("at") + late.cast(pl.UInt32))
        return places.gather(frame.select(pl.when(pl.col("at") < pl.col("end")).then("at")).to_series())


def _either(first: pl.Series, other: pl.Series) -> pl.Series:
    return first.zip_with(first.is_not_null(), other)


def find_facts(finder: Finder, asked: Asked, rulebook: Rulebook) -> pl.DataFrame:
    """A row per hit of the finder: the columns of its `hits`, affiliate, those of `asked`, and visitor if it is asked."""
    past, times = finder.past, finder.past.frame["t"]
    marks = {
        event: finder.did(event)
        for event in {*asked.counts, *asked.sinces, *(e for steps in asked.steps for e in steps)}
    }
    found = [finder.affiliates(rulebook).rename("affiliate")]
    found += [
        past.count(marks[event], finder.where).cast(pl.Int64).rename(column) for event, column in asked.counts.items()
    ]
    lasts = past.last({event: marks[event] for event in asked.sinces}, finder.where) if asked.sinces else pl.DataFrame()
    found += [times.gather(lasts[event]).rename(column) for event, column in asked.sinces.items()]
    for steps, column in asked.steps.items():
        found.append(times.gather(past.steps([marks[step] for step in steps], finder.where)).rename(column))
    values = finder.values(asked.values)
    found += [value.rename(column) for value, column in zip(values, asked.values.values(), strict=True)]
    if asked.visitor:
        found.append(visitors(finder).rename("visitor"))
    return finder.hits.with_columns(found)


def visitors(finder: Finder) -> pl.Series:
    """The visitor of each hit: the id of the hit that its view begins with."""
    return finder.past.pick("hit_id", finder.hits["start"])


def asked_hits(past: Past, triggers: Sequence[Trigger], cids: dict[str, int], codes: dict[str, int]) -> pl.Series:
    """Which hits some trigger is asked about."""
    kinds = {cids[trigger.client] * len(codes) + codes[trigger.on] for trigger in triggers}
    kind = pl.col("cid") * len(codes) + pl.col("ev")
    wanted = pl.col("speaks") & pl.col("counted") & kind.is_in(sorted(kinds)).fill_null(False)
    return past.frame.select(wanted).to_series()
