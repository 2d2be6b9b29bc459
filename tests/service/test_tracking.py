"""Tracking: what is decided live is what the engine decides over the same log, whoever crashes, sleeps or comes between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis

from service import keys
from service.engine import Rulebook, load
from service.engine.partition import partition_of
from service.rulebooks import Shelf
from service.scripts import Script
from service.servers import check_journal, client
from service.settings import Settings
from service.tracking.tracker import FencedError
from service.worker import forgotten
from tests.service.hits import a_hit, logged
from tests.service.ownserver import CuttingProxy
from tests.service.partitions import (
    LATER_RULES,
    RULES,
    a_past,
    assert_as_replayed,
    contents,
    decided,
    promised,
    put_in_force,
    store,
    store_all,
    track_all,
    tracker,
    traffic,
)
from tests.waiting import until

ACME = partition_of("acme", 16)


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, settings.partitions)
    yield opened
    opened.close()


def acme_hits(count: int) -> list[Any]:
    """Clicks, registrations and sales of a few visitors of acme."""
    words = ("event=click&affiliate=best&sub1=x", "event=registration", "event=sale&amount=20&currency=EUR")
    return [a_hit(f"client=acme&uid=u{n % 5}&{words[n % 3]}") for n in range(count)]


def test_what_is_decided_live_is_what_the_engine_decides_over_the_same_log(settings: Settings) -> None:
    # given three days of traffic with everything that goes wrong
    connection = a_past(settings, traffic(1500))
    assert len(logged(connection, ACME)) > 300
    # when it is tracked
    track_all(connection, settings)
    # then decisions and postbacks are the engine's, in order, none missing and none twice
    assert assert_as_replayed(connection, settings) == 1500
    assert len(promised(connection, ACME)) > 50
    # and the due index holds exactly what is to be delivered
    for place in keys.partitions(settings.partitions):
        due = {postback.id for postback in promised(connection, place.number) if postback.state == "due"}
        waiting: Any = connection.zrange(place.due, 0, -1)
        kept: Any = connection.hkeys(place.promises)
        assert {member.decode() for member in waiting} == {field.decode() for field in kept} == due


@pytest.mark.parametrize(
    ("batch_hits", "batch_bytes"), [(1, 1_000_000), (7, 1_000_000), (256, 300), (256, 5_000), (100, 20_000)]
)
def test_batches_of_any_size_decide_the_same(settings: Settings, batch_hits: int, batch_bytes: int) -> None:
    # given a past that was tracked in large batches
    hits = traffic(500, seed=3)
    connection = a_past(settings, hits)
    track_all(connection, settings)
    passing = [key for place in keys.partitions(16) for key in (place.lease, place.fence, place.wake)]
    large = contents(connection, passing)
    # when the same past is tracked in batches of another size
    connection = a_past(settings, hits)
    track_all(connection, msgspec.structs.replace(settings, batch_hits=batch_hits, batch_bytes=batch_bytes))
    # then all that is left behind is the same: state, decisions, postbacks, counters
    assert contents(connection, passing) == large
    assert any(key.endswith(":caps") for key in large) and any(key.endswith(":txids") for key in large)


def test_a_commit_is_bounded_in_bytes(settings: Settings, connection: redis.Redis) -> None:
    # given forty hits of 50 kB each
    connection.hset(keys.RULEBOOKS, load(RULES).id, RULES)
    put_in_force(connection, RULES, 1)
    for _ in range(40):
        store(connection, ACME, [a_hit("client=acme&event=login", body=b"x" * 50_000)])
    connection.config_resetstat()
    # when they are tracked, at most 100 kB at a time
    assert tracker(connection, ACME, msgspec.structs.replace(settings, batch_bytes=100_500)).run() is False
    # then it took a commit per two of them
    calls: Any = connection.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] >= 20
    assert len(decided(connection, ACME)) == 40


def test_hits_are_decided_by_the_rulebook_that_was_in_force(settings: Settings, connection: redis.Redis) -> None:
    # given hits before any rulebook, between two, and after the second
    now = traffic(1)[0].received_at_us
    store(connection, ACME, acme_hits(6), writer="a")
    first = put_in_force(connection, RULES, now + 1)
    store_all(connection, acme_hits(6))
    second = put_in_force(connection, LATER_RULES, now + 2)
    store_all(connection, acme_hits(6))
    # when they are tracked
    track_all(connection, settings)
    # then each says which rulebook decided it, and before the first nobody is known
    outcomes = decided(connection, ACME)
    empty = outcomes[0].rulebook_id
    assert [outcome.rulebook_id for outcome in outcomes] == [empty] * 6 + [first] * 6 + [second] * 6
    assert {outcome.reason for outcome in outcomes[:6]} == {"unknown_client"}
    assert_as_replayed(connection, settings)


# whoever comes between


class SlowShelf(Shelf):
    """A shelf that lets its tracker sleep when it asks for a rulebook."""

    def __init__(self, connection: redis.Redis, rulebook_id: str) -> None:
        super().__init__(connection)
        self._slow = rulebook_id
        self.asleep, self.wake = threading.Event(), threading.Event()

    def get(self, rulebook_id: str) -> Rulebook:
        if rulebook_id == self._slow:
            self.asleep.set()
            assert self.wake.wait(20)
        return super().get(rulebook_id)


def test_a_tracker_that_slept_past_its_lease_writes_nothing(settings: Settings, connection: redis.Redis) -> None:
    # given a tracker that has read the journal and falls asleep
    quick = msgspec.structs.replace(settings, lease_ms=200)
    identity = put_in_force(connection, RULES, 1)
    store_all(connection, acme_hits(30))
    shelf = SlowShelf(connection, identity)
    ended: list[BaseException] = []

    def sleeper() -> None:
        try:
            tracker(client(settings.journal_url), ACME, quick, shelf).run()
        except FencedError as fenced:
            ended.append(fenced)

    thread = threading.Thread(target=sleeper)
    thread.start()
    assert shelf.asleep.wait(20)
    # when its lease runs out and another one takes over and does all the work
    until(lambda: not connection.exists(keys.Partition(ACME).lease), "the lease to end")
    track_all(connection, quick)
    before = contents(connection)
    # and it wakes up
    shelf.wake.set()
    thread.join(20)
    # then its commit is refused and nothing has changed
    assert len(ended) == 1 and "FENCED" in str(ended[0])
    assert contents(connection) == before
    assert_as_replayed(connection, settings)


def test_a_tracker_that_slept_while_it_lingered_notices(settings: Settings, connection: redis.Redis) -> None:
    # given a tracker that holds a partition
    place = keys.Partition(ACME)
    lazy = tracker(connection, ACME, settings)
    assert lazy._take()
    # when another one has taken it meanwhile
    connection.delete(place.lease)
    other = tracker(connection, ACME, settings)
    assert other._take()
    # then it does not take the lease back
    with pytest.raises(FencedError):
        lazy._renew()
    lazy._drop_lease()
    assert connection.get(place.lease) == b"2"


def test_a_partition_has_one_holder(settings: Settings, connection: redis.Redis) -> None:
    # given a partition with work that somebody holds
    store_all(connection, acme_hits(3))
    assert tracker(connection, ACME, settings)._take()
    # when another one comes
    other = tracker(connection, ACME, settings)
    # then it goes away without touching anything
    before = contents(connection, [keys.Partition(ACME).lease])
    assert other.run() is False
    assert contents(connection, [keys.Partition(ACME).lease]) == before


def test_a_partition_is_not_given_back_while_a_hit_waits(settings: Settings, connection: redis.Redis) -> None:
    place = keys.Partition(ACME)
    release = Script(connection, "tracking/release")
    names = [place.fence, place.lease, place.wake, place.head, place.tracked]
    # given an actor that has decided everything it has read
    store_all(connection, acme_hits(3))
    holder = tracker(connection, ACME, settings)
    assert holder._take()
    for entries in iter(lambda: holder._read(0), []):
        holder._decide(entries)
    # when a hit comes before it lets go
    store_all(connection, acme_hits(1))
    # then it keeps the partition, and the flag stays set, since nobody else was woken
    assert release(names, [holder._fence]) == 0
    assert connection.exists(place.lease, place.wake) == 2
    # and when that is decided too, then it lets go, and the next hit wakes somebody
    for entries in iter(lambda: holder._read(0), []):
        holder._decide(entries)
    assert release(names, [holder._fence]) == 1
    assert connection.exists(place.lease, place.wake) == 0


def test_an_actor_whose_lease_ran_out_unseen_still_sees_the_hit_that_waits(
    settings: Settings, connection: redis.Redis
) -> None:
    # given a holder whose lease has run out, with nobody else about
    holder = tracker(connection, ACME, settings)
    assert holder._take()
    connection.delete(keys.Partition(ACME).lease)
    # when a hit comes before it lets go, then it stays
    store_all(connection, acme_hits(1))
    assert holder._give_back() is False


# whoever crashes


def test_a_connection_that_breaks_at_any_answer_loses_and_doubles_nothing(settings: Settings) -> None:
    # given a past of several batches and two rulebooks, in few partitions
    hits = traffic(90, seed=5)
    few = msgspec.structs.replace(settings, partitions=2, batch_hits=20)
    acme = keys.Partition(partition_of("acme", 2))
    port = int(settings.journal_url.rpartition(":")[2].partition("/")[0])
    for answers in range(200):
        connection = a_past(few, hits)
        put_in_force(connection, LATER_RULES, hits[-1].received_at_us + 1, 2)
        store_all(connection, acme_hits(30), partitions=2)
        # when the connection breaks before this answer arrives, whatever the server has done
        proxy = CuttingProxy(port, answers)
        broken = client(proxy.url)
        try:
            tracker(broken, acme.number, few).run()
        except (redis.ConnectionError, OSError):
            pass
        finally:
            broken.close()
            proxy.close()
        # and somebody else goes on after the lease
        connection.delete(acme.lease)
        track_all(connection, few)
        # then the outcome is that of an undisturbed run
        assert assert_as_replayed(connection, few) == 120
        connection.close()
        if not proxy.cut:
            break
    # the last round was not disturbed any more, so every answer has had its turn
    assert answers > 25 and not proxy.cut


@pytest.mark.parametrize(
    "name",
    ["tracked", "head", "owners", "visitors", "txids", "caps", "counts", "decisions", "postbacks", "promises", "due"],
)
def test_a_key_of_the_wrong_type_stops_a_partition_before_anything_is_written(
    settings: Settings, connection: redis.Redis, name: str
) -> None:
    # given work, and a key that is not what it should be
    put_in_force(connection, RULES, 1)
    store_all(connection, acme_hits(30))
    place = keys.Partition(ACME)
    right = contents(connection).get(getattr(place, name))
    connection.delete(getattr(place, name))
    connection.set(getattr(place, name), "?")
    passing = (place.lease, place.fence, place.wake)
    before = contents(connection, passing)
    # when it is tracked
    with pytest.raises(redis.ResponseError):
        tracker(connection, ACME, settings).run()
    # then nothing was written at all, not even half
    assert contents(connection, passing) == before
    # and when it is put right, the work goes on
    connection.delete(getattr(place, name), place.lease)
    if right:
        connection.hset(place.head, mapping=right)
    track_all(connection, settings)
    assert_as_replayed(connection, settings)


def test_a_sum_that_no_counter_can_hold_stops_nobody(settings: Settings, connection: redis.Redis) -> None:
    # given sales whose payout is beyond any money, as any stranger may send them
    put_in_force(connection, RULES, 1)
    store_all(
        connection,
        [a_hit(f"client=acme&uid=u{n}&event=sale&affiliate=best&currency=EUR&amount={'9' * 18}") for n in range(20)],
    )
    # when they are tracked
    track_all(connection, settings)
    # then they are decided, and counted as what they are
    assert assert_as_replayed(connection, settings) == 20
    counts: Any = connection.hgetall(keys.Partition(ACME).counts)
    over = {field: int(n) for field, n in counts.items() if b"payout" in field}
    assert [(field.rpartition(b"\x1f")[2], n) for field, n in over.items()] == [(b"payout_over:EUR", 20)]


def test_a_counter_that_overflows_stays_and_stops_nobody(settings: Settings, connection: redis.Redis) -> None:
    # given a counter at its end
    put_in_force(connection, RULES, 1)
    store_all(connection, acme_hits(1))
    track_all(connection, settings)
    place = keys.Partition(ACME)
    counts: Any = connection.hgetall(place.counts)
    (field,) = [field for field in counts if field.endswith(b"accepted")]
    connection.hset(place.counts, field.decode(), str(2**63 - 1))
    # when one more comes
    store_all(connection, acme_hits(1))
    track_all(connection, settings)
    # then it is decided all the same
    assert assert_as_replayed(connection, settings) == 2


# what nobody was woken for


def test_forgotten_are_the_partitions_with_work_that_nobody_holds(settings: Settings, connection: redis.Redis) -> None:
    # given three partitions with hits, of which one is held and one decided
    for number in (2, 3, 4):
        store(connection, number, acme_hits(1))
    assert tracker(connection, 3, settings)._take()
    assert tracker(connection, 4, settings).run() is False
    # then the third is forgotten
    assert forgotten(connection, settings.partitions) == [2]
    # and after it was decided, nobody is
    tracker(connection, 2, settings).run()
    assert forgotten(connection, settings.partitions) == []
