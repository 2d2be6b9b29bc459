"""One webhook: prepare, call, classify. Three steps, one type each; nothing here knows about queues or Redis."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from urllib.parse import quote

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError, RequestTimeoutError
from pyreqwest.http import Url

from service.delivery import guard, signing
from service.delivery.ladder import classify
from service.delivery.record import Answer, Owner, Request, attempt_of, masked, state_after
from service.engine.model import Postback
from service.engine.postbacks import endpoint_of
from service.engine.values import host_of

__all__ = ["Answer", "Caller", "Request", "Webhooks", "attempt_of", "masked", "prepare", "state_after"]

USER_AGENT = "Backtrack/0.1"
SCHEMES = frozenset({"http", "https"})
ANSWER_BYTES = 2048
TEST_ID = "test-"  # how the id of a made-up postback begins; those of the engine are hexadecimal
NAME_TIMEOUT_S = 3.0  # for finding the address, beside the time limit of the call itself
CLIENT_LIFE_S = 60.0
CLIENTS_MAX = 2_000
_WITH_URL = re.compile(r" for url \([^)]*\)")  # stands in the record already; a word in it must not decide the class


class Webhooks:
    """The method webhook. environment: holds the secrets that the rulebook names."""

    def __init__(
        self,
        timeout_ms: int,
        allowed: Sequence[guard.Network],
        environment: Mapping[str, str],
        authorities: Sequence[bytes] = (),
    ) -> None:
        self._caller = Caller(timeout_ms, allowed, authorities)
        self._environment = environment

    async def deliver(self, postback: Postback, owner: Owner, now_us: int) -> tuple[Request, Answer]:
        """Sign and send. Without a usable secret nothing is sent: a receiver must not believe what is not signed."""
        timestamp_s = now_us // 1_000_000
        try:
            secrets = signing.read_secrets(owner.secret, self._environment) if owner and owner.secret else []
            headers, hidden = own_headers(postback, owner, self._environment)
        except signing.SecretError as error:
            return prepare(postback, [], timestamp_s), Answer("no_secret", error=str(error))
        request = prepare(postback, secrets, timestamp_s, headers, hidden)
        return request, await self._caller.call(request)

    async def close(self) -> None:
        """Close the connections."""
        await self._caller.close()


def own_headers(
    postback: Postback, owner: Owner, environment: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The headers of the endpoint, and those of them that are secret. Raises SecretError for an unset variable.

    A postback that was promised to another host than the endpoint has now gets none: a token is for its own host only.
    """
    endpoint = endpoint_of(owner, postback) if owner is not None else None
    if endpoint is None or not endpoint.headers or host_of(endpoint.url.source) != host_of(postback.url):
        return {}, {}
    headers, hidden = dict(endpoint.headers), {}
    for name, value in headers.items():
        if value.startswith("env:"):
            hidden[name] = headers[name] = signing.read_text(value, environment)
    return headers, hidden


def content_type(body: str) -> str:
    """What a body is: JSON is an object or a list, and no form begins like one."""
    return "application/json" if body[:1] in ("{", "[") else "application/x-www-form-urlencoded"


def prepare(
    postback: Postback,
    secrets: Sequence[bytes],
    timestamp_s: int,
    headers: Mapping[str, str] | None = None,
    hidden: Mapping[str, str] | None = None,
) -> Request:
    """The request of a postback. Both verbs carry the id, so that the receiver can drop repeats."""
    sent = {
        "user-agent": USER_AGENT,
        **(headers or {}),
        "webhook-id": postback.id,
        "webhook-timestamp": str(timestamp_s),
    }
    if postback.id.startswith(TEST_ID):
        sent["webhook-test"] = "1"
    if postback.verb == "POST":
        sent["content-type"] = content_type(postback.body)
    if secrets:
        sent["webhook-signature"] = signing.sign(secrets, postback.id, timestamp_s, postback.body.encode())
    return Request(postback.verb, postback.url, sent, postback.body, dict(hidden or {}))


class Caller:
    """Calls recipients: one client per checked address, no redirects, no proxy, answers cut.

    authorities: certificates (PEM) that are trusted beside those of the machine.
    """

    def __init__(self, timeout_ms: int, allowed: Sequence[guard.Network], authorities: Sequence[bytes] = ()) -> None:
        self._authorities = authorities
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
        except RequestTimeoutError as error:
            return Answer("timeout", error=_causes(error))
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
        for authority in self._authorities:
            builder = builder.add_root_certificate_pem(authority)
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
    """A handshake that fails is tls; what breaks off later is connection, whichever layer noticed it first."""
    text = _causes(error).lower()
    shaking_hands = "(connect)" in text and any(word in text for word in ("certificate", "tls", "ssl"))
    return "tls" if shaking_hands else "connection"


def _causes(error: PyreqwestError) -> str:
    details = getattr(error, "details", None) or {}
    causes = [cause.get("message", "") for cause in details.get("causes") or []]
    return _WITH_URL.sub("", ": ".join([str(error.message), *causes]))[:500]
