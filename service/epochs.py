"""Is the journal's Redis as far as the tables? Asked whenever its server was started anew, before anybody uses it.

A server that came back from an older file would give numbers a second time, and the tables would skip what comes under
them. So a run of a server is compared with the tables first, and every connection is refused until then. Where entries are
lost, a new epoch begins in every partition: its first entry says so, and tracking decides what the tables have and Redis
has lost once more, which gives the same outcomes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import redis
import redis.asyncio as aioredis

from service import keys
from service.keys import Partition
from service.scripts import Script
from service.servers import UncheckedError, checked_client, client, guarded_client, run_id
from service.settings import Settings

log = logging.getLogger("backtrack.epochs")

TRIES = 5
KEPT_MOST = 100_000  # hits per partition whose second coming is noticed: a spool may hold what the tables have
KEPT_S = 86_400
CHUNK = 1_000

Known = Mapping[int, tuple[int, int]]  # partition -> epoch and seq of the last entry that somebody remembers


class Reached(msgspec.Struct):
    """How far the tables are in one partition, and what they say about it that Redis has lost."""

    seq: int = 0
    attempts: int = 0
    epoch: int = 1
    time_us: int = 0
    rulebook: tuple[int, str] = (0, "")  # log time and id of the last one that took effect


def journal_client(settings: Settings, timeout_s: float | None = 5.0) -> redis.Redis:
    """A blocking client of the journal that uses no run of a server before it was compared with the tables."""
    return guarded_client(settings.journal_url, timeout_s, settings.partitions, _comparison(settings))


def async_journal_client(settings: Settings, timeout_s: float, empty: bool = False) -> aioredis.Redis:
    """The same, asynchronous; it checks the server's settings too. empty: a server without any state will do."""
    compare_first = _comparison(settings)

    async def compare_beside() -> None:
        await asyncio.to_thread(compare_first)

    return checked_client(settings.journal_url, timeout_s, settings.partitions, compare_beside, empty)


def _comparison(settings: Settings) -> Callable[[], None]:
    def compare_first() -> None:
        """Raises ConnectionError where it cannot be told whether something is lost."""
        with client(settings.journal_url, 30) as connection:
            try:
                compare(connection, settings.partitions, settings.tables_path)
            except (redis.RedisError, OSError):
                raise
            except Exception as error:
                raise UncheckedError(f"the journal cannot be compared with the tables: {error}") from error

    return compare_first


def compare(
    connection: redis.Redis, partitions: int, root: Path, known: Known | None = None, again: bool = False
) -> int:
    """Compare this run of the server with the tables and let it be used. Returns the new epoch, 0 if nothing is lost.

    known: what the caller remembers. again: although this run was compared already. Raises UncheckedError if the tables
    are not to be seen here, TableError if they cannot be used.
    """
    run = run_id(connection)
    meta: Any = connection.hmget(keys.META, "run", "tables")
    if meta[0] is not None and meta[0].decode() == run and not (known or again):
        return 0
    _check_visible(root, meta[1])
    places = keys.partitions(partitions)
    reached = _fenced(root, partitions)
    _look_at_what_is_lost(connection, root, places, reached)
    newest = max(one.rulebook for one in reached)[1]
    epoch = int(
        Script(connection, "intake/epoch")(
            [
                keys.META,
                keys.RULEBOOK,
                keys.RULEBOOKS,
                *(key for place in places for key in (place.journal, place.head)),
            ],
            [run, newest, _text(root, newest), max(one.epoch for one in reached), *_facts(reached, known or {})],
        )
    )
    if epoch:
        log.error("the journal's Redis has lost data: epoch %d begins", epoch)
    return epoch


def _facts(reached: list[Reached], known: Known) -> list[int]:
    facts: list[int] = []
    for number, one in enumerate(reached):
        facts += [one.seq, one.time_us, one.attempts, *known.get(number, (0, 0))]
    return facts


def _text(root: Path, rulebook_id: str) -> str:
    from service.archive.past import rulebook_text

    return (rulebook_text(root, rulebook_id) or "") if rulebook_id else ""


def _check_visible(root: Path, mark: bytes | None) -> None:
    """Raises UncheckedError if this journal was archived already, and not into this folder."""
    from service.archive import tables

    if mark is not None and tables.open_table(root, "hits") is None:
        raise UncheckedError(
            f"the journal was started anew and its tables are not in {root}; "
            "a worker that sees them has to compare, or name their folder with BACKTRACK_TABLES"
        )


def _fenced(root: Path, partitions: int) -> list[Reached]:
    """How far the tables are. An archiver that still holds rows of an earlier run cannot append them afterwards: the empty
    commit here makes its own conflict."""
    from deltalake.exceptions import CommitFailedError

    from service.archive import tables
    from service.archive.schemas import SCHEMAS
    from service.archive.writer import app_id

    reached = [Reached() for _ in range(partitions)]
    for name, field in (("hits", "seq"), ("attempts", "attempts")):
        for tries_left in reversed(range(TRIES)):
            table = tables.open_table(root, name)
            if table is None:
                break
            done = [table.transaction_version(app_id(name, number)) or 0 for number in range(partitions)]
            progress = {app_id(name, number): last for number, last in enumerate(done)}
            try:
                tables.append(root, name, SCHEMAS[name].empty_table(), table, progress)
            except CommitFailedError:
                if not tries_left:
                    raise
                continue
            for one, last in zip(reached, done, strict=True):
                setattr(one, field, last)
            break
    return reached


def _look_at_what_is_lost(
    connection: redis.Redis, root: Path, places: tuple[Partition, ...], reached: list[Reached]
) -> None:
    """Note what the tables have and Redis has not: hits that must not come twice, postbacks that need not go again."""
    pipeline = connection.pipeline(transaction=False)
    for place in places:
        pipeline.hmget(place.head, "seq", "attempts")
    for place, one, head in zip(places, reached, pipeline.execute(raise_on_error=False), strict=True):
        if isinstance(head, Exception):
            continue  # of the wrong type: it stops its partition, and no other
        seq, attempts = int(head[0] or 0), int(head[1] or 0)
        if one.seq > seq:
            _keep_hits(connection, root, place, one, seq)
        if one.attempts > attempts:
            _keep_attempts(connection, root, place, attempts)


def _keep_hits(connection: redis.Redis, root: Path, place: Partition, one: Reached, after: int) -> None:
    from service.archive.past import rows
    from service.archive.schemas import microseconds

    columns = ("seq", "epoch", "time", "kind", "hit_id", "rulebook_id")
    found = rows(root, "hits", place.number, "seq", after, None, columns).to_pylist()
    for row in found:
        one.epoch, one.time_us = max(one.epoch, row["epoch"]), max(one.time_us, microseconds(row["time"]))
        if row["kind"] != "hit" and row["rulebook_id"]:
            one.rulebook = microseconds(row["time"]), row["rulebook_id"]
    ids = [row["hit_id"] for row in found[-KEPT_MOST:] if row["kind"] == "hit"]
    pipeline = connection.pipeline(transaction=False)
    for start in range(0, len(ids), CHUNK):
        pipeline.sadd(place.kept, *ids[start : start + CHUNK])
    pipeline.expire(place.kept, KEPT_S)
    pipeline.execute()


def _keep_attempts(connection: redis.Redis, root: Path, place: Partition, after: int) -> None:
    """What became of postbacks since: for those that Redis has at once, for the others when they are promised again."""
    from service.archive.past import rows
    from service.archive.schemas import microseconds

    columns = ("n", "time", "postback_id", "number", "state", "next_due")
    last = {
        row["postback_id"]: row for row in rows(root, "attempts", place.number, "n", after, None, columns).to_pylist()
    }
    settle = Script(connection, "delivery/recall")
    names = [place.due, place.promises, place.tries, place.inflight, place.dead, place.ended, place.settled]
    for postback_id, row in last.items():
        due_us = microseconds(row["next_due"]) if row["next_due"] is not None else microseconds(row["time"])
        settle(names, [postback_id, row["state"], row["number"], due_us, KEPT_S])
