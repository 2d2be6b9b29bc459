"""`backtrack rules`: check, compare, publish and list rulebooks."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from service.archive import tables
from service.cli import InputError, one_line_errors, settings_of
from service.engine import EMPTY, Problem, Rulebook, RulebookError, load
from service.engine.difference import difference, lines
from service.engine.lint import WARNING, Finding, lint
from service.rulebooks import current_id, publish
from service.servers import check_journal
from service.settings import make_writable

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def rules() -> None:
    """Check, compare, publish and list rulebooks."""


def read_rules(path: Path) -> Rulebook:
    """A rulebook from a file. Raises InputError for a file that cannot be read, RulebookError for what is wrong in it."""
    try:
        return load(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); name a rulebook, such as datasets/rules.toml"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}: line {line}: byte 0x{error.object[error.start]:02x} is no UTF-8; save the rulebook as UTF-8 text"
        ) from None


@rules.command()
@_FILE
@click.option("--strict", is_flag=True, help="Exit status 1 if there is a warning.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def check(file: Path, strict: bool, as_json: bool) -> None:
    """Read a rulebook and report what is wrong with it, then what looks wrong. Exit status 2 for errors."""
    rulebook, problems = _read_draft(file)
    found = lint(rulebook, time.time_ns() // 1000)
    if problems:  # a client that could not be read is none that is missing
        found = tuple(finding for finding in found if finding.rule != "no_client")
    warned = any(finding.level == WARNING for finding in found)
    if as_json:
        click.echo(msgspec.json.encode(_report(rulebook, problems, found)).decode())
    else:
        for problem in problems:
            click.echo(f"{file}: {problem}", err=True)
        for finding in found:
            click.echo(f"{file}: {finding}", err=bool(problems))
        if not problems:
            click.echo(f"{file} is a rulebook: " + ", ".join(f"{n} {v}" for n, v in _counts(rulebook).items()))
    sys.exit(2 if problems else 1 if strict and warned else 0)


def _read_draft(path: Path) -> tuple[Rulebook, tuple[Problem, ...]]:
    """A rulebook and its errors; with errors, what could be read of it."""
    try:
        return read_rules(path), ()
    except RulebookError as error:
        return error.draft or EMPTY, error.problems


def _counts(rulebook: Rulebook) -> dict[str, Any]:
    return {
        "rulebook": rulebook.id, "clients": len(rulebook.clients), "affiliates": len(rulebook.affiliates),
        "triggers": len(rulebook.triggers),
    }  # fmt: skip


def _report(rulebook: Rulebook, problems: tuple[Problem, ...], found: tuple[Finding, ...]) -> dict[str, Any]:
    counts = _counts(rulebook) if not problems else {}
    return {**counts, "ok": not problems, "errors": problems, "warnings": found}


@rules.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def diff(old: Path, new: Path, as_json: bool) -> None:
    """Say in words what changed from the rulebook OLD to the rulebook NEW; exit status 1 if anything did."""
    before, after = read_rules(old), read_rules(new)
    changes = difference(before, after)
    if as_json:
        document = {"equal": not changes, "old": before.id, "new": after.id, "changes": changes}
        click.echo(msgspec.json.encode(document).decode())
    else:
        same = "no difference" if before.id == after.id else "the texts differ, the rules do not"
        click.echo("\n".join(lines(changes)) or same)
    sys.exit(1 if changes else 0)


@rules.command(name="publish")
@_FILE
@click.option("--if-none", is_flag=True, help="Only where no rulebook is in force yet.")
@one_line_errors
def publish_command(file: Path, if_none: bool) -> None:
    """Put a rulebook in force, for every hit from now on."""
    rulebook = read_rules(file)
    settings = settings_of()
    connection = check_journal(settings.journal_url, settings.partitions)
    current = current_id(connection)
    if if_none and current:
        click.echo(f"rulebook {current} is in force and stays")
        return
    make_writable(settings.tables_path)
    identity, news = publish(connection, settings.partitions, settings.tables_path, rulebook.text, str(file))
    click.echo(f"rulebook {identity} is in force" + ("" if news else " already"))


@rules.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def history(as_json: bool) -> None:
    """List what was published, newest first."""
    settings = settings_of()
    table = tables.open_table(settings.tables_path, "rulebooks")
    rows = table.to_pyarrow_table().to_pylist() if table is not None else []
    if not rows and not as_json:
        click.echo(f"nothing was published into {settings.tables_path} yet; do it with `backtrack rules publish FILE`")
        return
    current = current_id(check_journal(settings.journal_url, settings.partitions))
    published = [
        {"time": f"{row['time']:%Y-%m-%d %H:%M:%S} UTC", "rulebook": row["rulebook_id"], "source": row["source"]}
        for row in sorted(rows, key=lambda row: row["time"], reverse=True)
    ]
    newest = next((row for row in published if row["rulebook"] == current), None)
    if as_json:
        click.echo(msgspec.json.encode({"in_force": current, "rulebooks": published}).decode())
        return
    for row in published:
        click.echo("{time}  {rulebook}  {source}".format(**row) + ("  in force" if row is newest else ""))
