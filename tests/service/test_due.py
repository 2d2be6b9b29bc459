"""The due index on a real Redis: taking, settling, leases that run out, and what is put back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest
import redis
import redis.asyncio as aioredis

from service import keys
from service.archive.schemas import Attempt
from service.delivery.due import DueIndex, Taken
from service.engine.model import Outcome, Postback
from service.scripts import Script
from service.settings import Settings
from service.tracking.store import Recording, commit_args, commit_keys

_T = TypeVar("_T")

PLACES = keys.partitions(16)
PLACE = PLACES[3]
NOW_US = 1_600_000_000_000_000  # long ago, so that a courier with a real clock finds everything due
LEASE_US = 20_000_000


def promise(
    journal: redis.Redis,
    *urls: str,
    recipient: str = "affiliate:bestodds",
    start: int = 1,
    time_us: int = NOW_US,
    body: str = "",
) -> list[Postback]:
    """Promise postbacks in PLACE as tracking does, through its own commit script. Ids are pb1, pb2, ..."""
    postbacks = tuple(
        Postback(f"pb{n}", f"hit{n}", n, time_us, "acme", "bestodds", "signup", "registration", recipient, "webhook",
                 "due", "POST" if body else "GET", url, body)
        for n, url in enumerate(urls, start)
    )  # fmt: skip
    put(journal, *postbacks)
    return list(postbacks)


def put(journal: redis.Redis, *postbacks: Postback) -> None:
    """Promise these postbacks in PLACE as tracking does."""
    outcome = Outcome("hit", 1, NOW_US, "accepted", client="acme", event="registration", postbacks=postbacks)
    tracked: Any = journal.hget(PLACE.tracked, "seq")
    before = int(tracked or 0)
    journal.set(PLACE.fence, 1)
    args = [
        1,
        2_000,
        before,
        1,
        before + 1,
        "",
        max([NOW_US, *(postback.time_us for postback in postbacks)]),
        *commit_args(Recording(), [(1, with_seq(outcome, before + 1))]),
    ]
    Script(journal, "tracking/commit")(commit_keys(PLACE), args)


def with_seq(outcome: Outcome, seq: int) -> Outcome:
    return msgspec.structs.replace(outcome, seq=seq)


def attempt(taken: Taken, state: str, number: int = 1, next_due_us: int = 0, result: str = "") -> Attempt:
    postback = taken.postback
    result = result or {"due": "server_error", "delivered": "delivered"}.get(state, "refused")
    return Attempt(
        postback.id, number, NOW_US, postback.recipient, "GET", postback.url, "", {}, result, 0, "", "", 10, state,
        next_due_us,
    )  # fmt: skip


def attempts_of(journal: redis.Redis) -> list[Attempt]:
    """All recorded attempts, in the order of the stream; their numbers must be contiguous."""
    found: Any = journal.xrange(PLACE.attempts)
    assert [item_id.decode() for item_id, _ in found] == [f"1-{n}" for n in range(1, len(found) + 1)]
    return [msgspec.msgpack.decode(fields[b"a"], type=Attempt) for _, fields in found]


def leftovers(journal: redis.Redis) -> list[int]:
    """How much is left in due, promises, tries, inflight."""
    left: list[Any] = [
        journal.zcard(PLACE.due), journal.hlen(PLACE.promises), journal.hlen(PLACE.tries), journal.hlen(PLACE.inflight),
    ]  # fmt: skip
    return left


def with_index(settings: Settings, work: Callable[[DueIndex], Awaitable[_T]]) -> _T:
    """Run something on a due index of its own connection."""

    async def main() -> _T:
        connection: aioredis.Redis = aioredis.Redis.from_url(settings.journal_url, protocol=2)
        try:
            return await work(DueIndex(connection, PLACES))
        finally:
            await connection.aclose()

    return asyncio.run(main())


def take(settings: Settings, now_us: int, limit: int = 100) -> list[Taken]:
    return with_index(settings, lambda index: index.take(now_us, LEASE_US, limit))


def settle(settings: Settings, *done: tuple[Taken, Sequence[Attempt]]) -> None:
    with_index(settings, lambda index: index.settle(done, NOW_US))


def test_what_is_due_is_taken_once_and_what_is_not_due_is_not(settings: Settings, journal: redis.Redis) -> None:
    # given a promise that is due from the moment of its firing
    [postback] = promise(journal, "http://x.example/1")
    # when it is asked for too early, in time, and again
    early, right, again = (take(settings, moment) for moment in (NOW_US - 1, NOW_US, NOW_US + 1))
    # then it was handed out once, with everything that is needed to deliver it
    assert (early, again) == ([], [])
    [taken] = right
    assert (taken.place.number, taken.postback, taken.tries, taken.lost) == (PLACE.number, postback, 0, False)


def test_taking_writes_nothing_where_nothing_is_due(settings: Settings, journal: redis.Redis) -> None:
    promise(journal, "http://x.example/1")
    before: Any = journal.info("persistence")
    take(settings, NOW_US - 1)
    after: Any = journal.info("persistence")
    assert after["rdb_changes_since_last_save"] == before["rdb_changes_since_last_save"]


def test_delivered_leaves_nothing_behind_but_its_attempt(settings: Settings, journal: redis.Redis) -> None:
    promise(journal, "http://x.example/1")
    [taken] = take(settings, NOW_US)
    settle(settings, (taken, [attempt(taken, "delivered")]))
    assert leftovers(journal) == [0, 0, 0, 0]
    assert [a.state for a in attempts_of(journal)] == ["delivered"]
    assert journal.hget(PLACE.head, "attempts") == b"1"


def test_a_retry_comes_at_its_time_with_the_count_of_tries(settings: Settings, journal: redis.Redis) -> None:
    # given a try that failed and is to be repeated in five seconds
    promise(journal, "http://x.example/1")
    [taken] = take(settings, NOW_US)
    settle(settings, (taken, [attempt(taken, "due", next_due_us=NOW_US + 5_000_000)]))
    # then it is not handed out before, and knows of its first try
    assert take(settings, NOW_US + 4_999_999) == []
    [again] = take(settings, NOW_US + 5_000_000)
    assert (again.tries, again.lost) == (1, False)


def test_given_up_is_kept_with_its_promise(settings: Settings, journal: redis.Redis) -> None:
    for state in ("failed", "dead"):
        [postback] = promise(journal, "http://x.example/1", start=1 if state == "failed" else 2)
        [taken] = take(settings, NOW_US)
        settle(settings, (taken, [attempt(taken, state)]))
        assert journal.zscore(PLACE.dead, postback.id) == NOW_US
        assert journal.hexists(PLACE.promises, postback.id)
        assert take(settings, NOW_US + 10 * LEASE_US) == []
    assert leftovers(journal) == [0, 2, 0, 0]


def test_a_lease_that_runs_out_brings_the_postback_back_as_lost(settings: Settings, journal: redis.Redis) -> None:
    # given a delivery that never settles
    promise(journal, "http://x.example/1")
    [first] = take(settings, NOW_US)
    # when its lease is over
    assert take(settings, NOW_US + LEASE_US - 1) == []
    [second] = take(settings, NOW_US + LEASE_US)
    # then somebody else gets it and is told
    assert (second.lost, second.tries) == (True, 0)
    assert second.token != first.token
    # and settles it, the lost try with it
    lost = attempt(second, "due", result="unknown")
    settle(settings, (second, [lost, attempt(second, "delivered", number=2)]))
    assert [(a.number, a.result, a.state) for a in attempts_of(journal)] == [
        (1, "unknown", "due"), (2, "delivered", "delivered"),
    ]  # fmt: skip
    assert leftovers(journal) == [0, 0, 0, 0]


def test_who_comes_too_late_adds_his_try_and_changes_nothing(settings: Settings, journal: redis.Redis) -> None:
    # given a delivery whose lease went to another, who wants to repeat it later
    promise(journal, "http://x.example/1")
    [late] = take(settings, NOW_US)
    [holder] = take(settings, NOW_US + LEASE_US)
    # when the late one settles before and after the holder
    settle(settings, (late, [attempt(late, "failed")]))
    assert journal.hexists(PLACE.inflight, "pb1")
    tries = [attempt(holder, "due", result="unknown"), attempt(holder, "due", number=2, next_due_us=NOW_US + 9)]
    settle(settings, (holder, tries))
    settle(settings, (late, [attempt(late, "delivered")]))
    # then the holder's word stands, and every try is recorded with the state that the postback really has
    found = attempts_of(journal)
    assert [a.state for a in found] == ["due"] * 4
    assert [a.result for a in found] == ["refused", "unknown", "server_error", "delivered"]
    assert journal.zscore(PLACE.due, "pb1") == NOW_US + 9
    assert leftovers(journal) == [1, 1, 1, 0] and journal.zcard(PLACE.dead) == 0
    # and no number is there twice, nor does a late try cost a rung of the ladder
    assert sorted(a.number for a in found) == [1, 2, 3, 4]
    [again] = take(settings, NOW_US + 9)
    assert (again.number, again.number - again.base) == (5, 3)


@pytest.mark.parametrize("state", ["delivered", "failed", "dead"])
def test_a_try_that_ends_after_the_postback_has_a_number_of_its_own(
    settings: Settings, journal: redis.Redis, state: str
) -> None:
    # given a postback that another settled for good while our call was under way
    promise(journal, "http://x.example/1")
    [late] = take(settings, NOW_US)
    [holder] = take(settings, NOW_US + LEASE_US)
    settle(settings, (holder, [attempt(holder, "due", result="unknown"), attempt(holder, state, number=2)]))
    before = leftovers(journal)
    # when two such calls end at last
    settle(settings, (late, [attempt(late, "delivered")]))
    settle(settings, (late, [attempt(late, "due")]))
    # then they are recorded behind the others, and the postback is what it was
    assert [(a.number, a.state) for a in attempts_of(journal)] == [(1, "due"), (2, state), (3, state), (4, state)]
    assert leftovers(journal) == before


def test_every_one_of_several_couriers_that_died_in_turn_is_told_of(settings: Settings, journal: redis.Redis) -> None:
    # given three couriers that took a postback and were killed
    promise(journal, "http://x.example/1")
    for turn in range(3):
        take(settings, NOW_US + turn * LEASE_US)
    # when a fourth takes it
    [taken] = take(settings, NOW_US + 3 * LEASE_US)
    # then it knows the numbers of all of them, and has its own
    assert (taken.first, taken.number, taken.tries, taken.lost) == (1, 4, 0, True)


def test_any_number_may_take_and_none_gets_what_another_has(settings: Settings, journal: redis.Redis) -> None:
    # given 200 promises
    promise(journal, *(f"http://x.example/{n}" for n in range(200)))

    async def taker() -> list[str]:
        connection: aioredis.Redis = aioredis.Redis.from_url(settings.journal_url, protocol=2)
        index = DueIndex(connection, PLACES)
        mine: list[str] = []
        while found := await index.take(NOW_US, LEASE_US, 7):
            mine += [taken.postback.id for taken in found]
        await connection.aclose()
        return mine

    async def main() -> list[list[str]]:
        return await asyncio.gather(*(taker() for _ in range(4)))

    # when four take at the same time
    shares = asyncio.run(main())
    # then each promise went to exactly one of them
    assert sorted(identity for share in shares for identity in share) == sorted(f"pb{n}" for n in range(1, 201))
    assert sum(bool(share) for share in shares) > 1


def put_in_room(settings: Settings, *taken: Taken) -> None:
    with_index(settings, lambda index: index.put_in_room(taken))


async def _drawn(index: DueIndex, recipient: str, limit: int, now_us: int = NOW_US) -> list[Taken]:
    return await index.draw(await index.look_into_rooms({recipient: limit}, now_us), LEASE_US)


def draw(settings: Settings, recipient: str = "affiliate:bestodds", limit: int = 9) -> list[Taken]:
    return with_index(settings, lambda index: _drawn(index, recipient, limit))


def test_what_waits_in_a_room_counts_no_try_and_is_out_of_the_index(settings: Settings, journal: redis.Redis) -> None:
    # given three that were taken and put into the room untried
    promise(journal, *(f"http://x.example/{n}" for n in range(3)))
    put_in_room(settings, *take(settings, NOW_US))
    # then the index does not know them, whatever the time
    assert leftovers(journal) == [0, 3, 0, 0] and take(settings, NOW_US + 10 * LEASE_US) == []
    # and they come out as if nothing had been, each once, and the room is gone
    first, rest, nothing = draw(settings, limit=2), draw(settings), draw(settings)
    assert (len(first), len(rest), nothing) == (2, 1, [])
    assert {(one.number, one.lost) for one in (*first, *rest)} == {(1, False)} and attempts_of(journal) == []
    assert not journal.exists(keys.ROOMS, keys.room("affiliate:bestodds"))


def test_a_lost_one_that_waits_in_a_room_is_still_lost(settings: Settings, journal: redis.Redis) -> None:
    # given a delivery that never settled, taken by somebody who has no room for it
    promise(journal, "http://x.example/1")
    take(settings, NOW_US)
    put_in_room(settings, *take(settings, NOW_US + LEASE_US))
    # then the next one still learns that a try has an unknown end
    [again] = draw(settings)
    assert (again.tries, again.number, again.lost) == (0, 2, True)


def test_who_lost_the_lease_can_put_nothing_away(settings: Settings, journal: redis.Redis) -> None:
    promise(journal, "http://x.example/1")
    [late] = take(settings, NOW_US)
    [holder] = take(settings, NOW_US + LEASE_US)
    put_in_room(settings, late)
    assert journal.hget(PLACE.inflight, "pb1") == holder.token.encode()
    assert journal.zscore(PLACE.due, "pb1") == NOW_US + 2 * LEASE_US and not journal.exists(keys.ROOMS)


def test_the_clock_of_redis_says_what_is_due(settings: Settings, journal: redis.Redis) -> None:
    # given one that is due by now and one that is due in an hour
    promise(journal, "http://x.example/1")
    later_us = time.time_ns() // 1000 + 3_600_000_000
    promise(journal, "http://x.example/2", start=2, time_us=later_us)
    # when it is asked without a time
    [taken] = with_index(settings, lambda index: index.take(None, LEASE_US, 9))
    # then Redis has decided, and the lease ends by its clock too
    seconds, micros = journal.time()
    now_us = seconds * 1_000_000 + micros
    score: Any = journal.zscore(PLACE.due, "pb1")
    assert taken.postback.id == "pb1" and now_us + LEASE_US - 5_000_000 < score <= now_us + LEASE_US


def test_the_newest_are_not_kept_waiting_by_a_backlog(settings: Settings, journal: redis.Redis) -> None:
    # given a backlog of a thousand and one new postback in the same partition
    promise(journal, *(f"http://x.example/{n}" for n in range(1000)))
    promise(journal, "http://x.example/new", start=5000, time_us=NOW_US + 1)
    # when a few are taken
    taken = [one.postback.id for one in take(settings, NOW_US + 1, 8)]
    # then the new one is among them, and so are the oldest
    assert len(taken) == 8 and taken[0] == "pb5000" and "pb1" in taken


def test_new_ones_are_taken_before_a_backlog_that_gets_no_more_than_it_is_allowed(
    settings: Settings, journal: redis.Redis
) -> None:
    # given four hundred retries, some of them due later than twenty new ones, and a first try of yesterday
    promise(journal, *(f"http://x.example/{n}" for n in range(400)), start=100)
    retries = {f"pb{100 + n}": NOW_US - (300 - n) * 10_000 for n in range(400)}
    tried = take(settings, NOW_US, 400)
    settle(settings, *((one, [attempt(one, "due", next_due_us=retries[one.postback.id])]) for one in tried))
    promise(journal, *(f"http://x.example/{n}" for n in range(20)), start=5000, time_us=NOW_US)
    promise(journal, "http://x.example/yesterday", start=9000, time_us=NOW_US - 86_400_000_000)
    # when sixteen of the backlog are allowed
    now_us = NOW_US + 1_000_000
    first = with_index(settings, lambda index: index.exchange((), now_us, LEASE_US, 64, 16))
    # then all new ones are taken, and of the backlog as many, the oldest first
    new = [one.postback.id for one in first if one.new(now_us)]
    old = [one.postback.id for one in first if not one.new(now_us)]
    assert sorted(new) == sorted(f"pb{5000 + n}" for n in range(20))
    assert old == ["pb9000", *(f"pb{100 + n}" for n in range(15))]
    # and if there is one place only, the backlog is not starved by new ones
    promise(journal, "http://x.example/new", start=6000, time_us=now_us)
    [one] = with_index(settings, lambda index: index.exchange((), now_us, LEASE_US, 1, 16))
    assert one.postback.id == "pb115"
    [one] = with_index(settings, lambda index: index.exchange((), now_us, LEASE_US, 1, 0))
    assert one.postback.id == "pb6000"


def test_out_of_a_room_come_the_newest_and_the_oldest_in_turns(settings: Settings, journal: redis.Redis) -> None:
    # given a room with a long backlog and three new ones
    now_us = NOW_US + 86_400_000_000
    promise(journal, *(f"http://x.example/{n}" for n in range(50)), start=100)
    promise(journal, *(f"http://x.example/{n}" for n in range(3)), start=5000, time_us=now_us)
    put_in_room(settings, *take(settings, now_us))

    async def work(index: DueIndex) -> list[list[str]]:
        return [
            [one.postback.id for one in await _drawn(index, "affiliate:bestodds", most, now_us)]
            for most in (4, 1, 1, 4)
        ]

    # when some are drawn
    four, one, other, rest = with_index(settings, work)
    # then neither waits for the other, even if they are drawn one by one
    assert sorted(four) == ["pb100", "pb101", "pb5001", "pb5002"]
    assert [one, other] == [["pb102"], ["pb5000"]] and len(rest) == 4


def test_the_earliest_due_time_is_known(settings: Settings, journal: redis.Redis) -> None:
    assert with_index(settings, lambda index: index.next_due_us()) is None
    promise(journal, "http://x.example/1")
    assert with_index(settings, lambda index: index.next_due_us()) == NOW_US


def test_at_most_so_many_are_taken_per_partition(settings: Settings, journal: redis.Redis) -> None:
    promise(journal, *(f"http://x.example/{n}" for n in range(10)))
    assert [len(take(settings, NOW_US, 4)) for _ in range(4)] == [4, 4, 2, 0]
