"""A foreign access log in blocks of lines: plain lines are taken apart as columns, the others by the parser of one line.

For plain lines the columns say exactly what `formats.parse_line` says, and tests hold them to it. Whatever is unusual about
a line (escapes, a broken request, bytes that are no ASCII) sends it to that parser.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from lab.coded import Coded, joined
from lab.formats import Format, ParsedLine, RejectedLine, opened, parse_line
from lab.plain import plain_lines

BLOCK_BYTES = 16 * 1024 * 1024

SCHEMA: dict[str, Any] = {
    "line": pl.Int64, "time_us": pl.Int64, "address": pl.String, "method": pl.String, "path": pl.Binary, "query": pl.Binary,
    "status": pl.Int16, "referrer": pl.String, "user_agent": pl.String, "host": pl.String,
}  # fmt: skip
# the tables of distinct ones that these columns make, see `lab.coded`
PARTS = {
    "request": ["method", "path", "query", "status", "host"], "person": ["address", "user_agent"], "origin": ["referrer"],
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


def read_block(block: bytes, form: Format) -> tuple[Coded, list[Rejected], int]:
    """Parsed lines in the columns of `SCHEMA`, in their order; the rejected lines; how many there are. Numbered from 1."""
    plain = plain_lines(block, form)
    if plain is not None and plain[0].height == plain[1]:
        return plain[0], [], plain[1]
    raw = block.removesuffix(b"\n").split(b"\n")
    if plain is None or plain[1] != len(raw):
        return *_by_line(enumerate(raw, 1), form), len(raw)
    numbers = set(plain[0].lines["line"])
    slow, rejected = _by_line(((number, line) for number, line in enumerate(raw, 1) if number not in numbers), form)
    if not slow.height:
        return plain[0], rejected, len(raw)
    both = joined([plain[0], slow])
    return both.with_lines(both.lines.sort("line")), rejected, len(raw)


def _by_line(lines: Iterable[tuple[int, bytes]], form: Format) -> tuple[Coded, list[Rejected]]:
    rows: list[tuple[Any, ...]] = []
    rejected: list[Rejected] = []
    for number, line in lines:
        found = parse_line(line, form)
        if isinstance(found, RejectedLine):
            rejected.append((number, found.reason.value, line.rstrip(b"\r\n")))
        else:
            rows.append(row_of(number, found))
    return Coded.of(pl.DataFrame(rows, schema=SCHEMA, orient="row"), PARTS), rejected


def row_of(number: int, found: ParsedLine) -> tuple[Any, ...]:
    """A parsed line as a row in the columns of `SCHEMA`."""
    return (
        number, found.time_us, found.address, found.method, found.path, found.query, found.status, found.referrer,
        found.user_agent, found.host,
    )  # fmt: skip
