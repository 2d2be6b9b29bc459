"""Which entries a log holds, partition by partition: what is missing and what is there twice."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

PLACE = 1 << 44  # sequence numbers below one partition


class Span(NamedTuple):
    """Of a partition: first and last seq, how many different entries, and how many rows."""

    partition: int
    first: int
    last: int
    distinct: int
    stored: int


def spans_of(places: pl.Series) -> list[Span]:
    """By partition. places: partition and seq of every entry in one number, sorted."""
    begin, found = 0, []
    while begin < places.len():
        partition = places[begin] // PLACE
        end = int(places.search_sorted((partition + 1) * PLACE))
        mine = places.slice(begin, end - begin)
        repeated = int((mine.slice(1) == mine.head(mine.len() - 1)).sum())
        found.append(Span(partition, mine[0] % PLACE, mine[-1] % PLACE, mine.len() - repeated, mine.len()))
        begin = end
    return found
