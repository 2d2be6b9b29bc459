"""What a log's events say, as shares and quantiles: parameters, amounts, orders that come again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from lab.log import Log
from lab.profile import QUANTILES, Money, Orders, Values
from service.engine import RulebookError, load
from service.engine.model import RESERVED

MOST_VALUES = 200  # of one parameter of an event that are kept as they are
SHARED_BY = 3  # visitors who must have had a value; a rarer one is only counted

Row = dict[str, Any]
Pair = tuple[str, str]
Key = tuple[str, str, str]


def values(log: Log, visitors: list[list[Row]]) -> tuple[Values, ...]:
    """The custom parameters of each event. visitors: the rows of each."""
    own = _reserved(log)
    events = Counter((row["client"], row["event"]) for group in visitors for row in group)
    counted: dict[Key, Counter[str]] = defaultdict(Counter)
    holders: dict[Key, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    steady = _Steady()
    for number, group in enumerate(visitors):
        steady.begin()
        for row in group:
            for name, value in _custom(row, own):
                key = (row["client"], row["event"], name)
                counted[key][value] += 1
                if len(holders[key][value]) < SHARED_BY:
                    holders[key][value].add(number)
                steady.see((row["client"], name), value)
    found = []
    for (client, event, name), all_values in sorted(counted.items()):
        shared = holders[client, event, name]
        known = {v: n for v, n in all_values.most_common(MOST_VALUES) if len(shared[v]) >= SHARED_BY}
        share, other = all_values.total() / events[client, event], all_values.total() - sum(known.values())
        found.append(Values(client, event, name, share, known, other, steady.share((client, name))))
    return tuple(found)


class _Steady:
    """How often a visitor's parameter has the value that it had before."""

    def __init__(self) -> None:
        self._last: dict[Pair, str] = {}
        self._again: Counter[Pair] = Counter()
        self._same: Counter[Pair] = Counter()

    def begin(self) -> None:
        """The next visitor."""
        self._last = {}

    def see(self, key: Pair, value: str) -> None:
        """Its next value of that name."""
        if key in self._last:
            self._again[key] += 1
            self._same[key] += self._last[key] == value
        self._last[key] = value

    def share(self, key: Pair) -> float:
        """The share of values that were as the one before; 1 where nothing came twice."""
        return self._same[key] / self._again[key] if self._again[key] else 1.0


def _reserved(log: Log) -> Mapping[str, frozenset[str]]:
    """By client the names that mean something reserved."""
    names: dict[str, set[str]] = defaultdict(set)
    for (text,) in log.rulebooks.select("text").collect().iter_rows():
        try:
            clients = load(text).clients
        except RulebookError:
            continue  # a text of another version of the language: its aliases are read as parameters
        for client in clients.values():
            names[client.name] |= set(client.aliases)
    return defaultdict(lambda: frozenset(RESERVED), {name: frozenset({*RESERVED, *own}) for name, own in names.items()})


def _custom(row: Row, reserved: Mapping[str, frozenset[str]]) -> Iterator[Pair]:
    """The parameters that the request itself brought; of a tracker link also the affiliate's own click id."""
    taken = reserved[row["client"]]
    for name, value in dict(row["own"] or ()).items():
        if value and (name not in taken or (name == "click_id" and row["route"] == "c")):
            yield name, value


def money(rows: Iterable[Row]) -> tuple[Money, ...]:
    """The amounts of each event by currency."""
    events: Counter[Pair] = Counter()
    found: dict[Key, list[str]] = defaultdict(list)
    for row in rows:
        fields = dict(row["fields"] or ())
        events[row["client"], row["event"]] += 1
        if fields.get("amount"):
            found[row["client"], row["event"], fields.get("currency", "")].append(fields["amount"])
    return tuple(
        Money(client, event, currency, len(amounts) / events[client, event], quantiles(map(float, amounts)),
              max(len(amount.partition(".")[2]) for amount in amounts))
        for (client, event, currency), amounts in sorted(found.items())
    )  # fmt: skip


def orders(log: Log, rows: Iterable[Row]) -> tuple[Orders, ...]:
    """Events with a txid, and how often and when they are sent again."""
    events: Counter[Pair] = Counter()
    named: dict[Key, int] = {}
    for row in rows:
        txid = dict(row["fields"] or ()).get("txid")
        events[row["client"], row["event"]] += 1
        if txid:
            named[row["client"], row["event"], txid] = row["time_us"]
    waits = _waits(log, named)
    with_txid = Counter((client, event) for client, event, _ in named)
    found = []
    for (client, event), count in sorted(with_txid.items()):
        copies = {key: seconds for key, seconds in waits.items() if key[:2] == (client, event)}
        found.append(Orders(
            client, event, count / events[client, event], len(copies) / count,
            quantiles(map(len, copies.values())), quantiles(s for seconds in copies.values() for s in seconds),
        ))  # fmt: skip
    return tuple(found)


def _waits(log: Log, named: Mapping[Key, int]) -> dict[Key, list[float]]:
    """Of each order that was sent again, the seconds from one time to the next."""
    txid = pl.col("fields").map.get("txid").alias("txid")
    doubles = log.decisions.filter(pl.col("verdict") == "duplicate", ~pl.col("test")).select(
        "client", "event", txid, pl.col("time").dt.epoch("us")
    ).sort("time").collect()  # fmt: skip
    waits: dict[Key, list[float]] = defaultdict(list)
    last = dict(named)
    for client, event, txid_, time_us in doubles.iter_rows():
        key = (client, event, txid_)
        if key in named:
            waits[key].append(max(0, time_us - last[key]) / 1e6)
            last[key] = time_us
    return waits


def quantiles(found: Iterable[float]) -> tuple[float, ...]:
    """The values at even shares from the lowest to the highest; few values as they are."""
    ordered = sorted(found)
    if len(ordered) <= QUANTILES:
        return tuple(ordered)
    return tuple(ordered[round(step * (len(ordered) - 1) / QUANTILES)] for step in range(QUANTILES + 1))
