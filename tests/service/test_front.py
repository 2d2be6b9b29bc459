"""The front door: what goes straight to the intake, and what to the web framework."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from service.intake.front import Front
from service.turns import Asked


class Both:
    """An intake, which it is itself, and a framework that remember what they were asked."""

    def __init__(self, takes: bool = True) -> None:
        self.asked: list[str] = []
        self._takes = takes

    async def __call__(self, route: str, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(route)

    def take(self, route: str, scope: Any, asked: Asked) -> bool:
        if self._takes:
            self.asked.append(route)
        return self._takes

    async def rest(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append("rest")


@pytest.mark.parametrize(
    ("raw_path", "route"),
    [
        (b"/e", "e"),
        (b"/e.gif", "e.gif"),
        (b"/e.js", "e.js"),
        (b"/c/acme/best", "c"),
        (b"/c/", "c"),
        (b"/e/", "rest"),
        (b"/e/batch", "rest"),
        (b"/%65", "rest"),
        (b"/cat", "rest"),
        (b"/healthz", "rest"),
        (None, "rest"),
    ],
)
def test_the_intakes_own_paths_go_straight_to_it(raw_path: bytes | None, route: str) -> None:
    # given a front door
    both = Both()
    # when a request comes
    asyncio.run(_ask(both, {"type": "http", "raw_path": raw_path}))
    # then the right one is asked
    assert both.asked == [route]


@pytest.mark.parametrize(("raw_path", "route"), [(b"/e", "e"), (b"/c/acme/best", "c"), (b"/e/", ""), (b"/healthz", "")])
def test_only_the_intakes_own_paths_are_taken_as_they_are(raw_path: bytes, route: str) -> None:
    # given a front door, and a request as the server has it
    both = Both()
    asked: Any = SimpleNamespace(scope={"type": "http", "raw_path": raw_path})
    # when it comes
    taken = Front(both, both.rest).take(asked)
    # then the intake has it if it is its own
    assert (taken, both.asked) == (bool(route), [route] if route else [])


def test_what_the_intake_does_not_take_is_not_taken() -> None:
    # given an intake that would have to wait
    both = Both(takes=False)
    asked: Any = SimpleNamespace(scope={"type": "http", "raw_path": b"/e.js"})
    # then nobody takes the request
    assert not Front(both, both.rest).take(asked)


def test_what_is_no_request_goes_to_the_framework() -> None:
    # when the server says that it starts
    both = Both()
    asyncio.run(_ask(both, {"type": "lifespan"}))
    # then the framework hears of it
    assert both.asked == ["rest"]


async def _ask(both: Both, scope: dict[str, Any]) -> None:
    await Front(both, both.rest)(scope, None, None)
