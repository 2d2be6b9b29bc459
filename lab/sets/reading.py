"""What a hit says, column by column: the second reading of `service.engine.parse`.

A request is a list of names and a list of values. Few lists of names ever occur: each is a *pattern*, and where a field's
value lies, aliases and all, is worked out once per pattern and *shape* and looked up by number. Clients that read alike
(same aliases, same values that are no identifier, same browser events) share a shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import polars as pl

from lab.sets.conditions import NUMBER_PATTERN
from service.engine.model import IDENTIFIERS, RESERVED
from service.engine.rulebook import Client, Rulebook

Shape = tuple[tuple[tuple[str, str], ...], frozenset[str], frozenset[str]]
Pattern = tuple[str, ...]  # the names of a request, in their order

EVENT_PATTERN = "[A-Za-z0-9_.:/-]{1,64}"
CURRENCY_PATTERN = "[A-Za-z]{3}"
# `parse.MACRO` without its anchors
MACRO_PATTERN = r"\$?\{[^{}]*\}|\{\{[^{}]*\}\}|\[[^\[\]]*\]|\[\[[^\[\]]*\]\]|#[^#]*#|%[A-Za-z0-9_]+%"
FIELDS = tuple(sorted(set(RESERVED) - {"client"}))
MAX_PATTERNS = 20_000  # hits of further ones are for the engine's parser


def shape_of(client: Client) -> Shape:
    """What decides how a client's hits are read."""
    return tuple(client.aliases.items()), client.not_an_id, client.browser_events


class Reading:
    """The patterns of a log, learned as they come, and where a rulebook's clients put what.

    A *slot* is a pattern as a client sends it: its number over the number of clients is that of the pattern.
    """

    def __init__(self, rulebook: Rulebook) -> None:
        self.clients = list(rulebook.clients.values())
        self.shapes: list[Shape] = list(dict.fromkeys(map(shape_of, self.clients)))
        self.patterns: list[Pattern] = []
        self.shape_of = pl.Series([self.shapes.index(shape_of(one)) for one in self.clients], dtype=pl.UInt32)
        self.longest = max(
            (len(word.encode()) for shape in self.shapes for word in shape[1]), default=0
        )  # no identifier
        self._numbers: dict[Pattern, int] = {}
        self._sources = [_sources(shape) for shape in self.shapes]
        # field -> for the strongest source, the next one, ...: by pattern and shape, where its value lies
        self._places: dict[str, list[list[int | None]]] = {name: [[]] for name in ("client", *FIELDS)}
        self._looked: Places | None = None
        self._looked_at = 0
        self._lock = Lock()

    def number_of(self, names: Pattern) -> int | None:
        """The number of a pattern, from 0; None if there are too many."""
        with self._lock:
            if names not in self._numbers and len(self.patterns) < MAX_PATTERNS:
                self._numbers[names] = len(self.patterns)
                self.patterns.append(names)
                self._learn({name: place for place, name in enumerate(names)})
            return self._numbers.get(names)

    def _learn(self, places: dict[str, int]) -> None:
        for field, levels in self._places.items():
            known = len(self.patterns) * len(self.shapes) - len(self.shapes)
            found = [[places[s] for s in sources[field] if s in places] for sources in self._sources]
            while len(levels) < max(map(len, found), default=0):
                levels.append([None] * known)
            for level, column in enumerate(levels):
                column.extend(mine[level] if level < len(mine) else None for mine in found)

    def places(self) -> Places:
        """Where everything lies in the patterns that are known now."""
        with self._lock:
            if self._looked is None or self._looked_at < len(self.patterns):
                found = {field: [_numbers(level) for level in levels] for field, levels in self._places.items()}
                self._looked, self._looked_at = Places(self, found), len(self.patterns)
            return self._looked

    def custom(self, names: Sequence[str]) -> dict[str, pl.Series]:
        """For each of these custom names by pattern where its value lies."""
        with self._lock:
            patterns = [{name: place for place, name in enumerate(pattern)} for pattern in self.patterns]
        return {name: _numbers([pattern.get(name) for pattern in patterns]) for name in names}

    def brings(self, name: str) -> pl.Series:
        """By pattern, whether it brings a custom name."""
        with self._lock:
            return pl.Series([name in pattern for pattern in self.patterns], dtype=pl.Boolean)


class Places:
    """A look at a `Reading`. fields: per field, for the strongest source and then the next, by key where its value lies.

    A key is the number of a pattern and a shape in one.
    """

    def __init__(self, reading: Reading, fields: dict[str, list[pl.Series]]) -> None:
        self.reading = reading
        self.fields = fields
        self._size = fields["client"][0].len()

    def client(self, pattern: pl.Series) -> pl.Series:
        """Where patterns bring the client."""
        return self.fields["client"][0].gather(pattern * len(self.reading.shapes))

    def keys(self, pattern: pl.Series, cid: pl.Series) -> pl.Series:
        """The keys of some hits; null where the client is."""
        shapes = self.reading.shapes
        if len(shapes) == 1:
            return pattern.zip_with(cid.is_not_null(), pl.repeat(None, pattern.len(), dtype=pattern.dtype, eager=True))
        return pattern * len(shapes) + self.reading.shape_of.gather(cid)

    @cached_property
    def priced(self) -> pl.Series:
        """By key, whether an amount or a currency came under any name."""
        found = _never(self._size)
        for level in (*self.fields["amount"], *self.fields["currency"]):
            found = found | level.is_not_null()
        return found


class Spoken:
    """What some hits said, field by field.

    starts: for each where its values begin; key: see `Places`; pick: the values at some places, null for null.
    """

    def __init__(
        self, places: Places, key: pl.Series, starts: pl.Series, pick: Callable[[pl.Series], pl.Series]
    ) -> None:
        self.places = places
        self._key = key
        self._starts = starts
        self._pick = pick

    def only(self, rows: pl.Series) -> Spoken:
        """The same of some of these hits. rows: their numbers."""
        return Spoken(self.places, self._key.gather(rows), self._starts.gather(rows), self._pick)

    def sent(self, name: str) -> pl.Series:
        """A field as it came: under its own name, else under its first alias that came; null if it is absent. What stands
        for no identifier at all is passed over."""
        found: pl.Series | None = None
        for level in range(len(self.places.fields[name])):
            if found is None:
                found = self._clean(name, self._at(name, level))
                continue
            further = self.places.fields[name][level].is_not_null()
            rows = (found.is_null() & further.gather(self._key).fill_null(False)).arg_true()
            if rows.len():
                some = self.only(rows)
                found = found.scatter(rows, some._clean(name, some._at(name, level)))
        assert found is not None
        return found

    def ignored(self) -> pl.Series:
        """Whether something came as an identifier and is none: such hits have a detail."""
        found = _never(self._key.len())
        for name in IDENTIFIERS:
            for level in range(len(self.places.fields[name])):
                value = self._at(name, level)
                found = found | (value.is_not_null() & self._clean(name, value).is_null())
        return found

    def custom(self, places: pl.Series, pattern: pl.Series) -> pl.Series:
        """The values of a custom name that lies at these places, by pattern. pattern: of these hits."""
        return self._pick(self._starts + places.gather(pattern))

    def _at(self, name: str, level: int) -> pl.Series:
        return self._pick(self._starts + self.places.fields[name][level].gather(self._key))

    def _clean(self, name: str, values: pl.Series) -> pl.Series:
        """The same without what is no identifier."""
        if name not in IDENTIFIERS or values.null_count() == values.len():
            return values
        rows = (values.is_not_null() & ~_clear(values, self.places.reading.longest)).arg_true()
        if not rows.len():
            return values
        none = self._none(values.gather(rows), self._key.gather(rows) % len(self.places.reading.shapes))
        rows = rows.filter(none)
        return values.scatter(rows, None) if rows.len() else values

    def _none(self, values: pl.Series, shape: pl.Series) -> pl.Series:
        """Whether values that came stand for no identifier at all."""
        found = values.str.contains(rf"\A(?:{MACRO_PATTERN})\z")
        for number, one in enumerate(self.places.reading.shapes):
            words = pl.Series(sorted(one[1]), dtype=pl.String)
            found = found | ((shape == number) & values.is_in(words.implode()))
        return found


def _clear(values: pl.Series, longest: int) -> pl.Series:
    """Whether it can be seen at a glance that a value is an identifier: longer than all that are none, and it begins with a
    letter or a digit, as no macro does."""
    begins = (values >= "0") & (values < "[") | (values >= "^") & (values < "{")
    return begins & (values.str.len_bytes() > longest)


def _sources(shape: Shape) -> dict[str, list[str]]:
    """Per field the names that it may come under, the strongest first."""
    sources = {name: [name, *(alias for alias, target in shape[0] if target == name)] for name in FIELDS}
    return sources | {"client": ["client"]}


def _numbers(places: list[int | None]) -> pl.Series:
    return pl.Series(places, dtype=pl.UInt32)


def _never(length: int) -> pl.Series:
    return pl.repeat(False, length, dtype=pl.Boolean, eager=True)


def reasons(hits: pl.DataFrame, shapes: Sequence[Shape]) -> pl.Series:
    """Why hits are rejected, null where they are not: order and meaning of `parse`.

    hits: refusal, linked_reason, client (as it came), cid, event, ev, route, signed, shape, amount, currency.
    """
    here = pl.col("route").is_in(["e.gif", "e.js"]) & ~pl.col("signed")
    allowed = pl.lit(False)
    for number, shape in enumerate(shapes):
        allowed = allowed | ((pl.col("shape") == number) & pl.col("event").is_in(sorted(shape[2])))
    checks = (
        ("missing_client", pl.col("client").is_null()),
        ("unknown_client", pl.col("cid").is_null()),
        ("missing_event", pl.col("event").is_null()),
        ("invalid_event", pl.col("ev").is_null() & ~_fits("event", EVENT_PATTERN)),
        ("event_not_allowed", here & ~allowed.fill_null(False)),
        ("invalid_amount", pl.col("amount").is_not_null() & ~_fits("amount", NUMBER_PATTERN)),
        ("invalid_currency", pl.col("currency").is_not_null() & ~_fits("currency", CURRENCY_PATTERN)),
    )
    reason: Any = pl.when(pl.col("refusal") != "").then("refusal")
    reason = reason.when(pl.col("linked_reason").is_not_null()).then("linked_reason")
    for name, wrong in checks:
        reason = reason.when(wrong).then(pl.lit(name))
    return hits.select(reason=reason.otherwise(pl.lit(None, pl.String))).to_series()


def _fits(column: str, pattern: str) -> pl.Expr:
    return pl.col(column).str.contains(rf"\A(?:{pattern})\z")
