"""The front door: requests to the intake's own paths go straight to it, all else to the web framework.

The framework's own way to a handler takes longer than the handler; its check of the Host header would answer before the hit
is logged. It knows the same routes, and gets what is written in another way, such as with a slash behind.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from service.turns import Asked

STRAIGHT = {b"/e": "e", b"/e.gif": "e.gif", b"/e.js": "e.js"}
TRACKER_LINKS = b"/c/"


class Handler(Protocol):
    """What stores a request to a route and answers it."""

    def __call__(self, route: str, scope: Any, receive: Any, send: Any) -> Awaitable[None]: ...

    def take(self, route: str, scope: Any, asked: Asked) -> bool:
        """The same for a request that needs no waiting but for the disk; False if this one may need more."""


class Front:
    """The application that the server calls. intake: for its own paths. rest: for all others."""

    def __init__(self, intake: Handler, rest: Any) -> None:
        self._intake = intake
        self._rest = rest

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Answer one request."""
        route = _route(scope)
        if route is not None:
            return self._intake(route, scope, receive, send)
        answered: Awaitable[None] = self._rest(scope, receive, send)
        return answered

    def take(self, asked: Asked) -> bool:
        """Take a request as the server has it; False if it has to be called as above."""
        scope = asked.scope
        route = _route(scope)
        return route is not None and self._intake.take(route, scope, asked)


def _route(scope: Any) -> str | None:
    """The route of the intake's own paths."""
    if scope["type"] != "http":
        return None
    path: bytes = scope["raw_path"] or b""
    return STRAIGHT.get(path) or ("c" if path.startswith(TRACKER_LINKS) else None)
