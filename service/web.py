"""The web process: the application behind the HTTP server."""

from __future__ import annotations

import os

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from service.servers import ServerError, check_journal, port_is_free
from service.settings import Settings, make_writable

MAX_HEADERS_BYTES = 128 * 1024


def run(settings: Settings) -> None:
    """Serve until SIGTERM. Raises ServerError if the port or the journal, SettingsError if the spool cannot be used."""
    if not port_is_free(settings.host, settings.port):
        raise ServerError(f"port {settings.port} on {settings.host} is in use; choose another with --port")
    make_writable(settings.spool_path)
    check_journal(settings.journal_url, settings.partitions).close()
    os.environ.update(settings.environment())
    server = Granian(
        "service.app:create",
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
