"""Whom a trigger could concern, before anybody is recognised: of most visitors no hit has to be looked at again.

A trigger fires only for somebody who has its event and every event that must have come before. The hits of the rarest of
these, and all hits that are tied to them by identifiers, over however many others, are all that recognition needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import polars as pl
import pyarrow as pa

from lab.sets.kernel import Kernel, cleared, whole
from lab.sets.people import KINDS

_EVENTS = 1 << 16  # numbers of events below one client, in a key


def key_of(cid: int, event: int) -> int:
    """A client's event as one number."""
    return cid * _EVENTS + event


def keys(events: pl.DataFrame) -> pl.Series:
    """By row the client's event as one number; null for what is no valid event, has no number, or is a test."""
    valid = pl.col("reason").is_null() & ~pl.col("test")
    key = pl.col("cid").cast(pl.Int64) * _EVENTS + pl.col("ev")
    return events.select(key=pl.when(valid).then(key)).to_series()


def rarest(kinds: Iterable[tuple[int, ...]], hits: dict[int, int]) -> list[int]:
    """Of each list of keys that somebody must have, the one with the fewest hits, each once; none where one has no hit.

    hits: by key.
    """
    chosen = {min(wanted, key=lambda key: (hits[key], key)) for wanted in kinds if all(key in hits for key in wanted)}
    return sorted(chosen)


def tied(events: pl.DataFrame, rows: pl.Series, compiled: Kernel | None = None) -> pl.Series:
    """By row whether a hit is one of `rows`, or tied to one by identifiers; tests tie nothing. compiled: faster."""
    if compiled is not None and events.height:
        return _tied(events, rows, compiled)
    found = pl.repeat(False, events.height, eager=True)
    found = found.scatter(rows, True) if rows.len() else found
    fresh = found.arg_true()
    kinds = [_Kind(events[kind] if not events["test"].any() else _without_tests(events, kind)) for kind in KINDS]
    with ThreadPoolExecutor(len(kinds)) as pool:
        while fresh.len():
            reached = found
            for more in pool.map(_Kind.reached_from, kinds, [fresh] * len(kinds)):
                reached = reached | more if more is not None else reached
            fresh = (reached & ~found).arg_true()
            found = reached
    return found


def _tied(events: pl.DataFrame, rows: pl.Series, compiled: Kernel) -> pl.Series:
    found = cleared(events.height)
    fresh = compiled.find(rows, found)
    real = ~events["test"]
    kinds = [(events[kind], real & events[kind].is_not_null()) for kind in KINDS]
    with ThreadPoolExecutor(len(kinds)) as pool:
        while fresh.len():
            reached = [pool.submit(compiled.spread, *kind, fresh, found) for kind in kinds]
            fresh = compiled.find(pl.concat([one.result() for one in reached]), found)
    return cast(pl.Series, pl.from_arrow(whole(pa.uint8(), events.height, found))).cast(pl.Boolean)


class _Kind:
    """The identifiers of a kind, by row, and those that were met."""

    def __init__(self, values: pl.Series) -> None:
        self._values = values
        self._seen = values.clear()

    def reached_from(self, fresh: pl.Series) -> pl.Series | None:
        """By row whether a hit has an identifier that these hits are the first to bring; None if there is none."""
        new = self._values.gather(fresh).drop_nulls().unique()
        if self._seen.len():
            new = new.filter(~new.is_in(self._seen.implode()))
        self._seen = pl.concat([self._seen, new])
        return self._values.is_in(new.implode()).fill_null(False) if new.len() else None


def _without_tests(events: pl.DataFrame, kind: str) -> pl.Series:
    return events.select(pl.when(~pl.col("test")).then(kind).alias(kind)).to_series()
