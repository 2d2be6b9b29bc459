"""A Redis of one test alone: it can be killed, started again on its data, and made to hang."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import redis

from service.servers import client, free_port, server_command, start_server


class OwnServer:
    """A journal on a port of its own, with the settings of production."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the data of the last time."""
        self.process = start_server(self.port, self.folder, durable=True)

    def start_with(self, *options: str) -> None:
        """Start it with other settings than those of production."""
        command = [*server_command(self.port, self.folder, durable=True), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def send(self, name: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(name)

    def kill(self) -> None:
        """SIGKILL it, and wait until it is gone."""
        if self.process is not None:
            self.send(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
            self.process = None

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """It accepts connections and answers nothing."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def connect(self) -> redis.Redis:
        """A connection to it."""
        return client(self.url)


@contextlib.contextmanager
def own_server(folder: Path) -> Iterator[OwnServer]:
    """A running server that is gone afterwards."""
    server = OwnServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
