"""The commands of the lab: each a plain click command that prints readable tables, or one JSON document.

Exit status 0 done, 1 the check failed, 2 bad input: one line per thing that is wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import polars as pl
from polars.exceptions import ComputeError
from rich.console import Console

import lab
from lab.digest import first_difference, stored_digest, stored_outcomes
from lab.explain import Explanation
from lab.explain import explain as explain_hit
from lab.log import LabError, Log
from lab.partner_record import NAMES
from lab.replay import Run
from lab.replay import replay as replay_log
from lab.show import HELP, plural, progress, rich_table, terminal
from lab.verify import Verification
from lab.verify import verify as verify_log
from service.engine import RulebookError

_Command = TypeVar("_Command", bound=Callable[..., Any])
_LOG = click.argument("log", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
_AS_OF = click.option("--as-of", metavar="TIME", help="Leave out the hits after this day or moment (UTC).")
_RULES = click.option(
    "--rules", type=click.Path(path_type=Path), help="Decide with this rulebook instead of as logged."
)


def one_line_errors(command: _Command) -> _Command:
    """Turn what a person gave wrongly into its message on standard error and status 2; a failed check into status 1."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except LabError as error:
            click.echo(str(error), err=True)
            raise SystemExit(error.status) from None
        except RulebookError as error:
            click.echo(str(error), err=True)
        except (FileNotFoundError, PermissionError, ComputeError) as error:
            what = str(error).partition("\n")[0]
            click.echo(
                f"a file of the tables cannot be read: {what}; if they were compacted meanwhile, run it again", err=True
            )
        raise SystemExit(2)

    return guarded  # type: ignore[return-value]


def open_until(path: Path, as_of: str | None) -> Log:
    """A log up to a moment. Raises LabError for one before the first entry: nothing of nothing would be equal to itself."""
    opened = lab.open(path, as_of)
    if as_of is None or not opened.cuts.is_empty():
        return opened
    begins = lab.open(path).hits.select(pl.col("time").min()).collect().item()
    if begins is not None:
        raise LabError(f"--as-of {as_of!r} is before the log begins, {begins:%Y-%m-%d %H:%M} UTC; name a later moment")
    return opened


@click.command("replay", context_settings=HELP)
@_LOG
@_RULES
@_AS_OF
@click.option(
    "--engine",
    type=click.Choice(["reference", "set"]),
    default="reference",
    show_default=True,
    help="set: by SQL over the tables, with a certificate of how far the reference engine agrees.",
)
@click.option("--against", type=click.Path(path_type=Path), help="Compare with this rulebook on the same hits.")
@click.option(
    "--fail-on",
    multiple=True,
    metavar="CONDITION",
    help="Exit 1 if it holds: `difference` (the stored decisions differ), or with --against gained>0, lost>0, changed>0, "
    "money>1%. May be given several times.",
)
@click.option(
    "--report", type=click.Path(path_type=Path), help="With --against: write an HTML page that needs no network."
)
@click.option("--junit", type=click.Path(path_type=Path), help="With --against: write the conditions as a JUnit file.")
@_JSON
@one_line_errors
def replay_command(
    log: Path, rules: Path | None, as_of: str | None, engine: str, against: Path | None, fail_on: tuple[str, ...],
    report: Path | None, junit: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Decide the hits of LOG (a folder of tables) again, and compare with the decisions stored there.

    Without --rules as logged: each hit by the rulebook that was in force. With --against: what a second rulebook changes.
    """
    _check_usage(against, fail_on, report, junit)
    opened = open_until(log, as_of)
    if against is not None:
        _compare(opened, rules, against, engine, fail_on, report, junit, as_json)
        return
    if engine == "set":
        run = opened.replay(rules, engine=engine)
    else:
        with progress("replaying") as reporter:
            run = replay_log(opened, rules, reporter)
    document = replay_document(opened, run)
    if as_json:
        _print_json(document)
    else:
        _print_run(opened, run, document)
    if fail_on and document["equal"] is not True:
        raise SystemExit(1)


def _check_usage(against: Path | None, fail_on: tuple[str, ...], report: Path | None, junit: Path | None) -> None:
    for option, given in (("--report", report), ("--junit", junit)):
        if given is not None and against is None:
            raise LabError(f"{option} {given} needs a second rulebook: add --against FILE")
    for condition in fail_on:
        if (condition == "difference") is (against is not None):
            remedy = (
                "it compares with what is stored; leave out --against"
                if against
                else "add --against FILE, or write difference"
            )
            raise LabError(f"--fail-on {condition!r} does not fit here: {remedy}")


def _compare(
    log: Log, rules: Path | None, against: Path, engine: str, fail_on: tuple[str, ...], report: Path | None,
    junit: Path | None, as_json: bool,
) -> None:  # fmt: skip
    from lab.comparing import compare_and_report, document_of, print_comparison

    comparison, verdicts = compare_and_report(log, rules, against, engine, fail_on, report, junit)
    if as_json:
        _print_json(document_of(comparison, verdicts))
    else:
        print_comparison(comparison, verdicts)
    if any(verdict.failed for verdict in verdicts):
        raise SystemExit(1)


def replay_document(log: Log, run: Run) -> dict[str, Any]:
    """What `backtrack replay --json` prints. stored_digest and equal are None where nothing is stored."""
    stored = stored_digest(log) if log.files("decisions") else None
    equal = None if stored is None else stored == run.digest
    return {
        "hits": run.hits,
        "partitions": log.cuts.height,
        "accepted": run.count("accepted"),
        "rejected": run.count("rejected"),
        "duplicates": run.count("duplicate"),
        "engine_errors": run.count("engine_error"),
        "firings": sum(len(outcome.fired) for _, _, outcome in run.outcomes),
        "postbacks": sum(len(outcome.postbacks) for _, _, outcome in run.outcomes),
        "rulebooks": list(run.rulebooks),
        "digest": run.digest,
        "stored_digest": stored,
        "equal": equal,
        "first_difference": first_difference(run.outcomes, stored_outcomes(log)) if equal is False else None,
        "counts": run.counts.with_columns(run.counts["payout"].cast(str)).to_dicts(),
        "reasons": dict(run.reasons.iter_rows()),
        "warnings": list(run.warnings),
        "certificate": str(run.certificate) if hasattr(run, "certificate") else None,
        "seconds": round(run.seconds, 3),
    }


def _print_run(log: Log, run: Run, document: dict[str, Any]) -> None:
    out = terminal()
    _say(out, repr(run))
    for title, frame in (
        ("Verdicts", run.verdicts),
        ("Reasons of rejected hits", run.reasons),
        ("Firings", run.counts),
    ):
        if not frame.is_empty():
            out.print()
            out.print(rich_table(frame, title))
    out.print()
    _say(out, f"digest         {run.digest}")
    if document["equal"] is None:
        _say(out, "The log holds no decisions to compare with.")
    elif document["equal"]:
        _say(out, f"stored digest  {document['stored_digest']}")
        _say(out, "Equal: every stored decision and postback is what this replay says.")
    else:
        _say(out, f"stored digest  {document['stored_digest']}")
        _say(out, f"Different. First: {document['first_difference']}")
    _warn(out, run.warnings)


@click.command("verify", context_settings=HELP)
@_LOG
@click.option("--received", type=click.Path(path_type=Path), help="What the partner says it got.")
@click.option(
    "--format", "form", metavar="FORMAT",
    help="Of the record: receipts (JSON lines), csv, or an access log such as combined. Else told by the file's name.",
)  # fmt: skip
@click.option("--recipient", default="", metavar="NAME", help="Whose record it is, such as affiliate:bestodds.")
@click.option("--column", "columns", multiple=True, metavar="THEIRS=OURS", help="What a column of the CSV file holds.")
@click.option("--late", default="15m", show_default=True, metavar="SPAN", help="Later than this is late; 0 for never.")
@click.option("--engine", type=click.Choice(["reference", "set"]), default="reference", help="Of the replay.")
@_RULES
@_AS_OF
@_JSON
@one_line_errors
def verify_command(
    log: Path, received: Path | None, form: str | None, recipient: str, columns: tuple[str, ...], late: str, engine: str,
    rules: Path | None, as_of: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare the postbacks that LOG (a folder of tables) should have sent with those it promised and sent.

    Exit status 1 if there is any difference.
    """
    late_us, named = late_span(late), dict(_named(column) for column in columns)
    opened = open_until(log, as_of)
    with progress("replaying") as report:
        verification = verify_log(opened, received, rules, report, form, recipient, named, late_us, engine)
    if as_json:
        _print_json(verify_document(verification))
    else:
        _print_verification(verification)
    if not verification.ok:
        raise SystemExit(1)


_SPANS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def late_span(text: str, option: str = "--late", zero: str = "0 for never") -> int:
    """`15m` in microseconds. zero: what 0 means. Raises LabError."""
    number, unit = text[:-1], text[-1:]
    if text == "0":
        return 0
    if unit not in _SPANS_S or not (number.isascii() and number.isdigit() and len(number) < 7):
        raise LabError(f"{option} {text!r} is no span; write 90s, 15m, 2h or 1d, or {zero}")
    return int(number) * _SPANS_S[unit] * 1_000_000


def _named(column: str) -> tuple[str, str]:
    theirs, _, ours = column.partition("=")
    if ours not in NAMES:
        raise LabError(f"--column {column!r} is no THEIRS=OURS; ours is one of {', '.join(NAMES)}")
    return theirs, ours


def verify_document(verification: Verification) -> dict[str, Any]:
    """What `backtrack verify --json` prints. found: the first 100 differences."""
    return {
        "ok": verification.ok,
        **verification.counts(),
        "sentence": verification.sentence,
        "basis": verification.basis,
        "defects": verification.defects.to_dicts(),
        "found": verification.differences.head(100).to_dicts(),
        "warnings": list(verification.warnings),
        "seconds": round(verification.seconds, 3),
    }


def _print_verification(verification: Verification) -> None:
    out = terminal()
    _say(out, verification.sentence)
    _say(out, verification.numbers)
    if not verification.ok:
        out.print()
        out.print(rich_table(verification.defects, "What went wrong"))
        out.print()
        out.print(rich_table(verification.differences, plural(verification.differences.height, "difference"), limit=50))
    _warn(out, verification.warnings)


@click.command("explain", context_settings=HELP)
@_LOG
@click.argument("hit_id")
@_RULES
@click.option(
    "--for",
    "reader",
    type=click.Choice(["client", "affiliate"]),
    default="client",
    show_default=True,
    help="affiliate: without what is private to the client, to be mailed to an affiliate.",
)
@_JSON
@one_line_errors
def explain_command(log: Path, hit_id: str, rules: Path | None, reader: str, as_json: bool) -> None:
    """Say what became of the hit HIT_ID of LOG (a folder of tables), and why."""
    with progress("replaying what came before") as report:
        explanation: Explanation = explain_hit(
            lab.open(log), hit_id, rules, report, for_affiliate=reader == "affiliate"
        )
    if as_json:
        _print_json({"hit_id": explanation.hit_id, "lines": list(explanation.lines), "notes": list(explanation.notes),
                     "story": msgspec.to_builtins(explanation.story), "decision": explanation.decision,
                     "postbacks": list(explanation.postbacks), "attempts": list(explanation.attempts)})  # fmt: skip
    else:
        _say(terminal(), "\n".join(explanation.lines))


def _say(out: Console, text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _warn(out: Console, warnings: tuple[str, ...]) -> None:
    for warning in warnings[:20]:
        _say(out, f"note: {warning}")
    if len(warnings) > 20:
        _say(out, f"and {plural(len(warnings) - 20, 'more note')}")


def _print_json(document: dict[str, Any]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


COMMANDS: dict[str, click.Command] = {"replay": replay_command, "verify": verify_command, "explain": explain_command}
