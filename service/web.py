"""The web process: the application behind the HTTP server."""

from __future__ import annotations

import errno
import os
import socket

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from service.servers import ServerError, check_journal
from service.settings import Settings, make_writable

MAX_HEADERS_BYTES = 128 * 1024
APPLICATION = "service.app:create"


def run(settings: Settings, application: str = APPLICATION) -> None:
    """Serve until SIGTERM. application: where the server finds what makes it.

    Raises ServerError if the port or the journal, SettingsError if the spool cannot be used.
    """
    check_listen(settings.host, settings.port)
    make_writable(settings.spool_path)
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
        workers_kill_timeout=20,
    )
    server.serve()


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
