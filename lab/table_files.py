"""CSV and Parquet files as chunks of rows, all values texts; what is no row is kept with its reason."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lab.formats import LineReason, opened
from lab.log import LabError

TABLE_FORMATS = ("csv", "parquet")
ROWS = 50_000  # in a chunk
LINE, RAW = "\0line", "\0raw"  # no column of a file is called so
_MAX_RAW = 64 * 1024


class Chunk(msgspec.Struct, frozen=True):
    """Some rows of a file. frame: LINE (from 1 in the chunk), RAW (as it stood there; of Parquet as JSON), and texts.

    rejected: what is no row: line, reason, raw. rows: how many there are with these.
    """

    frame: pl.DataFrame
    rejected: list[tuple[int, str, bytes]]
    rows: int


def chunks_of(path: Path, form: str, content: Any) -> Iterator[Chunk]:
    """A file in chunks; its bytes go into the hash `content`. Raises LabError for a file that is none of that form."""
    yield from _csv(path, content) if form == "csv" else _parquet(path, content)


class _Record:
    """The lines of a file as text, and the bytes of those that were read since `take`."""

    def __init__(self, file: Iterator[bytes], content: Any) -> None:
        self._file, self._content = file, content
        self._read: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self._content.update(line)
            self._read.append(line)
            yield line.decode(errors="surrogateescape")

    def take(self) -> bytes:
        found = b"".join(self._read).rstrip(b"\r\n")
        self._read.clear()
        return found


def _csv(path: Path, content: Any) -> Iterator[Chunk]:
    """A CSV file with a head line; `,` `;` tab and `|` are told apart."""
    with opened(path) as file:
        record = _Record(iter(file), content)
        lines = iter(record)
        head = next(lines).removeprefix("\ufeff")
        separator = max(",;\t|", key=head.count)
        names = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
        _check_names(path, names)
        record.take()
        rows = csv.reader(lines, delimiter=separator)
        while True:
            chunk, more = _csv_chunk(rows, record, names)
            if chunk.rows:
                yield chunk
            if not more:
                return


def _csv_chunk(rows: Iterator[list[str]], record: _Record, names: list[str]) -> tuple[Chunk, bool]:
    found: list[tuple[Any, ...]] = []
    rejected: list[tuple[int, str, bytes]] = []
    more = True
    while len(found) + len(rejected) < ROWS:
        number = len(found) + len(rejected) + 1
        try:
            fields = next(rows)
        except StopIteration:
            more = False
            break
        except csv.Error:  # a field without end
            fields = []
        raw = record.take()
        reason = _what_is_wrong(fields, raw, len(names))
        if reason is None:
            found.append((number, raw, *fields))
        else:
            rejected.append((number, reason.value, raw[:_MAX_RAW]))
    schema: dict[str, Any] = {LINE: pl.Int64, RAW: pl.Binary} | dict.fromkeys(names, pl.String)
    return Chunk(pl.DataFrame(found, schema=schema, orient="row"), rejected, len(found) + len(rejected)), more


def _what_is_wrong(fields: list[str], raw: bytes, wanted: int) -> LineReason | None:
    if not raw.strip():
        return LineReason.EMPTY_LINE
    if len(raw) > _MAX_RAW:
        return LineReason.LINE_TOO_LONG
    if len(fields) != wanted:
        return LineReason.CUT_OFF if fields and len(fields) < wanted else LineReason.WRONG_SHAPE
    try:
        raw.decode()
    except UnicodeDecodeError:
        return LineReason.NOT_UTF8
    return None


def _parquet(path: Path, content: Any) -> Iterator[Chunk]:
    try:
        with path.open("rb") as raw:
            while piece := raw.read(1 << 20):
                content.update(piece)
        with pq.ParquetFile(path) as file:
            _check_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(ROWS):
                yield _parquet_chunk(pl.DataFrame(pa.Table.from_batches([batch])))
    except FileNotFoundError:
        raise LabError(f"{path} does not exist; give the path of a Parquet file") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise LabError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from None


def _parquet_chunk(frame: pl.DataFrame) -> Chunk:
    texts = frame.select(_text(column) for column in frame)
    said = texts.select(pl.struct(pl.all()).struct.json_encode().cast(pl.Binary)).to_series()
    numbered = pl.int_range(1, frame.height + 1, dtype=pl.Int64, eager=True)
    return Chunk(texts.with_columns(numbered.alias(LINE), said.alias(RAW)), [], frame.height)


def _text(column: pl.Series) -> pl.Series:
    """Values as the texts that a request would bring; null stays."""
    kind = column.dtype
    if kind.is_temporal() and kind != pl.Duration:
        return column.dt.to_string("iso:strict")
    if kind.is_nested() or kind in (pl.Object, pl.Duration):
        said = [None if value is None else msgspec.json.encode(value).decode() for value in column.to_list()]
        return pl.Series(column.name, said, dtype=pl.String)
    return (column.fill_nan(None) if kind.is_float() else column).cast(pl.String, strict=False)


def _check_names(path: Path, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not all(names):
        what = "a column without a name" if twice in (None, "") else f"two columns {twice!r}"
        raise LabError(f"{path} has {what}; its head line is {', '.join(names)}")
