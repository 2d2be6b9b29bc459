"""What a hit says, as expressions of SQL: the second reading of `service.engine.parse`.

A request is a list of names and a list of values. Few lists of names ever occur: each is a *pattern*, and where a field's
value lies, aliases and all, is worked out once per pattern and *shape* and looked up by number; only the list of values is
read hit by hit. Clients that read alike (same aliases, same values that are no identifier, same browser events) share a
shape; a CASE over the shape stands where the engine asks the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import polars as pl

from lab.sets.conditions import NUMBER_PATTERN
from lab.sets.session import text, texts
from service.engine.model import IDENTIFIERS, RESERVED
from service.engine.rulebook import Client, Rulebook

Shape = tuple[tuple[tuple[str, str], ...], frozenset[str], frozenset[str]]
Pattern = tuple[str, ...]  # the names of a request, in their order

EVENT_PATTERN = "[A-Za-z0-9_.:/-]{1,64}"
# `parse.MACRO` without its anchors: RE2 is asked for the whole text
MACRO_PATTERN = r"\$?\{[^{}]*\}|\{\{[^{}]*\}\}|\[[^\[\]]*\]|\[\[[^\[\]]*\]\]|#[^#]*#|%[A-Za-z0-9_]+%"
FIELDS = tuple(sorted(set(RESERVED) - {"client"}))


def shape_of(client: Client) -> Shape:
    """What decides how a client's hits are read."""
    return tuple(client.aliases.items()), client.not_an_id, client.browser_events


class Reading:
    """Expressions over the columns that `values` makes (of v, the values, and s, a row of `slots`), linked (came over a
    tracker link), linked_affiliate, linked_reason, known (the client is), shape, route, hit_id, flags, refusal, client,
    event and ev."""

    def __init__(self, rulebook: Rulebook) -> None:
        self.clients = list(rulebook.clients.values())
        self.shapes: list[Shape] = list(dict.fromkeys(map(shape_of, self.clients)))
        self._shape_of = [self.shapes.index(shape_of(client)) for client in self.clients]
        self.patterns: dict[int, Pattern] = {}  # by the hash that DuckDB gives the names
        self._aliases = [
            {name: [alias for alias, target in shape[0] if target == name] for name in FIELDS} for shape in self.shapes
        ]
        self._depth = dict.fromkeys(FIELDS, 1)

    def learn(self, patterns: Iterable[tuple[int, Sequence[str]]]) -> None:
        """Add patterns: hash and names."""
        for identity, names in patterns:
            self.patterns[identity] = tuple(names)
        for number in range(len(self.shapes)):
            for names in self.patterns.values():
                for field in FIELDS:
                    self._depth[field] = max(self._depth[field], len(self._places(names, number, field)))

    @property
    def custom(self) -> list[str]:
        """Every custom name of the patterns, sorted."""
        return sorted({name for names in self.patterns.values() for name in names} - set(RESERVED))

    def slots(self, custom: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of `slots`, a pattern as a client sends it: slot (a number), k (the hash), client, cid, shape, per field
        f_NAME_1, f_NAME_2, ... where its value may lie, and per name of `custom` p_0, p_1, ... where that lies; null where
        it did not come."""
        columns = [column for field in FIELDS for column in self._columns(field)]
        columns += [f"p_{number}" for number in range(len(custom))]
        rows: list[list[Any]] = []
        for k, names in self.patterns.items():
            mine = [_place(names, name) for name in custom]
            by_shape = [self._row(names, shape) + mine for shape in range(len(self.shapes))]
            for cid, client in enumerate(self.clients):
                shape = self._shape_of[cid]
                rows.append([len(rows), k, client.name, cid, shape, *by_shape[shape]])
        schema: dict[str, Any] = {
            "slot": pl.Int32,
            "k": pl.UInt64,
            "client": pl.String,
            "cid": pl.Int32,
            "shape": pl.Int32,
        }
        return pl.DataFrame(rows, schema | dict.fromkeys(columns, pl.Int16), orient="row")

    def _row(self, names: Pattern, shape: int) -> list[int | None]:
        row: list[int | None] = []
        for field in FIELDS:
            places = self._places(names, shape, field)
            row += [*places, *[None] * (self._depth[field] - len(places))]
        return row

    def field(self, name: str) -> str:
        """A reserved name: its own value, else that of its first alias that came; null if it is absent."""
        if name == "event":
            return f"(CASE WHEN linked THEN 'click' ELSE {self.sent(name)} END)"
        if name == "affiliate":
            return f"(CASE WHEN linked THEN linked_affiliate ELSE {self.sent(name)} END)"
        if name == "click_id":
            return f"(CASE WHEN linked THEN hit_id ELSE {self.sent(name)} END)"
        if name == "currency":
            return f"upper({self.sent(name)})"
        return self.sent(name)

    def values(self) -> str:
        """The columns that the other expressions read: the value at each place, null where nothing came."""
        return ", ".join(value_at(column) for field in FIELDS for column in self._columns(field))

    def sent(self, name: str) -> str:
        """What came under the name or its aliases, before a tracker link puts its own in place."""
        made = self._columns(name)
        if name in IDENTIFIERS:
            made = [
                f"(CASE WHEN {self._clear(value)} THEN {value} WHEN {value} IS NULL OR {self._none(value)} THEN NULL "
                f"ELSE {value} END)"
                for value in made
            ]
        return made[0] if len(made) == 1 else f"coalesce({', '.join(made)})"

    def ignored(self) -> str:
        """Whether something came as an identifier and is none: such hits have a detail."""
        values = [column for name in IDENTIFIERS for column in self._columns(name)]
        return " OR ".join(f"coalesce({self._none(value)}, false)" for value in values)

    def reason(self) -> str:
        """Why the hit is rejected, null if it is not. Order and meaning of `parse`."""
        amount, currency = self.sent("amount"), self.sent("currency")
        allowed = self._by_shape(lambda shape: f"event IN ({texts(sorted(shape[2]))})")
        checks = (
            ("missing_client", "client IS NULL"),
            ("unknown_client", "NOT known"),
            ("missing_event", "event IS NULL"),
            ("invalid_event", f"ev IS NULL AND NOT regexp_full_match(event, '{EVENT_PATTERN}')"),
            (
                "event_not_allowed",
                f"route IN ('e.gif', 'e.js') AND NOT coalesce({allowed}, false) AND NOT list_contains(flags, 'signed')",
            ),
            ("invalid_amount", f"{amount} IS NOT NULL AND NOT regexp_full_match({amount}, '{NUMBER_PATTERN}')"),
            ("invalid_currency", f"{currency} IS NOT NULL AND NOT regexp_full_match({currency}, '[A-Za-z]{{3}}')"),
        )
        cases = " ".join(f"WHEN {test} THEN {text(reason)}" for reason, test in checks)
        plain = " AND ".join(f"{column} IS NULL" for name in ("amount", "currency") for column in self._columns(name))
        clear = f"slot IS NOT NULL AND ev IS NOT NULL AND {plain} AND linked_reason IS NULL AND route IN ('e', 'c')"
        refused = "WHEN refusal <> '' THEN refusal WHEN linked_reason IS NOT NULL THEN linked_reason"
        return f"CASE WHEN refusal = '' AND {clear} THEN NULL {refused} {cases} END"

    def _clear(self, value: str) -> str:
        """Whether it can be seen at a glance that a value is an identifier: longer than all that are none, and it begins
        with a letter or a digit, as no macro does."""
        longest = max((len(word.encode()) for shape in self.shapes for word in shape[1]), default=0)
        return f"strlen({value}) > {longest} AND ({value} BETWEEN '0' AND '[' OR {value} BETWEEN '^' AND '{{')"

    def _none(self, value: str) -> str:
        """Whether a value that came stands for no identifier at all."""

        def listed(shape: Shape) -> str:
            longest = max(map(len, map(str.encode, shape[1])), default=0)
            return f"strlen({value}) <= {longest} AND {value} IN ({texts(sorted(shape[1]))})"

        ends = " OR ".join(f"suffix({value}, '{end}')" for end in "}]#%")  # a test of one byte each, before the pattern
        return f"({self._by_shape(listed)} OR (({ends}) AND regexp_full_match({value}, {text(MACRO_PATTERN)})))"

    def _columns(self, field: str) -> list[str]:
        return [f"f_{field}_{number}" for number in range(1, self._depth[field] + 1)]

    def _places(self, names: Pattern, shape: int, field: str) -> list[int]:
        """Where the sources of a field lie in a pattern, the strongest first, from 1."""
        return [names.index(source) + 1 for source in (field, *self._aliases[shape][field]) if source in names]

    def _by_shape(self, expression: Callable[[Shape], str]) -> str:
        made = [expression(shape) for shape in self.shapes] or ["false"]
        if len(set(made)) == 1:
            return f"({made[0]})"
        cases = " ".join(f"WHEN {number} THEN {sql}" for number, sql in enumerate(made))
        return f"(CASE shape {cases} END)"


def value_at(column: str) -> str:
    """The value that lies where a column of `slots` says. The test is for speed: most places are null."""
    return f"CASE WHEN s.{column} IS NOT NULL THEN v[s.{column}] END AS {column}"


def _place(names: Pattern, name: str) -> int | None:
    return names.index(name) + 1 if name in names else None
