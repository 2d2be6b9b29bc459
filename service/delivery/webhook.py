"""One webhook: prepare, call, classify. Three steps, one type each; nothing here knows about queues or Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from urllib.parse import quote

import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError, RequestTimeoutError
from pyreqwest.http import Url

from service.archive.schemas import Attempt
from service.delivery import guard, signing
from service.delivery.ladder import DELIVERED, FINAL, RESULTS, classify, next_due_us, retry_after_s
from service.engine.model import Postback

USER_AGENT = "Backtrack/0.1"
SCHEMES = frozenset({"http", "https"})
ANSWER_BYTES = 2048
NAME_TIMEOUT_S = 3.0  # for finding the address, beside the time limit of the call itself
CLIENT_LIFE_S = 60.0
CLIENTS_MAX = 2_000


class Request(msgspec.Struct, frozen=True):
    """A request ready to be sent."""

    verb: str
    url: str
    headers: dict[str, str]
    body: str


class Answer(msgspec.Struct, frozen=True):
    """What came of a call: a result class of `ladder.RESULTS`, and the answer if there was one."""

    result: str
    status: int = 0
    head: str = ""
    error: str = ""
    retry_after: str | None = None


def prepare(postback: Postback, secrets: Sequence[bytes], timestamp_s: int) -> Request:
    """The request of a postback. Both verbs carry the id, so that the receiver can drop repeats."""
    headers = {
        "user-agent": USER_AGENT,
        "webhook-id": postback.id,
        "webhook-timestamp": str(timestamp_s),
    }
    if postback.verb == "POST":
        headers["content-type"] = "application/json"
    if secrets:
        headers["webhook-signature"] = signing.sign(secrets, postback.id, timestamp_s, postback.body.encode())
    return Request(postback.verb, postback.url, headers, postback.body)


class Caller:
    """Calls recipients: one client per checked address, no redirects, no proxy, answers cut."""

    def __init__(self, timeout_ms: int, allowed: Sequence[guard.Network]) -> None:
        self._timeout = timedelta(milliseconds=timeout_ms)
        self._allowed = allowed
        self._addresses: dict[str, tuple[str, float]] = {}
        self._clients: dict[tuple[str, str, int], Client] = {}

    async def call(self, request: Request) -> Answer:
        """Send a request and read the head of the answer. Never raises for what a recipient can do."""
        try:
            url = Url(request.url)
            if url.scheme not in SCHEMES:
                return Answer("address", error=f"{url.scheme} is no scheme of webhooks; use https or http")
            client = await self._client(url)
            return await self._send(client, url, request)
        except guard.GuardError as error:
            return Answer("address", error=str(error))
        except guard.UnknownHostError as error:
            return Answer("name", error=str(error))
        except (RequestTimeoutError, TimeoutError) as error:
            return Answer("timeout", error=str(error))
        except PyreqwestError as error:
            return Answer(_error_class(error), error=_causes(error))
        except ValueError as error:
            return Answer("address", error=f"{quote(request.url[:200])}: {error}")

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    async def _client(self, url: Url) -> Client:
        """A client pinned to the checked address; checked again when its time is over."""
        host, now = url.host_str or "", time.monotonic()
        known = self._addresses.get(host)
        if known is None or known[1] < now:
            known = (await self._resolve(url), now + CLIENT_LIFE_S)
            self._addresses[host] = known
        key = (host, known[0], url.port_or_known_default or 443)
        client = self._clients.get(key)
        if client is None:
            if len(self._clients) >= CLIENTS_MAX:
                await self._clients.pop(next(iter(self._clients))).close()
            client = self._clients[key] = self._build(*key)
        return client

    async def _resolve(self, url: Url) -> str:
        limit_s = min(NAME_TIMEOUT_S, self._timeout.total_seconds())
        try:
            return await asyncio.wait_for(guard.resolve(url, self._allowed), limit_s)
        except TimeoutError:
            raise guard.UnknownHostError(f"{url.host_str} does not resolve within {limit_s:g} s") from None

    def _build(self, host: str, address: str, port: int) -> Client:
        builder = (
            ClientBuilder()
            .timeout(self._timeout)
            .connect_timeout(self._timeout)
            .follow_redirects(False)
            .no_proxy()
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .default_cookie_store(False)
        )
        if host.strip("[]") != address:
            builder = builder.resolve(host, address, port)
        return builder.build()

    async def _send(self, client: Client, url: Url, request: Request) -> Answer:
        builder = client.request(request.verb, url).headers(request.headers).streamed_read_buffer_limit(ANSWER_BYTES)
        if request.body:
            builder = builder.body_text(request.body)
        async with builder.build_streamed() as response:
            head = await response.body_reader.read(ANSWER_BYTES)
            text = bytes(head or b"")[:ANSWER_BYTES].decode("utf-8", "replace")
            return Answer(
                classify(response.status), response.status, text, retry_after=response.get_header("retry-after")
            )


def _error_class(error: PyreqwestError) -> str:
    text = _causes(error).lower()
    return "tls" if any(word in text for word in ("certificate", "tls", "ssl")) else "connection"


def _causes(error: PyreqwestError) -> str:
    details = getattr(error, "details", None) or {}
    causes = [cause.get("message", "") for cause in details.get("causes") or []]
    return ": ".join([str(error.message), *causes])[:500]


def attempt_of(
    postback: Postback, request: Request, answer: Answer, number: int, started_us: int, duration_us: int
) -> Attempt:
    """The record of a try, with the state of the postback after it."""
    state, due_us = state_after(answer, number, started_us + duration_us)
    return Attempt(
        postback.id, number, started_us, postback.recipient, request.verb, request.url, request.body,
        masked(request.headers), answer.result, answer.status, answer.head, answer.error, duration_us, state, due_us,
    )  # fmt: skip


def state_after(answer: Answer, number: int, now_us: int) -> tuple[str, int]:
    """State of the postback and time of the next try (0: none) after try `number` with this answer."""
    step = RESULTS[answer.result]
    if step == DELIVERED:
        return "delivered", 0
    if step == FINAL:
        return "failed", 0
    due_us = next_due_us(number, now_us, retry_after_s(answer.retry_after, now_us))
    return ("due", due_us) if due_us else ("dead", 0)


def masked(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers for the record: what could be used to sign for us is not kept."""
    return {name: "(masked)" if name == "authorization" else value for name, value in headers.items()}
