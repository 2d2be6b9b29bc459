"""The courier: takes what is due, calls many recipients at once, records every try. One event loop per worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import redis.asyncio as aioredis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service import keys
from service.archive.schemas import Attempt
from service.delivery.due import DueIndex, Taken
from service.delivery.signing import SecretError, read_secrets
from service.delivery.webhook import Answer, Caller, Request, attempt_of, prepare
from service.engine import EMPTY, Postback, Rulebook
from service.rulebooks import compiled
from service.settings import Settings

log = logging.getLogger("backtrack.delivery")

LEASE_MARGIN_MS = 5_000
WAIT_MS = 200
PUT_BACK_MS = 250  # until a postback is looked at again whose recipient has enough calls under way
PUT_BACK_APART_US = 1_000  # so that a long backlog of one recipient costs a bounded part of every second
FOLLOW_EVERY_S = 1.0


class Courier:
    """Delivers until it is told to stop. stopping: asked between rounds."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._stopping = stopping
        self._places = keys.partitions(settings.partitions)
        self._redis: aioredis.Redis = aioredis.Redis.from_url(
            settings.journal_url, socket_timeout=30, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0), protocol=2
        )
        self._due = DueIndex(self._redis, self._places)
        self._caller = Caller(settings.delivery_timeout_ms, settings.allowed_networks)
        self._lease_us = (settings.delivery_timeout_ms + LEASE_MARGIN_MS) * 1000
        self._busy: Counter[str] = Counter()
        self._back_until_us: dict[str, int] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._done: list[tuple[Taken, list[Attempt]]] = []
        self._settled = asyncio.Event()
        self._seen: dict[str, str] = {}
        self._watch: asyncio.Task[None] | None = None
        self._rulebook: Rulebook = EMPTY
        self._followed_s = 0.0

    async def run(self, seconds: float) -> None:
        """Deliver for a while, then settle what is under way."""
        deadline = time.monotonic() + seconds
        # threads enough that names which nobody answers for do not keep others waiting
        names = ThreadPoolExecutor(self._settings.delivery_concurrency, "names")
        asyncio.get_running_loop().set_default_executor(names)
        try:
            await self._look_where_streams_end()
            while time.monotonic() < deadline and not self._stopping():
                await self._follow()
                await self._round()
        finally:
            await self._end()

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running)
        try:
            await self._flush()
        finally:
            await self._caller.close()
            await self._redis.aclose()

    async def _round(self) -> None:
        free = self._settings.delivery_concurrency - len(self._running)
        taken = await self._due.take(_now_us(), self._lease_us, max(1, free // 4)) if free > 0 else []
        back = [(one, self._later_us(one)) for one in taken if not self._start(one)]
        if back:
            await self._due.put_back(back)
        await self._flush()
        if taken:
            await self._wait_for_an_answer(1)
        else:
            await self._wait(WAIT_MS)

    def _start(self, taken: Taken) -> bool:
        """Begin a delivery, unless its recipient has enough calls under way."""
        recipient = taken.postback.recipient
        if self._busy[recipient] >= self._settings.recipient_concurrency:
            return False
        self._busy[recipient] += 1
        task = asyncio.create_task(self._deliver(taken))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    def _later_us(self, taken: Taken) -> int:
        """When to look again at a postback of a busy recipient: one after the other."""
        recipient = taken.postback.recipient
        due_us = max(_now_us() + PUT_BACK_MS * 1000, self._back_until_us.get(recipient, 0) + PUT_BACK_APART_US)
        self._back_until_us[recipient] = due_us
        return due_us

    async def _deliver(self, taken: Taken) -> None:
        """One delivery; first the record of an earlier one that never settled."""
        attempts = [_lost(taken, _now_us())] if taken.lost else []
        if not attempts or attempts[0].state != "dead":
            attempts.append(await self._try(taken.postback, taken.tries + len(attempts) + 1))
        self._busy[taken.postback.recipient] -= 1
        self._done.append((taken, attempts))
        self._settled.set()

    async def _try(self, postback: Postback, number: int) -> Attempt:
        started_us = _now_us()
        request = prepare(postback, [], started_us // 1_000_000)
        try:
            request = prepare(postback, self._secrets(postback.recipient), started_us // 1_000_000)
            answer = await self._caller.call(request)
        except SecretError as error:
            answer = Answer("no_secret", error=str(error))
        except Exception as bug:
            log.exception("postback %s", postback.id)
            answer = Answer("connection", error=f"{type(bug).__name__}: {bug}")
        return attempt_of(postback, request, answer, number, started_us, _now_us() - started_us)

    async def _flush(self) -> None:
        """Record what has been answered since the last time, in one round trip."""
        if self._done:
            done, self._done = self._done, []
            await self._due.settle(done, _now_us())
            _report(done)

    async def _wait_for_an_answer(self, milliseconds: int) -> None:
        self._settled.clear()
        if not self._done:
            try:
                await asyncio.wait_for(self._settled.wait(), milliseconds / 1000)
            except TimeoutError:
                pass

    async def _wait(self, milliseconds: int) -> None:
        """Wait for an answer, a new postback or the next one that is due, whichever comes first."""
        next_us = None if self._running else await self._due.next_due_us()
        left_ms = milliseconds if next_us is None else min(milliseconds, (next_us - _now_us()) // 1000)
        if left_ms <= 0 or self._done:
            return
        if self._watch is None:
            self._watch = asyncio.create_task(self._new_postbacks())
        answered = asyncio.create_task(self._wait_for_an_answer(left_ms))
        await asyncio.wait({self._watch, answered}, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()
        if self._watch.done():
            watch, self._watch = self._watch, None
            watch.result()

    async def _new_postbacks(self) -> None:
        """Wait for new postbacks in any partition."""
        found: Any = await self._redis.xread(dict(self._seen), count=1_000, block=WAIT_MS)  # type: ignore[arg-type]
        for stream, items in found.items() if isinstance(found, dict) else found:
            self._seen[stream.decode()] = items[-1][0].decode()

    async def _look_where_streams_end(self) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for place in self._places:
            pipeline.hget(place.head, "postbacks")
        for place, last in zip(self._places, await pipeline.execute(), strict=True):
            self._seen[place.postbacks] = f"1-{int(last or 0)}"

    async def _follow(self) -> None:
        """Know the rulebook in force: the recipients' secrets are named there."""
        if time.monotonic() - self._followed_s < FOLLOW_EVERY_S:
            return
        self._followed_s = time.monotonic()
        found: Any = await self._redis.get(keys.RULEBOOK)
        if found and found.decode() != self._rulebook.id:
            self._rulebook = compiled(await self._redis.hget(keys.RULEBOOKS, found.decode()))

    def _secrets(self, recipient: str) -> list[bytes]:
        role, _, name = recipient.partition(":")
        owner = (self._rulebook.clients if role == "client" else self._rulebook.affiliates).get(name)
        return read_secrets(owner.secret, os.environ) if owner is not None and owner.secret else []


def _lost(taken: Taken, now_us: int) -> Attempt:
    """The record of a delivery that never settled: whether it arrived is unknown. The next try, if any, is made now."""
    postback = taken.postback
    answer = Answer("unknown", error="the delivering process ended before it could tell")
    request = Request(postback.verb, postback.url, {"webhook-id": postback.id}, postback.body)
    attempt = attempt_of(postback, request, answer, taken.tries + 1, now_us, 0)
    return attempt if attempt.state == "dead" else msgspec.structs.replace(attempt, next_due_us=now_us)


def _report(done: list[tuple[Taken, list[Attempt]]]) -> None:
    for taken, attempts in done:
        last = attempts[-1]
        if last.result != "delivered":
            log.warning(
                "postback %s to %s: try %d %s %s %s, now %s",
                taken.postback.id, last.recipient, last.number, last.result, last.status or "", last.error, last.state,
            )  # fmt: skip


def _now_us() -> int:
    return time.time_ns() // 1000
