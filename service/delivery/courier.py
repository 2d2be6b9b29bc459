"""The courier: takes what is due, calls many recipients at once, records every try. One event loop per worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import redis.asyncio as aioredis

from service import epochs, keys
from service.archive.schemas import Attempt
from service.delivery.browser import Expired
from service.delivery.due import Done, DueIndex, Taken
from service.delivery.email import Emails
from service.delivery.health import Health
from service.delivery.ladder import health_of
from service.delivery.pace import Pace
from service.delivery.record import Answer, Method, Owner, Request, attempt_of
from service.delivery.rooms import Rooms
from service.delivery.shares import Shares
from service.delivery.watch import Watch
from service.delivery.webhook import NAME_TIMEOUT_S, Webhooks
from service.engine import EMPTY, Postback, Rulebook
from service.engine.rulebook import BROWSER_METHODS, MAIL, apart_us
from service.rulebooks import compiled
from service.settings import Settings

log = logging.getLogger("backtrack.delivery")

LEASE_MARGIN_MS = 5_000
WAIT_MS = 1_000  # for what no stream tells of: retries that another courier has put off, resends
WAIT_FOR_ROOM_MS = 20  # while somebody waits in a room whose recipient can be called
LOOK_EVERY_S = 0.1
FOLLOW_EVERY_S = 1.0
GATHER_S = 0.008  # between two exchanges while there is little to do: each is an fsync, however much it carries
TAKE_LIMIT = 256
TAKE_LEAST = 32  # at once, however many of those before had to go to rooms: that costs two more round trips each way
LITTLE = 16  # new ones in one round; more of them wait for nothing
OPERATOR_KEEPS = 1_000


def methods_of(settings: Settings) -> dict[str, Method]:
    """The ways to deliver, by their names in the rulebook."""
    methods: dict[str, Method] = dict.fromkeys(sorted(BROWSER_METHODS), Expired())
    methods["webhook"] = Webhooks(settings.delivery_timeout_ms, settings.allowed_networks, os.environ)
    methods["email"] = Emails(settings)
    return methods


class Courier:
    """Delivers until it is told to stop. stopping: asked between rounds."""

    def __init__(
        self, settings: Settings, stopping: Callable[[], bool], methods: Mapping[str, Method] | None = None
    ) -> None:
        self._settings = settings
        self._stopping = stopping
        self._places = (*keys.partitions(settings.partitions), keys.OPERATOR)
        self._redis: aioredis.Redis = epochs.async_journal_client(settings, 30, empty=True)
        self._due = DueIndex(self._redis, self._places)
        self._methods = methods or methods_of(settings)
        self._health = Health(self._redis, settings)
        self._shares = Shares(settings.delivery_concurrency, settings.recipient_concurrency)
        self._lease_us = (settings.delivery_timeout_ms + LEASE_MARGIN_MS) * 1000 + int(NAME_TIMEOUT_S * 1_000_000)
        self._running: set[asyncio.Task[None]] = set()
        self._done: list[Done] = []
        self._failed: list[tuple[int, str]] = []
        self._settled = asyncio.Event()
        self._rooms = Rooms(self._due, self._health, self._shares, self._permitted)
        self._pace = Pace(time.monotonic())
        self._watch = Watch(self._redis, self._places[:-1])
        self._new = 0  # in the last round
        self._rulebook: Rulebook = EMPTY
        self._followed_s = self._looked_s = self._exchanged_s = 0.0
        self._take_most = TAKE_LEAST
        self._behind_us = 0  # how much the clock of this machine is behind that of Redis

    async def run(self, seconds: float) -> None:
        """Deliver for a while, then settle what is under way."""
        deadline = time.monotonic() + seconds
        # threads enough that names which nobody answers for do not keep others waiting
        names = ThreadPoolExecutor(self._settings.delivery_concurrency, "names")
        asyncio.get_running_loop().set_default_executor(names)
        try:
            await self._watch.begin()
            while time.monotonic() < deadline and not self._stopping():
                await self._follow()
                await self._look()
                await self._round()
        finally:
            await self._end()

    async def _end(self) -> None:
        await self._watch.end()
        if self._running:
            await asyncio.wait(self._running)
        try:
            await self._exchange(0)
        finally:
            for method in self._methods.values():
                await method.close()
            await self._redis.aclose()

    # one round

    async def _round(self) -> None:
        await self._gather()
        taken = await self._exchange(min(self._shares.free(), self._take_most))
        untried = await self._begin(taken)
        self._take_most = max(TAKE_LEAST, self._take_most // 2) if untried else min(self._take_most * 2, TAKE_LIMIT)
        drawn = await self._rooms.draw(self._lease_us, self._now_us(), self._backlog())
        for one in drawn:
            self._start(one)
        self._new = sum(one.new(self._due.now_us) for one in (*taken, *drawn))
        if untried or self._new >= LITTLE:
            self._exchanged_s = 0.0
            await self._wait_for_an_answer(1)
        elif not taken and not drawn:
            await self._wait(WAIT_FOR_ROOM_MS if self._rooms.ready() else WAIT_MS)

    async def _gather(self) -> None:
        """Let answers and new postbacks come together, but for the first new one after a pause."""
        left_s = self._exchanged_s + GATHER_S - time.monotonic()
        if left_s > 0 and self._new:
            await asyncio.sleep(left_s)
        elif left_s > 0:
            await self._watch.wait(left_s)
        self._exchanged_s = time.monotonic()

    def _backlog(self) -> int:
        """How many of the backlog may begin now."""
        return min(self._pace.allowed(time.monotonic()), self._shares.free_for_backlog())

    async def _exchange(self, limit: int) -> list[Taken]:
        """Record what has been answered since the last time, and take what is due."""
        done, self._done = self._done, []
        failed, self._failed = self._failed, []
        backlog = self._backlog() if limit else 0
        taken = await self._due.exchange(done, None if limit else self._now_us(), self._lease_us, limit, backlog)
        if limit:
            self._behind_us = self._due.now_us - time.time_ns() // 1000
        if done:
            await self._conclude(done)
        for call, recipient in failed:
            self._shares.end(call, recipient, False)
        return taken

    async def _conclude(self, done: Sequence[Done]) -> None:
        _report(done)
        for recipient in await self._health.note([attempts[-1] for _, attempts in done], self._now_us()):
            self._shares.start_again(recipient)
            self._looked_s = 0.0
        if any(taken.place is keys.OPERATOR for taken, _ in done):
            await self._redis.xtrim(keys.OPERATOR.attempts, OPERATOR_KEEPS, approximate=True)

    async def _begin(self, taken: Sequence[Taken]) -> int:
        """Start what may start; the rest waits in the rooms of its recipients. Returns how many that are."""
        groups: dict[str, list[Taken]] = {}
        for one in sorted(taken, key=lambda one: not one.new(self._due.now_us)):
            groups.setdefault(one.postback.recipient, []).append(one)
        untried: list[Taken] = []
        for recipient, group in groups.items():
            able = len(group)
            if recipient in self._health.paused:  # its endpoint is; mails go out all the same
                group.sort(key=lambda one: one.postback.verb != MAIL)
                able = sum([one.postback.verb == MAIL for one in group])
            most = await self._permitted(recipient, min(self._shares.free_of(recipient), able))
            for one in group[:most]:
                self._start(one)
            untried += group[most:]
        if untried:
            await self._due.put_in_room(untried)
            self._health.waiting |= {one.postback.recipient for one in untried}
        return len(untried)

    async def _permitted(self, recipient: str, most: int) -> int:
        owner = self._owner(recipient)
        apart = apart_us(owner.rate) if owner is not None and most else 0
        return await self._health.permits(recipient, apart, most) if apart else most

    # one delivery

    def _start(self, taken: Taken) -> None:
        new, now_s = taken.new(self._due.now_us), time.monotonic()
        call = self._shares.begin(taken.postback.recipient, now_s, new)
        self._pace.begin(new, now_s)
        task = asyncio.create_task(self._deliver(taken, call))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _deliver(self, taken: Taken, call: int) -> None:
        """One delivery; first the record of earlier ones that never settled."""
        attempts = [_lost(taken, number, self._now_us()) for number in range(taken.first, taken.number)]
        if not attempts or attempts[-1].state != "dead":
            attempts.append(await self._try(taken))
        health = health_of(attempts[-1].verb, attempts[-1].result)
        if health in ("", "ok"):
            self._shares.end(call, taken.postback.recipient, True if health else None)
        else:  # keeps its place until it is known whether this pauses the recipient
            self._failed.append((call, taken.postback.recipient))
        self._done.append((taken, attempts))
        self._settled.set()

    async def _try(self, taken: Taken) -> Attempt:
        postback, started_us, started_s = taken.postback, self._now_us(), time.monotonic()
        try:
            method = self._methods[postback.method]
            request, answer = await method.deliver(postback, self._owner(postback.recipient), started_us)
        except Exception as bug:
            log.exception("postback %s", postback.id)
            request, answer = _unsent(postback), Answer("connection", error=f"{type(bug).__name__}: {bug}")
        duration_us = int((time.monotonic() - started_s) * 1_000_000)
        return attempt_of(postback, request, answer, taken.number, started_us, duration_us, taken.base)

    # what goes on around

    async def _wait_for_an_answer(self, milliseconds: int) -> None:
        self._settled.clear()
        if not self._done:
            try:
                await asyncio.wait_for(self._settled.wait(), milliseconds / 1000)
            except TimeoutError:
                pass

    async def _wait(self, milliseconds: int) -> None:
        """Wait for an answer, a new postback, or the next one that is due and may begin, whichever comes first."""
        next_us = None if self._running else await self._due.next_due_us()
        left_s = milliseconds / 1000 if next_us is None else min(milliseconds / 1000, (next_us - self._now_us()) / 1e6)
        left_s = self._pace.wait_s(time.monotonic()) or left_s
        if left_s <= 0 or self._done:
            return
        self._settled.clear()
        answered = asyncio.create_task(self._settled.wait())
        await self._watch.wait(left_s, answered)
        answered.cancel()

    async def _follow(self) -> None:
        """Know the rulebook in force: the recipients' secrets, headers and rates are named there."""
        if time.monotonic() - self._followed_s < FOLLOW_EVERY_S:
            return
        self._followed_s = time.monotonic()
        found: Any = await self._redis.get(keys.RULEBOOK)
        if found and found.decode() != self._rulebook.id:
            self._rulebook = compiled(await self._redis.hget(keys.RULEBOOKS, found.decode()))

    async def _look(self) -> None:
        """Know how the recipients are doing, and which calls have become slow."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._shares.sweep(now_s)
            await self._health.look(self._now_us())

    def _owner(self, recipient: str) -> Owner:
        role, _, name = recipient.partition(":")
        return self._rulebook.clients.get(name) if role == "client" else self._rulebook.affiliates.get(name)

    def _now_us(self) -> int:
        """The time of the journal's Redis."""
        return time.time_ns() // 1000 + self._behind_us


def _unsent(postback: Postback) -> Request:
    return Request(postback.verb, postback.url, {"webhook-id": postback.id}, postback.body)


def _lost(taken: Taken, number: int, now_us: int) -> Attempt:
    """The record of a delivery that never settled: whether it arrived is unknown. The next try, if any, is made now."""
    answer = Answer("unknown", error="the delivering process ended before it could tell")
    attempt = attempt_of(taken.postback, _unsent(taken.postback), answer, number, now_us, 0, taken.base)
    return attempt if attempt.state == "dead" else msgspec.structs.replace(attempt, next_due_us=now_us)


def _report(done: Sequence[Done]) -> None:
    for taken, attempts in done:
        last = attempts[-1]
        if last.result != "delivered":
            log.warning(
                "postback %s to %s: try %d %s %s %s, now %s",
                taken.postback.id, last.recipient, last.number, last.result, last.status or "", last.error, last.state,
            )  # fmt: skip
