"""Hit ids: UUIDv7 (RFC 9562), 32 hex digits. The time is in front, so ids sort roughly by arrival."""

from __future__ import annotations

import os
from collections.abc import Iterator

RANDOM_BYTES = 10
DRAWN_AT_ONCE = 512  # drawing lets other threads run, which costs more than all the rest of an id


def new_hit_id(time_us: int) -> str:
    """A fresh id for a hit that came in at `time_us`."""
    random = int.from_bytes(next(_drawn), "big")
    high = (time_us // 1000 & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | (random >> 68) & 0x0FFF
    low = 0x8000_0000_0000_0000 | random & 0x3FFF_FFFF_FFFF_FFFF
    return f"{high << 64 | low:032x}"


def _draw() -> Iterator[bytes]:
    """Random bytes for one id after the other, none ever twice."""
    while True:
        supply = os.urandom(RANDOM_BYTES * DRAWN_AT_ONCE)
        for start in range(0, len(supply), RANDOM_BYTES):
            yield supply[start : start + RANDOM_BYTES]


def _draw_anew() -> None:
    """A forked process must not hand out what its parent has drawn."""
    global _drawn
    _drawn = _draw()


_drawn = _draw()
os.register_at_fork(after_in_child=_draw_anew)
