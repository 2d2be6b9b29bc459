r"""A foreign access log in blocks of lines: plain lines are taken apart as columns, the others by the parser of one line.

Plain is a line of printable ASCII without a backslash that fits the pattern `plain` of its format; for those the columns
say exactly what `formats.parse_line` says, and tests hold them to it. Whatever is unusual about a line (escapes, a broken
request, bytes that are no ASCII) sends it to that parser.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import ComputeError

from lab.formats import Format, ParsedLine, RejectedLine, _midnight_s, host_name, opened, parse_line

BLOCK_BYTES = 16 * 1024 * 1024
_LONG = 8_000  # bytes of a line that the parser of one line had better look at

SCHEMA: dict[str, Any] = {
    "line": pl.Int64, "time_us": pl.Int64, "address": pl.String, "method": pl.String, "path": pl.Binary, "query": pl.Binary,
    "status": pl.Int16, "referrer": pl.String, "user_agent": pl.String, "host": pl.String,
}  # fmt: skip
Rejected = tuple[int, str, bytes]  # line, reason, raw


class Blocks:
    """All bytes of some files in blocks of whole lines; afterwards `content`, a SHA-256 over all of them."""

    def __init__(self, paths: list[Path], block_bytes: int = BLOCK_BYTES) -> None:
        self._paths, self._block_bytes = paths, block_bytes
        self._content = hashlib.sha256()

    @property
    def content(self) -> str:
        """64 hex digits."""
        return self._content.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        for path in self._paths:
            for raw in _whole_lines(path, self._block_bytes):
                self._content.update(raw)
                yield raw


def _whole_lines(path: Path, size: int) -> Iterator[bytes]:
    """A file in blocks that end with a line; a line that never ends becomes a block of its own."""
    rest: list[bytes | memoryview] = []
    with opened(path) as file:
        while piece := file.read(size):
            ended = piece.rfind(b"\n") + 1
            if ended:
                yield b"".join([*rest, memoryview(piece)[:ended]])
                rest.clear()
            if ended < len(piece):
                rest.append(piece[ended:])
    if rest:
        yield b"".join(rest)


def read_block(block: bytes, form: Format) -> tuple[pl.DataFrame, list[Rejected], int]:
    """Parsed lines in the columns of `SCHEMA`, in their order; the rejected lines; how many there are. Numbered from 1."""
    text, coding = _lines(block)
    raw = pl.DataFrame({"line": pl.int_range(1, text.len() + 1, dtype=pl.Int64, eager=True), "raw": text})
    if not form.plain:
        return *_by_line(raw, form, coding), text.len()
    read = _plain(raw, form)
    plain = read["time_us"].is_not_null()
    if plain.all():
        return read, [], text.len()
    slow, rejected = _by_line(raw.filter(~plain), form, coding)
    return pl.concat([read.filter(plain), slow]).sort("line"), rejected, text.len()


def _lines(raw: bytes) -> tuple[pl.Series, str]:
    """The lines as text, and how their bytes became characters."""
    try:
        return pl.read_lines(io.BytesIO(raw)).to_series(), "utf-8"
    except ComputeError:  # no UTF-8: one character per byte
        return pl.read_lines(io.BytesIO(raw.decode("latin-1").encode())).to_series(), "latin-1"


def _by_line(raw: pl.DataFrame, form: Format, coding: str) -> tuple[pl.DataFrame, list[Rejected]]:
    rows: list[tuple[Any, ...]] = []
    rejected: list[Rejected] = []
    for number, text in raw.iter_rows():
        line = text.encode(coding)
        found = parse_line(line, form)
        if isinstance(found, RejectedLine):
            rejected.append((number, found.reason.value, line.rstrip(b"\r\n")))
        else:
            rows.append(row_of(number, found))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row"), rejected


def row_of(number: int, found: ParsedLine) -> tuple[Any, ...]:
    """A parsed line as a row in the columns of `SCHEMA`."""
    return (
        number, found.time_us, found.address, found.method, found.path, found.query, found.status, found.referrer,
        found.user_agent, found.host,
    )  # fmt: skip


def _plain(raw: pl.DataFrame, form: Format) -> pl.DataFrame:
    """All lines in the columns of `SCHEMA`; `time_us` is null for those that are not plain."""
    short = pl.when(pl.col("raw").str.len_bytes() < _LONG).then("raw")
    found = raw.select("line", short.str.extract_groups(form.plain).alias("fields")).unnest("fields")
    target = pl.col("target").str.splitn("?", 2)
    texts = {
        name: pl.when(pl.col(name) != "-").then(name).otherwise(pl.lit("")) if name in found.columns else pl.lit("")
        for name in ("referrer", "user_agent")
    }
    return found.select(
        "line", _times(found).alias("time_us"), "address", "method",
        target.struct.field("field_0").cast(pl.Binary).alias("path"),
        target.struct.field("field_1").fill_null("").cast(pl.Binary).alias("query"),
        pl.col("status").str.to_integer(dtype=pl.Int16, strict=False).fill_null(0),
        *(value.alias(name) for name, value in texts.items()), _hosts(found).alias("host"),
    )  # fmt: skip


def _times(found: pl.DataFrame) -> pl.Series:
    """`17/May/2015:10:05:03 +0000` to microseconds since 1970, null where there is no such day or zone."""
    stamps = found["stamp"].drop_nulls().unique()
    days = stamps.str.slice(0, 11) + stamps.str.slice(21, 5)
    named = days.unique()
    midnights = [_midnight_s(day[:11].encode(), day[11:].encode()) for day in named]
    midnight = days.replace_strict(named, pl.Series(midnights, dtype=pl.Int64)).cast(
        pl.Int64
    )  # also where there is none
    clock = sum(stamps.str.slice(start, 2).cast(pl.Int64) * weight for start, weight in ((12, 3600), (15, 60), (18, 1)))
    moments = pl.DataFrame({"stamp": stamps, "time_us": (midnight + clock) * 1_000_000})
    return found.join(moments, on="stamp", how="left", maintain_order="left")["time_us"]


def _hosts(found: pl.DataFrame) -> pl.Expr:
    if "host" not in found.columns:
        return pl.lit("")
    known = found["host"].drop_nulls().unique()
    named = pl.Series([host_name(host) for host in known], dtype=pl.String)
    return pl.col("host").replace_strict(known, named, default="").cast(pl.String)
