"""The front door: what goes straight to the intake, and what to the web framework."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.intake.front import Front


class Both:
    """An intake and a framework that remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def intake(self, route: str, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(route)

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


def test_what_is_no_request_goes_to_the_framework() -> None:
    # when the server says that it starts
    both = Both()
    asyncio.run(_ask(both, {"type": "lifespan"}))
    # then the framework hears of it
    assert both.asked == ["rest"]


async def _ask(both: Both, scope: dict[str, Any]) -> None:
    await Front(both.intake, both.rest)(scope, None, None)
