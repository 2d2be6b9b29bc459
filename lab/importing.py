"""A foreign access log becomes a log of ours: the same tables, so that funnels and replays work on it as on any other.

Beside our own tables the folder holds `rejected`: line (from 1), reason (`formats.LineReason`), raw (the bytes).
Nothing is left half written: all tables are made in a hidden folder beside the target, which gets its name last.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import pyarrow as pa
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError

from lab.commands import one_line_errors
from lab.foreign import Events, Naming, hit_of
from lab.formats import FORMATS, Format, ParsedLine, RejectedLine, format_named, lines_of, parse_line
from lab.imported import ImportReport
from lab.log import LabError
from lab.show import HELP, plural, progress, rich_table
from service.archive.schemas import TABLE_VERSION, decision_row, hit_row, moment, rulebook_row, table
from service.archive.tables import append
from service.engine import Entry, Rulebook, RulebookError, State, load, process
from service.engine.parse import parameters

Progress = Callable[[int, int], None]

_PARTITION, _EPOCH = 0, 1
_BATCH_ROWS = 20_000
_REJECTED = pa.schema([("line", pa.int64()), ("reason", pa.string()), ("raw", pa.binary())])


def import_log(
    format: str, path: str | Path, out: str | Path, client: str = "site", events: Events | None = None,
    progress: Progress | None = None,
) -> ImportReport:  # fmt: skip
    """Make the tables of a log out of a foreign access log; the same file gives the same rows.

    format: a name of `formats.FORMATS`. out: a folder that does not exist yet, or is empty. client: whose visitors they
    are. events: see `foreign.Naming`. progress: called with (hits decided, hits in all).
    Raises LabError for anything given that cannot be used; then nothing was written.
    """
    started = perf_counter()
    source, target = Path(path), Path(out)
    form, naming, rulebook = format_named(format), Naming(events), _rulebook_for(client)
    _check_free(target)
    reading = _Reading(source, form)
    if not reading.parsed:
        raise LabError(_nothing_parsed(source, form, reading))
    deciding = _Deciding(client, naming, rulebook, reading)
    with _staged(target) as folder:
        append(folder, "rulebooks", table("rulebooks", [
            rulebook_row(deciding.start_us, rulebook.id, rulebook.text, f"import of {source.name}")
        ]))  # fmt: skip
        _write_rejected(folder, reading.rejected)
        for hits, decisions in deciding.batches(progress):
            append(folder, "hits", table("hits", hits))
            append(folder, "decisions", table("decisions", decisions))
    return ImportReport(
        source=str(source), format=form.name, client=client, out=str(target), rulebook_id=rulebook.id,
        **reading.counts(), **deciding.counts(), seconds=round(perf_counter() - started, 3),
    )  # fmt: skip


class _Reading:
    """All lines of a file, parsed and sorted stably by (time, line), and those that were rejected."""

    def __init__(self, path: Path, form: Format) -> None:
        self.parsed: list[tuple[int, ParsedLine]] = []
        self.rejected: list[tuple[int, str, bytes]] = []
        self.moved = self.lines = 0
        content = hashlib.sha256()
        latest_us = 0
        for self.lines, raw in enumerate(lines_of(path), 1):
            content.update(raw)
            found = parse_line(raw, form)
            if isinstance(found, RejectedLine):
                self.rejected.append((self.lines, found.reason.value, raw.rstrip(b"\r\n")))
                continue
            self.moved += found.time_us < latest_us
            latest_us = max(latest_us, found.time_us)
            self.parsed.append((self.lines, found))
        self.parsed.sort(key=lambda numbered: numbered[1].time_us)
        self.content = content.hexdigest()

    def counts(self) -> dict[str, Any]:
        times = Counter(line.time_us for _, line in self.parsed)
        twins = Counter((line.time_us, line.address, line.user_agent) for _, line in self.parsed)
        return {
            "lines": self.lines, "parsed": len(self.parsed), "rejected": len(self.rejected), "moved": self.moved,
            "reasons": dict(Counter(reason for _, reason, _ in self.rejected).most_common()),
            "ties": sum(count for count in times.values() if count > 1),
            "visitor_ties": sum(count for count in twins.values() if count > 1),
            "first_time": moment(self.parsed[0][1].time_us).isoformat(),
            "last_time": moment(self.parsed[-1][1].time_us).isoformat(),
        }  # fmt: skip


class _Deciding:
    """The entries of the one partition, decided by the reference engine: the rulebook takes effect, then the hits."""

    def __init__(self, client: str, naming: Naming, rulebook: Rulebook, reading: _Reading) -> None:
        self.client, self.naming, self.rulebook, self.reading = client, naming, rulebook, reading
        self.start_us = reading.parsed[0][1].time_us
        self.verdicts: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.visitors: set[str] = set()

    def batches(self, progress: Progress | None) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
        """Rows of hits and of decisions, one batch at a time."""
        start = Entry(_PARTITION, _EPOCH, 1, self.start_us, None, self.rulebook.id)
        hits, decisions, state = [hit_row(start, {})], [], State()
        total = len(self.reading.parsed)
        remaining = iter(enumerate(self._entries(), 1))
        while batch := list(islice(remaining, _BATCH_ROWS)):
            for done, entry in batch:
                hit, decision = self._decide(entry, state)
                hits.append(hit)
                decisions.append(decision)
                if progress is not None and (done % 1_000 == 0 or done == total):
                    progress(done, total)
            yield hits, decisions
            hits, decisions = [], []

    def _entries(self) -> Iterator[Entry]:
        for seq, (number, line) in enumerate(self.reading.parsed, 2):
            hit_id = hashlib.sha256(f"{self.reading.content} {number}".encode()).hexdigest()[:32]
            yield Entry(_PARTITION, _EPOCH, seq, line.time_us, hit_of(line, hit_id, self.client, self.naming))

    def _decide(self, entry: Entry, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
        assert entry.hit is not None
        outcome = process(entry, state, self.rulebook)
        self.verdicts[outcome.verdict] += 1
        if outcome.verdict == "accepted":
            self.events[outcome.event] += 1
            self.visitors.add(outcome.visitor)
        return hit_row(entry, parameters(entry.hit)), decision_row(_PARTITION, _EPOCH, outcome)

    def counts(self) -> dict[str, Any]:
        return {
            "verdicts": dict(self.verdicts.most_common()), "events": dict(self.events.most_common()),
            "visitors": len(self.visitors),
        }  # fmt: skip


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


def _nothing_parsed(source: Path, form: Format, reading: _Reading) -> str:
    """Why no line could be read, and the format that would have read most."""
    reason = Counter(reason for _, reason, _ in reading.rejected).most_common(1)[0][0]
    raws = [raw for _, _, raw in reading.rejected[:100]]
    read = {
        name: sum(isinstance(parse_line(raw, other), ParsedLine) for raw in raws) for name, other in FORMATS.items()
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
        name="rejected",
        description=f"backtrack table rejected, version {TABLE_VERSION}",
    )


@click.command("import", context_settings=HELP)
@click.argument("format", type=str)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make; new or empty.")
@click.option("--client", default="site", show_default=True, help="The client whose visitors they are.")
@click.option(
    "--event", "events", multiple=True, metavar="NAME=REGEX",
    help="Name the requests whose path matches; `POST ^/login$` asks for the method too. The first match wins.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def import_command(format: str, file: Path, out: Path, client: str, events: tuple[str, ...], as_json: bool) -> None:
    """Make a log that the lab opens out of FILE, an access log in FORMAT (combined or common), plain or gzip."""
    with progress("importing") as report:
        done = import_log(format, file, out, client, [_pair(event) for event in events], report)
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
