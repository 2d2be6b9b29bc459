"""`backtrack replay LOG --against FILE`: what the command does and prints when two rulebooks are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lab.compare import Comparison
from lab.compare_cases import Case
from lab.log import LabError, Log
from lab.report_junit import write_junit
from lab.report_limits import Verdict, judge, limit_of
from lab.report_page import write_page
from lab.show import plural, progress, rich_table, terminal


def compare_and_report(
    log: Log, rules: Path | None, against: Path, engine: str, fail_on: Sequence[str], report: Path | None,
    junit: Path | None,
) -> tuple[Comparison, tuple[Verdict, ...]]:  # fmt: skip
    """Compare, judge and write the files. Raises LabError for a condition that cannot be read, before any work."""
    for condition in fail_on:
        limit_of(condition)
    for path in (report, junit):
        if path is not None and not path.absolute().parent.is_dir():
            raise LabError(f"{path} cannot be written: there is no folder {path.parent}")
    with progress("comparing") as reporter:
        comparison = log.compare(rules, against, engine, reporter)
    verdicts = judge(comparison, fail_on)
    if report is not None:
        write_page(comparison, verdicts, report)
    if junit is not None:
        write_junit(comparison, verdicts, junit)
    return comparison, verdicts


def document_of(comparison: Comparison, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What `--json` prints."""
    failed = [verdict.condition for verdict in verdicts if verdict.failed]
    conditions = [{"condition": v.condition, "failed": v.failed, "found": v.found} for v in verdicts]
    return comparison.document | {"failed": failed, "conditions": conditions}


def print_comparison(comparison: Comparison, verdicts: Sequence[Verdict]) -> None:
    """Print what changes, for whom, how much money, why."""
    out = terminal()

    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    say(comparison.sentence)
    say(f"before: {comparison.title_before}; after: {comparison.title_after}")
    for line in comparison.rules:
        say(line)
    moved = comparison.money.filter((pl.col("difference") != 0) | (pl.col("firings_before") != pl.col("firings_after")))
    for title, frame in (
        ("Postbacks", comparison.by_trigger), ("Money that changes", moved), ("Money in all", comparison.totals),
    ):  # fmt: skip
        if not frame.is_empty():
            out.print()
            out.print(rich_table(frame, title, limit=40))
    shown = [case for n, case in enumerate(comparison.cases) if _first_of_its_kind(comparison.cases, n)]
    for case in shown:
        out.print()
        say(_case(case))
    out.print()
    if comparison.noise is not None:
        say(comparison.noise.sentence)
    for warning in comparison.warnings[:20]:
        say(f"note: {warning}")
    for verdict in verdicts:
        say(f"{'FAILED' if verdict.failed else 'passed'}: fail on {verdict.condition}, found {verdict.found}")
    say(f"took {comparison.seconds:.1f} s over {plural(comparison.hits, 'hit')}")


def _first_of_its_kind(cases: Sequence[Case], n: int) -> bool:
    key = (cases[n].kind, cases[n].client, cases[n].trigger)
    return all((case.kind, case.client, case.trigger) != key for case in cases[:n])


def _case(case: Case) -> str:
    lines = [f"{case.kind}: {case.trigger} to {case.recipient}, hit {case.hit_id}, {case.time} UTC"]
    lines += [f"  before  {case.before}", f"  after   {case.after}"] if case.before else []
    lines += [f"  {name}: {mine or 'nothing'} -> {theirs or 'nothing'}" for name, mine, theirs in case.differences[:8]]
    return "\n".join(lines)
