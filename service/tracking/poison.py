"""What cannot be decided is set aside: noted with its error, and passed over, so that nothing behind it waits."""

from __future__ import annotations

import logging
from typing import Any

import redis

from service.engine import Entry, Outcome
from service.keys import Partition

log = logging.getLogger("backtrack.tracking")

MOST = 1_000  # notes kept per partition; the tables have all
MAX_ERROR = 300
UNREADABLE, NO_RULEBOOK, UNDECIDABLE = "unreadable", "no_rulebook", "undecidable"


def note(connection: redis.Redis, place: Partition, epoch: int, seq: int, reason: str, error: str) -> None:
    """Note an entry. Noting it twice changes nothing."""
    log.error("partition %d, entry %d is set aside, %s: %s", place.number, seq, reason, error[:MAX_ERROR])
    if int(connection.hlen(place.poison)) < MOST:
        connection.hset(place.poison, f"{epoch}-{seq}", f"{reason} {error[:MAX_ERROR]}")


def notes(connection: redis.Redis, place: Partition) -> list[dict[str, Any]]:
    """What was set aside in a partition, oldest first: partition, epoch, seq, reason, error."""
    found: Any = connection.hgetall(place.poison)
    rows = []
    for entry, text in found.items():
        epoch, seq = map(int, entry.split(b"-"))
        reason, _, error = text.decode("utf-8", "replace").partition(" ")
        rows.append({"partition": place.number, "epoch": epoch, "seq": seq, "reason": reason, "error": error})
    return sorted(rows, key=lambda row: (row["epoch"], row["seq"]))


def outcome(entry: Entry, rulebook_id: str, error: str) -> Outcome:
    """What is said about a hit that could not be decided: `engine_error`, and the state stays as it was."""
    assert entry.hit is not None
    return Outcome(
        entry.hit.id, entry.seq, entry.time_us, "engine_error", "", error[:MAX_ERROR], rulebook_id=rulebook_id
    )
