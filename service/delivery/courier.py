"""The courier: takes what is due, calls many recipients at once, records every try. One event loop per worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service import keys
from service.archive.schemas import Attempt
from service.delivery.due import DueIndex, Taken
from service.delivery.signing import SecretError, read_secrets
from service.delivery.webhook import Answer, Caller, Request, attempt_of, prepare
from service.engine import EMPTY, Rulebook
from service.rulebooks import compiled
from service.settings import Settings

log = logging.getLogger("backtrack.delivery")

LEASE_MARGIN_MS = 5_000
WAIT_MS = 200
PUT_BACK_MS = 250
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
        self._running: set[asyncio.Task[None]] = set()
        self._done: list[tuple[Taken, list[Attempt]]] = []
        self._settled = asyncio.Event()
        self._seen: dict[str, str] = {}
        self._rulebook: Rulebook = EMPTY
        self._followed_s = 0.0

    async def run(self, seconds: float) -> None:
        """Deliver for a while, then settle what is under way."""
        deadline = time.monotonic() + seconds
        try:
            await self._look_where_streams_end()
            while time.monotonic() < deadline and not self._stopping():
                await self._follow()
                await self._round()
        finally:
            if self._running:
                await asyncio.wait(self._running)
            await self._flush()
            await self._caller.close()
            await self._redis.aclose()

    async def _round(self) -> None:
        free = self._settings.delivery_concurrency - len(self._running)
        taken = await self._due.take(_now_us(), self._lease_us, max(1, free // 4)) if free > 0 else []
        back = []
        for one in taken:
            recipient = one.postback.recipient
            if self._busy[recipient] >= self._settings.recipient_concurrency:
                back.append(one)
                continue
            self._busy[recipient] += 1
            task = asyncio.create_task(self._deliver(one))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if back:
            await self._due.put_back(back, _now_us() + PUT_BACK_MS * 1000)
        await self._flush()
        if self._running:
            await self._wait_for_an_answer(WAIT_MS if len(taken) == len(back) else 1)
        elif not taken:
            await self._wait_for_work()

    async def _deliver(self, taken: Taken) -> None:
        postback, started_us = taken.postback, _now_us()
        attempts: list[Attempt] = []
        number = taken.tries + 1
        if taken.lost:
            attempts.append(_lost(taken, number, started_us))
            number += 1
        request = prepare(postback, [], started_us // 1_000_000)
        try:
            request = prepare(postback, self._secrets(postback.recipient), started_us // 1_000_000)
            answer = await self._caller.call(request)
        except SecretError as error:
            answer = Answer("no_secret", error=str(error))
        except Exception as bug:
            log.exception("postback %s", postback.id)
            answer = Answer("connection", error=f"{type(bug).__name__}: {bug}")
        attempts.append(attempt_of(postback, request, answer, number, started_us, _now_us() - started_us))
        self._busy[postback.recipient] -= 1
        self._done.append((taken, attempts))
        self._settled.set()

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

    async def _wait_for_work(self) -> None:
        """Wait for a new postback in any partition, but not past the next one that is due."""
        next_us = await self._due.next_due_us()
        left_ms = WAIT_MS if next_us is None else min(WAIT_MS, (next_us - _now_us()) // 1000)
        if left_ms > 0:
            found: Any = await self._redis.xread(dict(self._seen), count=1_000, block=left_ms)  # type: ignore[arg-type]
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


def _lost(taken: Taken, number: int, now_us: int) -> Attempt:
    """The record of a delivery that never settled: whether it arrived is unknown."""
    postback = taken.postback
    answer = Answer("unknown", error="the delivering process ended before it could tell")
    request = Request(postback.verb, postback.url, {"webhook-id": postback.id}, postback.body)
    return attempt_of(postback, request, answer, number, now_us, 0)


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
