"""Several visitors who turn out to be one person, made one: in log order, within the bounds of a visitor."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from service.engine.visitors import HISTORY, MAX_REMEMBERED, EventStat, Remembered, Visitor


def merge(visitor: Visitor, absorbed: Iterable[Visitor]) -> Visitor:
    """One visitor out of several, in log order; the inputs stay untouched."""
    merged = _copy(visitor)
    for other in absorbed:
        merged.identifiers += [key for key in other.identifiers if key not in merged.identifiers]
        merged.history = sorted(merged.history + other.history)[-HISTORY:]
        merged.clicks = sorted(merged.clicks + other.clicks)[-HISTORY:]
        merged.once += [name for name in other.once if name not in merged.once]
        merged.last_us = max(merged.last_us, other.last_us)
        merged.dropped += other.dropped
        for name, stat in other.events.items():
            merged.events[name] = _merge_stat(merged.events.get(name), stat)
        for name, value in other.params.items():
            merged.params[name] = _merge_param(merged.params.get(name), value)
    merged.params = dict(sorted(merged.params.items()))
    drop_oldest(merged)
    return merged


def _copy(visitor: Visitor) -> Visitor:
    """A visitor that shares nothing that can change with the other."""
    return Visitor(
        visitor.id, visitor.uid, visitor.last_us, visitor.identifiers.copy(), visitor.history.copy(),
        {name: msgspec.structs.replace(stat) for name, stat in visitor.events.items()},
        {name: msgspec.structs.replace(value) for name, value in visitor.params.items()},
        visitor.clicks.copy(), visitor.once.copy(), visitor.dropped, visitor.browsers.copy(),
    )  # fmt: skip


def _merge_stat(mine: EventStat | None, other: EventStat) -> EventStat:
    if mine is None:
        return msgspec.structs.replace(other)
    later = mine if mine.last_seq >= other.last_seq else other
    return EventStat(
        mine.count + other.count, min(mine.first_us, other.first_us), later.last_us, later.last_seq, later.fields
    )


def _merge_param(mine: Remembered | None, other: Remembered) -> Remembered:
    if mine is None:
        return msgspec.structs.replace(other)
    last = mine if mine.last_seq >= other.last_seq else other
    first = mine if mine.first_seq <= other.first_seq else other
    return Remembered(last.last, last.last_seq, first.first, first.first_seq)


def drop_oldest(visitor: Visitor) -> None:
    """Keep the bound on remembered names: those brought longest ago go first."""
    excess = len(visitor.params) - MAX_REMEMBERED
    if excess <= 0:
        return
    oldest = sorted(visitor.params, key=lambda name: (visitor.params[name].last_seq, name))
    for name in oldest[:excess]:
        del visitor.params[name]
    visitor.dropped += excess
