"""Hits as the engine's own code wants them, made of what is in memory: nothing of a request is read or decoded again.

Only of hits that columns could read, or that the parser has read already: what is stored of them says all.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from lab.sets.events import Source
from lab.sets.said import Said
from lab.sets.spans import PLACE
from service.engine import Entry, Event, Hit, Rejection, parse

CHUNK = 1 << 17  # hits of which all values are at hand at the same time

# ord, the entry without its bytes (route, method and address are stand-ins), and what it says
Known = tuple[int, Entry, Event | Rejection]


def known(source: Source, said: Said, events: pl.DataFrame, rows: pl.Series) -> Iterator[Known]:
    """Valid hits in log order. rows: of `events`."""
    ordered = rows.unique()
    ordered = ordered.gather(events["ord"].gather(ordered).arg_sort())
    for first in range(0, ordered.len(), CHUNK):
        yield from _chunk(source, said, events, ordered.slice(first, CHUNK))


def _chunk(source: Source, said: Said, events: pl.DataFrame, rows: pl.Series) -> Iterator[Known]:
    heard, values = said.heard(rows)
    clients = max(1, len(source.reading.clients))
    columns = [heard[name].to_list() for name in ("ord", "slot", "link", "hit_id", "epoch")]
    times = events["t"].gather(rows).to_list()
    for place, slot, link, hit_id, epoch, time_us, words in zip(*columns, times, values.to_pylist(), strict=True):
        path = b"" if link is None or link < 0 else source.links.path(link)
        hit = Hit(hit_id, time_us, "e" if link is None else "c", "GET", path, b"")
        event = source.parsed.get(place)
        if event is None:
            names = source.reading.patterns[slot // clients]
            event = parse(hit, source.rulebook, dict(zip(names, words, strict=True)))
        yield place, Entry(place // PLACE, epoch, place % PLACE, time_us, hit), event
