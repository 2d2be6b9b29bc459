"""The connection for appends: answers in the order of the questions, an error is an answer, what is lost is opened anew."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
import redis
import redis.asyncio as aioredis
import uvloop

from service.intake.wire import Wire
from service.servers import checked_client
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


@contextlib.contextmanager
def reset_at_random() -> Iterator[str]:
    """The address of a server that resets each connection within two milliseconds."""
    chance = random.Random(1)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    until_s = time.perf_counter() + chance.random() * 0.002
                    while time.perf_counter() < until_s:
                        pass
                    near.close()

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join(5)


def test_a_connection_that_is_reset_at_any_moment_is_lost_and_nothing_worse() -> None:
    async def body(url: str) -> Counter[bool]:
        connection = checked_client(url, 1.0, 4)
        wire, kinds = Wire(connection, 1.0), Counter[bool]()
        for _ in range(700):
            try:
                await wire.call([("ECHO", "a")])
            except Exception as error:
                kinds[isinstance(error, (TimeoutError, redis.ConnectionError, OSError))] += 1
        await connection.aclose()
        return kinds

    # when the loop of the web process, which knows an error of its own, connects to a server that ends every connection
    with reset_at_random() as url:
        # then it is always one of those that send hits to the spool
        assert uvloop.run(body(url)) == {True: 700}


def test_a_connection_that_was_lost_while_it_was_opened_is_lost_too(settings: Settings, journal: redis.Redis) -> None:
    async def body() -> None:
        client = aioredis.Redis.from_url(settings.journal_url)
        wire = Wire(client, 5.0)
        number = (await wire.call([("CLIENT", "ID")]))[0]
        # given a connection that the loop has closed, of which its owner was not told
        answers = wire._answers
        assert answers is not None
        wire.close()
        for _ in range(5):
            await asyncio.sleep(0)
        answers.lost = False
        # then who writes on it hears that it is lost, and the next call opens another
        with pytest.raises(redis.ConnectionError):
            await wire.call([("ECHO", "a")])
        assert (await wire.call([("CLIENT", "ID")]))[0] != number
        wire.close()
        await client.aclose()

    uvloop.run(body())
