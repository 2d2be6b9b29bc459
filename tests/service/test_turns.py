"""Requests that come in together are taken in one turn of the event loop; what is not taken goes the server's own way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from service.turns import Asked, Turns


class Request:
    """A request that remembers what became of it."""

    def __init__(self, name: str) -> None:
        self.scope: dict[str, Any] = {"name": name}
        self.proto = None
        self.errors: list[BaseException] = []
        self.tasks: list[asyncio.Task[None]] = []

    def taskref(self, task: asyncio.Task[None]) -> None:
        self.tasks.append(task)

    def done(self) -> None: ...

    def err(self, error: BaseException) -> None:
        self.errors.append(error)


def hand_over(requests: list[Request], take: Callable[[Asked], bool]) -> list[str]:
    """Put the requests down as the server's thread does; returns the names of those that went its own way."""
    others = []

    async def answer(asked: Asked) -> None:
        others.append(asked.scope["name"])

    async def go() -> None:
        turns = Turns(asyncio.get_running_loop(), take, answer)

        def put_all_down() -> None:
            for request in requests:
                turns.put_down(request)

        server = threading.Thread(target=put_all_down)
        server.start()
        server.join()  # the loop stands still meanwhile
        await asyncio.sleep(0)  # the turn
        await asyncio.gather(*[task for request in requests for task in request.tasks])

    asyncio.run(go())
    return others


def test_what_came_together_is_taken_in_one_turn_in_its_order() -> None:
    # given requests that came while the loop had no turn
    taken: list[str] = []

    def take(asked: Asked) -> bool:
        taken.append(asked.scope["name"])
        return True

    requests = [Request(str(number)) for number in range(200)]
    # when it has one
    others = hand_over(requests, take)
    # then all are taken, and none goes another way
    assert taken == [request.scope["name"] for request in requests] and not others


def test_what_is_not_taken_goes_the_servers_own_way() -> None:
    # given an application that takes one of three
    requests = [Request("a"), Request("b"), Request("c")]
    # when they come
    others = hand_over(requests, lambda asked: asked.scope["name"] == "b")
    # then the server's own way has the others, and holds their tasks
    assert others == ["a", "c"] and [len(request.tasks) for request in requests] == [1, 0, 1]


def test_a_bug_in_one_request_holds_up_no_other() -> None:
    # given an application that fails for one of three
    taken: list[str] = []

    def take(asked: Asked) -> bool:
        if asked.scope["name"] == "b":
            raise RuntimeError("a bug")
        taken.append(asked.scope["name"])
        return True

    requests = [Request("a"), Request("b"), Request("c")]
    # when they come
    hand_over(requests, take)
    # then the server hears of that one, and the others are taken
    assert taken == ["a", "c"] and [len(request.errors) for request in requests] == [0, 1, 0]
