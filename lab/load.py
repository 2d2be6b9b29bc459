"""Sends traffic to a service on this machine over real HTTP, and keeps a receipt of every answer.

As fast as the connections allow, or in a multiple of the planned pace. The requests of one visitor go one after the other,
and a request that needs the hit id of another waits for that answer. Never to another machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import RequestError

from lab.traffic import Request, fill

WAITS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)  # before each further try of the same request
TIMEOUT = timedelta(seconds=30)
_HIT_ID = re.compile(r"[0-9a-f]{32}\Z")

Progress = Callable[[int, int], None]  # answered so far, of how many


class Clock(NamedTuple):
    """What the planned times are kept by: seconds that never fall, and how to wait."""

    now_s: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


REAL = Clock()


class LoadError(ValueError):
    """Traffic that is not sent. The message names the value and the remedy."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What became of one request: the last answer, and how often it had to be sent.

    status: 0 if no try was answered. latency_us: of the last try. unanswered: tries whose answer was lost on the way; the
    service may have logged a hit for each of them.
    """

    index: int
    hit_id: str = ""
    status: int = 0
    reason: str = ""
    latency_us: int = 0
    tries: int = 1
    unanswered: int = 0


class LoadReport(msgspec.Struct, frozen=True):
    """What became of all requests, counted.

    sent: requests, each once. acknowledged: those answered with a hit id. retried: further tries. latency_us: p50, p95,
    p99 and max of the last tries.
    """

    sent: int
    acknowledged: int
    retried: int
    unanswered: int
    statuses: dict[int, int]
    reasons: dict[str, int]
    latency_us: dict[str, int]
    seconds: float
    ids: frozenset[str]
    ledger: tuple[Receipt, ...]


def drive(
    base_url: str,
    requests: Sequence[Request],
    connections: int = 16,
    progress: Progress | None = None,
    speed: float | None = None,
    waits_s: Sequence[float] = WAITS_S,
) -> LoadReport:
    """Send the requests and wait for every answer.

    base_url: http and a loopback host. speed: 1 keeps the planned times, 60 makes a minute a second, None does not wait at
    all. waits_s: connection errors and 5xx are tried again, after these waits. Raises LoadError before anything is sent.
    """
    return asyncio.run(drive_async(base_url, requests, connections, progress, speed, waits_s))


async def drive_async(
    base_url: str,
    requests: Sequence[Request],
    connections: int = 16,
    progress: Progress | None = None,
    speed: float | None = None,
    waits_s: Sequence[float] = WAITS_S,
) -> LoadReport:
    """As `drive`, inside a running event loop."""
    return await send_all(_loopback(base_url), requests, connections, progress, speed, waits_s)


async def send_all(
    base: str,
    requests: Sequence[Request],
    connections: int,
    progress: Progress | None,
    speed: float | None,
    waits_s: Sequence[float],
    clock: Clock = REAL,
) -> LoadReport:
    """As `drive`, to an address that the caller has checked."""
    if connections < 1 or (speed is not None and speed <= 0):
        raise LoadError(f"connections={connections}, speed={speed}: both must be above 0")
    order = _Order(requests)
    builder = ClientBuilder().no_proxy().follow_redirects(False).max_connections(connections).timeout(TIMEOUT)
    async with builder.build() as client:
        driver = _Driver(base, client, requests, order, progress, speed, waits_s, clock)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(driver.work())
        return _report([driver.receipts[i] for i in range(len(requests))], time.perf_counter() - started)


def _loopback(base_url: str) -> str:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme != "http" or not is_loopback(host):
        raise LoadError(
            f"{base_url!r}: generated traffic goes to this machine only; use an address such as http://127.0.0.1:8700"
        )
    return base_url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether this is the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Order:
    """Which request may go: those whose visitor's last request and whose needed ids have been answered."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.ready: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
        self._missing = [0] * len(requests)
        self._followers: dict[int, list[int]] = {}
        latest: dict[int, int] = {}
        for index, request in enumerate(requests):
            needed = set(request.refers_to)
            if needed and max(needed) >= index:
                raise LoadError(f"request {index} needs the hit id of request {max(needed)}, which is not earlier")
            if request.visitor in latest:
                needed.add(latest[request.visitor])
            latest[request.visitor] = index
            self._missing[index] = len(needed)
            for earlier in needed:
                self._followers.setdefault(earlier, []).append(index)
            if not needed:
                self.ready.put_nowait(index)

    def answered(self, index: int) -> None:
        """Let those go that waited for this one only."""
        for follower in self._followers.pop(index, ()):
            self._missing[follower] -= 1
            if not self._missing[follower]:
                self.ready.put_nowait(follower)


class _Driver:
    """One run: workers take what is ready, lowest index first, until every request has its receipt."""

    def __init__(
        self,
        base: str,
        client: Client,
        requests: Sequence[Request],
        order: _Order,
        progress: Progress | None,
        speed: float | None,
        waits_s: Sequence[float],
        clock: Clock,
    ) -> None:
        self.base, self.client, self.requests, self.order = base, client, requests, order
        self.progress, self.speed, self.waits_s = progress, speed, waits_s
        self.receipts: dict[int, Receipt] = {}
        self.ids: dict[int, str] = {}
        self.clock = clock
        self.started = clock.now_s()
        self.gave_up = (
            False  # since a request ran out of tries, until any answer: do not wait as long for each other one
        )

    async def work(self) -> None:
        """One connection's work."""
        total = len(self.requests)
        while len(self.receipts) < total:
            index = await self.order.ready.get()
            if index < total:
                await self._until_due(self.requests[index])
                receipt = await self._deliver(index)
                self.receipts[index], self.ids[index] = receipt, receipt.hit_id
                self.order.answered(index)
                if self.progress is not None:
                    self.progress(len(self.receipts), total)
        self.order.ready.put_nowait(total)  # wakes the next worker that waits for nothing

    async def _until_due(self, request: Request) -> None:
        if self.speed is not None:
            due_s = self.started + request.offset_us / 1_000_000 / self.speed
            await self.clock.sleep(max(0.0, due_s - self.clock.now_s()))

    async def _deliver(self, index: int) -> Receipt:
        """Send one request until it is answered or its tries are used up."""
        unanswered = 0
        receipt = Receipt(index)
        for tries, wait_s in enumerate((0.0, *self.waits_s), start=1):
            if tries > 1 and self.gave_up:
                break
            await asyncio.sleep(wait_s)
            sent = time.perf_counter()
            try:
                status, hit_id, reason = await self._send(self.requests[index])
            except RequestError as error:
                unanswered += _was_sent(error)
                status, hit_id, reason = 0, "", ""
            latency_us = int((time.perf_counter() - sent) * 1_000_000)
            receipt = Receipt(index, hit_id, status, reason, latency_us, tries, unanswered)
            if 0 < status < 500:
                self.gave_up = False
                return receipt
        self.gave_up = True
        return receipt

    async def _send(self, request: Request) -> tuple[int, str, str]:
        target, body = fill(request, self.ids)
        builder = self.client.request(request.method, self.base + target.decode("ascii")).headers(request.headers)
        if request.content_type:
            builder = builder.header("content-type", request.content_type)
        if body:
            builder = builder.body_bytes(body)
        answer = await builder.build().send()
        hit_id = answer.get_header("x-hit-id") or ""
        return answer.status, hit_id if _HIT_ID.match(hit_id) else "", answer.get_header("x-reason") or ""


def _was_sent(error: RequestError) -> bool:
    """Whether the service may have seen the request. A ConnectError is also what an answer lost on the way looks like."""
    causes = error.details["causes"] or [] if error.details else []
    return all(cause["message"] != "client error (Connect)" for cause in causes)


def _report(ledger: Sequence[Receipt], seconds: float) -> LoadReport:
    latencies = sorted(receipt.latency_us for receipt in ledger if receipt.status) or [0]
    quantiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return LoadReport(
        sent=len(ledger),
        acknowledged=sum(bool(receipt.hit_id) for receipt in ledger),
        retried=sum(receipt.tries - 1 for receipt in ledger),
        unanswered=sum(receipt.unanswered for receipt in ledger),
        statuses=dict(sorted(Counter(receipt.status for receipt in ledger).items())),
        reasons=dict(sorted(Counter(receipt.reason for receipt in ledger if receipt.reason).items())),
        latency_us={name: latencies[int(share * (len(latencies) - 1))] for name, share in quantiles.items()},
        seconds=seconds,
        ids=frozenset(receipt.hit_id for receipt in ledger if receipt.hit_id),
        ledger=tuple(ledger),
    )
