"""What a partner wrote down: one line of JSON per request that it received."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lab.log import LabError
from lab.parameters import Request


class Receipt(msgspec.Struct, frozen=True):
    """One request as the recording partner wrote it down."""

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = {}
    body: str = ""
    time_us: int = 0
    status: int = 0

    @property
    def request(self) -> Request:
        """The request, without its host: partners are often called through another name."""
        return Request(self.method, "", self.path, self.query, self.body)


def read_receipts(path: Path) -> Iterator[Receipt]:
    """The partner's record, line by line. Raises LabError with the line of what cannot be read."""
    decode = msgspec.json.Decoder(Receipt).decode
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _receipt(decode, line, f"{path} line {number}")
    except OSError as error:
        raise LabError(
            f"{path} cannot be read: {error.strerror}; give the partner's record, a file of JSON lines"
        ) from None


def _receipt(decode: Any, line: bytes, where: str) -> Receipt:
    try:
        receipt: Receipt = decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LabError(f"{where} is no request as the partner records it: {error}") from None
    return receipt
