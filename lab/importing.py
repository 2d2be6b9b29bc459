"""A foreign access log becomes a log of ours: the same tables, so that funnels and replays work on it as on any other.

Beside our own tables the folder holds `rejected`: line (from 1), reason (`formats.LineReason`), raw (the bytes).
Nothing is left half written: all tables are made in a hidden folder beside the target, which gets its name last.
"""

from __future__ import annotations

import glob
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import polars as pl
import pyarrow as pa
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError

from lab.blocks import Blocks, Rejected, read_block
from lab.commands import one_line_errors
from lab.decided import EPOCH, PARTITION, Decided, Deciding
from lab.foreign import Events, Naming
from lab.foreign_columns import with_hit
from lab.formats import Format, ParsedLine, all_formats, format_named, parse_line
from lab.imported import ImportReport
from lab.log import LabError
from lab.parts import Parts
from lab.placing import MEMORY_GB, Placing
from lab.show import HELP, plural, progress, rich_table
from service.archive.schemas import TABLE_VERSION, hit_row, moment, rulebook_row, table
from service.archive.tables import append
from service.engine import Entry, Rulebook, RulebookError, load

THREADS = 2  # blocks read, or batches written, at the same time
Progress = Callable[[int, int], None]

_REJECTED = pa.schema([("line", pa.int64()), ("reason", pa.string()), ("raw", pa.binary())])


def import_log(
    format: str, path: str | Path | Sequence[str | Path], out: str | Path, client: str = "site",
    events: Events | None = None, progress: Progress | None = None, memory_gb: float = MEMORY_GB,
) -> ImportReport:  # fmt: skip
    """Make the tables of a log out of a foreign access log; the same bytes give the same rows.

    format: see `formats.format_named`. path: a file, plain, gzip or zstd; a pattern such as `logs/*.gz`; or several, which
    are read as one log in the order of their names. out: a folder that does not exist yet, or is empty. client: whose
    visitors they are. events: see `foreign.Naming`. progress: called with (hits decided, hits in all). memory_gb: what the
    sorting may take before it writes to disk. Raises LabError for anything given that cannot be used; then nothing was
    written.
    """
    started = perf_counter()
    sources, target = sources_of(path), Path(out)
    form, naming, rulebook = format_named(format), Naming(events), _rulebook_for(client)
    _check_free(target)
    source = str(path) if isinstance(path, str | Path) else ", ".join(map(str, path))
    with _staged(target) as folder, Placing(folder.parent, memory_gb) as placing, ThreadPoolExecutor(THREADS) as pool:
        reading = _Reading(Blocks(sources), form, folder)
        reading.read(lambda block: with_hit(block, naming, client), placing, pool)
        if not reading.parsed:
            raise LabError(_nothing_parsed(source, form, reading))
        placing.place(rulebook.clients[client].remember_us)
        deciding = Deciding(rulebook, client)
        names = ", ".join(found.name for found in sources)
        published = rulebook_row(placing.first_us, rulebook.id, rulebook.text, f"import of {names}")
        append(folder, "rulebooks", table("rulebooks", [published]))
        start = Entry(PARTITION, EPOCH, 1, placing.first_us, None, rulebook.id)
        append(folder, "hits", table("hits", [hit_row(start, {})]))
        _write(folder, map(deciding.decide, placing.batches(reading.content)), pool, reading.parsed, progress)
    return ImportReport(
        source=source, format=form.name, client=client, out=str(target), rulebook_id=rulebook.id,
        lines=reading.lines, parsed=reading.parsed, rejected=reading.lines - reading.parsed,
        reasons=dict(reading.reasons.most_common()), moved=reading.moved, ties=placing.ties,
        visitor_ties=placing.visitor_ties, first_time=moment(placing.first_us).isoformat(),
        last_time=moment(placing.last_us).isoformat(), verdicts=dict(deciding.verdicts.most_common()),
        events=dict(deciding.events.most_common()), visitors=deciding.visitors,
        seconds=round(perf_counter() - started, 3),
    )  # fmt: skip


def _write(
    folder: Path, batches: Iterable[Decided], pool: ThreadPoolExecutor, total: int, progress: Progress | None
) -> None:
    """Write the batches as rows of hits and decisions while the next ones are decided."""
    hits, decisions = Parts(folder, "hits"), Parts(folder, "decisions")

    def write(numbered: tuple[int, Decided]) -> int:
        number, decided = numbered
        hits.write(decided.hits(), number)
        decisions.write(decided.decisions(), number)
        return decided.frame.height

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


def ahead(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """What the work makes of each item, in their order, with few items on their way at the same time."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def sources_of(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files meant, sorted by name. Raises LabError for a pattern that nothing matches."""
    given = [path] if isinstance(path, str | Path) else list(path)
    found: list[Path] = []
    for one in given:
        if any(mark in str(one) for mark in "*?[") and not Path(one).exists():
            matching = sorted(Path(name) for name in glob.glob(str(one), recursive=True) if Path(name).is_file())  # noqa: PTH207
            if not matching:
                raise LabError(
                    f"{one} matches no file; give the path of an access log, or a pattern such as 'logs/*.gz'"
                )
            found += matching
        else:
            found.append(Path(one))
    return found


class _Reading:
    """All lines of the files read: the parsed ones go to the placing, the rejected ones to the table `rejected`."""

    def __init__(self, blocks: Blocks, form: Format, folder: Path) -> None:
        self.lines = self.parsed = self.moved = 0
        self.reasons: Counter[str] = Counter()
        self.sample: list[bytes] = []  # of rejected lines
        self._blocks, self._form, self._folder = blocks, form, folder
        self._latest_us = -(1 << 62)

    @property
    def content(self) -> str:
        """A digest of all bytes."""
        return self._blocks.content

    def read(self, made: Callable[[pl.DataFrame], pl.DataFrame], placing: Placing, pool: ThreadPoolExecutor) -> None:
        """Read everything. made: what a frame of parsed lines becomes for the placing."""

        def work(block: bytes) -> tuple[pl.DataFrame, list[Rejected], int]:
            frame, rejected, lines = read_block(block, self._form)
            return made(frame) if frame.height else frame, rejected, lines

        _write_rejected(self._folder, ())
        for frame, rejected, lines in ahead(pool, work, self._blocks):
            if rejected:
                self._reject([(self.lines + line, reason, raw) for line, reason, raw in rejected])
            if frame.height:
                self._count(frame["time_us"])
                placing.add(frame.with_columns(pl.col("line") + self.lines))
            self.lines += lines

    def _count(self, times: pl.Series) -> None:
        self.parsed += times.len()
        latest = times.cum_max().shift(1).fill_null(self._latest_us).clip(lower_bound=self._latest_us)
        self.moved += int((times < latest).sum())
        self._latest_us = max(self._latest_us, int(times.max()))  # type: ignore[arg-type]

    def _reject(self, rejected: list[Rejected]) -> None:
        self.reasons.update(reason for _, reason, _ in rejected)
        self.sample += [raw for _, _, raw in rejected[: 100 - len(self.sample)]]
        _write_rejected(self._folder, rejected)


def _rulebook_for(client: str) -> Rulebook:
    """The smallest rulebook that knows the client: no triggers, so nothing fires and nothing is sent."""
    text = (
        "# Made by the import of a foreign access log: one client, no triggers.\n"
        f"[client.{msgspec.json.encode(client).decode()}]\nname = {msgspec.json.encode(client).decode()}\n"
    )
    try:
        return load(text)
    except RulebookError:
        raise LabError(f"client {client!r} is no name; use 1 to 64 letters, digits, _ . -") from None


def _nothing_parsed(source: str, form: Format, reading: _Reading) -> str:
    """Why no line could be read, and the format that would have read most."""
    reason, raws = reading.reasons.most_common(1)[0][0], reading.sample
    read = {
        name: sum(isinstance(parse_line(raw, other), ParsedLine) for raw in raws)
        for name, other in all_formats().items()
    }
    best = max(read, key=lambda name: read[name])
    remedy = f"it looks like {best}" if read[best] else f"{form.name} looks like: {form.sample}"
    return f"{source}: none of {plural(reading.lines, 'line')} is in the format {form.name} ({reason}); {remedy}"


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


def _write_rejected(folder: Path, rejected: Iterable[tuple[int, str, bytes]]) -> None:
    rows = [{"line": line, "reason": reason, "raw": raw} for line, reason, raw in rejected]
    write_deltalake(
        str(folder / "rejected"),
        pa.Table.from_pylist(rows, schema=_REJECTED),
        mode="append",
        name="rejected",
        description=f"backtrack table rejected, version {TABLE_VERSION}",
    )


@click.command("import", context_settings=HELP)
@click.argument("format", type=str)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=str)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make; new or empty.")
@click.option("--client", default="site", show_default=True, help="The client whose visitors they are.")
@click.option(
    "--event", "events", multiple=True, metavar="NAME=REGEX",
    help="Name the requests whose path matches; `POST ^/login$` asks for the method too. The first match wins.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def import_command(
    format: str, files: tuple[str, ...], out: Path, client: str, events: tuple[str, ...], as_json: bool
) -> None:
    """Make a log that the lab opens out of FILE, an access log in FORMAT: plain, gzip or zstd; many, or a pattern."""
    with progress("importing") as report:
        done = import_log(
            format, files[0] if len(files) == 1 else files, out, client, [_pair(event) for event in events], report
        )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(done), indent=2).decode())
        return
    _print(done)


def _pair(event: str) -> tuple[str, str]:
    name, equals, pattern = event.partition("=")
    if not equals or not pattern:
        raise LabError(f"--event {event!r} is no NAME=REGEX; write it as --event 'sale=^/checkout/done'")
    return name, pattern


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
