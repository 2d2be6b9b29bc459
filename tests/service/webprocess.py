"""`backtrack web` as a process of a test, with a journal of its own, and a client that sends what others refuse to."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import httpx
import redis

from service.engine import Entry
from service.rulebooks import publish
from service.servers import check_journal
from service.settings import Settings
from tests.service.hits import logged
from tests.service.ownserver import OwnServer
from tests.waiting import until


class Reply(NamedTuple):
    """An answer from the wire. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Web:
    """A running web process."""

    def __init__(self, settings: Settings, server: OwnServer) -> None:
        self.settings = settings
        self.server = server
        self.base = f"http://{settings.host}:{settings.port}"
        self.client = httpx.Client(base_url=self.base, trust_env=False, timeout=20)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.spawn()
        until(self.ready, f"the web process; see {self.settings.var / 'web.log'}")

    def spawn(self) -> None:
        """Start it."""
        self.settings.var.mkdir(parents=True, exist_ok=True)
        with (self.settings.var / "web.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "web"], env={**os.environ, **self.settings.environment()},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ready(self, path: str = "/readyz") -> bool:
        """Whether it says so; by /healthz: whether it answers at all."""
        assert self.process is not None and self.process.poll() is None, "the web process has ended"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.base}{path}", trust_env=False, timeout=20).status_code == 200
        return False

    def end(self) -> None:
        """End it as a restart does."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)

    def stop(self) -> None:
        """End it, and everything it has started."""
        self.client.close()
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Process ids of the workers behind the port."""
        assert self.process is not None
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in pids if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def connect(self) -> redis.Redis:
        """A connection to the journal."""
        return self.server.connect()

    def entries(self) -> list[Entry]:
        """All entries with a hit in the journal."""
        with self.connect() as connection:
            found = [entry for number in range(self.settings.partitions) for entry in logged(connection, number)]
        return [entry for entry in found if entry.hit is not None]

    def entry(self, hit_id: str) -> Entry:
        """The one entry of a hit. Fails if it is missing or there twice."""
        (found,) = [entry for entry in self.entries() if entry.hit is not None and entry.hit.id == hit_id]
        return found

    def talk(self, data: bytes, answers: int = 1) -> list[Reply]:
        """Send bytes over a connection of its own and read so many answers."""
        with socket.create_connection((self.settings.host, self.settings.port), timeout=20) as wire:
            wire.sendall(data)
            reader = wire.makefile("rb")
            return [_read(reader) for _ in range(answers)]


def _read(reader: BufferedReader) -> Reply:
    status = int(reader.readline().split()[1])
    headers = {}
    while line := reader.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return Reply(status, headers, reader.read(int(headers.get("content-length", 0))))


@contextlib.contextmanager
def web_process(folder: Path, broker_url: str, port: int, rules: str, **changes: object) -> Iterator[Web]:
    """A web process on a journal of its own in which `rules` are in force."""
    server = OwnServer(folder / "redis")
    server.start()
    settings = Settings(
        journal_url=server.url, broker_url=broker_url, var=folder / "var", port=port,
        **{"spool_floor_mb": 0, "journal_timeout_ms": 500, **changes},  # type: ignore[arg-type]
    )  # fmt: skip
    web = Web(settings, server)
    try:
        with check_journal(server.url, settings.partitions) as connection:
            publish(connection, settings.partitions, settings.tables_path, rules, "test")
        web.start()
        yield web
    finally:
        web.stop()
        server.kill()
