"""A replay by sets: which partitions one rulebook decides, and the run that comes of it."""

from __future__ import annotations

from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.digest import Placed
from lab.erased import note
from lab.log import LabError
from lab.replay import Library, Rules, Run, Stream, rulebook_of
from lab.sets.certificate import SAMPLE_HITS, Certificate
from lab.sets.decide import decide
from lab.sets.events import PLACE, Source
from lab.sets.session import MEMORY_GB, THREADS, Session
from service.engine import EMPTY, Rulebook, State
from service.engine import replay as engine_replay

if TYPE_CHECKING:
    from lab.log import Log


class SetRun(Run):
    """A run that the set engine decided; its `certificate` says how far the reference engine agrees.

    full: there is an outcome for every hit, as in any run. Without it, only the hits on which something fired have one:
    postbacks, counts, verdicts and reasons are whole, decisions, stages and digest are not to be had.
    """

    def __init__(
        self, outcomes: list[Placed], rulebook: Rulebook | None, warnings: tuple[str, ...], seconds: float,
        tally: dict[tuple[str, str], int], certificate: Certificate, full: bool,
    ) -> None:  # fmt: skip
        super().__init__(outcomes, rulebook, warnings, seconds)
        self.certificate = certificate
        self.full = full
        self._tallied = tally

    @property
    def hits(self) -> int:
        """How many hits were decided."""
        return self.certificate.hits

    @cached_property
    def digest(self) -> str:
        """The digest of all outcomes: see lab/digest.py. Raises LabError without `full`."""
        self._need_full("digest")
        return super().digest

    @cached_property
    def decisions(self) -> pl.DataFrame:
        """The outcomes in the columns of the table `decisions`. Raises LabError without `full`."""
        self._need_full("decisions")
        return super().decisions

    @cached_property
    def stages(self) -> pl.DataFrame:
        """Where triggers stopped: client, trigger, stage, hits. Raises LabError without `full`."""
        self._need_full("stages")
        return super().stages

    @cached_property
    def counts(self) -> pl.DataFrame:
        """client, affiliate, trigger, currency, firings, postbacks, payout (decimal, null without one). No tests."""
        return Run(self.outcomes, self.rulebook, (), 0).counts

    def count(self, verdict: str) -> int:
        """How many hits have this verdict."""
        return sum(hits for (found, _), hits in self._tallied.items() if found == verdict)

    def _tally(self, column: str) -> pl.DataFrame:
        position = ("verdict", "reason").index(column)
        rows = [(key[position], hits) for key, hits in self._tallied.items()]
        frame = pl.DataFrame(rows, {column: pl.String, "hits": pl.Int64}, orient="row")
        return frame.group_by(column).agg(pl.col("hits").sum()).sort(["hits", column], descending=[True, False])

    def _need_full(self, what: str) -> None:
        if not self.full:
            raise LabError(f"a run by sets has no {what} unless it is asked for: replay(..., engine='set', full=True)")

    def __repr__(self) -> str:
        if self.full:
            return f"{super().__repr__()}; {self.certificate}"
        fired = sum(len(outcome.fired) for _, _, outcome in self.outcomes)
        return f"Run by sets: {self.certificate}; {fired:,} firings, {self.seconds:.1f} s"


def replay(
    log: Log, rules: Rules = None, full: bool = True, sample_hits: int = SAMPLE_HITS, memory_gb: float = MEMORY_GB,
    threads: int = THREADS,
) -> SetRun:  # fmt: skip
    """Decide every hit of the log again, by sets.

    rules: as for `lab.replay.replay`. full: an outcome for every hit, not only for those on which something fired.
    sample_hits: about how many hits of plain visitors the reference engine decides too. Raises SetDifference if it finds
    another outcome for one of them, and what `lab.replay.replay` raises. A partition in which the log switches between
    rulebooks goes whole through the reference engine.
    """
    started = perf_counter()
    pinned = rulebook_of(rules)
    by_rulebook, mixed = _shares(log, pinned)
    outcomes: list[Placed] = []
    tally: dict[tuple[str, str], int] = {}
    certificate = Certificate(0, 0, 0, 0, 0)
    for rulebook, partitions in by_rulebook:
        with Session(memory_gb, threads) as session:
            made = decide(Source(session, log, rulebook, partitions), full, sample_hits)
        outcomes += [(place // PLACE, epoch, outcome) for place, epoch, outcome in made.outcomes]
        certificate += made.certificate
        _add(tally, made.tally)
    for partition, first in mixed:
        whole = _by_reference(log, partition, first)
        _add(tally, _tally_of(whole))
        certificate += Certificate(len(whole), 0, len(whole), 0, 0)
        outcomes += [placed for placed in whole if full or placed[2].fired]
    outcomes.sort(key=lambda placed: (placed[0], placed[2].seq))
    warnings = tuple(_warnings(log, pinned, by_rulebook))
    return SetRun(outcomes, pinned, warnings, perf_counter() - started, tally, certificate, full)


def _shares(
    log: Log, pinned: Rulebook | None
) -> tuple[list[tuple[Rulebook, list[int]]], list[tuple[int, Rulebook | None]]]:
    """Rulebooks with the partitions that each decides alone, and the partitions with several, with their first one."""
    if pinned is not None:
        return [(pinned, log.cuts["partition"].to_list())], []
    library = Library(log)
    alone: dict[str, tuple[Rulebook, list[int]]] = {}
    mixed: list[tuple[int, Rulebook | None]] = []
    for partition, first, last in _spans(log):
        start = library.at_start(partition)
        in_force = _in_force(log, library, partition, first, last, start or EMPTY)
        if len(in_force) > 1:
            mixed.append((partition, start))
        else:
            ((identity, rulebook),) = in_force.items()
            alone.setdefault(identity, (rulebook, []))[1].append(partition)
    return list(alone.values()), mixed


def _spans(log: Log) -> list[Any]:
    """partition, first and last seq of its hits."""
    hits = log.hits.filter(pl.col("kind") == "hit")
    spans = hits.group_by("partition").agg(pl.col("seq").min().alias("first"), pl.col("seq").max().alias("last"))
    return spans.sort("partition").collect().rows()


def _in_force(
    log: Log, library: Library, partition: int, first: int, last: int, start: Rulebook
) -> dict[str, Rulebook]:
    """The rulebooks that decide some hit of a partition."""
    switches = log.hits.filter(pl.col("kind").is_in(["rulebook", "epoch"]), pl.col("partition") == partition, pl.col("seq") < last)
    current, found = start, {}
    for seq, identity in switches.select("seq", "rulebook_id").collect().sort("seq").iter_rows():
        if seq > first:
            found[current.id] = current
        current = library.find(identity)
    return found | {current.id: current}


def _by_reference(log: Log, partition: int, rulebook: Rulebook | None) -> list[Placed]:
    stream = Stream(log, partition)
    outcomes = engine_replay(stream.entries(), State(), Library(log).find, rulebook)
    return [(partition, stream.epoch, outcome) for outcome in outcomes]


def _tally_of(outcomes: list[Placed]) -> dict[tuple[str, str], int]:
    tally: dict[tuple[str, str], int] = {}
    for _, _, outcome in outcomes:
        _add(tally, {(outcome.verdict, outcome.reason): 1})
    return tally


def _add(tally: dict[tuple[str, str], int], more: dict[tuple[str, str], int]) -> None:
    for key, hits in more.items():
        tally[key] = tally.get(key, 0) + hits


def _warnings(log: Log, pinned: Rulebook | None, by_rulebook: list[tuple[Rulebook, list[int]]]) -> list[str]:
    """What makes this run less than the truth, in the sentences of a run by the reference engine."""
    entries: Any = log.hits.group_by("partition").agg(
        pl.col("seq").min().alias("first"), pl.col("seq").max().alias("last"), pl.col("seq").n_unique().alias("entries"),
        pl.len().alias("stored"),
    ).sort("partition").collect()  # fmt: skip
    found = note(log)
    for partition, first, last, distinct, stored in entries.iter_rows():
        name, missing, again = f"partition {partition}", last - first + 1 - distinct, stored - distinct
        if first > 1:
            found.append(f"{name}: begins in mid-stream, at entry {first}: what visitors did before is unknown")
        if again:
            found.append(f"{name}: {again} entries are stored twice; the second is passed over")
        if missing:
            found.append(f"{name}: {missing} entries between {first} and {last} are missing")
    if pinned is None and by_rulebook and all(rulebook.id == EMPTY.id for rulebook, _ in by_rulebook):
        found.append("the log names no rulebook, so every hit is rejected; give one with rules")
    return found
