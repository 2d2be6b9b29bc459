"""A replay by sets: which partitions one rulebook decides, and the run that comes of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.digest import Placed
from lab.erased import note
from lab.log import LabError
from lab.replay import MONEY, Library, Rules, Run, Stream, rulebook_of
from lab.sets.certificate import SAMPLE_HITS, Certificate
from lab.sets.decide import decide
from lab.sets.events import Source
from lab.sets.ground import Ground, alike
from lab.sets.letters import FIRINGS, LETTERS
from lab.sets.session import MEMORY_GB, THREADS, Session
from lab.sets.spans import PLACE, Span, spans_of
from lab.sets.unite import firings_of, letters_of
from service.archive.schemas import SCHEMAS
from service.engine import EMPTY, Rulebook, State
from service.engine import replay as engine_replay

if TYPE_CHECKING:
    from lab.log import Log


class SetRun(Run):
    """A run that the set engine decided; its `certificate` says how far the reference engine agrees.

    full: there is an outcome for every hit, as in any run. Without it, postbacks, counts, verdicts and reasons are whole;
    outcomes, decisions, stages and digest are not to be had.

    >>> by_sets = log.replay("datasets/rules.toml", engine="set", full=False)
    >>> by_sets.counts.equals(run.counts)
    True
    >>> by_sets.certificate.differences
    0
    """

    def __init__(
        self, outcomes: list[Placed] | None, letters: pl.DataFrame, firings: pl.DataFrame, rulebook: Rulebook | None,
        rulebooks: tuple[str, ...], warnings: tuple[str, ...], seconds: float, tally: dict[tuple[str, str], int],
        certificate: Certificate,
    ) -> None:  # fmt: skip
        self.full = outcomes is not None
        super().__init__(outcomes or [], rulebook, warnings, seconds)
        self.certificate = certificate
        self._letters = letters
        self._firings = firings
        self._rulebooks = rulebooks
        self._tallied = tally

    @property
    def outcomes(self) -> list[Placed]:
        """(partition, epoch, outcome) by partition and seq. Raises LabError without `full`.

        >>> log.replay(engine="set").outcomes[0] == run.outcomes[0]
        True
        """
        self._need_full("outcomes")
        return self._outcomes

    @outcomes.setter
    def outcomes(self, outcomes: list[Placed]) -> None:
        self._outcomes = outcomes

    @property
    def hits(self) -> int:
        """How many hits were decided."""
        return self.certificate.hits

    @cached_property
    def postbacks(self) -> pl.DataFrame:
        """The postbacks in the columns of the table `postbacks`; `n` counts from 1 in each partition."""
        return super().postbacks if self.full else _postbacks(self._letters)

    @cached_property
    def counts(self) -> pl.DataFrame:
        """client, affiliate, trigger, currency, firings, postbacks, payout (decimal, null without one). No tests."""
        if self.full:
            return super().counts
        keys = ["client", "affiliate", "trigger", "currency"]
        paid = pl.col("payout").replace("", None).cast(MONEY)
        counted = self._firings.group_by(keys).agg(
            pl.len().alias("firings"), pl.col("postbacks").sum().cast(pl.get_index_type()),
            pl.when(paid.count() > 0).then(paid.sum()).alias("payout"),
        )  # fmt: skip
        return counted.sort(keys)

    @property
    def rulebooks(self) -> tuple[str, ...]:
        """Ids of the rulebooks that decided, sorted."""
        return self._rulebooks

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
        return f"Run by sets: {self.certificate}; {self._firings.height:,} firings, {self.seconds:.1f} s"


def _postbacks(letters: pl.DataFrame) -> pl.DataFrame:
    """Letters in the columns of the table, in log order."""
    order = pl.int_range(1, pl.len() + 1).over("partition")
    made = letters.sort("ord", "place").with_columns(
        partition=(pl.col("ord") // PLACE).cast(pl.Int32), seq=pl.col("ord") % PLACE,
        time=pl.from_epoch("t", time_unit="us").dt.replace_time_zone("UTC"), postback_id="id",
    )  # fmt: skip
    made = made.with_columns(day=pl.col("time").dt.strftime("%Y-%m-%d"), n=order.cast(pl.Int64))
    return made.select(SCHEMAS["postbacks"].names)


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
    parts: list[tuple[list[Placed] | None, pl.DataFrame, pl.DataFrame]] = []
    tally: dict[tuple[str, str], int] = {}
    certificate = Certificate(0, 0, 0, 0, 0)
    ids = {rulebook.id for rulebook, _ in by_rulebook}
    known: list[Span] | None = None
    for rulebook, partitions in by_rulebook:
        with Session(memory_gb, threads) as session, _uncollected():
            ground = Ground(Source(session, log, rulebook, partitions), [rulebook], full)
            made = decide(ground, rulebook, sample_hits)
            known = ground.source.spans if ground.source.cuts is None else None
        placed = (
            None if made.outcomes is None else [(place // PLACE, epoch, out) for place, epoch, out in made.outcomes]
        )
        parts.append((placed, made.letters, made.firings))
        certificate += made.certificate
        _add(tally, made.tally)
    for partition, first in mixed:
        whole = _by_reference(log, partition, first)
        ids |= {outcome.rulebook_id for _, _, outcome in whole}
        _add(tally, _tally_of(whole))
        certificate += Certificate(len(whole), 0, len(whole), 0, 0)
        decided = [(place * PLACE + outcome.seq, epoch, outcome) for place, epoch, outcome in whole]
        parts.append((whole if full else None, letters_of(decided), firings_of(decided)))
    outcomes = [placed for part, _, _ in parts for placed in part or ()] if full else None
    if outcomes is not None:
        outcomes.sort(key=lambda placed: (placed[0], placed[2].seq))
    letters = pl.concat([pl.DataFrame(schema=LETTERS), *(letters for _, letters, _ in parts)])
    firings = pl.concat([pl.DataFrame(schema=FIRINGS), *(firings for _, _, firings in parts)])
    spans = known if known is not None and not mixed and len(by_rulebook) == 1 else _spans_of(log)
    warnings = tuple(_warnings(log, pinned, by_rulebook, spans))
    seconds = perf_counter() - started
    return SetRun(outcomes, letters, firings, pinned, tuple(sorted(ids)), warnings, seconds, tally, certificate)


def replay_both(log: Log, before: Rulebook | None, after: Rulebook | None) -> tuple[SetRun, SetRun]:
    """Two lean runs. Two rulebooks that read and recognise alike share that work."""
    if before is None or after is None or not alike(before, after):
        return replay(log, before, full=False), replay(log, after, full=False)
    started = perf_counter()
    books, partitions = (before, after), log.cuts["partition"].to_list()
    with Session() as session, _uncollected():
        ground = Ground(Source(session, log, before, partitions, (after,)), books, False)
        decisions = [decide(ground, book, SAMPLE_HITS) for book in books]
    spans = ground.source.spans if ground.source.cuts is None else _spans_of(log)
    warnings = tuple(_warnings(log, before, [], spans))
    seconds = perf_counter() - started
    mine, theirs = (
        SetRun(None, d.letters, d.firings, book, (book.id,), warnings, seconds, d.tally, d.certificate)
        for d, book in zip(decisions, books, strict=True)
    )
    return mine, theirs


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles: what a run makes lives to its end, and would be looked at again and again."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


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
    mine = pl.col("kind").is_in(["rulebook", "epoch"]), pl.col("partition") == partition, pl.col("seq") < last
    switches = log.hits.filter(*mine)
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


def _spans_of(log: Log) -> list[Span]:
    place = pl.col("partition").cast(pl.Int64) * PLACE + pl.col("seq")
    return spans_of(log.hits.select(place.alias("ord")).collect()["ord"].sort())


def _warnings(
    log: Log, pinned: Rulebook | None, by_rulebook: list[tuple[Rulebook, list[int]]], spans: list[Span]
) -> list[str]:
    """What makes this run less than the truth, in the sentences of a run by the reference engine."""
    found = note(log)
    for partition, first, last, distinct, stored in spans:
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
