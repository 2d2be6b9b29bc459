"""The intake's routes: capture first, then answer. Raw ASGI handlers; the way of a request is the order of the lines.

/e  /e/batch  /e.gif  /e.js  /c/{client}/{affiliate} store events; HEAD and OPTIONS are no events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from service.engine.model import Hit
from service.engine.parse import BROWSER_ROUTES
from service.engine.partition import partition_of
from service.engine.rulebook import EMPTY, Rulebook
from service.intake.answers import FOR_PAGES, TEXT, Answer, Header, answer, batch_answer
from service.intake.browser import untracked
from service.intake.browser_pages import Pages
from service.intake.capture import DO_NOT_TRACK, METHODS, Headers, capture, headers_of, read_body
from service.intake.examine import Found, examine
from service.intake.journal import Journal, NotStoredError
from service.intake.lines import MAX_BATCH_BYTES, BadBatchError, hits_of, lines_of
from service.intake.proxies import Proxies
from service.intake.signature import Keys, Seal
from service.turns import Asked

SILENT = frozenset({"HEAD", "OPTIONS"})
LINES_AT_ONCE = 32  # of a batch, before others have their turn


class Intake:
    """The handler. partitions: of the journal. count: hears of each answer whether its hit is stored. It is connected when
    the application starts."""

    def __init__(self, partitions: int, proxies: Proxies, keys: Keys, count: Callable[[bool], object] = bool) -> None:
        self._partitions = partitions
        self._proxies = proxies
        self._keys = keys
        self._count = count
        self._journal: Journal
        self._rulebook: Callable[[], Rulebook | None]
        self._pages: Pages | None = None

    def connect(self, journal: Journal, rulebook: Callable[[], Rulebook | None], pages: Pages | None = None) -> None:
        """journal: where hits go. rulebook: gives the rulebook in force, None while it is not known. pages: who gives out
        what waits for a visitor's browser, None if nobody does."""
        self._pages = pages
        self._journal = journal
        self._rulebook = rulebook

    async def __call__(self, route: str, scope: Any, receive: Receive, send: Send) -> None:
        """Store the request as a hit and answer it."""
        method: str = scope["method"]
        if method in SILENT:
            pages = FOR_PAGES if route in BROWSER_ROUTES else []
            await _send(send, Answer(204, [(b"allow", ", ".join(METHODS[route]).encode()), *pages], b""))
            return
        body, flags = (b"", ()) if method == "GET" else await read_body(receive)
        headers = headers_of(scope)
        hit = capture(route, scope, headers, body, flags, self._proxies)
        await self._answer(hit, headers, send, "")

    def take(self, route: str, scope: Any, asked: Asked) -> bool:
        """The same without a task, for a GET whose answer waits for nothing but the disk; False for all others."""
        known = self._rulebook()
        if scope["method"] != "GET" or known is None or (route in BROWSER_ROUTES and known.in_browsers):
            return False
        headers = headers_of(scope)
        hit = capture(route, scope, headers, b"", (), self._proxies)
        found = self._examine(hit, known, "")
        as_json = _wants_json(headers)

        def tell(stored: bool) -> None:
            self._count(stored)
            try:
                start, body = _messages(answer(found.hit, found.parsed, as_json, known, stored, found.leads))
                asked.proto.send(start)
                asked.proto.send(body)
            except Exception as error:  # others wait to be told, too
                asked.err(error)
            else:
                asked.done()

        self._journal.put(self._partition(found), found.hit, tell)
        return True

    async def batch(self, scope: Any, receive: Receive, send: Send) -> None:
        """Store every line of the request as a hit and answer each."""
        if scope["method"] not in METHODS["e/batch"]:
            await self("e/batch", scope, receive, send)
            return
        body, flags = await read_body(receive, MAX_BATCH_BYTES)
        headers = headers_of(scope)
        request = capture("e/batch", scope, headers, body, flags, self._proxies)
        try:
            plain, lines = lines_of(body, request, headers.get(b"content-encoding", b""))
        except BadBatchError as bad:
            await self._answer(bad.whole(request), headers, send, bad.detail)
            return
        rulebook = self._rulebook()
        seal = Seal(self._keys, request.query, plain)
        storing: list[asyncio.Task[tuple[Found, bool]]] = []
        for number, hit in enumerate(hits_of(lines, request), 1):
            storing.append(asyncio.create_task(self._keep(examine(hit, rulebook or EMPTY, seal), rulebook)))
            if number % LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
        told = [(found.hit, found.parsed, stored) for found, stored in await asyncio.gather(*storing)]
        await _send(send, batch_answer(told, _wants_json(headers)))

    async def _answer(self, hit: Hit, headers: Headers, send: Send, detail: str) -> None:
        """One hit, stored and answered. detail: why it is refused already, for the sender."""
        known = self._rulebook()
        found = self._examine(hit, known or EMPTY, detail)
        pages = self._pages
        waiting = pages.expect(found, known or EMPTY) if pages is not None else None
        found, stored = await self._keep(found, known)
        hit, parsed, leads = found
        reply = answer(hit, parsed, _wants_json(headers), known or EMPTY, stored, leads)
        if pages is not None and waiting is not None and stored:
            reply = await pages.answer(found, waiting, reply)
        # to a broken body too: its sender may still be there, and the server would say 500 for us
        await _send(send, reply)
        if pages is not None and waiting is not None:
            pages.forget(hit.id)

    def _examine(self, hit: Hit, rulebook: Rulebook, detail: str) -> Found:
        found = examine(hit, rulebook, Seal(self._keys, hit.query, hit.body), detail)
        return untracked(found) if DO_NOT_TRACK in hit.flags else found

    def _partition(self, found: Found) -> int:
        client = found.parsed.client
        return partition_of(client, self._partitions) if client else 0

    async def _keep(self, found: Found, known: Rulebook | None) -> tuple[Found, bool]:
        """Store the hit, and whether it is stored. Without a rulebook every client looks unknown, and a refusal binds: then
        nothing is stored, and the sender has to come again."""
        stored = False
        try:
            if known is not None:
                await self._journal.append(self._partition(found), found.hit)
                stored = True
        except NotStoredError:
            pass
        self._count(stored)
        return found, stored


def _wants_json(headers: Headers) -> bool:
    return b"json" in headers.get(b"accept", b"")


async def _send(send: Send, reply: Answer) -> None:
    for message in _messages(reply):
        await send(message)


def _messages(reply: Answer) -> tuple[Any, Any]:
    headers: list[Header] = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    return (
        {"type": "http.response.start", "status": reply.status, "headers": headers},
        {"type": "http.response.body", "body": reply.body, "more_body": False},
    )


def intake_routes(intake: Intake) -> list[ASGIRouteHandler]:
    """The handlers for the application."""

    @asgi("/e", copy_scope=False)
    async def event(scope: Scope, receive: Receive, send: Send) -> None:
        await intake("e", scope, receive, send)

    @asgi("/e/batch", copy_scope=False)
    async def batch(scope: Scope, receive: Receive, send: Send) -> None:
        await intake.batch(scope, receive, send)

    @asgi("/e.gif", copy_scope=False)
    async def image(scope: Scope, receive: Receive, send: Send) -> None:
        await intake("e.gif", scope, receive, send)

    @asgi("/e.js", copy_scope=False)
    async def script(scope: Scope, receive: Receive, send: Send) -> None:
        await intake("e.js", scope, receive, send)

    @asgi("/c", is_mount=True, copy_scope=False)
    async def tracker_link(scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["raw_path"].startswith(b"/c/") and scope["raw_path"] != b"/c":  # a mount takes /cat too
            await _send(send, Answer(404, [TEXT], b"there is no such page\n"))
            return
        await intake("c", scope, receive, send)

    return [event, batch, image, script, tracker_link]
