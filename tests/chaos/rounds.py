"""Rounds of chaos: load while faults happen at random moments; then everything settles and the books are compared."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tests.chaos.books import Findings, compare
from tests.chaos.faults import FAULTS, Lost
from tests.chaos.load import Load
from tests.chaos.stand import SKEWS_S, Stand, stand

REPLAY_EVERY = 10


class Report(msgspec.Struct):
    """What was done, and what was found."""

    rounds: int
    done: dict[str, int]
    acknowledged: int
    without_answer: int
    refused: int
    found: Findings
    seconds: float

    def table(self) -> str:
        """As the README prints it."""
        apart = max(SKEWS_S.values()) - min(SKEWS_S.values())
        lines = [f"| done in {self.rounds} rounds under load | times |", "| --- | ---: |"]
        lines += [f"| {name} | {times:,} |" for name, times in self.done.items()]
        lines += [
            f"| clocks of the web processes {apart // 60} minutes apart | always |",
            "",
            "| found | |",
            "| --- | ---: |",
        ]
        lines += [
            f"| hits acknowledged | {self.acknowledged:,} |",
            f"| requests unanswered, and answered that nothing is stored | {self.without_answer:,}, {self.refused:,} |",
            f"| acknowledged hits lost, but for the last row | {self.found.lost:,} |",
            f"| gaps in a sequence | {self.found.gaps:,} |",
            f"| hits decided twice, or not | {self.found.decided_twice:,}, {self.found.undecided:,} |",
            f"| counters that differ from a recount | {self.found.counters_different:,} |",
            f"| replays whose digest differs from the stored decisions | {self.found.digest_different:,} |",
            f"| epochs begun, each with its entry | {self.found.epochs:,} |",
            f"| acknowledged hits that neither an older file nor the tables had | {self.found.given_up:,} |",
        ]
        return "\n".join(lines)


def plan(rounds: int, chance: random.Random, most: int = 3, first: Sequence[str] = ()) -> list[list[str]]:
    """Names of faults per round: one to `most`, every fault before one comes again. first: those that come before them."""
    found: list[list[str]] = []
    waiting = list(reversed(first))
    for _ in range(rounds):
        names: list[str] = []
        for _ in range(chance.randint(1, most)):
            if not waiting:
                waiting = list(FAULTS)
                chance.shuffle(waiting)
            names.append(waiting.pop())
        found.append(names)
    return found


def run(folder: Path, planned: Sequence[Sequence[str]], chance: random.Random, say: Callable[[str], object]) -> Report:
    """Run the rounds. Raises AssertionError with what is wrong at the end of the round that shows it."""
    started = time.monotonic()
    done: Counter[str] = Counter()
    losses: list[Lost] = []
    with stand(folder) as one:
        load = Load(list(one.ports.values()))
        found = Findings()
        try:
            for number, names in enumerate(planned, 1):
                _round(one, load, names, chance, losses)
                done.update(names)
                replay = number % REPLAY_EVERY == 0 or number == len(planned)
                found = compare(one.settings, load.ledger, losses, replay)
                say(
                    f"round {number}: {', '.join(names)}: {len(load.ledger.acknowledged):,} hits, {found.faults} faults"
                )
                assert not found.faults, f"round {number} ({', '.join(names)}): {found}; see {folder}"
        finally:
            load.end()
        ledger = load.ledger
        in_order = {name: done[name] for name in FAULTS if done[name]}
        return Report(
            len(planned), in_order, len(ledger.acknowledged), ledger.without_answer, ledger.refused, found,
            time.monotonic() - started,
        )  # fmt: skip


def _round(one: Stand, load: Load, names: Sequence[str], chance: random.Random, losses: list[Lost]) -> None:
    load.on()
    try:
        for name in names:
            time.sleep(chance.uniform(0.1, 0.6))
            lost = FAULTS[name](one, chance)
            if lost is not None:
                losses.append(lost)
    finally:
        load.off()
    one.settle()
