"""A worker of the web server that takes requests in together: what came while the event loop was busy, in one turn of it.

The server reads requests in a thread of its own. Its own way wakes the event loop for each of them, makes a coroutine and a
task, and lets the loop turn once for each step of these: more work than to store a hit. Here the thread puts the
request down and wakes the loop if nobody has; what the application does not take as it is goes the server's own way.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from granian import _futures, _granian, _signals
from granian import asgi as _asgi
from granian.server.common import WORKERS_METHODS
from granian.server.mp import WorkerProcess

futures, compiled, signals, asgi = cast(Any, (_futures, _granian, _signals, _asgi))  # their types are not all told

log = logging.getLogger("backtrack.web")


class Asked(Protocol):
    """A request as the server hands it over. `done` or `err` is to be called once, whatever becomes of it."""

    scope: dict[str, Any]
    proto: Any

    def taskref(self, task: asyncio.Task[None]) -> None:
        """Keep the task while the request lives."""

    def done(self) -> None:
        """It was answered."""

    def err(self, error: BaseException) -> None:
        """It was not, because of a bug: the server says 500 unless an answer is on its way."""


class Application(Protocol):
    """An ASGI application that takes some requests as they are."""

    def take(self, asked: Asked) -> bool:
        """Take a request and answer it now or later; False if it has to come as ASGI has it."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        """Answer one request."""


class Turns:
    """Hands requests to the application, on `loop`. take: see Application. answer: the server's own way."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[Asked], bool],
        answer: Callable[[Asked], Coroutine[Any, Any, None]],
    ) -> None:
        self._loop = loop
        self._take = take
        self._answer = answer
        self._came: deque[Asked] = deque()
        self._woken = False

    def put_down(self, asked: Asked) -> None:
        """Called by the server in its thread."""
        self._came.append(asked)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self._woken = False  # first: who comes from now on wakes the loop again
        for _ in range(len(self._came)):
            asked = self._came.popleft()
            try:
                taken = self._take(asked)
            except Exception as error:
                asked.err(error)
                continue
            if not taken:
                asked.taskref(self._loop.create_task(self._answer(asked)))


@WorkerProcess.wrap_target  # type: ignore[untyped-decorator]
def work(
    number: int, application: Application, place: Any, ipc: Any, loop: asyncio.AbstractEventLoop, mode: Any, threads: int,
    runtime_blocking_threads: int | None, blocking_threads: int, idle_timeout: int, backpressure: int, _task_impl: Any,
    http_mode: Any, http1: Any, http2: Any, websockets: bool, static: Any, log_format: str | None, tls: tuple[Any, ...],
    scope_options: dict[str, Any], metrics: Any,
) -> None:  # fmt: skip
    """The life of a worker process, as the server has it for ASGI with lifespan, but for how requests come in."""
    lifespan = asgi.LifespanProtocol(application)
    answer = futures._future_watcher_wrapper(
        asgi._callback_wrapper(application, scope_options, lifespan.state, log_format)
    )
    loop.run_until_complete(lifespan.startup())
    if lifespan.interrupt:
        log.error("the application did not start", exc_info=lifespan.exc)
        sys.exit(1)
    # Only now: until here a signal ends the process at once, which has promised nothing. One that came while the
    # application starts was told to nobody, since nobody listens before the worker serves.
    told = signals.set_loop_signals(loop)
    end = asyncio.Event()
    told.add_cb(lambda: loop.call_soon_threadsafe(end.set))
    worker = compiled.ASGIWorker(
        number, place, ipc, threads, runtime_blocking_threads, blocking_threads, idle_timeout, backpressure, http_mode,
        http1, http2, websockets, static, *tls, metrics,
    )  # fmt: skip
    scheduler = compiled.CallbackScheduler(loop, None, None, None, None)  # it has nothing to do but to call this:
    scheduler._schedule_fn = Turns(loop, application.take, answer).put_down
    getattr(worker, WORKERS_METHODS[mode][(place[0] or place[1]).is_uds()])(scheduler, loop, told)
    loop.run_until_complete(end.wait())
    loop.run_until_complete(lifespan.shutdown())
