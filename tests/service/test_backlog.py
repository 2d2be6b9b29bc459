"""How far everything is behind, while it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import redis

from service import keys
from service.backlog import backlog
from service.settings import Settings
from tests.service.hits import a_hit
from tests.service.partitions import store
from tests.service.test_due import PLACE, promise

A = "affiliate:a"


def looking(settings: Settings, before_each: Callable[[], object]) -> redis.Redis:
    """A connection on which something happens before each of its round trips."""

    class Busy(redis.Connection):
        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            before_each()
            super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    pool = redis.ConnectionPool.from_url(settings.journal_url, connection_class=Busy, protocol=2)
    return redis.Redis(connection_pool=pool)


def test_what_moves_into_a_room_meanwhile_is_counted_once(settings: Settings, journal: redis.Redis) -> None:
    # given postbacks that go into their recipient's room, one before each question of whoever looks
    waiting = [one.id for one in promise(journal, *["http://127.0.0.1:9/x"] * 20, recipient=A)]

    def move_one() -> None:
        moved = waiting.pop()
        pipeline = journal.pipeline(transaction=True)
        pipeline.zrem(PLACE.due, moved)
        pipeline.zadd(keys.room(A), {f"{PLACE.number}/{moved}": 1.0})
        pipeline.sadd(keys.ROOMS, A)
        pipeline.execute()

    with looking(settings, move_one) as connection:
        # then however often somebody looks, there are as many as there are
        assert [backlog(connection, settings.partitions).to_deliver for _ in range(3)] == [20, 20, 20]
    assert journal.zcard(keys.room(A)) >= 3


def test_notices_to_the_operator_are_nobodys_postbacks(settings: Settings, journal: redis.Redis) -> None:
    # given a notice that is due, and one that waits in the operator's room
    journal.zadd(keys.OPERATOR.due, {"n1": 1.0})
    journal.zadd(keys.room(keys.OPERATOR_NAME), {f"{keys.OPERATOR.number}/n2": 1.0})
    journal.sadd(keys.ROOMS, keys.OPERATOR_NAME)
    # then neither is counted
    assert backlog(journal, settings.partitions).to_deliver == 0


def test_what_one_partition_has_to_decide_is_not_hidden_by_another(settings: Settings, journal: redis.Redis) -> None:
    # given a partition with two entries, and one that is decided further than it is logged, which nobody should ever see
    store(journal, 5, [a_hit("client=acme&event=click"), a_hit("client=acme&event=click")])
    promise(journal, "http://127.0.0.1:9/x")
    # then the two are to be decided
    look = backlog(journal, settings.partitions)
    assert (look.to_decide, look.logged) == (2, 2)
    assert not msgspec.structs.replace(look, to_deliver=0, to_archive=0).nothing_left
