"""A Redis of one test alone: it can be killed, started again on its data, and made to hang."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
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


class CuttingProxy:
    """A way to a server that breaks down at a chosen answer: the server has done the work, the client never hears of it.

    answers: how many get through before that.
    """

    def __init__(self, port: int, answers: int) -> None:
        self._port = port
        self._left = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Break every connection."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client_side, _ = self._listener.accept()
                server_side = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client_side, server_side]
                threading.Thread(target=self._forward, args=(client_side, server_side), daemon=True).start()
                threading.Thread(target=self._answer, args=(server_side, client_side), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                target.sendall(data)

    def _answer(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if self._left <= 0:
                    self.cut = True
                    self.close()
                    return
                self._left -= 1
                target.sendall(data)
