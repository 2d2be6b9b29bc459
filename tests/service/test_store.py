"""The store of tracking: fetches what the engine may read, records what it writes, and gives back what was committed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis

from service import keys
from service.engine import Entry, Event, Hit, Visitor, load, parse, process
from service.engine.visitors import State, wanted_keys
from service.scripts import Script
from service.servers import check_journal
from service.settings import Settings
from service.tracking.store import Recording, commit_args, commit_keys, fetch
from tests.service.hits import a_hit
from tests.service.partitions import RULES

PLACE = keys.Partition(3)


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, settings.partitions)
    yield opened
    opened.close()


class Life:
    """Hits of acme, each decided on what Redis holds and committed at once."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._commit = Script(connection, "tracking/commit")
        self._seq = 0
        connection.set(PLACE.fence, 1)

    def fetch(self, hit: Hit) -> tuple[Entry, Event, Recording]:
        """What the engine may read for a hit."""
        event = parse(hit, load(RULES))
        assert isinstance(event, Event)
        caps: Any = self._redis.hgetall(PLACE.caps)
        known = {key.decode(): int(count) for key, count in caps.items()}
        return Entry(3, 1, self._seq + 1, hit.received_at_us, hit), event, fetch(self._redis, PLACE, [event], known)

    def live(self, words: str) -> Recording:
        """Decide and commit one hit; what was recorded."""
        entry, event, state = self.fetch(a_hit(f"client=acme&{words}"))
        outcome = process(entry, state, load(RULES), event)
        head = [1, 2_000, self._seq, 1, entry.seq, "book", entry.time_us]
        self._commit(commit_keys(PLACE), [*head, *commit_args(state, [(1, outcome)])])
        self._seq += 1
        return state


def test_what_was_committed_is_what_is_fetched(connection: redis.Redis) -> None:
    life = Life(connection)
    # given a visitor with a past: click, registration, parameters, a transaction, a cap
    life.live("event=click&affiliate=best&click_id=c1&sub1=x&country=DE")
    life.live("event=registration&click_id=c1&uid=u1")
    recorded = life.live("event=sale&uid=u1&txid=t1&amount=20&currency=EUR")
    # when the same person comes again
    _, _, state = life.fetch(a_hit("client=acme&event=sale&uid=u1&click_id=c1&txid=t1"))
    # then the visitor is there as the engine left it, and whatever else was written
    (visitor,) = state.visitors.values()
    assert visitor == next(iter(recorded.visitors.values()))
    assert [name for _, _, name in visitor.history] == ["click", "registration", "sale"]
    assert set(state.owners.values()) == {visitor.id} and len(state.owners) == 2
    assert set(state.txids) == set(recorded.new_txids) and len(state.txids) == 1
    assert state.caps == recorded.new_caps and set(state.caps.values()) == {1}


def test_a_stranger_is_fetched_as_nobody(connection: redis.Redis) -> None:
    # given a store with somebody else in it
    life = Life(connection)
    life.live("event=click&click_id=c1")
    # when a stranger comes, and one without any identifier
    for words in ("event=click&click_id=c2&txid=t", "event=click"):
        _, _, state = life.fetch(a_hit(f"client=acme&{words}"))
        # then nothing is known
        assert (state.owners, state.visitors, state.txids) == ({}, {}, {})


def test_a_batch_of_thousands_is_fetched_in_one_go(connection: redis.Redis) -> None:
    # given more identifiers and visitors than fit onto the stack of a script
    count = 9_000
    rulebook = load(RULES)
    parsed = [parse(a_hit(f"client=acme&event=sale&uid=u{n}&txid=t{n}"), rulebook) for n in range(count)]
    owners = [key for event in parsed if isinstance(event, Event) for key in wanted_keys(event)[0]]
    connection.hset(PLACE.owners, mapping={key: f"v{n}" for n, key in enumerate(owners)})
    connection.hset(PLACE.visitors, f"v{len(owners) - 1}", msgspec.msgpack.encode(Visitor("last")))
    # when they are fetched
    state = fetch(connection, PLACE, parsed, {})
    # then all are there, the last one too
    assert [state.owners[key] for key in owners] == [f"v{n}" for n in range(len(owners))]
    assert {key: visitor.id for key, visitor in state.visitors.items()} == {f"v{len(owners) - 1}": "last"}


def test_an_absorbed_visitor_is_gone_and_its_identifiers_lead_on(connection: redis.Redis) -> None:
    # given two visitors of one person
    life = Life(connection)
    life.live("event=click&click_id=c1")
    life.live("event=click&tag_id=t1")
    assert connection.hlen(PLACE.visitors) == 2
    # when a hit brings both identifiers
    life.live("event=registration&click_id=c1&tag_id=t1&uid=u1")
    # then one is left, and every identifier leads to it
    left: Any = connection.hkeys(PLACE.visitors)
    owners: Any = connection.hgetall(PLACE.owners)
    assert len(left) == 1 and set(owners.values()) == set(left) and len(owners) == 3


def test_a_recording_is_a_state_that_remembers_its_writes() -> None:
    # given a plain state and a recording
    plain, recording = State(), Recording()
    # when the same is written to both: a visitor that is put, dropped, and put again, and one that is only dropped
    for state in (plain, recording):
        state.put_visitor(Visitor("a"))
        state.put_visitor(Visitor("b"))
        state.drop_visitor("a")
        state.drop_visitor("b")
        state.put_visitor(Visitor("a", uid="u"))
        state.put_owner("k", "a")
        state.put_txid("t", 5)
        state.put_cap("c", 2)
    # then both hold the same
    assert (plain.visitors, plain.owners, plain.txids, plain.caps) == (
        recording.visitors, recording.owners, recording.txids, recording.caps,
    )  # fmt: skip
    # and the recording knows what a commit has to write: no visitor both kept and dropped
    assert (recording.touched, recording.dropped) == ({"a"}, {"b"})
    assert (recording.new_owners, recording.new_txids, recording.new_caps) == ({"k": "a"}, {"t": 5}, {"c": 2})
