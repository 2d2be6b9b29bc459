"""Two rulebooks over the same hits: which postbacks are gained, lost or changed, what that is in money, and why.

A postback is the same in both if hit, trigger and recipient are the same: its id says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from lab.compare_cases import PLAIN, Case, explain_cases, sample, whole_case
from lab.compare_names import names_of
from lab.compare_runs import Side, run_both, run_shuffled
from lab.log import LabError
from lab.replay import Progress, Rules, Run, rulebook_of
from lab.report_drawing import money_bars, postback_bars
from lab.show import html_block, html_table, plural, text_of
from service.engine import Rulebook
from service.engine.difference import difference
from service.engine.difference import lines as difference_lines
from service.engine.document import nearest

if TYPE_CHECKING:
    from lab.charts import Chart
    from lab.log import Log

MONEY = pl.Decimal(38, 3)
_KEYS = ["client", "affiliate", "trigger", "currency"]
_SHOWN = [
    "time", "client", "affiliate", "trigger", "event", "recipient", "payout", "currency", "state", "hit_id", "postback_id",
    "verb", "url", "body", "test", "partition", "seq",
]  # fmt: skip
_NAMED = 50_000  # changed postbacks whose parameters are named
_COMPARED = ("verb", "url", "body", "missing", *PLAIN)


class Noise(msgspec.Struct, frozen=True):
    """How much changes merely by the order of hits of the same time: the first rulebook against itself, ties shuffled.

    ties: hits that share their time with another of their partition. gained, lost, changed: postbacks.

    >>> what.noise.gained, what.noise.lost, what.noise.changed
    (0, 0, 0)
    """

    ties: int
    gained: int
    lost: int
    changed: int

    @property
    def sentence(self) -> str:
        """What it means for the reader.

        >>> "share their time" in what.noise.sentence
        True
        """
        if not self.ties:
            return "No two hits of a client share their time, so nothing here depends on the order of ties."
        moved = self.gained + self.lost + self.changed
        if not moved:
            return f"{plural(self.ties, 'hit')} share their time with another; their order changes no postback."
        return (
            f"Shuffling the {plural(self.ties, 'hit')} that share their time with another changes "
            f"{plural(moved, 'postback')} by itself ({self.gained} gained, {self.lost} lost, {self.changed} changed): "
            "differences as small as that mean nothing."
        )


class Comparison(msgspec.Struct, frozen=True):
    """What another rulebook changes on the same hits.

    gained, lost: postbacks that only the second, only the first rulebook makes. Columns: time (UTC), client, affiliate,
    trigger, event, recipient, payout (decimal, null without one), currency, state, hit_id, postback_id, verb, url, body,
    test, partition, seq.
    changed: postbacks of both that differ. Columns: time, client, affiliate, trigger, event, recipient, what (names of the
    parameters that differ, for the first 50,000), payout_before, payout_after, currency, hit_id, postback_id, and each
    compared field with _before and _after.
    money: client, affiliate, trigger, currency, firings_before, firings_after, before, after, difference (exact decimals;
    without tests; payout is counted once per firing, whoever is told).
    title_before, title_after: the rulebooks in words. engine: reference or set. seconds: how long it took.
    verdicts: verdict, before, after: hits. cases: see `compare_cases.Case`. noise: None if it was not measured.
    rules: what changed in the rulebook, in sentences. warnings: what makes the comparison less than the truth.

    >>> what = log.compare("datasets/rules.toml", "datasets/rules-next.toml")
    >>> what.changed.columns[:7]
    ['time', 'client', 'affiliate', 'trigger', 'event', 'recipient', 'what']
    >>> what.money.columns
    ['client', 'affiliate', 'trigger', 'currency', 'firings_before', 'firings_after', 'before', 'after', 'difference']
    """

    title_before: str
    title_after: str
    hits: int
    gained: pl.DataFrame
    lost: pl.DataFrame
    changed: pl.DataFrame
    money: pl.DataFrame
    verdicts: pl.DataFrame
    cases: tuple[Case, ...]
    noise: Noise | None
    rules: tuple[str, ...]
    warnings: tuple[str, ...]
    engine: str
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether both make the very same postbacks and money.

        >>> what.equal
        False
        """
        return not (self.gained.height or self.lost.height or self.changed.height) and self.money_equal

    @property
    def money_equal(self) -> bool:
        """Whether no payout differs.

        >>> what.money_equal
        False
        """
        return self.money.filter(
            (pl.col("difference") != 0) | (pl.col("firings_before") != pl.col("firings_after"))
        ).is_empty()

    @property
    def totals(self) -> pl.DataFrame:
        """Money per currency: currency, firings_before, firings_after, before, after, difference, percent (of before).

        >>> what.totals.columns
        ['currency', 'firings_before', 'firings_after', 'before', 'after', 'difference', 'percent']
        """
        return _summed(self.money, ["currency"])

    def money_by(self, *columns: str) -> pl.DataFrame:
        """Money summed by some of client, affiliate, trigger; always apart by currency. Columns as in `totals`.

        Raises LabError for anything else.

        >>> what.money_by("affiliate").columns[:2]
        ['affiliate', 'currency']
        """
        for column in columns:
            if column not in _KEYS:
                raise LabError(f"money by {column!r} is none{nearest(str(column), _KEYS)}")
        return _summed(self.money, [*dict.fromkeys(name for name in columns if name != "currency"), "currency"])

    @property
    def by_trigger(self) -> pl.DataFrame:
        """client, trigger, gained, lost, changed: postbacks; triggers with any difference, the most first.

        >>> sorted(what.by_trigger["trigger"])
        ['first-deposit', 'order']
        """
        frames = [
            frame.group_by("client", "trigger").agg(pl.len().alias("n")).with_columns(kind=pl.lit(kind))
            for kind, frame in self.kinds.items()
        ]
        counted = pl.concat(frames).group_by("client", "trigger").agg(
            *(pl.col("n").filter(pl.col("kind") == kind).sum().cast(pl.Int64).alias(kind) for kind in self.kinds)
        )  # fmt: skip
        most = pl.sum_horizontal(*self.kinds)
        return counted.sort(most, "client", "trigger", descending=[True, False, False])

    @property
    def kinds(self) -> dict[str, pl.DataFrame]:
        """The three frames by name.

        >>> list(what.kinds)
        ['gained', 'lost', 'changed']
        """
        return {"gained": self.gained, "lost": self.lost, "changed": self.changed}

    @property
    def sentence(self) -> str:
        """What changes, in one sentence.

        >>> what.sentence.startswith("Postbacks over")
        True
        """
        over = f"over {plural(self.hits, 'hit')}"
        if self.equal:
            return f"Nothing changes {over}: the same postbacks, equal in every parameter, and the same money."
        counts = ", ".join(f"{frame.height:,} {kind}" for kind, frame in self.kinds.items())
        sums = [
            f"{signed(row['difference'])} {row['currency']}"
            for row in self.totals.iter_rows(named=True)
            if row["difference"]
        ]
        return f"Postbacks {over}: {counts}. Money: {', '.join(sums) or 'the same'}."

    def chart(self) -> Chart:
        """Money before and after per trigger, or postbacks if no money is paid; its `frame` holds the numbers.

        >>> what.chart().frame.columns
        ['what', 'side', 'value', 'label']
        """
        from lab.compare_chart import comparison_chart

        return comparison_chart(self)

    def report(self, path: Any, conditions: Iterable[str] = ()) -> Any:
        """Write the self-contained HTML page; conditions: as for `--fail-on`. Returns the path.

        >>> what.report(folder / "what.html", ["lost>1000"]).name
        'what.html'
        """
        from lab.report_limits import judge
        from lab.report_page import write_page

        return write_page(self, judge(self, conditions), path)

    @property
    def document(self) -> dict[str, Any]:
        """All of it as plain values, for JSON. gained, lost, changed are counts; the rest as tables.

        >>> sorted(what.document)[:4]
        ['after', 'before', 'cases', 'changed']
        """
        return {
            "before": self.title_before, "after": self.title_after, "hits": self.hits, "equal": self.equal,
            **{kind: frame.height for kind, frame in self.kinds.items()}, "sentence": self.sentence,
            "totals": plain_rows(self.totals), "money": plain_rows(self.money), "triggers": plain_rows(self.by_trigger),
            "verdicts": plain_rows(self.verdicts), "cases": msgspec.to_builtins(self.cases),
            "noise": None if self.noise is None else msgspec.to_builtins(self.noise), "rules": list(self.rules),
            "warnings": list(self.warnings), "engine": self.engine, "seconds": round(self.seconds, 3),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.sentence} ({self.title_before} against {self.title_after}, {self.seconds:.1f} s)"

    def _repr_html_(self) -> str:
        notes = [*(() if self.noise is None else (self.noise.sentence,)), *self.warnings[:5]]
        moved = self.money.filter(pl.col("difference") != 0)
        tables = [html_table(self.by_trigger, "Postbacks")] if not self.by_trigger.is_empty() else []
        tables += [html_table(moved, "Money")] if not moved.is_empty() else []
        picture = money_bars(moved) if not moved.is_empty() else ""
        if not picture and not self.by_trigger.is_empty():
            picture = postback_bars(self.by_trigger)
        return html_block(self.sentence, picture, *tables, notes=tuple(notes))


def compare(
    log: Log, before: Rules, after: Rules, engine: str = "reference", progress: Progress | None = None,
    noise: bool | None = None,
) -> Comparison:  # fmt: skip
    """Decide the hits of a log by two rulebooks, and say what differs.

    before, after: as `rules` of a replay; None is as logged. engine: reference, or set (by SQL, for millions of hits).
    noise: measure the noise floor with a further pass; by default with the reference engine only.
    Raises RulebookError for a broken rulebook, LabError for one that cannot be read, or an engine that is none.
    """
    started = perf_counter()
    books = rulebook_of(before), rulebook_of(after)
    sides = _by_reference(log, *books, progress) if engine == "reference" else _by_sets(log, books, engine)
    old, new, verdicts, hits, warnings = sides
    kinds = contrast(old.postbacks, new.postbacks)
    chosen = sample(kinds)
    explained = engine == "reference"
    cases = explain_cases(log, *books, chosen) if explained else [whole_case(kind, row) for kind, row in chosen]
    measure = explained if noise is None else noise
    return Comparison(
        _title(books[0], before), _title(books[1], after), hits, **kinds, money=_money(old.counts, new.counts),
        verdicts=verdicts, cases=tuple(cases), noise=_noise(log, books[0], old) if measure else None,
        rules=_rules(*books), warnings=tuple(warnings), engine=engine, seconds=perf_counter() - started,
    )  # fmt: skip


_Sides = tuple[Run, Run, pl.DataFrame, int, list[str]]


def _by_reference(log: Log, before: Rulebook | None, after: Rulebook | None, progress: Progress | None) -> _Sides:
    old, new = Side(log, before), Side(log, after)
    warnings = run_both(log, old, new, progress)
    runs = [Run(side.outcomes, side.pinned, (), 0.0) for side in (old, new)]
    return *runs, _verdicts(old.verdicts, new.verdicts), old.verdicts.total(), warnings  # type: ignore[return-value]


def _by_sets(log: Log, books: tuple[Rulebook | None, Rulebook | None], engine: str) -> _Sides:
    if engine != "set":
        raise LabError(f"there is no engine {engine!r}; the engines are reference and set")
    from lab.sets.run import replay_both  # late: the command line should not wait for DuckDB

    old, new = replay_both(log, *books)
    counts = (dict(run.verdicts.iter_rows()) for run in (old, new))
    return old, new, _verdicts(*counts), old.hits, list(dict.fromkeys((*old.warnings, *new.warnings)))


def _verdicts(before: dict[str, int], after: dict[str, int]) -> pl.DataFrame:
    names = sorted({*before, *after})
    rows = [(name, before.get(name, 0), after.get(name, 0)) for name in names]
    return pl.DataFrame(rows, schema={"verdict": pl.String, "before": pl.Int64, "after": pl.Int64}, orient="row")


def contrast(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """gained, lost and changed, in the order of the log. Both frames in the columns of the table postbacks."""
    mine, theirs = (_prepared(frame) for frame in (before, after))
    gained = theirs.join(mine, on="postback_id", how="anti").select(_SHOWN)
    lost = mine.join(theirs, on="postback_id", how="anti").select(_SHOWN)
    both = mine.join(theirs.select("postback_id", *_COMPARED), on="postback_id", suffix="_after")
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_after")) for name in _COMPARED)
    changed = both.filter(differs).rename({name: f"{name}_before" for name in _COMPARED})
    order = ["time", "partition", "seq", "trigger", "recipient"]
    return {"gained": gained.sort(order), "lost": lost.sort(order), "changed": _with_what(changed.sort(order))}


def _prepared(frame: pl.DataFrame) -> pl.DataFrame:
    money = pl.col("payout").replace("", None).cast(MONEY)
    return frame.with_columns(money, pl.col("missing").list.join(", "))


def _with_what(changed: pl.DataFrame) -> pl.DataFrame:
    """`what`: the names of the parameters that differ; affiliate and currency as they are afterwards."""
    named = names_of(changed.head(_NAMED))
    named += ["(not looked at)"] * (changed.height - len(named))
    head = [
        "time",
        "client",
        "affiliate",
        "trigger",
        "event",
        "recipient",
        "what",
        "payout_before",
        "payout_after",
        "currency",
    ]
    whole = changed.with_columns(
        pl.Series("what", named, pl.String), affiliate=pl.col("affiliate_after"), currency=pl.col("currency_after")
    )
    fields = [f"{name}_{side}" for name in _COMPARED for side in ("before", "after") if name != "payout"]
    return whole.select(*head, "hit_id", "postback_id", *fields, "partition", "seq")


def _money(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Payouts of both side by side, decimals exact."""
    nothing = pl.lit(Decimal(0)).cast(MONEY)
    mine, theirs = (
        counts.select(*_KEYS, pl.col("firings").cast(pl.Int64), pl.col("payout").cast(MONEY))
        for counts in (before, after)
    )
    both = mine.join(theirs, on=_KEYS, how="full", suffix="_after", coalesce=True)
    return both.select(
        *_KEYS, pl.col("firings").fill_null(0).alias("firings_before"), pl.col("firings_after").fill_null(0),
        pl.col("payout").fill_null(nothing).alias("before"), pl.col("payout_after").fill_null(nothing).alias("after"),
    ).with_columns((pl.col("after") - pl.col("before")).cast(MONEY).alias("difference")).sort(_KEYS)  # fmt: skip


def _summed(money: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    sums = [pl.col(name).sum() for name in ("firings_before", "firings_after", "before", "after", "difference")]
    found = money.filter(pl.col("currency") != "").group_by(by).agg(*sums).sort(by)
    return found.with_columns(
        percent=pl.Series([percent(*row) for row in found.select("before", "difference").rows()], dtype=pl.Float64)
    )


def percent(before: Decimal, change: Decimal) -> float | None:
    """A change in percent of what was; None if there was nothing and now there is something."""
    if not change:
        return 0.0
    return None if not before else float(change / abs(before) * 100)


def signed(amount: Decimal) -> str:
    """`+12.50`, `-3.00`."""
    return f"{'+' if amount > 0 else ''}{text_of(amount)}"


def _noise(log: Log, rulebook: Rulebook | None, run: Run) -> Noise:
    """The first rulebook against itself with ties shuffled; a pass of its own only where there are ties."""
    placed = log.hits.filter(pl.col("kind") == "hit").select("partition", "time")
    if not placed.select(pl.struct("partition", "time").is_duplicated().any()).collect().item():
        return Noise(0, 0, 0, 0)
    shuffled = run_shuffled(log, rulebook)
    kinds = contrast(run.postbacks, Run(shuffled.outcomes, rulebook, (), 0.0).postbacks)
    return Noise(shuffled.ties, **{kind: frame.height for kind, frame in kinds.items()})


def _rules(before: Rulebook | None, after: Rulebook | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    return tuple(difference_lines(difference(before, after)))


def _title(rulebook: Rulebook | None, given: Rules) -> str:
    if rulebook is None:
        return "as logged"
    named = f"{given} " if given is not None and not isinstance(given, Rulebook) and "\n" not in str(given) else ""
    return f"{named}({rulebook.id})" if named else f"rulebook {rulebook.id}"


def plain_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON: decimals and times as texts."""
    texts = [
        pl.col(name).cast(pl.String) for name, kind in frame.schema.items() if kind.is_decimal() or kind.is_temporal()
    ]
    return frame.with_columns(texts).to_dicts()
