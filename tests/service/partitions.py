"""What the tests of tracking and archive share: a past in the journal, trackers over it, and what they leave behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import redis

from lab.traffic import generate, to_hit
from service import keys
from service.engine import EMPTY, Entry, Hit, Outcome, Postback, Rulebook, State, load, replay
from service.engine.parse import parse
from service.engine.partition import partition_of
from service.rulebooks import Shelf
from service.scripts import Script
from service.servers import check_journal
from service.settings import Settings
from service.tracking.store import without_postbacks
from service.tracking.tracker import Tracker
from tests.service.hits import logged

DAY_US = 86_400_000_000

RULES = """
[client.acme]
params = ["country", "sub1"]
aliases = { subid = "click_id" }
remember = "2d"
webhook = "http://127.0.0.1:9/acme"
test_webhook = "http://127.0.0.1:9/test"

[client.bolt]
webhook = "http://127.0.0.1:9/bolt?o={txid}&a={amount}"

[affiliate.best]
params = ["sub1"]
webhook = "http://127.0.0.1:9/best?c={sub1}&s={payout}"

[affiliate.silent]
name = "no endpoint"

[[trigger]]
name = "signup"
client = "acme"
on = "registration"
after = ["click"]
within = "1d"
once = "visitor"
payout = { fixed = "2.00", currency = "EUR" }
to = ["client", "affiliate"]

[[trigger]]
name = "deposit"
client = "acme"
on = "sale"
when = 'count("sale") < 3'
cap = { per = "affiliate", every = "day", count = 25 }
payout = { percent = "25", of = "amount" }
to = ["affiliate"]

[[trigger]]
name = "order"
client = "bolt"
on = "sale"
to = ["client"]
"""
LATER_RULES = RULES.replace('"25", of', '"10", of').replace('within = "1d"', 'within = "3d"')

_outcome = msgspec.msgpack.Decoder(Outcome).decode
_postback = msgspec.msgpack.Decoder(Postback).decode


def traffic(hits: int, seed: int = 1, days: int = 3) -> list[Hit]:
    """Seeded traffic of the last days, up to a minute ago: everything that the generator plants."""
    start_us = time.time_ns() // 1000 - days * DAY_US - 60_000_000
    ids: list[str] = []
    made = []
    for request in generate(RULES, hits=hits, seed=seed, start_us=start_us, days=days):
        ids.append(f"{len(ids):032x}")
        made.append(to_hit(request, ids[-1], start_us + request.offset_us, ids))
    return made


def store(connection: redis.Redis, partition: int, hits: Iterable[Hit], writer: str = "w") -> None:
    """Append hits to a partition, as the intake does: one batch."""
    place = keys.Partition(partition)
    last: Any = connection.hget(place.writers, writer)
    args: list[Any] = [writer, int(last or 0) + 1]
    for hit in hits:
        args += [hit.received_at_us, msgspec.msgpack.encode(hit)]
    Script(connection, "intake/append")([place.journal, place.head, place.writers, place.wake, place.kept], args)


def store_all(connection: redis.Redis, hits: Iterable[Hit], rules: str = RULES, partitions: int = 16) -> None:
    """Append hits to the partitions of their clients."""
    rulebook = load(rules)
    by_partition: dict[int, list[Hit]] = {}
    for hit in hits:
        client = parse(hit, rulebook).client
        by_partition.setdefault(partition_of(client, partitions) if client else 0, []).append(hit)
    for number, found in by_partition.items():
        for start in range(0, len(found), 200):
            store(connection, number, found[start : start + 200])


def put_in_force(connection: redis.Redis, text: str, time_us: int, partitions: int = 16) -> str:
    """A rulebook entry at a moment of our choice, so that a past can be made; publishing itself happens now."""
    rulebook = load(text)
    connection.hset(keys.RULEBOOKS, rulebook.id, text)
    connection.set(keys.RULEBOOK, rulebook.id)
    for place in keys.partitions(partitions):
        last: Any = connection.hget(place.head, "seq")
        seq = int(last or 0) + 1
        connection.xadd(place.journal, {"t": str(time_us), "r": rulebook.id}, id=f"1-{seq}")
        connection.hset(place.head, mapping={"epoch": "1", "seq": str(seq), "time": str(time_us)})
    return rulebook.id


def a_past(settings: Settings, hits: Sequence[Hit], rules: str = RULES) -> redis.Redis:
    """An empty journal, filled with a rulebook and hits. Returns a connection."""
    connection = check_journal(settings.journal_url, settings.partitions)
    connection.flushall()
    check_journal(settings.journal_url, settings.partitions).close()
    put_in_force(connection, rules, hits[0].received_at_us - 1, settings.partitions)
    store_all(connection, hits, rules, settings.partitions)
    return connection


def tracker(connection: redis.Redis, partition: int, settings: Settings, shelf: Shelf | None = None) -> Tracker:
    """A tracker that ends as soon as there is nothing to do."""
    quick = msgspec.structs.replace(settings, linger_ms=0)
    return Tracker(connection, keys.Partition(partition), quick, shelf or Shelf(connection, settings.tables_path))


def track_all(connection: redis.Redis, settings: Settings) -> None:
    """Decide everything that waits."""
    for number in range(settings.partitions):
        assert tracker(connection, number, settings).run() is False


def decided(connection: redis.Redis, partition: int) -> list[Outcome]:
    """The decisions of a partition, in order."""
    found: Any = connection.xrange(keys.Partition(partition).decisions)
    return [_outcome(fields[b"d"]) for _, fields in found]


def promised(connection: redis.Redis, partition: int) -> list[Postback]:
    """The postbacks of a partition, in order."""
    found: Any = connection.xrange(keys.Partition(partition).postbacks)
    return [_postback(fields[b"p"]) for _, fields in found]


def replayed(entries: Sequence[Entry], rulebooks: Callable[[str], Rulebook]) -> list[Outcome]:
    """What the engine alone says about the entries of a partition."""
    return list(replay(entries, State(), rulebooks, EMPTY))


def assert_as_replayed(connection: redis.Redis, settings: Settings) -> int:
    """Every partition holds what the engine says about its journal, no more and no less. Returns the number of outcomes."""
    shelf = Shelf(connection)
    total = 0
    for number in range(settings.partitions):
        expected = replayed(logged(connection, number), shelf.get)
        assert decided(connection, number) == [without_postbacks(outcome) for outcome in expected]
        assert promised(connection, number) == [postback for outcome in expected for postback in outcome.postbacks]
        total += len(expected)
    return total


def contents(connection: redis.Redis, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Everything that lies in Redis, by key, so that two moments can be compared."""
    found: dict[str, Any] = {}
    for raw in sorted(connection.scan_iter(count=1000)):
        key = raw.decode()
        if key not in leave_out:
            found[key] = _content(connection, key)
    return found


def _content(connection: redis.Redis, key: str) -> Any:
    kind: Any = connection.type(key)
    match kind:
        case b"hash":
            return connection.hgetall(key)
        case b"stream":
            return connection.xrange(key)
        case b"zset":
            return connection.zrange(key, 0, -1, withscores=True)
        case _:
            return connection.dump(key)
