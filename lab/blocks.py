r"""A foreign access log in blocks of lines: plain lines are taken apart as columns, the others by the parser of one line.

Plain is a line of printable ASCII without a backslash whose quotes, blanks and fields stand where the format has them; for
those the columns say exactly what `formats.parse_line` says, and tests hold them to it. Whatever is unusual about a line
(escapes, a broken request, bytes that are no ASCII) sends it to that parser.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from lab.formats import Format, ParsedLine, RejectedLine, _midnight_s, opened, parse_line

BLOCK_BYTES = 16 * 1024 * 1024

SCHEMA: dict[str, Any] = {
    "line": pl.Int64, "time_us": pl.Int64, "address": pl.String, "method": pl.String, "path": pl.Binary, "query": pl.Binary,
    "status": pl.Int16, "referrer": pl.String, "user_agent": pl.String, "host": pl.String,
}  # fmt: skip
Rejected = tuple[int, str, bytes]  # line, reason, raw


class Blocks:
    """All lines of some files, block by block; afterwards `lines` and `content`, a SHA-256 over all bytes."""

    def __init__(self, paths: list[Path], form: Format, block_bytes: int = BLOCK_BYTES) -> None:
        self._paths, self._form, self._block_bytes = paths, form, block_bytes
        self._content = hashlib.sha256()
        self.lines = 0

    @property
    def content(self) -> str:
        """64 hex digits."""
        return self._content.hexdigest()

    def __iter__(self) -> Iterator[tuple[pl.DataFrame, list[Rejected]]]:
        """Frames in the columns of `SCHEMA`, in no particular order of rows, with the lines that were rejected."""
        for path in self._paths:
            for block in _whole_lines(path, self._block_bytes):
                self._content.update(block)
                frame, rejected, count = read_block(block, self.lines + 1, self._form)
                self.lines += count
                yield frame, rejected


def _whole_lines(path: Path, size: int) -> Iterator[bytes]:
    """A file in blocks that end with a line; a line that never ends becomes a block of its own."""
    rest = b""
    with opened(path) as file:
        while piece := file.read(size):
            head, newline, tail = piece.rpartition(b"\n")
            if newline:
                yield rest + head + newline
                rest = tail
            else:
                rest += piece
    if rest:
        yield rest


def read_block(block: bytes, first: int, form: Format) -> tuple[pl.DataFrame, list[Rejected], int]:
    """Parsed lines, rejected lines, number of lines. first: number of the first line."""
    if block.endswith(b"\n"):
        block = block[:-1]
    text = block.decode("latin-1")  # one character per byte; what is no ASCII is no plain line
    lines = text.split("\n")
    raw = pl.DataFrame(
        {"line": range(first, first + len(lines)), "raw": lines}, schema={"line": pl.Int64, "raw": pl.String}
    )
    if form.quotes == 0:
        return _by_line(raw, form, raw.height)
    plain = _plain(raw.lazy(), form.quotes)
    hard = raw.join(plain.select("line"), on="line", how="anti") if plain.height < raw.height else raw.clear()
    slow, rejected, _ = _by_line(hard, form, raw.height)
    return pl.concat([plain, slow]), rejected, raw.height


def _by_line(raw: pl.DataFrame, form: Format, lines: int) -> tuple[pl.DataFrame, list[Rejected], int]:
    rows: list[tuple[Any, ...]] = []
    rejected: list[Rejected] = []
    for number, text in raw.iter_rows():
        line = text.encode("latin-1")
        found = parse_line(line, form)
        if isinstance(found, RejectedLine):
            rejected.append((number, found.reason.value, line.rstrip(b"\r\n")))
        else:
            rows.append(row_of(number, found))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row"), rejected, lines


def row_of(number: int, found: ParsedLine) -> tuple[Any, ...]:
    """A parsed line as a row in the columns of `SCHEMA`."""
    return (
        number, found.time_us, found.address, found.method, found.path, found.query, found.status, found.referrer,
        found.user_agent, found.host,
    )  # fmt: skip


_PLAIN = r"^[ -\[\]-~]+$"
_STAMP = r"^\[[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)$"
_ZONE = r"^[+-][0-9]{4}\]$"
_NUMBERS = r"^ (?:[0-9]{3}|-) (?:[0-9]{1,18}|-)( ?)$"


def _plain(raw: pl.LazyFrame, quotes: int) -> pl.DataFrame:
    """The plain lines of combined (6 quotes) or common (2 quotes)."""
    text = pl.col("raw").str.strip_chars_end("\r")
    parts = text.str.splitn('"', quotes + 2).struct.rename_fields([f"q{n}" for n in range(quotes + 2)])
    frame = (
        raw.filter(text.str.contains(_PLAIN), text.str.len_bytes() < 8_000)
        .select("line", parts.alias("parts"))
        .unnest("parts")
        .filter(pl.col(f"q{quotes}").is_not_null() if quotes == 6 else pl.col("q2").is_not_null())
        .filter(pl.col(f"q{quotes + 1}").is_null())
    )
    if quotes == 6:
        frame = frame.filter(pl.col("q6") == "", pl.col("q4") == " ", pl.col("q2").str.ends_with(" "))
    else:
        frame = frame.filter(~pl.col("q2").str.ends_with(" "))
    head = pl.col("q0").str.splitn(" ", 7).struct.rename_fields([f"h{n}" for n in range(7)])
    asked = pl.col("q1").str.splitn(" ", 4).struct.rename_fields(["method", "target", "protocol", "more"])
    frame = (
        frame.filter(pl.col("q2").str.contains(_NUMBERS))
        .with_columns(head.alias("head"), asked.alias("asked"))
        .unnest("head", "asked")
        .filter(
            pl.col("h5") == "", pl.col("h6").is_null(), pl.col("h0") != "", pl.col("h1") != "", pl.col("h2") != "",
            pl.col("h3").str.contains(_STAMP), pl.col("h4").str.contains(_ZONE),
            pl.col("more").is_null(), pl.col("method").str.contains("^[A-Za-z]+$"), pl.col("target").str.starts_with("/"),
            pl.col("protocol").str.contains(r"^HTTP/[0-9](?:\.[0-9])?$"),
        )
    )  # fmt: skip
    found = frame.collect()
    return _valued(found, quotes) if found.height else pl.DataFrame(schema=SCHEMA)


_TEXTS = {"referrer": "q3", "user_agent": "q5"}


def _valued(frame: pl.DataFrame, quotes: int) -> pl.DataFrame:
    stamp, target = pl.col("h3"), pl.col("target").str.splitn("?", 2)
    seconds = sum(
        stamp.str.slice(start, 2).cast(pl.Int64) * weight for start, weight in ((13, 3600), (16, 60), (19, 1))
    )
    days = frame.select(stamp.str.slice(1, 11) + pl.col("h4").str.slice(0, 5)).to_series()
    absent = {name: pl.col(part).replace("-", "") if quotes == 6 else pl.lit("") for name, part in _TEXTS.items()}
    return (
        frame.with_columns(midnight=_midnights(days))
        .filter(pl.col("midnight").is_not_null())
        .select(
            "line", ((pl.col("midnight") + seconds) * 1_000_000).alias("time_us"), pl.col("h0").alias("address"), "method",
            target.struct.field("field_0").cast(pl.Binary).alias("path"),
            target.struct.field("field_1").fill_null("").cast(pl.Binary).alias("query"),
            pl.col("q2").str.slice(1, 3).str.to_integer(dtype=pl.Int16, strict=False).fill_null(0).alias("status"),
            *(value.alias(name) for name, value in absent.items()), pl.lit("").alias("host"),
        )
    )  # fmt: skip


def _midnights(days: pl.Series) -> pl.Series:
    """`17/May/2015+0000` to seconds since 1970, null where there is no such day or zone."""
    known = days.unique()
    found = [_midnight_s(day[:11].encode(), day[11:].encode()) for day in known]
    return days.replace_strict(known, pl.Series(found, dtype=pl.Int64), return_dtype=pl.Int64)
