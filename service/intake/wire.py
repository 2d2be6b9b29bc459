"""One connection to the journal for nothing but appends: commands in one write, their answers in one list.

The library opens the connection, with login, TLS and our checks; then its transport is ours. Its own way through pool,
pipeline and stream took 700 microseconds of processor time per append of three batches, this takes 180.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import redis.asyncio as aioredis
from hiredis import Reader, pack_command
from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

Command = tuple[bytes | str | int, ...]


class Wire:
    """Opens its connection at the first call, and again after it was lost. timeout_s: for one call."""

    def __init__(self, client: aioredis.Redis, timeout_s: float) -> None:
        self._pool: Any = client.connection_pool
        self._timeout_s = timeout_s
        self._answers: _Answers | None = None
        self._opening = asyncio.Lock()

    async def call(self, commands: list[Command]) -> list[Any]:
        """Send the commands; returns their answers in order, an error of one command is its answer.

        Raises TimeoutError, ConnectionError of the library or OSError; then nobody knows which commands have arrived.
        """
        answers = self._answers
        if answers is None or answers.lost:
            answers = await self._open()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await answers.ask(commands)
        except RuntimeError as error:  # uvloop's, for a connection that it has closed and not yet told us of
            answers.close()
            raise RedisConnectionError(f"the connection was lost: {error}") from error
        except BaseException:
            answers.close()  # an answer that comes late is nobody's
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._answers is not None:
            self._answers.close()

    async def _open(self) -> _Answers:
        async with self._opening:
            if self._answers is None or self._answers.lost:
                connection = self._pool.make_connection()
                await connection.connect()
                self._answers = _Answers(connection)
            return self._answers


class _Answers(asyncio.Protocol):
    """What comes back on one connection, handed to those who asked, in the order in which they asked."""

    def __init__(self, connection: Any) -> None:
        self.lost = False
        self._connection = connection
        self._transport: asyncio.Transport = connection._writer.transport
        self._transport.set_protocol(self)
        self._reader = Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error)
        self._waiting: deque[tuple[int, asyncio.Future[list[Any]]]] = deque()
        self._here: list[Any] = []

    def ask(self, commands: list[Command]) -> asyncio.Future[list[Any]]:
        """Send; the future has the answers."""
        found: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._transport.write(b"".join([pack_command(cast(Any, command)) for command in commands]))
        self._waiting.append((len(commands), found))
        return found

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        try:
            self._reader.feed(data)
            while self._waiting and (answer := self._reader.gets()) is not False:
                self._here.append(answer)
                if len(self._here) == self._waiting[0][0]:
                    _, found = self._waiting.popleft()
                    here, self._here = self._here, []
                    if not found.done():
                        found.set_result(here)
        except InvalidResponse as error:
            self._fail(error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing more will come."""
        self._fail(error or RedisConnectionError("the server closed the connection"))
        self._connection._close()

    def close(self) -> None:
        """Use it no more."""
        if not self.lost:
            self._fail(RedisConnectionError("the connection was closed"))
        self._transport.abort()
        self._connection._close()

    def _fail(self, error: Exception) -> None:
        self.lost = True
        while self._waiting:
            _, found = self._waiting.popleft()
            if not found.done():
                found.set_exception(error)
