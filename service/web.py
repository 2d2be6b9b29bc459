"""The web process: the application behind the HTTP server."""

from __future__ import annotations

import errno
import os
import socket
import sys

import redis
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from service.servers import ServerError, address, check_journal, client, is_away
from service.settings import Settings, make_writable

MAX_HEADERS_BYTES = 128 * 1024
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
    server.serve()


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
