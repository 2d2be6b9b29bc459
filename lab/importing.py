"""A foreign access log becomes a log of ours: the same tables, so that funnels and replays work on it as on any other.

Beside our own tables the folder holds `rejected`: line (from 1), reason (`formats.LineReason`), raw (the bytes).
Nothing is left half written: all tables are made in a hidden folder beside the target, which gets its name last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
from deltalake.exceptions import DeltaError

from lab.commands import one_line_errors
from lab.decided import EPOCH, PARTITION, Decided, Deciding
from lab.foreign import Events
from lab.imported import ImportReport
from lab.log import LabError
from lab.mapping import LogMap, log_map
from lab.parts import Parts
from lab.placing import MEMORY_GB, Placing
from lab.reading import THREADS, Reading, ahead, sources_of
from lab.show import HELP, progress, rich_table
from lab.sources import source_for
from service.archive.schemas import hit_row, moment, rulebook_row, table
from service.archive.tables import append
from service.engine import Entry, Rulebook

Progress = Callable[[int, int], None]
Map = str | Path | Mapping[str, Any] | LogMap | None


def import_log(
    format: str, path: str | Path | Sequence[str | Path], out: str | Path, client: str | None = None,
    events: Events | None = None, progress: Progress | None = None, memory_gb: float = MEMORY_GB, map: Map = None,
) -> ImportReport:  # fmt: skip
    """Make the tables of a log out of a foreign one; the same bytes give the same rows.

    format: an access log, see `formats.format_named`, or `csv` or `parquet`. path: a file, plain, gzip or zstd; a pattern
    such as `logs/*.gz`; or several, which are read as one log in the order of their names. out: a folder that does not
    exist yet, or is empty. map: what their names mean, see `lab.mapping`. client, events: those of the map, or instead of
    them; see `foreign.Naming`. progress: called with (hits decided, hits in all). memory_gb: what may wait in memory before
    it is written to disk. Raises LabError for anything given that cannot be used; then nothing was written.
    """
    started = perf_counter()
    sources, target, mapped = sources_of(path), Path(out), log_map(map)
    if client is not None:
        mapped = msgspec.structs.replace(mapped, client=client)
    source = source_for(format, sources, mapped, events)
    _check_free(target)
    name = str(path) if isinstance(path, str | Path) else ", ".join(str(one) for one in path)
    with _staged(target) as folder, Placing(folder.parent, memory_gb) as placing, ThreadPoolExecutor(THREADS) as pool:
        reading = Reading(folder)
        reading.read(source.read(pool), placing)
        if not reading.parsed:
            raise LabError(source.nothing_parsed(name, reading))
        rulebook = source.rulebook()
        placing.place(max(client.remember_us for client in rulebook.clients.values()))
        deciding = Deciding(rulebook, source.of_requests)
        _publish(folder, rulebook, placing.first_us, f"import of {', '.join(found.name for found in sources)}")
        _write(
            folder,
            (deciding.decide(batch) for batch in placing.batches(source.content)),
            pool,
            reading.parsed,
            progress,
        )
    return ImportReport(
        source=name, format=source.name, client=", ".join(rulebook.clients), out=str(target), rulebook_id=rulebook.id,
        lines=reading.lines, parsed=reading.parsed, rejected=reading.lines - reading.parsed,
        reasons=dict(reading.reasons.most_common()), moved=reading.moved, ties=placing.ties,
        visitor_ties=placing.visitor_ties, first_time=moment(placing.first_us).isoformat(),
        last_time=moment(placing.last_us).isoformat(), verdicts=dict(deciding.verdicts.most_common()),
        events=dict(deciding.events.most_common()), visitors=deciding.visitors, columns=source.columns,
        seconds=round(perf_counter() - started, 3),
    )  # fmt: skip


def _publish(folder: Path, rulebook: Rulebook, time_us: int, source: str) -> None:
    """The rulebook, and the first entry of the log: it takes effect."""
    append(folder, "rulebooks", table("rulebooks", [rulebook_row(time_us, rulebook.id, rulebook.text, source)]))
    start = Entry(PARTITION, EPOCH, 1, time_us, None, rulebook.id)
    append(folder, "hits", table("hits", [hit_row(start, {})]))


def _write(
    folder: Path, batches: Iterable[Decided], pool: ThreadPoolExecutor, total: int, progress: Progress | None
) -> None:
    """Write the batches as rows of hits and decisions while the next ones are decided."""
    hits, decisions = Parts(folder, "hits"), Parts(folder, "decisions")

    def write(numbered: tuple[int, Decided]) -> int:
        number, decided = numbered
        hits.write(decided.hits(), f"import-{number:06}")
        for part, rows in enumerate(decided.decisions()):
            decisions.write(rows, f"import-{number:06}-{part:03}")
        return decided.coded.height

    done = 0
    for rows in ahead(pool, write, enumerate(batches)):
        done = _report(progress, done, rows, total)
    hits.commit()
    decisions.commit()


def _report(progress: Progress | None, done: int, more: int, total: int) -> int:
    """Tell how far it is, every thousand hits and at the end."""
    for number in range(done + 1, done + more + 1) if progress is not None else ():
        if number % 1_000 == 0 or number == total:
            progress(number, total)  # type: ignore[misc]
    return done + more


def _check_free(target: Path) -> None:
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise LabError(f"{target} exists and is not empty; give a new folder, or remove it first")
    except OSError as error:
        raise LabError(f"{target} cannot be used: {error.strerror or error}") from None


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target that takes its name if all went well, and is removed if not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as hidden:
            folder = Path(hidden) / "tables"
            folder.mkdir()
            yield folder
            folder.rename(target)  # an empty folder of that name is replaced
    except (OSError, DeltaError) as error:
        raise LabError(f"{target} cannot be written: {getattr(error, 'strerror', None) or error}") from None


@click.command("import", context_settings=HELP)
@click.argument("format", type=str)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=str)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make; new or empty.")
@click.option("--client", help="The client whose visitors they are, if no column says it.  [default: site]")
@click.option("--map", "map_file", type=str, metavar="FILE", help="TOML or JSON: what the names of the log mean.")
@click.option(
    "--event", "events", multiple=True, metavar="NAME=REGEX",
    help="Name the requests whose path matches; `POST ^/login$` asks for the method too. The first match wins.",
)  # fmt: skip
@click.option("--column", "columns", multiple=True, metavar="THEIRS=OURS", help="What a column of CSV or Parquet is.")
@click.option("--zone", help="The zone of times of CSV or Parquet that name none.  [default: UTC]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def import_command(
    format: str, files: tuple[str, ...], out: Path, client: str | None, map_file: str | None, events: tuple[str, ...],
    columns: tuple[str, ...], zone: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a log that the lab opens out of FILE, a log in FORMAT: an access log, csv or parquet; many, or a pattern."""
    mapped = _with_options(log_map(map_file), columns, zone)
    named = [_pair(event, "--event", "NAME=REGEX", "'sale=^/checkout/done'") for event in events]
    with progress("importing") as report:
        done = import_log(format, files[0] if len(files) == 1 else files, out, client, named, report, map=mapped)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(done), indent=2).decode())
        return
    _print(done)


def _with_options(mapped: LogMap, columns: tuple[str, ...], zone: str | None) -> LogMap:
    """The map with what the command line says instead of it."""
    pairs = dict(_pair(column, "--column", "THEIRS=OURS", "created=time") for column in columns)
    kept = {theirs: ours for theirs, ours in mapped.columns.items() if ours not in pairs.values()}
    found = msgspec.structs.asdict(mapped) | {"columns": kept | pairs}
    return log_map(found | ({"zone": zone} if zone is not None else {}))


def _pair(given: str, option: str, shape: str, example: str) -> tuple[str, str]:
    name, equals, value = given.rpartition("=") if option == "--column" else given.partition("=")
    if not equals or not name or (not value and option != "--column"):
        raise LabError(f"{option} {given!r} is no {shape}; write it as {option} {example}")
    return name, value


def _print(report: ImportReport) -> None:
    from rich.console import Console

    out = Console()
    out.print(repr(report), markup=False, highlight=False, soft_wrap=True)
    for title, frame in report.frames().items():
        if not frame.is_empty():
            out.print()
            out.print(rich_table(frame, title))
    out.print()
    for note in (*report.notes, f"took {report.seconds:.1f} s"):
        out.print(note, markup=False, highlight=False, soft_wrap=True)
