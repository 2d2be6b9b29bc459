"""The web process: the application behind the HTTP server."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import sys
import time
from typing import Any

import redis
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.common import AbstractServer

from service import turns
from service.processes import die_with_parent, when_told_to_end
from service.servers import ServerError, address, check_journal, client, is_away
from service.settings import Settings, make_writable

MAX_HEADERS_BYTES = 128 * 1024
GRACE_S = 5.0  # beyond the time that workers get to end, for all that is around them
AGAIN_S = 0.1
APPLICATION = "service.app:create"


def run(settings: Settings, application: str = APPLICATION) -> None:
    """Serve until SIGTERM. application: where the server finds what makes it.

    A journal that is away is no reason to wait: what comes goes to the spool. Raises ServerError if the port or a journal
    that is there, SettingsError if the spool cannot be used.
    """
    check_listen(settings.host, settings.port)
    make_writable(settings.spool_path)
    away = away_because(settings.journal_url)
    if away:
        place = address(settings.journal_url)
        print(f"the journal at {place} is away ({away}), hits go to the spool until it is back", file=sys.stderr)
    else:
        check_journal(settings.journal_url, settings.partitions).close()
    os.environ.update(settings.environment())
    server = Granian(
        application,
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.web_workers,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(max_buffer_size=MAX_HEADERS_BYTES),
        websockets=False,
        respawn_failed_workers=True,
        respawn_interval=0.2,
        log_level=LogLevels.warning,
        workers_kill_timeout=settings.web_stop_s,
    )
    # behind the server's own handlers, before its first worker
    server.on_startup(lambda: _end_surely(server, settings.web_stop_s + GRACE_S))
    server.serve(spawn_target=turns.work)


def _end_surely(server: AbstractServer[Any], within_s: float) -> None:
    """Let SIGTERM and SIGINT end the server within so long, whatever it and its workers are doing.

    Its own handlers are not always heard (`when_told_to_end`), and what it was told it forgets if that is the moment in
    which it replaces a worker: so it is told again and again, and so are its workers, each of which is deaf for a moment
    while it is made. They would inherit the handlers and be deaf until they have a loop of their own. To kill any of them
    loses nothing: what was acknowledged is on disk.
    """
    parent = os.getpid()

    def end() -> None:
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s:
            server.signal_handler_interrupt()  # type: ignore[no-untyped-call]
            time.sleep(AGAIN_S)
            for worker in tuple(server.wrks):
                worker.terminate()
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(1)

    def begin_as_worker() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # asked politely, the server's own shutdown can wait for its dead parent for ever
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    when_told_to_end(end)
    os.register_at_fork(after_in_child=begin_as_worker)


def away_because(url: str) -> str:
    """Why the journal cannot be asked now, "" if it can, or if waiting would not help."""
    try:
        with client(url, 2.0) as connection:
            connection.ping()
    except (ValueError, redis.AuthenticationError):
        return ""
    except redis.RedisError as error:
        return str(error) if is_away(error) else ""
    return ""


def check_listen(host: str, port: int) -> None:
    """Bind plainly once: the server itself would start silently beside another on the same port.

    Raises ServerError if nobody can listen there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServerError(f"port {port} on {host} is in use; choose another with --port") from None
        raise ServerError(
            f"cannot listen on port {port} of {host} ({error.strerror}); choose another with --host or --port"
        ) from None
