"""An item of the journal's stream as the entry it is: for whoever decides it and whoever archives it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from service.engine.model import Entry, Hit

_hit = msgspec.msgpack.Decoder(Hit).decode


class Unreadable(msgspec.Struct, frozen=True):
    """An item that is no entry: nobody can decide it, so it is set aside with what it holds and why."""

    partition: int
    epoch: int
    seq: int
    time_us: int
    raw: bytes
    error: str

    hit: None = None


def read(partition: int, item_id: bytes, fields: Mapping[bytes, bytes]) -> Entry | Unreadable:
    """The entry of an item, or why it is none."""
    first, _, second = item_id.partition(b"-")
    epoch, seq = int(first), int(second)
    try:
        raw = fields.get(b"h")
        hit = _hit(raw) if raw is not None else None
        if hit is None and b"r" not in fields:
            raise ValueError("it holds neither a hit nor a rulebook")
        return Entry(partition, epoch, seq, int(fields[b"t"]), hit, fields.get(b"r", b"").decode())
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        time = fields.get(b"t", b"")
        time_us = int(time) if time.isdigit() and len(time) < 17 else 0
        return Unreadable(partition, epoch, seq, time_us, b"".join(fields.values()), f"{type(error).__name__}: {error}")
