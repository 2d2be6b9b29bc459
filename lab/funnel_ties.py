"""How much a funnel depends on the order of hits of the same time: every order is tried, visitor by visitor.

Only visitors with two different hits of one time that matter are looked at. Their hits go through the definition of an
attempt step by step; at each tie all orders are followed, and what cannot be told apart any more becomes one again.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from lab.funnel_steps import Asked

MAX_WAYS = 5_000  # hits followed for one visitor, over all orders; past them the bounds are the widest possible


class Kind(NamedTuple):
    """What a hit is to the funnel. steps: the numbers (from 0) of the steps that it is; value: of the breakdown."""

    steps: frozenset[int]
    starts: bool
    barred: bool
    value: str


class Attempt(NamedTuple):
    """An attempt under way. place: the how manieth start; done: the steps that it took."""

    place: int
    value: str
    times: tuple[int, ...]
    done: frozenset[int]


class Outcome(NamedTuple):
    """What a visitor comes to: the value of its best attempt and its times."""

    value: str
    times: tuple[int, ...]


class _State(NamedTuple):
    started: int
    best: Attempt | None
    under_way: tuple[Attempt, ...]


def outcomes(asked: Asked, hits: Iterable[tuple[int, Kind]]) -> frozenset[Outcome] | None:
    """All that one visitor may come to, over all orders of hits of the same time; None if there are too many.

    hits: (time_us, kind), by time.
    """
    states = frozenset({_State(0, None, ())})
    ways = 0
    for time_us, group in groupby(hits, key=lambda hit: hit[0]):
        kinds = [kind for _, kind in group]
        if len(set(kinds)) > 1:
            ways += len(states) * len(kinds)
        reached = _through(asked, states, time_us, kinds, MAX_WAYS - ways)
        if reached is None:
            return None
        states = reached
    return frozenset(Outcome(state.best.value, state.best.times) for state in states if state.best)


def _through(
    asked: Asked, states: frozenset[_State], time_us: int, kinds: list[Kind], ways: int
) -> frozenset[_State] | None:
    """The states behind hits of one time in every order. More than steps + 1 of a kind are as good as so many."""
    different = sorted(set(kinds), key=repr)
    most = len(asked.steps) + 1
    left = tuple(min(kinds.count(kind), most) for kind in different)
    reached: dict[tuple[int, ...], frozenset[_State]] = {left: states}
    for _ in range(sum(left)):
        further: dict[tuple[int, ...], set[_State]] = {}
        for counts, before in reached.items():
            for n, kind in enumerate(different):
                if counts[n]:
                    fewer = (*counts[:n], counts[n] - 1, *counts[n + 1 :])
                    further.setdefault(fewer, set()).update(_advance(asked, state, time_us, kind) for state in before)
        reached = {counts: frozenset(found) for counts, found in further.items()}
        if len(different) > 1 and sum(map(len, reached.values())) * len(different) > ways:
            return None
    return next(iter(reached.values()))


def _advance(asked: Asked, state: _State, time_us: int, kind: Kind) -> _State:
    """One hit: attempts under way take their step or end, and a new one may start."""
    best, going = state.best, []
    for attempt in state.under_way:
        taken = _take(asked, attempt, time_us, kind)
        if taken is None:
            continue
        best = _better(best, taken)
        if len(taken.times) < len(asked.steps):
            going.append(taken)
    if not kind.starts:
        return _State(state.started, best, _needed(asked, going))
    fresh = Attempt(state.started, kind.value, (time_us,), kind.steps if asked.mode == "any" else frozenset())
    best = _better(best, fresh)
    if len(asked.steps) > 1:
        going.append(fresh)
    return _State(state.started + 1, best, _needed(asked, going))


def _take(asked: Asked, attempt: Attempt, time_us: int, kind: Kind) -> Attempt | None:
    """The attempt behind a hit; None if it ended."""
    if kind.barred or (asked.within_us is not None and time_us - attempt.times[0] > asked.within_us):
        return None
    if asked.mode == "any":
        new = kind.steps - attempt.done
        return attempt._replace(times=(*attempt.times, time_us), done=attempt.done | new) if new else attempt
    if len(attempt.times) in kind.steps:
        return attempt._replace(times=(*attempt.times, time_us))
    return None if asked.mode == "strict" else attempt


def _better(best: Attempt | None, other: Attempt) -> Attempt:
    if best is None or (-len(other.times), other.place) < (-len(best.times), best.place):
        return other
    return best


def _needed(asked: Asked, going: list[Attempt]) -> tuple[Attempt, ...]:
    """Without a window, of attempts that are equally far only the first can count."""
    if asked.within_us is not None:
        return tuple(going)
    first: dict[object, Attempt] = {}
    for attempt in going:
        first.setdefault((len(attempt.times), attempt.done), attempt)
    return tuple(first.values())


class Range(NamedTuple):
    """How low and how high a number of visitors and a median of seconds can be (None where there is no median)."""

    lowest: int
    highest: int
    lowest_median: float | None
    highest_median: float | None


def range_of(certain: list[float], tied: Iterator[tuple[bool, list[float]]]) -> Range:
    """The range of one number. certain: seconds of the visitors without ties; tied: (surely counts, what it may take)."""
    found = list(tied)
    sure = [seconds for surely, seconds in found if surely]
    maybe = [seconds for surely, seconds in found if not surely and seconds]
    low = _least([*certain, *map(min, sure)], sorted(map(min, maybe)))
    high = _least([-s for s in certain] + [-max(s) for s in sure], sorted(-max(s) for s in maybe))
    count = len(certain) + len(sure)
    return Range(count, count + len(maybe), low, None if high is None else -high)


def _least(values: list[float], more: list[float]) -> float | None:
    """The least median of values with some of more: those below the median so far lower it."""
    chosen = sorted(values)
    for value in more:
        if chosen and value >= _middle(chosen):
            break
        insort(chosen, value)
    return _middle(chosen) if chosen else None


def _middle(ordered: list[float]) -> float:
    """The median of what is in order already."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
