"""`backtrack counts`: the counters, and their proof from the decisions."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

import click
import msgspec
import redis
from rich.console import Console
from rich.table import Table

from service import keys
from service.archive import tables
from service.archive.retention import first_kept
from service.archive.schemas import outcome_of
from service.backlog import backlog
from service.cli import one_line_errors, settings_of
from service.servers import check_journal
from service.settings import Settings
from service.tracking import poison
from service.tracking.counters import FIELDS, SEPARATOR, increments

BATCH = 5_000
_WIDE = 200  # columns of a file or a pipe
MOST_ASIDE = 20  # shown to a person


@click.command("counts")
@click.option(
    "--recount", is_flag=True, help="Count the decisions in the tables again and compare; exit 1 if they differ."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def counts_command(recount: bool, as_json: bool) -> None:
    """Counters per client, affiliate, trigger, event and hour."""
    settings = settings_of()
    connection = check_journal(settings.journal_url, settings.partitions)
    live = read_counts(connection, settings.partitions)
    since = first_kept(time.time_ns() // 1000, settings.keep_days) if settings.keep_days else ""
    different = compared(live, recounted(settings), since) if recount else {}
    look = backlog(connection, settings.partitions)
    behind = look.to_decide + look.to_archive if recount else 0
    aside = [note for place in keys.partitions(settings.partitions) for note in poison.notes(connection, place)]
    if as_json:
        document = {
            "counts": [named(field) | {"n": n} for field, n in sorted(live.items())], "recounted": recount,
            "differences": [named(field) | pair for field, pair in different.items()], "behind": behind, "since": since,
            "set_aside": aside,
        }  # fmt: skip
        click.echo(msgspec.json.encode(document).decode())
    else:
        _show(live, recount, different, behind)
        _show_aside(aside)
        if recount and since:
            click.echo(f"compared from {since} on, the first day that is kept (BACKTRACK_KEEP_DAYS)")
    sys.exit(1 if different else 0)


def compared(live: dict[str, int], proved: dict[str, int], since: str = "") -> dict[str, dict[str, int]]:
    """The counters that differ, with both values. since: the first day that is looked at; the tables hold no older one."""
    return {
        field: {"live": live.get(field, 0), "recounted": proved.get(field, 0)}
        for field in sorted(live.keys() | proved.keys())
        if field >= since and live.get(field, 0) != proved.get(field, 0)  # a field begins with its hour
    }


def named(field: str) -> dict[str, Any]:
    """The parts of a counter's field by their names."""
    return dict(zip(FIELDS, field.split(SEPARATOR), strict=True))


def read_counts(connection: redis.Redis, partitions: int) -> dict[str, int]:
    """The live counters of all partitions."""
    total: Counter[str] = Counter()
    for place in keys.partitions(partitions):
        found: Any = connection.hgetall(place.counts)
        total.update({field.decode(): int(n) for field, n in found.items()})
    return dict(total)


def recounted(settings: Settings) -> dict[str, int]:
    """The same counters, counted from the decisions in the tables."""
    total: Counter[str] = Counter()
    table = tables.open_table(settings.tables_path, "decisions")
    if table is not None:
        for batch in table.to_pyarrow_dataset().to_batches(batch_size=BATCH):
            total.update(increments(outcome_of(row) for row in batch.to_pylist()))
    return dict(total)


def _show_aside(notes: list[dict[str, Any]]) -> None:
    if notes:
        click.echo(f"{len(notes)} entries could not be decided and were set aside")
    for note in notes[:MOST_ASIDE]:
        click.echo(f"  partition {note['partition']}, entry {note['seq']}: {note['reason']}: {note['error']}")
    if len(notes) > MOST_ASIDE:
        click.echo(f"  and {len(notes) - MOST_ASIDE} more; --json names them all")


def _show(live: dict[str, int], recount: bool, different: dict[str, dict[str, int]], behind: int) -> None:
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDE
    table = Table(*FIELDS, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("n", justify="right")
    for field, n in sorted(live.items()):
        table.add_row(*field.split(SEPARATOR), f"{n:,}")
    console.print(table if live else "nothing is counted yet")
    if not recount:
        return
    if not different:
        console.print("the decisions in the tables give the same counters")
        return
    console.print(f"{len(different)} counters differ from the decisions in the tables")
    for field, pair in different.items():
        place = " / ".join(part or "-" for part in field.split(SEPARATOR))
        console.print(f"  {place}: live {pair['live']}, recounted {pair['recounted']}", markup=False)
    if behind:
        console.print(f"the tables are {behind} rows behind; when they have caught up, run it again")
