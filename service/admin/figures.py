"""What the journal's Redis knows about the whole installation, in one round trip, whichever web process asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import redis.asyncio as aioredis

from service import keys
from service.admin.exposition import Sample
from service.archive.writer import STREAMS
from service.engine.model import Reason, Verdict
from service.keys import Partition
from service.scripts import script_text


class Stream(msgspec.Struct, frozen=True):
    """Items of one stream that lie in Redis; rows that its table does not have, and the age of the first of them."""

    kept: int
    to_archive: int
    to_archive_s: float


class Part(msgspec.Struct, frozen=True):
    """One partition. Counts, and ages in seconds (`_s`), 0 where nothing waits. streams: by the name of their table."""

    logged: int
    postbacks: int
    attempts: int
    epoch: int
    held: int
    due: int
    later: int
    due_s: float
    given_up: int
    set_aside: int
    visitors: int
    identifiers: int
    to_decide: int
    to_decide_s: float
    verdicts: dict[str, int]
    streams: dict[str, Stream]


class Room(msgspec.Struct, frozen=True):
    """Postbacks that wait in rooms, and the age of the oldest."""

    waiting: int
    oldest_s: float


class Parts(msgspec.Struct, frozen=True):
    """Some partitions in order, and how many keys of theirs could not be read."""

    partitions: list[Part]
    unreadable: int


class Rest(msgspec.Struct, frozen=True):
    """What belongs to no partition. rooms: by busy and paused. recipients: how many are paused, how many fail."""

    rooms: dict[str, Room]
    recipients: dict[str, int]
    rulebook: str
    archive_held: int
    unreadable: int


AT_ONCE = 64  # partitions: nobody else is served by Redis meanwhile
# told from the start, since whoever watches for a rise has to see the zero before it
_KNOWN = [
    f"{verdict} {reason} live" for verdict in Verdict for reason in (Reason if verdict is Verdict.REJECTED else [""])
]
_parts = msgspec.json.Decoder(Parts).decode
_rest = msgspec.json.Decoder(Rest).decode


async def look(connection: aioredis.Redis, partitions: int) -> list[Sample]:
    """Ask, in one round trip for every 64 partitions. Raises RedisError or OSError where the journal is away.

    The texts of the scripts go along each time: a server that has forgotten them would cost another round trip.
    """
    places = keys.partitions(partitions)
    parts: list[Part] = []
    unreadable = 0
    pipeline = connection.pipeline(transaction=False)
    _ask_for_rest(pipeline)
    for start in range(0, partitions, AT_ONCE):
        _ask_for_partitions(pipeline, places[start : start + AT_ONCE])
        *others, document = await pipeline.execute(raise_on_error=False)
        found = _parts(_well(document))
        parts += found.partitions
        unreadable += found.unreadable
        if others:
            document, *told = others
            rest = _rest(_well(document))
    samples = [*_of_road(parts), *_of_tables(parts), *_of_rest(parts, rest), *_of_server(*told)]
    return [*samples, Sample("backtrack_unreadable_keys", unreadable + rest.unreadable)]


def _well(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _ask_for_rest(pipeline: Any) -> None:
    names = [keys.ROOMS, keys.PAUSED, keys.FAILING, keys.RULEBOOK, keys.ARCHIVE_LEASE]
    _eval(pipeline, "recipients", names, [keys.room(""), keys.OPERATOR_NAME])
    pipeline.info("memory")
    pipeline.info("persistence")


def _ask_for_partitions(pipeline: Any, places: Sequence[Partition]) -> None:
    names = [keys.ARCHIVED]
    for place in places:
        names += [
            place.head, place.tracked, place.lease, place.due, place.dead, place.poison, place.visitors, place.owners,
            place.verdicts, *(stream.key(place) for stream in STREAMS),
        ]  # fmt: skip
    _eval(pipeline, "partitions", names, [places[0].number, *(stream.table for stream in STREAMS)])


def _eval(pipeline: Any, name: str, names: Sequence[str], args: Sequence[str | int]) -> None:
    pipeline.eval(script_text("admin/asking") + script_text(f"admin/{name}"), len(names), *names, *args)


def _of_road(parts: Sequence[Part]) -> Iterator[Sample]:
    yield Sample("backtrack_journal_epoch", max(part.epoch for part in parts))
    yield Sample("backtrack_visitors", sum(part.visitors for part in parts))
    yield Sample("backtrack_identifiers", sum(part.identifiers for part in parts))
    yield Sample("backtrack_set_aside_entries", sum(part.set_aside for part in parts))
    yield Sample("backtrack_partitions_held", sum(part.held for part in parts))
    yield Sample("backtrack_partitions_left", sum(part.to_decide > 0 and not part.held for part in parts))
    yield Sample("backtrack_entries_logged_total", sum(part.logged for part in parts))
    decided = Counter(dict.fromkeys(_KNOWN, 0))
    for part in parts:
        decided.update(part.verdicts)
    for field, count in decided.items():
        verdict, reason, kind = field.split(" ")
        yield Sample("backtrack_hits_decided_total", count, verdict=verdict, reason=reason, kind=kind)
    for number, part in enumerate(parts):
        yield Sample("backtrack_tracking_behind_entries", part.to_decide, partition=str(number))
        yield Sample("backtrack_tracking_behind_seconds", part.to_decide_s, partition=str(number))


def _of_tables(parts: Sequence[Part]) -> Iterator[Sample]:
    for stream in STREAMS:
        found = [part.streams[stream.table] for part in parts]
        yield Sample("backtrack_stream_items", sum(one.kept for one in found), table=stream.table)
        yield Sample("backtrack_archive_behind_rows", sum(one.to_archive for one in found), table=stream.table)
        yield Sample("backtrack_archive_behind_seconds", max(one.to_archive_s for one in found), table=stream.table)


def _of_rest(parts: Sequence[Part], rest: Rest) -> Iterator[Sample]:
    yield Sample("backtrack_rulebook_info", 1, id=rest.rulebook)
    yield Sample("backtrack_archive_held", rest.archive_held)
    yield Sample("backtrack_postbacks_total", sum(part.postbacks for part in parts))
    yield Sample("backtrack_attempts_total", sum(part.attempts for part in parts))
    yield Sample("backtrack_postbacks_waiting", sum(part.due for part in parts), state="due")
    yield Sample("backtrack_postbacks_waiting", sum(part.later for part in parts), state="later")
    for state, room in rest.rooms.items():
        yield Sample("backtrack_postbacks_waiting", room.waiting, state=state)
        yield Sample("backtrack_room_oldest_seconds", room.oldest_s, state=state)
    yield Sample("backtrack_postbacks_given_up", sum(part.given_up for part in parts))
    yield Sample("backtrack_delivery_behind_seconds", max(part.due_s for part in parts))
    for state, count in rest.recipients.items():
        yield Sample("backtrack_recipients", count, state=state)


def _of_server(memory: Any, persistence: Any) -> Iterator[Sample]:
    """What the server says about itself, as far as it tells."""
    if not isinstance(memory, Exception):
        yield Sample("backtrack_redis_memory_bytes", memory["used_memory"])
        limit = memory.get("maxmemory") or memory.get("total_system_memory")
        if limit:
            yield Sample("backtrack_redis_memory_limit_bytes", limit)
    if not isinstance(persistence, Exception):
        yield Sample("backtrack_redis_log_ok", persistence.get("aof_last_write_status") == "ok")
        if "aof_current_size" in persistence:
            yield Sample("backtrack_redis_log_bytes", persistence["aof_current_size"])
