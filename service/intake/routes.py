"""The intake's routes: capture first, then answer. A raw ASGI handler; the way of a request is the order of the lines.

/e  /e.gif  /c/{client}/{affiliate} store an event; HEAD and OPTIONS are no events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from service.engine.model import Event, Hit, Reason, Rejection
from service.engine.parse import MAX_BODY_BYTES, MAX_QUERY_BYTES, parse
from service.engine.partition import partition_of
from service.engine.rulebook import EMPTY, Rulebook
from service.intake.answers import TEXT, Answer, Header, answer
from service.intake.ids import new_hit_id
from service.intake.journal import Journal, NotStoredError

KEPT_HEADERS = {b"content-type": 200, b"user-agent": 400, b"referer": 800, b"accept": 200}
SILENT = frozenset({"HEAD", "OPTIONS"})
ALLOWED = frozenset({"GET", "POST"})
DISCONNECTED = "disconnected"
BODY_CUT = "body_cut"
QUERY_CUT = "query_cut"


class Intake:
    """The handler. partitions: of the journal. It is connected when the application starts."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._journal: Journal
        self._rulebook: Callable[[], Rulebook | None]

    def connect(self, journal: Journal, rulebook: Callable[[], Rulebook | None]) -> None:
        """journal: where hits go. rulebook: gives the rulebook in force, None while it is not known."""
        self._journal = journal
        self._rulebook = rulebook

    async def __call__(self, route: str, scope: Any, receive: Receive, send: Send) -> None:
        """Store the request as a hit and answer it."""
        method: str = scope["method"]
        if method in SILENT:
            await _send(send, Answer(204, [(b"allow", b"GET, POST")], b""))
            return
        if method not in ALLOWED:
            await _send(send, Answer(405, [TEXT, (b"allow", b"GET, POST")], f"{method} is no event\n".encode()))
            return
        body, flags = (b"", ()) if method == "GET" else await _read_body(receive)
        hit, accept = _capture(route, scope, body, flags)
        known = self._rulebook()
        rulebook = known or EMPTY
        parsed = parse(hit, rulebook)
        if isinstance(parsed, Rejection):
            hit = _refuse(hit, parsed)
        # without a rulebook every client looks unknown, and a refusal binds: the sender has to come again
        stored = known is not None and await self._store(hit, parsed)
        if DISCONNECTED not in flags:
            await _send(send, answer(hit, parsed, b"json" in accept, rulebook, stored))

    async def _store(self, hit: Hit, parsed: Event | Rejection) -> bool:
        partition = partition_of(parsed.client, self._partitions) if parsed.client else 0
        try:
            await self._journal.append(partition, hit)
        except NotStoredError:
            return False
        return True


def _capture(route: str, scope: Any, body: bytes, flags: tuple[str, ...]) -> tuple[Hit, bytes]:
    """The request as a hit, and what the sender wants to read."""
    headers = dict.fromkeys(KEPT_HEADERS, b"")
    for name, value in scope["headers"]:
        if name in headers:
            headers[name] = value[: KEPT_HEADERS[name]]
    query: bytes = scope["query_string"]
    if len(query) > 8 * MAX_QUERY_BYTES:
        query, flags = query[: 8 * MAX_QUERY_BYTES], (*flags, QUERY_CUT)
    received_at_us = time.time_ns() // 1000
    peer = scope.get("client") or ("", 0)
    hit = Hit(
        new_hit_id(received_at_us), received_at_us, route, scope["method"], scope["raw_path"] or b"", query, body,
        _text(headers[b"content-type"]), str(peer[0]), _text(headers[b"user-agent"]), _text(headers[b"referer"]),
        Reason.INVALID_BODY.value if DISCONNECTED in flags else "", flags,
    )  # fmt: skip
    return hit, headers[b"accept"]


def _refuse(hit: Hit, rejection: Rejection) -> Hit:
    """The same hit with the refusal that the sender is told, which binds the engine."""
    return Hit(
        hit.id, hit.received_at_us, hit.route, hit.method, hit.path, hit.query, hit.body, hit.content_type, hit.address,
        hit.user_agent, hit.referrer, str(rejection.reason), hit.flags,
    )  # fmt: skip


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


async def _read_body(receive: Receive) -> tuple[bytes, tuple[str, ...]]:
    """The body up to its bound, and what was found: `body_cut` past it, `disconnected` if the sender went away."""
    parts: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            body = b"".join(parts)
            return body[:MAX_BODY_BYTES], (DISCONNECTED, *((BODY_CUT,) if size > MAX_BODY_BYTES else ()))
        part = message.get("body", b"")
        if size <= MAX_BODY_BYTES:
            parts.append(part)
        size += len(part)
        if not message.get("more_body"):
            body = b"".join(parts)
            return (body[:MAX_BODY_BYTES], (BODY_CUT,)) if size > MAX_BODY_BYTES else (body, ())


async def _send(send: Send, reply: Answer) -> None:
    headers: list[Header] = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


def intake_routes(intake: Intake) -> list[ASGIRouteHandler]:
    """The handlers for the application."""

    @asgi("/e", copy_scope=False)
    async def event(scope: Scope, receive: Receive, send: Send) -> None:
        await intake("e", scope, receive, send)

    @asgi("/e.gif", copy_scope=False)
    async def image(scope: Scope, receive: Receive, send: Send) -> None:
        await intake("e.gif", scope, receive, send)

    @asgi("/c", is_mount=True, copy_scope=False)
    async def tracker_link(scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["raw_path"].startswith(b"/c/") and scope["raw_path"] != b"/c":  # a mount takes /cat too
            await _send(send, Answer(404, [TEXT], b"there is no such page\n"))
            return
        await intake("c", scope, receive, send)

    return [event, image, tracker_link]
