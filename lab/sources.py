"""What an import reads, by its format: an access log, or a CSV or Parquet file. Both say the same about themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from lab.blocks import BLOCK_BYTES, Blocks, Rejected, read_block
from lab.coded import Coded
from lab.foreign import Events, Naming, own_name
from lab.foreign_columns import Tags, with_hit
from lab.formats import ParsedLine, all_formats, format_named, parse_line
from lab.formats_table import Rows
from lab.log import LabError
from lab.mapping import LogMap
from lab.reading import Reading, ahead
from lab.show import plural
from lab.table_files import TABLE_FORMATS
from lab.table_hits import row_hits
from service.engine import Rulebook, RulebookError, load

Found = tuple[Coded, list[Rejected], int]
MAX_CLIENTS = 1_000


def source_for(format: str, paths: list[Path], mapped: LogMap, events: Events | None = None) -> AccessLog | TableFile:
    """The source of a format. Raises LabError for one that there is not, and for a map that does not fit it."""
    if format in TABLE_FORMATS:
        for part in ("events", "parameters"):
            if getattr(mapped, part) or (part == "events" and events):
                raise LabError(f"{part} name requests of an access log; a row of {format} has columns: map these")
        return TableFile(format, paths, mapped)
    for key in ("columns", "event"):
        if getattr(mapped, key):
            raise LabError(
                f"map: {key!r} is for {' and '.join(TABLE_FORMATS)}; requests of {format} are named by events"
            )
    return AccessLog(format, paths, mapped, events)


class AccessLog:
    """The lines of an access log. content: a digest of all bytes, once they were read."""

    of_requests = True

    def __init__(
        self, format: str, paths: list[Path], mapped: LogMap, events: Events | None, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self._form, self._map, self._blocks = format_named(format, TABLE_FORMATS), mapped, Blocks(paths, block_bytes)
        given = events.items() if isinstance(events, Mapping) else events or ()
        self._naming = Naming([*given, *mapped.events.items()])
        self._aliases = {own_name(theirs): ours for theirs, ours in mapped.parameters.items()}
        self.name, self.columns = self._form.name, mapped.parameters
        self.rulebook()

    @property
    def content(self) -> str:
        """64 hex digits."""
        return self._blocks.content

    def rulebook(self) -> Rulebook:
        """Of one client, who reads the mapped parameters as its own."""
        return rulebook_of([self._map.client], self._aliases)

    def read(self, pool: ThreadPoolExecutor) -> Iterator[Found]:
        """Lines in the columns of `placing.WIDE`, rejected lines, how many lines."""

        tags = Tags()

        def work(block: bytes) -> Found:
            coded, rejected, lines = read_block(block, self._form)
            made = with_hit(coded, self._naming, self._map.client, self._aliases, tags) if coded.height else coded
            return made, rejected, lines

        return ahead(pool, work, self._blocks)

    def nothing_parsed(self, source: str, reading: Reading) -> str:
        """Why no line could be read, and the format that would have read most."""
        reason, raws = reading.reasons.most_common(1)[0][0], reading.sample
        read = {
            name: sum(isinstance(parse_line(raw, other), ParsedLine) for raw in raws)
            for name, other in all_formats().items()
        }
        best = max(read, key=lambda name: read[name])
        remedy = f"it looks like {best}" if read[best] else f"{self._form.name} looks like: {self._form.sample}"
        return (
            f"{source}: none of {plural(reading.lines, 'line')} is in the format {self._form.name} ({reason}); {remedy}"
        )


class TableFile:
    """The rows of CSV or Parquet files. content: a digest of all bytes; columns: what they were taken for."""

    of_requests = False

    def __init__(self, format: str, paths: list[Path], mapped: LogMap) -> None:
        self.name, self._rows = format, Rows(paths, format, mapped)
        rulebook_of([mapped.client], {})

    @property
    def content(self) -> str:
        """64 hex digits."""
        return self._rows.content

    @property
    def columns(self) -> dict[str, str]:
        """Their name to ours."""
        return self._rows.columns

    def rulebook(self) -> Rulebook:
        """Of all clients that have rows."""
        if len(self._rows.clients) > MAX_CLIENTS:
            raise LabError(f"{len(self._rows.clients)} clients are too many, at most {MAX_CLIENTS}; map another column")
        return rulebook_of(self._rows.clients, {})

    def read(self, pool: ThreadPoolExecutor) -> Iterator[Found]:
        """Lines in the columns of `placing.WIDE`, rejected rows, how many rows."""
        return ahead(pool, lambda found: (row_hits(found[0]), *found[1:]), self._rows)

    def nothing_parsed(self, source: str, reading: Reading) -> str:
        """Why no row could be read, and what to do."""
        if not reading.lines:
            return f"{source} has no rows below its head line; there is nothing to import"
        reason = reading.reasons.most_common(1)[0][0]
        column = {ours: theirs for theirs, ours in self.columns.items()}
        remedies = {
            "bad_time": f"the time {self._rows.bad_time!r} in column {column.get('time')!r} is none: write ISO 8601 or a "
            "count since 1970, or name another column, as in --column created=time",
            "no_event": f"column {column.get('event')!r} is empty: name another one, as in --column goal=event",
            "bad_client": f"column {column.get('client')!r} holds no client names: use 1 to 64 letters, digits, _ . -",
        }
        said = remedies.get(reason, "each row has as many fields as the head line, in UTF-8")
        return f"{source}: none of {plural(reading.lines, 'row')} is an event ({reason}); {said}"


def rulebook_of(clients: Iterable[str], aliases: dict[str, str]) -> Rulebook:
    """The smallest rulebook that knows the clients: no triggers, so nothing fires and nothing is sent."""
    text = "# Made by the import of a foreign log: no triggers.\n"
    for client in clients:
        name = msgspec.json.encode(client).decode()
        text += f"[client.{name}]\nname = {name}\n"
        if aliases:
            pairs = (
                f"{msgspec.json.encode(theirs).decode()} = {msgspec.json.encode(ours).decode()}"
                for theirs, ours in aliases.items()
            )
            text += f"aliases = {{ {', '.join(pairs)} }}\n"
    try:
        return load(text)
    except RulebookError as error:
        if aliases:
            raise LabError(
                f"the map's client or parameters cannot be used: {str(error).splitlines()[-1].strip()}"
            ) from None
        raise LabError(f"client {client!r} is no name; use 1 to 64 letters, digits, _ . -") from None
