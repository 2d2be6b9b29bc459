"""The routes of the status API: `GET /hits/{id}` and `GET /postbacks/{id}`, each with a token.

A lookup runs in a thread, few at a time, so that the intake in the same process never waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import redis
from deltalake.exceptions import DeltaError
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from service.admin.access import refusal
from service.admin.live import Live
from service.admin.status import Document, Status
from service.admin.stored import Stored
from service.archive.tables import TableError
from service.servers import client
from service.settings import Settings

AT_ONCE = 2  # lookups
WAITING = 16  # lookups that wait for one of them; more are sent away
TIMEOUT_S = 5.0  # for an answer of Redis

Asker = Request[Any, Any, Any]


class Desk:
    """Takes questions, checks who asks, and has them looked up."""

    def __init__(self, settings: Settings) -> None:
        self._tokens = settings.secret_tokens
        self._pool = ThreadPoolExecutor(AT_ONCE, "status")
        self._waiting = 0
        live = Live(client(settings.journal_url, TIMEOUT_S), settings.partitions)
        self.status = Status(live, Stored(settings.tables_path))

    async def answer(self, request: Asker, what: str, identity: str, look: Callable[[str], Document | None]) -> Any:
        """The answer about one id. what: the noun for the sentence about an unknown one."""
        refused = refusal(request.headers.get("authorization", ""), self._tokens)
        if refused is not None:
            return _said(*refused)
        if self._waiting >= WAITING:
            return _said(503, f"{WAITING} lookups are waiting already; ask again in a second", {"Retry-After": "1"})
        self._waiting += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._pool, look, identity)
        except (redis.RedisError, OSError) as error:
            return _said(503, f"the journal is away ({error}); what is stored is kept, ask again", {"Retry-After": "1"})
        except (TableError, DeltaError) as error:
            return _said(503, f"the tables cannot be read: {error}")
        finally:
            self._waiting -= 1
        return _document(200, found) if found is not None else _said(404, _unknown(what, identity))


def _unknown(what: str, identity: str) -> str:
    hint = "it is the X-Hit-Id of an answer, 32 hex digits" if what == "hit" else "it is the webhook-id, 32 hex digits"
    return (
        f"there is no {what} {identity[:64]!r}; {hint}. It may still wait in a spool, or be of a day that is not kept"
    )


def _said(status: int, words: str, headers: dict[str, str] | None = None) -> Response[bytes]:
    return _document(status, {"error": words}, headers)


def _document(status: int, document: Document, headers: dict[str, str] | None = None) -> Response[bytes]:
    shown = {"Cache-Control": "no-store"} | (headers or {})
    if status == 401:
        shown["WWW-Authenticate"] = "Bearer"
    body = msgspec.json.encode(document) + b"\n"
    return Response(body, status_code=status, media_type="application/json", headers=shown)


def status_routes(settings: Settings) -> list[HTTPRouteHandler]:
    """The handlers for the application."""
    desk = Desk(settings)

    @get("/hits/{hit_id:str}")
    async def hit(request: Asker, hit_id: str) -> Response[bytes]:
        answered: Response[bytes] = await desk.answer(request, "hit", hit_id, desk.status.hit)
        return answered

    @get("/postbacks/{postback_id:str}")
    async def postback(request: Asker, postback_id: str) -> Response[bytes]:
        answered: Response[bytes] = await desk.answer(request, "postback", postback_id, desk.status.postback)
        return answered

    return [hit, postback]
