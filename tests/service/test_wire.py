"""The connection for appends: answers in the order of the questions, an error is an answer, what is lost is opened anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis
import redis.asyncio as aioredis

from service.intake.wire import Wire
from service.settings import Settings

Test = Callable[[Wire, aioredis.Redis], Awaitable[None]]


def run(settings: Settings, body: Test, timeout_s: float = 20.0) -> None:
    """Run a test's body on a connection."""

    async def go() -> None:
        client = aioredis.Redis.from_url(settings.journal_url)
        wire = Wire(client, timeout_s)
        try:
            await asyncio.wait_for(body(wire, client), 30)
        finally:
            wire.close()
            await client.aclose()

    asyncio.run(go())


def test_each_of_many_askers_gets_its_own_answers(settings: Settings, journal: redis.Redis) -> None:
    async def body(wire: Wire, client: aioredis.Redis) -> None:
        # when fifty ask at once, each for another number of answers
        asked = [wire.call([("ECHO", f"{n}-{k}") for k in range(n % 5)]) for n in range(1, 50) if n % 5]
        found = await asyncio.gather(*asked)
        # then nobody has another's
        wanted = [[f"{n}-{k}".encode() for k in range(n % 5)] for n in range(1, 50) if n % 5]
        assert found == wanted

    run(settings, body)


def test_an_error_of_one_command_is_its_answer(settings: Settings, journal: redis.Redis) -> None:
    async def body(wire: Wire, client: aioredis.Redis) -> None:
        # when one of three commands is wrong
        first, second, third = await wire.call([("ECHO", "a"), ("EVALSHA", "0" * 40, 0), ("ECHO", "c")])
        # then the others are answered, and the error is of the library's own kind
        assert (first, third) == (b"a", b"c")
        assert isinstance(second, redis.exceptions.NoScriptError)

    run(settings, body)


def test_a_connection_that_is_lost_is_an_error_and_the_next_call_opens_another(
    settings: Settings, journal: redis.Redis
) -> None:
    async def body(wire: Wire, client: aioredis.Redis) -> None:
        # given a connection that somebody ends while its answer is awaited
        number = (await wire.call([("CLIENT", "ID")]))[0]
        waiting = asyncio.create_task(wire.call([("BLPOP", "nothing-is-ever-here", 20)]))
        await client.client_kill_filter(_id=str(number))
        # then whoever waits hears of it
        with pytest.raises((redis.ConnectionError, OSError)):
            await waiting
        # and the next call goes over another one
        assert (await wire.call([("CLIENT", "ID")]))[0] != number

    run(settings, body)


def test_an_answer_that_comes_too_late_is_nobodys(settings: Settings, journal: redis.Redis) -> None:
    async def body(wire: Wire, client: aioredis.Redis) -> None:
        # given a call that was given up
        with pytest.raises(TimeoutError):
            await wire.call([("BLPOP", "nothing-is-ever-here", 1)])
        # then the next one gets its own answer
        assert await wire.call([("ECHO", "mine")]) == [b"mine"]

    run(settings, body, timeout_s=0.2)
