"""Times as they are written: ISO 8601 in UTC, and the parts of it that a template asks for."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

TIME_CODES: Final = {  # where each stands in a time written by `iso_time`
    "%Y": slice(0, 4), "%m": slice(5, 7), "%d": slice(8, 10), "%H": slice(11, 13), "%M": slice(14, 16),
    "%S": slice(17, 19),
}  # fmt: skip
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=256)  # a firing asks for the time of its hit several times
def iso_time(time_us: int) -> str:
    """2026-11-23T09:47:17.000000Z for microseconds since 1970, UTC."""
    digits = str(100_000_000 + time_us % 60_000_000)  # behind a one the second and its fraction
    return f"{_iso_minute(time_us // 60_000_000)}:{digits[1:3]}.{digits[3:]}Z"


@lru_cache(maxsize=1440)  # a log moves slowly through its minutes
def _iso_minute(minutes: int) -> str:
    return (_EPOCH + timedelta(minutes=minutes)).isoformat()[:16]


def format_time(iso: str, pattern: str) -> str:
    """Apply %Y %m %d %H %M %S to a time written by `iso_time`."""
    return "".join([iso[piece] if isinstance(piece, slice) else piece for piece in _time_pieces(pattern)])


@lru_cache(maxsize=256)
def _time_pieces(pattern: str) -> tuple[str | slice, ...]:
    return tuple([TIME_CODES.get(piece, piece) for piece in re.split("(%[YmdHMS])", pattern) if piece])
