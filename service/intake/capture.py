"""A request to a hit: what is kept of it, and what it shows at first sight. No rulebook is asked here."""

from __future__ import annotations

import time
from typing import Any

from litestar.types import Receive

from service.engine.model import Hit, Reason
from service.engine.parse import BROWSER_ROUTES, MAX_BODY_BYTES, MAX_QUERY_BYTES
from service.intake.agents import AHEAD_HEADERS, is_ahead, is_bot
from service.intake.ids import new_hit_id
from service.intake.proxies import Proxies

# headers that become a part of the hit, and how many bytes of each
KEPT_BYTES = {b"content-type": 200, b"user-agent": 400, b"referer": 800}
NOT_TO_BE_TRACKED = (b"dnt", b"sec-gpc")  # do-not-track and Global Privacy Control; 1 asks for it
LOOKED_AT = frozenset({
    *KEPT_BYTES, *AHEAD_HEADERS, *NOT_TO_BE_TRACKED, b"accept", b"content-encoding", b"x-forwarded-for",
})  # fmt: skip
KEPT_QUERY_BYTES = 8 * MAX_QUERY_BYTES

METHODS = {
    "e": ("GET", "POST"), "e/batch": ("POST",), "e.gif": ("GET", "POST"), "e.js": ("GET", "POST"), "c": ("GET", "POST"),
}  # fmt: skip
PUBLIC_ROUTES = frozenset({"c", "e.gif", "e.js"})  # browsers call them, and so does whatever follows a link

DISCONNECTED = "disconnected"
BODY_CUT = "body_cut"
QUERY_CUT = "query_cut"
BOT = "bot"
PREFETCH = "prefetch"
DO_NOT_TRACK = "do_not_track"

Headers = dict[bytes, bytes]
Flags = tuple[str, ...]


def headers_of(scope: Any) -> Headers:
    """The headers that are looked at; of a repeated one the last, of X-Forwarded-For all, in their order."""
    found: Headers = {}
    for name, value in scope["headers"]:
        if name in LOOKED_AT:
            found[name] = found[name] + b"," + value if name == b"x-forwarded-for" and name in found else value
    return found


def capture(route: str, scope: Any, headers: Headers, body: bytes, flags: Flags, proxies: Proxies) -> Hit:
    """The request as a hit; its refusal says what no rulebook is needed for."""
    query: bytes = scope["query_string"]
    if len(query) > KEPT_QUERY_BYTES:
        query, flags = query[:KEPT_QUERY_BYTES], (*flags, QUERY_CUT)
    user_agent = _text(headers, b"user-agent")
    if route in PUBLIC_ROUTES:
        if is_bot(user_agent):
            flags = (*flags, BOT)
        if not AHEAD_HEADERS.isdisjoint(headers) and is_ahead(headers):
            flags = (*flags, PREFETCH)
        if route in BROWSER_ROUTES and any(headers.get(name) == b"1" for name in NOT_TO_BE_TRACKED):
            flags = (*flags, DO_NOT_TRACK)
    method: str = scope["method"]
    refusal = _refusal(route, method, flags) if flags or method not in METHODS[route] else ""
    peer = str((scope.get("client") or ("",))[0])
    received_at_us = time.time_ns() // 1000
    return Hit(
        new_hit_id(received_at_us), received_at_us, route, method, scope["raw_path"] or b"", query, body,
        _text(headers, b"content-type"), proxies.sender(peer, headers.get(b"x-forwarded-for", b"")), user_agent,
        _text(headers, b"referer"), refusal, flags,
    )  # fmt: skip


def _refusal(route: str, method: str, flags: Flags) -> str:
    if method not in METHODS[route]:
        return Reason.BAD_METHOD.value
    if DISCONNECTED in flags:
        return Reason.INVALID_BODY.value
    return Reason.PREFETCH.value if PREFETCH in flags else ""


def _text(headers: Headers, name: bytes) -> str:
    value = headers.get(name)
    return value[: KEPT_BYTES[name]].decode("utf-8", "replace") if value else ""


async def read_body(receive: Receive, limit: int = MAX_BODY_BYTES) -> tuple[bytes, Flags]:
    """The body up to its bound, and what was found: `body_cut` past it, `disconnected` if the sender went away."""
    parts: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        gone = message["type"] == "http.disconnect"
        part = b"" if gone else message.get("body", b"")
        if size <= limit:
            parts.append(part)
        size += len(part)
        if gone or not message.get("more_body"):
            flags = (*((DISCONNECTED,) if gone else ()), *((BODY_CUT,) if size > limit else ()))
            return b"".join(parts)[:limit], flags
