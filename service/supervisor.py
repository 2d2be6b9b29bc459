"""`backtrack up`: web, workers and the embedded Redis servers as children of one process, restarted when they end."""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from service.processes import die_with_parent, when_told_to_end
from service.rulebooks import publish
from service.servers import (
    ServerError,
    address,
    check_broker,
    check_journal,
    port_is_free,
    server_command,
    start_server,
)
from service.settings import Settings, make_writable
from service.wakeups import ARCHIVE, DELIVERY, TRACKING
from service.web import check_listen

log = logging.getLogger("backtrack.up")

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
CALM_S = 5.0  # a child that ran this long is restarted at once
LOOK_EVERY_S = 0.05
SERVERS = 0  # they are stopped last
# one process for each kind of work: in one, they would wait for each other's turn at the interpreter
WORKERS = {"worker": TRACKING, "delivery": DELIVERY, "archive": ARCHIVE}


class Child(msgspec.Struct):
    """One process that is kept alive. order: higher ones are stopped first."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log_path: Path
    order: int
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    restarts: int = 0
    not_before_s: float = 0.0

    @property
    def last_signal(self) -> int:
        """What it gets when the supervisor is killed. A role could settle nothing then, for its servers die as well, and
        would only wait for them; what it leaves undone is found at the next start."""
        return signal.SIGTERM if self.order == SERVERS else signal.SIGKILL


class Up:
    """The processes of one machine. Use as a context manager: everything that was started ends with it."""

    def __init__(self, settings: Settings, embedded: bool, environment: dict[str, str] | None = None) -> None:
        self.settings = settings
        self._embedded = embedded
        self._extra = environment or {}
        self.children: dict[str, Child] = {}
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._claim: int | None = None

    def __enter__(self) -> Up:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        settings = self.settings
        make_writable(settings.var)
        self._claim = claim(settings.var)
        check_listen(settings.host, settings.port)
        if self._embedded:
            self._start_server("journal", settings.journal_url, durable=True)
            self._start_server("broker", settings.broker_url, durable=False)
        check_journal(settings.journal_url, settings.partitions).close()
        check_broker(settings.broker_url).close()
        self.add("web", [sys.executable, "-m", "service.cli", "web"], 3)
        for name, queue in WORKERS.items():
            self.add(name, [sys.executable, "-m", "service.cli", "worker", "--queues", queue], 2)

    def _start_server(self, name: str, url: str, durable: bool) -> None:
        host, port = embedded_place(name, url)
        if not port_is_free(host, port):
            raise ServerError(
                f"port {port} for the embedded {name} is in use; end what listens there, name another port with "
                f"BACKTRACK_{name.upper()}_URL, or use the server that is there with --no-embedded"
            )
        folder = self.settings.var / name
        process = start_server(port, folder, durable)
        child = Child(
            name, server_command(port, folder, durable), {}, folder / "server.log", SERVERS, process, time.monotonic()
        )
        self.children[name] = child

    def add(self, name: str, command: list[str], order: int) -> Child:
        """Start a child and keep it alive."""
        environment = {**os.environ, **self._extra, **self.settings.environment()}
        path = self.settings.var / "log" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        child = Child(name, command, environment, path, order)
        self._spawn(child)
        self.children[name] = child
        return child

    def _spawn(self, child: Child) -> None:
        with child.log_path.open("ab") as out:
            child.process = subprocess.Popen(
                child.command, env=child.environment or None, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                preexec_fn=functools.partial(die_with_parent, child.last_signal),
            )  # fmt: skip
        child.started_s = time.monotonic()

    def wait_ready(self) -> None:
        """Wait until the web process stores hits. Raises ServerError with the end of its log if it does not."""
        url = f"http://{self.settings.host}:{self.settings.port}/readyz"
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            self.look_after()
            time.sleep(LOOK_EVERY_S)
        log_path = self.settings.var / "log" / "web.log"
        raise ServerError(f"the web process is not ready after {READY_TIMEOUT_S:.0f} s; see {log_path}")

    def publish(self, text: str, source: str) -> tuple[str, bool]:
        """Put a rulebook in force."""
        connection = check_journal(self.settings.journal_url, self.settings.partitions)
        try:
            return publish(connection, self.settings.partitions, self.settings.tables_path, text, source)
        finally:
            connection.close()

    def look_after(self) -> None:
        """Restart what has ended; a child that ends again and again waits a little longer each time."""
        with self._lock:
            for child in self.children.values():
                process, now = child.process, time.monotonic()
                if self._stopping.is_set() or now < child.not_before_s:
                    continue
                if process is None:
                    self._spawn(child)
                elif (status := process.poll()) is not None:
                    child.restarts = 1 if now - child.started_s > CALM_S else child.restarts + 1
                    log.warning("%s ended with status %s, starting it again", child.name, status)
                    child.process, child.not_before_s = None, now + min(5.0, 0.1 * 2 ** min(child.restarts - 1, 6))

    def run(self, on_look: Callable[[], None] | None = None) -> None:
        """Look after the children until SIGTERM or SIGINT."""
        when_told_to_end(self._stopping.set)
        while not self._stopping.wait(LOOK_EVERY_S * 4):
            self.look_after()
            if on_look is not None:
                on_look()

    def keep(self) -> threading.Thread:
        """Look after the children in the background."""

        def work() -> None:
            while not self._stopping.wait(LOOK_EVERY_S * 2):
                self.look_after()
            self._ended.wait()  # the parent of a child is the thread that started it

        thread = threading.Thread(target=work, name="supervisor", daemon=True)
        thread.start()
        return thread

    def kill(self, name: str) -> int:
        """SIGKILL a child, for trials; returns its process id."""
        process = self.children[name].process
        if process is None:
            raise ServerError(f"{name} is not running")
        process.kill()
        return process.pid

    def stop(self) -> None:
        """End the children, those that take work first, the servers last."""
        self._stopping.set()
        with self._lock:
            for order in sorted({child.order for child in self.children.values()}, reverse=True):
                _end([child for child in self.children.values() if child.order == order])
        self._ended.set()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None


def _end(children: Sequence[Child]) -> None:
    running = [child.process for child in children if child.process is not None and child.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def claim(folder: Path) -> int:
    """Take a folder for this process; the file descriptor holds it, and the end of the process gives it back.

    Two embedded servers that write the same files would destroy them. Raises ServerError if another process has it.
    """
    descriptor = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise ServerError(
            f"the folder {folder} is used by another `backtrack up` or `demo` (process {owner}); end it, or choose "
            "another folder with --var"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def embedded_place(name: str, url: str) -> tuple[str, int]:
    """Where an embedded server listens. Raises ServerError for an address that is not of this machine."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost"):
        raise ServerError(
            f"BACKTRACK_{name.upper()}_URL is {address(url)}, and an embedded server listens on 127.0.0.1 only; "
            "use --no-embedded for a server elsewhere"
        )
    return "127.0.0.1", parts.port or 6379
