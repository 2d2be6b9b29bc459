"""`backtrack rules`: check, compare, publish and list rulebooks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from service.archive import tables
from service.cli import InputError, one_line_errors, settings_of
from service.engine import Rulebook, load
from service.engine.conditions import UNITS_S
from service.engine.rulebook import FOREVER_US
from service.engine.templates import iso_time
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def diff(old: Path, new: Path, as_json: bool) -> None:
    """Say what changed from the rulebook OLD to the rulebook NEW; exit status 1 if anything did."""
    before, after = read_rules(old), read_rules(new)
    lines = differences(before, after)
    if as_json:
        document = {"equal": not lines, "old": before.id, "new": after.id, "differences": lines}
        click.echo(msgspec.json.encode(document).decode())
    else:
        same = "no difference" if before.id == after.id else "the texts differ, the rules do not"
        click.echo("\n".join(lines) or same)
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
    names = before.__struct_fields__
    pairs = [(name, _of(name, getattr(before, name)), _of(name, getattr(after, name))) for name in names]
    return [f"{name.removesuffix('_us')}: {old}  ->  {new}" for name, old, new in pairs if old != new]


def _of(name: str, value: Any) -> str:
    """The value of a field as a person wrote it."""
    if name in ("from_us", "until_us"):
        return "always" if value in (0, FOREVER_US) else iso_time(value)
    return _duration(value) if name.endswith("_us") else _shown(value)


def _duration(value_us: int) -> str:
    """Microseconds in the largest unit that divides them."""
    seconds = value_us // 1_000_000
    unit = next((unit for unit in ("d", "h", "m") if seconds and seconds % UNITS_S[unit] == 0), "s")
    return f"{seconds // UNITS_S[unit]}{unit}" if seconds else "nothing"


def _shown(value: Any) -> str:
    """A value as a person wrote it: templates and conditions by their text, sets sorted, defaults left out."""
    for attribute in ("source", "text"):
        if hasattr(value, attribute):
            return str(getattr(value, attribute))
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{_shown(k)} = {_shown(v)}" for k, v in sorted(value.items())) or "nothing"
    if isinstance(value, msgspec.Struct):
        fields = [(f.name, getattr(value, f.name), f.default) for f in msgspec.structs.fields(value)]
        return ", ".join(f"{name} {_shown(inner)}" for name, inner, usual in fields if inner != usual)
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "nothing"
    return "nothing" if value in (None, "") else str(value)


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
