"""Hit ids: UUIDv7 (RFC 9562), 32 hex digits. The time is in front, so ids sort roughly by arrival."""

from __future__ import annotations

import os


def new_hit_id(time_us: int) -> str:
    """A fresh id for a hit that came in at `time_us`."""
    milliseconds = time_us // 1000
    random = int.from_bytes(os.urandom(10), "big")
    high = (milliseconds & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | (random >> 68) & 0x0FFF
    low = 0x8000_0000_0000_0000 | random & 0x3FFF_FFFF_FFFF_FFFF
    return f"{high:016x}{low:016x}"
