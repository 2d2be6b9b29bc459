"""Two rulebooks over the same hits in one pass: each hit is read from the tables once, and decoded once where both
rulebooks read it the same way. Kept are only the outcomes on which something fired.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from lab.digest import Placed
from lab.replay import Library, Progress, Stream
from service.engine import EMPTY, Entry, Outcome, Rulebook, State, parse, process

if TYPE_CHECKING:
    from lab.log import Log

_REPORT_EVERY = 1_000  # hits between two calls of `progress`


class Side:
    """One of the two: its rulebook in force, its state of the partition at hand, and what it decided so far."""

    def __init__(self, log: Log, pinned: Rulebook | None) -> None:
        self.pinned = pinned
        self.library = Library(log)
        self.outcomes: list[Placed] = []  # those on which something fired
        self.verdicts: Counter[str] = Counter()
        self.rulebook, self.state = EMPTY, State()

    def begin(self, partition: int) -> None:
        """Start a partition with nobody known."""
        self.rulebook = self.pinned or self.library.at_start(partition) or EMPTY
        self.state = State()

    def switch(self, rulebook_id: str) -> None:
        """A rulebook takes effect in the log; a pinned one stays."""
        if self.pinned is None:
            self.rulebook = self.library.find(rulebook_id)

    def take(self, outcome: Outcome, partition: int, epoch: int) -> None:
        """Count an outcome, and keep it if something fired."""
        self.verdicts[outcome.verdict] += 1
        if outcome.fired:
            self.outcomes.append((partition, epoch, outcome))


def run_both(log: Log, before: Side, after: Side, progress: Progress | None = None) -> list[str]:
    """Decide every hit by both sides; returns what makes the log less than the truth."""
    total = log.hits.filter(pl.col("kind") == "hit").select(pl.len()).collect().item()
    done, warnings = 0, []
    for partition in log.cuts["partition"]:
        stream = Stream(log, partition)
        for entry, mine, theirs in decide_both(stream.entries(), partition, before, after):
            before.take(mine, partition, entry.epoch)
            after.take(theirs, partition, entry.epoch)
            done += 1
            if progress is not None and (done % _REPORT_EVERY == 0 or done == total):
                progress(done, total)
        warnings += stream.warnings
    return warnings


def decide_both(
    entries: Iterable[Entry], partition: int, before: Side, after: Side
) -> Iterator[tuple[Entry, Outcome, Outcome]]:
    """The hits of one partition with the outcome of either side."""
    before.begin(partition)
    after.begin(partition)
    same = reads_alike(before.rulebook, after.rulebook)
    for entry in entries:
        if entry.hit is None:
            before.switch(entry.rulebook_id)
            after.switch(entry.rulebook_id)
            same = reads_alike(before.rulebook, after.rulebook)
            continue
        parsed = parse(entry.hit, before.rulebook)
        mine = process(entry, before.state, before.rulebook, parsed)
        theirs = process(entry, after.state, after.rulebook, parsed if same else None)
        yield entry, mine, theirs


def reads_alike(one: Rulebook, other: Rulebook) -> bool:
    """Whether both rulebooks make the same event of every hit."""

    def reading(rulebook: Rulebook) -> dict[str, object]:
        return {
            name: (list(client.aliases.items()), client.not_an_id, client.browser_events)
            for name, client in rulebook.clients.items()
        }

    return one is other or reading(one) == reading(other)


class Shuffled(msgspec.Struct, frozen=True):
    """A pass with ties shuffled. outcomes: on which something fired. ties: hits that share their time with another."""

    outcomes: list[Placed]
    ties: int


def run_shuffled(log: Log, pinned: Rulebook | None, seed: int = 7) -> Shuffled:
    """Decide the log by one rulebook, hits of the same time in a partition in another order, the same for one seed."""
    side, draw, ties = Side(log, pinned), random.Random(seed), 0
    for partition in log.cuts["partition"]:
        side.begin(partition)
        for _, group in groupby(Stream(log, partition).entries(), lambda entry: (entry.time_us, entry.hit is None)):
            tied = list(group)
            ties += len(tied) if len(tied) > 1 and tied[0].hit is not None else 0
            for entry in _shuffle(tied, draw):
                if entry.hit is None:
                    side.switch(entry.rulebook_id)
                else:
                    side.take(process(entry, side.state, side.rulebook), partition, entry.epoch)
    return Shuffled(side.outcomes, ties)


def _shuffle(tied: list[Entry], draw: random.Random) -> list[Entry]:
    """The same hits in another order, the places in the log as they were."""
    if len(tied) < 2 or tied[0].hit is None:
        return tied
    order = draw.sample(range(len(tied)), len(tied))
    places = zip(tied, order, strict=True)
    return [msgspec.structs.replace(place, hit=tied[other].hit) for place, other in places]
