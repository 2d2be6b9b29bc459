"""The reference engine: the hits of a log through the very code that decided them live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.digest import Placed, digest
from lab.erased import note
from lab.log import LabError
from lab.pictures import bars, shares
from lab.show import html_block, html_table, plural
from service.archive.schemas import SCHEMAS, decision_row, entry_of, postback_row, table
from service.engine import EMPTY, Entry, Rulebook, State, load
from service.engine import replay as engine_replay

if TYPE_CHECKING:
    from lab.log import Log

Rules = str | Path | Rulebook | None
Progress = Callable[[int, int], None]

_ENTRY_COLUMNS = (
    "partition", "epoch", "seq", "time", "kind", "hit_id", "received_at", "route", "method", "path", "query", "body",
    "content_type", "address", "user_agent", "referrer", "refusal", "flags", "rulebook_id",
)  # fmt: skip
_REPORT_EVERY = 1_000  # hits between two calls of `progress`
_FRAME_ROWS = 10_000  # rows that are Python values at the same time
MONEY = pl.Decimal(38, 3)  # no currency has more than three places


def replay(log: Log, rules: Rules = None, progress: Progress | None = None) -> Run:
    """Decide every hit of the log again, partition by partition, in the order of the log.

    rules: None for as logged (rulebook entries switch the rulebook), or one rulebook for the whole log: a path, a TOML
    text (anything with a line break) or a compiled one. progress: called with (hits done, hits in all).
    Raises RulebookError for a broken rulebook, LabError for one that cannot be read or found.
    """
    started = perf_counter()
    pinned = rulebook_of(rules)
    total = log.hits.filter(pl.col("kind") == "hit").select(pl.len()).collect().item()
    library = Library(log)
    outcomes: list[Placed] = []
    warnings = note(log)
    for partition in log.cuts["partition"]:
        stream = Stream(log, partition)
        first = pinned if pinned is not None else library.at_start(partition)
        for outcome in engine_replay(stream.entries(), State(), library.find, first, pinned is not None):
            outcomes.append((partition, stream.epoch, outcome))
            if progress is not None and len(outcomes) % _REPORT_EVERY == 0:
                progress(len(outcomes), total)
        warnings += stream.warnings
    if progress is not None:
        progress(len(outcomes), total)
    if outcomes and pinned is None and all(outcome.rulebook_id == EMPTY.id for _, _, outcome in outcomes):
        warnings.append("the log names no rulebook, so every hit is rejected; give one with rules")
    return Run(outcomes, pinned, tuple(warnings), perf_counter() - started)


def rulebook_of(rules: Rules) -> Rulebook | None:
    """The rulebook meant by a path, a TOML text or a rulebook; None for None."""
    if rules is None or isinstance(rules, Rulebook):
        return rules
    if isinstance(rules, str) and "\n" in rules:
        return load(rules)
    if not isinstance(rules, str | Path) or not str(rules).strip():
        raise LabError(f"{rules!r} is no rulebook; give its path, its text or what service.engine.load made of it")
    path = Path(rules)
    try:
        return load(path.read_text(encoding="utf-8"), source=str(path))
    except FileNotFoundError:
        raise LabError(f"{path} does not exist; give the path of a rulebook, or its text") from None
    except UnicodeDecodeError:
        raise LabError(f"{path} is no UTF-8 text; save the rulebook as UTF-8") from None
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}") from None


def midstream(log: Log) -> list[int]:
    """The partitions whose first entries are not in the log."""
    first = log.hits.group_by("partition").agg(pl.col("seq").min()).filter(pl.col("seq") > 1)
    return first.sort("partition").collect()["partition"].to_list()


class Library:
    """The rulebooks that the log names, compiled when they are first needed."""

    def __init__(self, log: Log) -> None:
        self._log = log
        rows = log.rulebooks.select("rulebook_id", "text", "source").collect().iter_rows()
        self._texts = {identity: (text, source) for identity, text, source in rows}

    def find(self, rulebook_id: str) -> Rulebook:
        """The rulebook with this id. Raises LabError if its text was never stored."""
        if rulebook_id in ("", EMPTY.id):
            return EMPTY
        if rulebook_id not in self._texts:
            raise LabError(
                f"rulebook {rulebook_id} took effect in this log, but its text is not in the table rulebooks of "
                f"{self._log.path}; give the rulebook itself with rules"
            )
        text, source = self._texts[rulebook_id]
        rulebook = load(text, source=source or f"rulebook {rulebook_id}")
        if rulebook.id != rulebook_id:
            raise LabError(f"the text stored as rulebook {rulebook_id} has the id {rulebook.id}; the table was changed")
        return rulebook

    def at_start(self, partition: int) -> Rulebook | None:
        """The rulebook in force when the stored part of a partition begins, if it begins in mid-stream."""
        mine = pl.col("partition") == partition
        start = self._log.hits.filter(mine).sort("seq").select("seq", "kind").head(1).collect()
        if start.is_empty() or start.item(0, "seq") <= 1 or start.item(0, "kind") in ("rulebook", "epoch"):
            return None
        decided = (
            self._log.decisions.filter(mine, pl.col("seq") == start.item(0, "seq")).select("rulebook_id").collect()
        )
        return None if decided.is_empty() else self.find(decided.item(0, 0))


def newest_rulebook(log: Log) -> Rulebook:
    """The rulebook that took effect last in a log. Raises LabError if the log names none."""
    named = log.hits.filter(pl.col("kind") == "rulebook").sort("time", "seq").select("rulebook_id").collect()
    if named.is_empty():
        raise LabError(f"{log.path} names no rulebook; give one with rules")
    return Library(log).find(named["rulebook_id"][-1])


class Stream:
    """The entries of one partition in log order. `epoch` is that of the last entry; `warnings` what was odd on the way."""

    def __init__(self, log: Log, partition: int) -> None:
        self.partition = partition
        self.epoch = 0
        self.warnings: list[str] = []
        self._log = log

    def entries(self) -> Iterator[Entry]:
        """Each entry once. A repeated one is passed over with a warning."""
        seq: int | None = None
        for row in self._log.rows("hits", self.partition, _ENTRY_COLUMNS):
            if row["kind"] == "unreadable":
                self._warn(f"entry {row['seq']} could not be read; it was set aside and never decided")
                seq = row["seq"]
                continue
            entry = entry_of(row)
            if seq is None:
                self._check_start(entry)
            elif entry.seq == seq:
                self._warn(f"entry {seq} is stored twice; the second is passed over")
                continue
            elif entry.seq > seq + 1:
                what = "are missing" if entry.epoch == self.epoch else f"were lost before epoch {entry.epoch}"
                self._warn(f"entries {seq + 1} to {entry.seq - 1} {what}")
            seq, self.epoch = entry.seq, entry.epoch
            yield entry

    def _check_start(self, entry: Entry) -> None:
        if entry.seq > 1:
            self._warn(f"begins in mid-stream, at entry {entry.seq}: what visitors did before is unknown")

    def _warn(self, message: str) -> None:
        self.warnings.append(f"partition {self.partition}: {message}")


class Run:
    """What one replay decided.

    outcomes: (partition, epoch, outcome) by partition and seq. rulebook: the pinned one, None for as logged.
    warnings: sentences about what makes this run less than the truth. seconds: how long it took.

    >>> run = log.replay("datasets/rules.toml")
    >>> run.hits
    1748
    >>> run.warnings
    ()
    """

    def __init__(
        self, outcomes: list[Placed], rulebook: Rulebook | None, warnings: tuple[str, ...], seconds: float
    ) -> None:
        self.outcomes = outcomes
        self.rulebook = rulebook
        self.warnings = warnings
        self.seconds = seconds

    @property
    def hits(self) -> int:
        """How many hits were decided.

        >>> run.hits == run.verdicts["hits"].sum()
        True
        """
        return len(self.outcomes)

    @cached_property
    def digest(self) -> str:
        """The digest of all outcomes: see lab/digest.py.

        >>> run.digest == log.digest()
        True
        """
        return digest(self.outcomes)

    @cached_property
    def decisions(self) -> pl.DataFrame:
        """The outcomes in the columns of the table `decisions`.

        >>> run.decisions.filter(pl.col("fired").list.len() > 0).select("event", "affiliate", "fired").columns
        ['event', 'affiliate', 'fired']
        """
        return _frame("decisions", (decision_row(*placed) for placed in self.outcomes))

    @cached_property
    def postbacks(self) -> pl.DataFrame:
        """The postbacks in the columns of the table `postbacks`; `n` counts from 1 in each partition.

        >>> run.postbacks.filter(trigger="signup").select("recipient", "verb", "url").columns
        ['recipient', 'verb', 'url']
        """
        return _frame("postbacks", self._postback_rows())

    def _postback_rows(self) -> Iterator[dict[str, Any]]:
        made: Counter[int] = Counter()
        for partition, _, outcome in self.outcomes:
            for postback in outcome.postbacks:
                made[partition] += 1
                yield postback_row(partition, made[partition], postback)

    @cached_property
    def counts(self) -> pl.DataFrame:
        """client, affiliate, trigger, currency, firings, postbacks, payout (decimal, null without one). No tests.

        >>> run.counts.columns
        ['client', 'affiliate', 'trigger', 'currency', 'firings', 'postbacks', 'payout']
        """
        keys = ["client", "affiliate", "trigger", "currency"]
        fired = self.decisions.filter(~pl.col("test")).select("client", "affiliate", pl.col("fired"))
        firings = fired.explode("fired").drop_nulls("fired").unnest("fired")
        paid = pl.col("payout").replace("", None).cast(MONEY)
        counted = firings.group_by(keys).agg(
            pl.len().alias("firings"), paid.sum().alias("payout"), paid.count().alias("_paid")
        )
        posted = self.postbacks.filter(~pl.col("test")).group_by(keys).agg(pl.len().alias("postbacks"))
        return (
            counted.join(posted, on=keys, how="left")
            .with_columns(
                pl.col("postbacks").fill_null(0), pl.when(pl.col("_paid") > 0).then(pl.col("payout")).alias("payout")
            )
            .select(*keys, "firings", "postbacks", "payout")
            .sort(keys)
        )

    @cached_property
    def verdicts(self) -> pl.DataFrame:
        """verdict, hits; the most frequent first.

        >>> run.verdicts["verdict"].to_list()
        ['accepted', 'rejected', 'duplicate']
        """
        return self._tally("verdict")

    @cached_property
    def reasons(self) -> pl.DataFrame:
        """Why hits were rejected: reason, hits; the most frequent first.

        >>> run.reasons.columns
        ['reason', 'hits']
        """
        return self._tally("reason").filter(pl.col("reason") != "")

    @cached_property
    def stages(self) -> pl.DataFrame:
        """Where triggers stopped that were asked and did not fire: client, trigger, stage, hits.

        >>> run.stages.columns
        ['client', 'trigger', 'stage', 'hits']
        >>> sorted(run.stages["stage"].unique())
        ['condition', 'recipient', 'steps']
        """
        tally = Counter(
            (outcome.client, trigger, stage)
            for _, _, outcome in self.outcomes
            for trigger, stage in outcome.not_fired.items()
        )
        rows = [(*key, hits) for key, hits in sorted(tally.items())]
        schema = {"client": pl.String, "trigger": pl.String, "stage": pl.String, "hits": pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    @cached_property
    def rulebooks(self) -> tuple[str, ...]:
        """Ids of the rulebooks that decided, sorted.

        >>> run.rulebooks
        ('070500ad0c01c398',)
        """
        return tuple(sorted({outcome.rulebook_id for _, _, outcome in self.outcomes}))

    def count(self, verdict: str) -> int:
        """How many hits have this verdict.

        >>> run.count("accepted") <= run.hits
        True
        """
        return sum(outcome.verdict == verdict for _, _, outcome in self.outcomes)

    def _tally(self, column: str) -> pl.DataFrame:
        return (
            self.decisions.group_by(column).agg(pl.len().alias("hits")).sort(["hits", column], descending=[True, False])
        )

    def __repr__(self) -> str:
        firings = sum(len(outcome.fired) for _, _, outcome in self.outcomes)
        postbacks = sum(len(outcome.postbacks) for _, _, outcome in self.outcomes)
        how = "as logged" if self.rulebook is None else f"with rulebook {self.rulebook.id}"
        return (
            f"Run {how}: {plural(self.hits, 'hit')}, {self.count('accepted'):,} accepted, {plural(firings, 'firing')}, "
            f"{plural(postbacks, 'postback')}, digest {self.digest[:12]}, {self.seconds:.1f} s"
        )

    def _repr_html_(self) -> str:
        tones = {"accepted": "a", "duplicate": "b"}
        verdicts = shares(
            "Hits by verdict", [(name, hits, tones.get(name, "d")) for name, hits in self.verdicts.iter_rows()]
        )
        return html_block(repr(self), verdicts, self._firing_bars(), html_table(self.counts), notes=self.warnings[:5])

    def _firing_bars(self) -> str:
        """How often each trigger fired."""
        fired = self.counts.group_by("client", "trigger").agg(pl.col("firings").sum()).sort("client", "trigger")
        rows = [
            (f"{client} {trigger}", firings, plural(firings, "firing"))
            for client, trigger, firings in fired.iter_rows()
        ]
        return bars("Firings by trigger", rows)


def _frame(name: str, rows: Iterator[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a Polars frame, converted piece by piece so that they are never all Python values."""
    pieces: list[pl.DataFrame] = []
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _FRAME_ROWS:
            pieces.append(pl.DataFrame(table(name, batch)))
            batch = []
    pieces.append(pl.DataFrame(table(name, batch) if batch else SCHEMAS[name].empty_table()))
    return pl.concat(pieces)
