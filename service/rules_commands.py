"""`backtrack rules`: check, compare, publish and list rulebooks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from service.archive import tables
from service.cli import one_line_errors, settings_of
from service.engine import Rulebook, load
from service.rulebooks import current_id, publish
from service.servers import check_journal

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def rules() -> None:
    """Check, compare, publish and list rulebooks."""


def read_rules(path: Path) -> Rulebook:
    """A rulebook from a file; a file that cannot be read is bad usage."""
    try:
        return load(path.read_text(), str(path))
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is no UTF-8 text: {error}") from None


@rules.command()
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def check(file: Path, as_json: bool) -> None:
    """Read a rulebook and report everything that is wrong with it."""
    rulebook = read_rules(file)
    found = {
        "rulebook": rulebook.id, "clients": len(rulebook.clients), "affiliates": len(rulebook.affiliates),
        "triggers": len(rulebook.triggers),
    }  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(f"{file} is a rulebook: " + ", ".join(f"{name} {value}" for name, value in found.items()))


@rules.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@one_line_errors
def diff(old: Path, new: Path) -> None:
    """Say what changed between two rulebooks; exit status 1 if anything did."""
    lines = differences(read_rules(old), read_rules(new))
    click.echo("\n".join(lines) if lines else "no difference")
    sys.exit(1 if lines else 0)


def differences(old: Rulebook, new: Rulebook) -> list[str]:
    """What changed, a line each: things added, removed, and fields with their old and new values."""
    lines: list[str] = []
    groups: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("client", dict(old.clients), dict(new.clients)),
        ("affiliate", dict(old.affiliates), dict(new.affiliates)),
        ("trigger", {t.name: t for t in old.triggers}, {t.name: t for t in new.triggers}),
    )
    for kind, before, after in groups:
        lines += [f"{kind} {name} is gone" for name in before if name not in after]
        lines += [f"{kind} {name} is new" for name in after if name not in before]
        for name in before:
            if name in after:
                lines += [f"{kind} {name}: {line}" for line in _changed(before[name], after[name])]
    return lines


def _changed(before: Any, after: Any) -> list[str]:
    pairs = [(name, _shown(getattr(before, name)), _shown(getattr(after, name))) for name in before.__struct_fields__]
    return [f"{name.removesuffix('_us')} was {old}, is {new}" for name, old, new in pairs if old != new]


def _shown(value: Any) -> str:
    """A value as a person wrote it: templates and conditions by their text, sets sorted."""
    for attribute in ("source", "text"):
        if hasattr(value, attribute):
            return str(getattr(value, attribute))
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{_shown(k)}={_shown(v)}" for k, v in sorted(value.items())) or "nothing"
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in fields.items() if inner not in (None, "", ()))
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "nothing"
    return "nothing" if value in (None, "") else str(value)


@rules.command(name="publish")
@_FILE
@one_line_errors
def publish_command(file: Path) -> None:
    """Put a rulebook in force, for every hit from now on."""
    rulebook = read_rules(file)
    settings = settings_of()
    connection = check_journal(settings.journal_url, settings.partitions)
    identity, news = publish(connection, settings.partitions, settings.tables_path, rulebook.text, str(file))
    click.echo(f"rulebook {identity} is in force" + ("" if news else " already"))


@rules.command()
@one_line_errors
def history() -> None:
    """List what was published, newest first."""
    settings = settings_of()
    table = tables.open_table(settings.tables_path, "rulebooks")
    rows = table.to_pyarrow_table().to_pylist() if table is not None else []
    if not rows:
        click.echo(f"nothing was published into {settings.tables_path} yet")
        return
    connection = check_journal(settings.journal_url, settings.partitions)
    current = current_id(connection)
    for row in sorted(rows, key=lambda row: row["time"], reverse=True):
        mark = "  in force" if row["rulebook_id"] == current else ""
        click.echo(f"{row['time']:%Y-%m-%d %H:%M:%S} UTC  {row['rulebook_id']}  {row['source']}{mark}")
