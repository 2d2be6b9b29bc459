"""What should have been sent, against what was promised, what was sent and, if known, what the partner received.

Expected are the postbacks of a replay; where the log cannot be replayed from its beginning, the stored promises. Each is
followed through three places: `stored` (the table postbacks), `sent` (the attempts) and `received` (the partner's record).
Compared are the verb, the address and every parameter, one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.check import KINDS, LATE_US, Check, defects_of
from lab.defects import DEFECTS
from lab.log import LabError
from lab.partner_record import read_access_log, read_csv
from lab.pictures import shares
from lab.receipts import read_receipts
from lab.reconcile import reconcile
from lab.replay import Progress, Rules, midstream, replay
from lab.show import html_block, html_table, plural
from service.archive.schemas import postback_of
from service.engine import Postback, PostbackState

if TYPE_CHECKING:
    from lab.log import Log

COLUMNS: dict[str, Any] = {
    "postback_id": pl.String, "recipient": pl.String, "trigger": pl.String, "kind": pl.Enum(list(KINDS)),
    "parameter": pl.String, "expected": pl.String, "found": pl.String, "place": pl.String,
    "defect": pl.Enum(list(DEFECTS)),
}  # fmt: skip

LADDER = timedelta(days=4)  # for how long a postback may be tried
_SHOWN = 10  # differences in a plain repr


def verify(
    log: Log, received: str | Path | None = None, rules: Rules = None, progress: Progress | None = None,
    format: str | None = None, recipient: str = "", columns: Mapping[str, str] | None = None, late_us: int = LATE_US,
    engine: str = "reference",
) -> Verification:  # fmt: skip
    """Compare what should have been sent with what was.

    received: the partner's record. format: `receipts` (JSON lines, one request each: time_us, method, path, query as it
    came, headers with lower-case names, body, status; a request belongs to the postback named in its header
    `webhook-id`), `csv` (an export with a head line), or an access log in a format of `lab.formats`; None tells it by the
    name: .csv, .log, .gz, else receipts. recipient: whose record it is; an access log tells by its addresses.
    columns: column of the CSV file to our name, where its own name does not tell. late_us: what is late; 0 for never.
    rules: replay with this rulebook instead of as logged. engine: that of the replay, reference or set.
    Raises LabError for a record that cannot be read, and what `replay` raises.
    """
    if not isinstance(late_us, int) or late_us < 0:
        raise LabError(
            f"late_us {late_us!r} is no number of microseconds; write 900_000_000 for 15 minutes, 0 for never"
        )
    if received is not None and not isinstance(received, str | Path):
        raise LabError(f"received {received!r} is no path; give the file of the partner's record")
    started = perf_counter()
    stored = [postback_of(row) for partition in log.cuts["partition"] for row in log.rows("postbacks", partition)]
    expected, basis, warnings = _expected(log, stored, rules, progress, engine)
    check = Check(expected, late_us)
    check.promises(stored)
    check.attempts(_attempts(log, expected).sort("partition", "n").collect())
    if received is not None:
        warnings += _read(log, check, Path(received), format, recipient, columns)
    return Verification(check, basis, warnings, perf_counter() - started, received is not None)


def _read(
    log: Log, check: Check, path: Path, format: str | None, recipient: str, columns: Mapping[str, str] | None
) -> tuple[str, ...]:
    """The partner's record against the check; returns notes."""
    beyond = frozenset(log.beyond.collect()["postback_id"])
    form = format or _FORMATS.get(path.suffix, "receipts")
    if form == "receipts":
        check.receipts(read_receipts(path), beyond)
        return ()
    record = list(read_csv(path, columns) if form == "csv" else read_access_log(path, form))
    hit_ids = {postback.hit_id for postback in check.expected.values()}
    decided = log.decisions.select("hit_id", "fields").filter(pl.col("hit_id").is_in(hit_ids)).collect()
    hits = {hit_id: dict(fields or ()) for hit_id, fields in decided.iter_rows()}
    return reconcile(check, record, hits, recipient, beyond)


_FORMATS = {".csv": "csv", ".tsv": "csv", ".log": "combined", ".gz": "combined"}


def _expected(
    log: Log, stored: list[Postback], rules: Rules, progress: Progress | None, engine: str
) -> tuple[list[Postback], str, tuple[str, ...]]:
    partitions = midstream(log)
    if rules is None and partitions:
        where = ", ".join(map(str, partitions[:8]))
        note = f"partition {where} begins in mid-stream: the stored promises are taken as expected, not a replay"
        return stored, "stored promises", (note,)
    run = replay(log, rules, progress) if engine == "reference" else log.replay(rules, engine=engine, full=False)
    postbacks = [postback for _, _, outcome in run.outcomes for postback in outcome.postbacks]
    return postbacks, "replay as logged" if run.rulebook is None else f"replay with {run.rulebook.id}", run.warnings


def _attempts(log: Log, expected: list[Postback]) -> pl.LazyFrame:
    """The attempts, but for late ones of promises that were in the log before its first days were dropped."""
    partitions = midstream(log)
    if not partitions:
        return log.attempts
    starts = (
        log.hits.filter(pl.col("partition").is_in(partitions)).group_by("partition").agg(start=pl.col("time").min())
    )
    known = pl.col("postback_id").is_in([postback.id for postback in expected])
    early = pl.col("time") <= pl.col("start") + LADDER
    joined = log.attempts.join(starts, on="partition", how="left")
    return joined.filter(known | ~early.fill_null(False)).drop("start")


class Verification:
    """The verdict.

    differences: postback_id, recipient, trigger, kind (see KINDS), parameter, expected, found, place, defect (see
    `lab.defects`). defects: the same counted, with an example.
    Counts of postbacks: expected (all), due, withheld, recorded, sent (tried at least once), delivered, equal (due and
    without any difference). Counts of messages: attempts, received, repeated (the same id again: allowed), other (requests
    of the partner's record that are no postbacks of this log). basis: what was expected. seconds: how long it took.

    >>> verification = log.verify()
    >>> verification.due == verification.equal
    True
    >>> verification.differences.columns
    ['postback_id', 'recipient', 'trigger', 'kind', 'parameter', 'expected', 'found', 'place', 'defect']
    """

    def __init__(
        self, check: Check, basis: str, warnings: tuple[str, ...], seconds: float, with_receipts: bool
    ) -> None:
        named = zip(check.findings, defects_of(check.findings), strict=True)
        self.differences = pl.DataFrame([(*row, defect) for row, defect in named], schema=COLUMNS, orient="row")
        self.expected = len(check.expected)
        self.due, self.withheld, self.recorded = (check.states[state.value] for state in PostbackState)
        self.sent, self.delivered, self.attempts = len(check.sent), len(check.delivered), check.attempted
        self.received = check.received if with_receipts else None
        self.repeated, self.other = check.repeated, check.other
        self.faulty = len(check.faulty)
        self.equal = sum(p.state == PostbackState.DUE and p.id not in check.faulty for p in check.expected.values())
        self.basis, self.warnings, self.seconds = basis, warnings, seconds

    @property
    def ok(self) -> bool:
        """Whether there is no difference.

        >>> verification.ok
        True
        """
        return self.differences.is_empty()

    @property
    def defects(self) -> pl.DataFrame:
        """What went wrong, by class: defect, postbacks, differences, parameters, example; the most frequent first.

        >>> verification.defects.columns
        ['defect', 'postbacks', 'differences', 'parameters', 'example']
        """
        shown = pl.concat_str(
            [pl.col("parameter"), pl.lit(": "), pl.col("expected").fill_null("nothing"), pl.lit(" became "),
             pl.col("found").fill_null("nothing")]
        )  # fmt: skip
        return (
            self.differences.group_by(pl.col("defect").cast(pl.String))
            .agg(
                pl.col("postback_id").n_unique().alias("postbacks"),
                pl.len().alias("differences"),
                pl.col("parameter").unique().sort().head(5).str.join(", ").alias("parameters"),
                shown.first().alias("example"),
            )
            .sort(["postbacks", "defect"], descending=[True, False])
        )

    @property
    def verified_equal(self) -> int:
        """The same as `equal`.

        >>> verification.verified_equal == verification.equal
        True
        """
        return self.equal

    def counts(self) -> dict[str, int | None]:
        """All counts by name. received is None without the partner's record.

        >>> list(verification.counts())[:5]
        ['expected', 'due', 'withheld', 'recorded', 'sent']
        """
        names = (
            "expected",
            "due",
            "withheld",
            "recorded",
            "sent",
            "attempts",
            "delivered",
            "received",
            "repeated",
            "other",
        )
        return {name: getattr(self, name) for name in names} | {
            "verified_equal": self.equal, "differences": self.differences.height,
        }  # fmt: skip

    @property
    def sentence(self) -> str:
        """The verdict in one sentence.

        >>> "equal in every parameter" in verification.sentence
        True
        """
        if not self.ok:
            kinds = self.differences["kind"].value_counts(sort=True).iter_rows()
            listed = ", ".join(f"{count:,} {str(kind).replace('_', ' ')}" for kind, count in kinds)
            found, expected = plural(self.differences.height, "difference"), plural(self.expected, "expected postback")
            return f"{found} over {expected}: {listed}."
        if not self.expected:
            return "No postback was expected and none was sent."
        where = "sent and delivered" if self.received is None else "sent, delivered and received"
        kept = "" if self.due == self.expected else f"; {self.expected - self.due:,} were rightly kept back"
        return f"All {plural(self.due, 'due postback')} were {where} as expected, equal in every parameter{kept}."

    def __repr__(self) -> str:
        lines = [self.sentence, self.numbers, *self.warnings[:5]]
        lines += ["  " + _line(*row) for row in self.differences.head(_SHOWN).iter_rows()]
        more = self.differences.height - _SHOWN
        return "\n".join(lines + ([f"  and {plural(more, 'more difference')}"] if more > 0 else []))

    @property
    def numbers(self) -> str:
        """All counts in one line, and what was expected.

        >>> verification.numbers.endswith("expected by replay as logged")
        True
        """
        counts = [f"{name.replace('_', ' ')} {value:,}" for name, value in self.counts().items() if value is not None]
        return f"{', '.join(counts)}; expected by {self.basis}"

    def _repr_html_(self) -> str:
        table = "" if self.ok else html_table(self.defects) + html_table(self.differences)
        parts = [
            ("equal", self.equal, "u"),
            ("kept back", self.withheld + self.recorded, "b"),
            ("different", self.faulty, "d"),
        ]
        picture = shares("Postbacks: equal, kept back, different", parts)
        return html_block(self.sentence, picture, table, notes=(self.numbers, *self.warnings[:5]))


def _line(
    postback: str, recipient: str, trigger: str, kind: str, parameter: str, expected: str | None, found: str | None,
    place: str, defect: str,
) -> str:  # fmt: skip
    what = f" {parameter}" if parameter else ""
    wanted, seen = ("nothing" if value is None else repr(value) for value in (expected, found))
    message = f"{trigger or '?'} to {recipient or '?'}, {place}, postback {postback}"
    how = f" ({defect.replace('_', ' ')})" if kind == "different" else ""
    return f"{kind}{what}{how}: expected {wanted}, found {seen} ({message})"
