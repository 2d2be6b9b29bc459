"""A recipient that misbehaves on purpose, over real sockets. The path of a request chooses how.

/200 /204 /301 /404 /410 /429 /500 ...   this status (301 leads to /caught on the same server)
/after/SECONDS-OR-DATE                   429 with this Retry-After, percent-encoded
/flaky/N                                 500 for the first N requests of a webhook id, then 200
/hang                                    reads the request and never answers
/reset                                   resets the connection instead of answering
/close                                   closes the connection instead of answering
/half                                    promises 1,000 bytes, sends 10 and closes
/drip                                    promises 1,000 bytes, sends 10 and nothing more
/huge                                    64 MiB, until the other side gives up
/bomb                                    a gzip answer of 50 kB that unpacks to 50 MB
/garbage                                 what is no HTTP at all
"""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

# made for these tests: self-signed, for 127.0.0.1 and localhost
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUL84BlIgM6dytHMCz2G9ETpKmkGAwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyMzExMDIzMFoYDzIxMjYxMDMw
MTEwMjMwWjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARw7zeJwTNnGQAemc4crV+otu1IqMhFOBacbduQvmqJ78ex/BZWz8g9
zETZb0/ul6b58D53m2OK8ViyLZHcaXU6o28wbTAdBgNVHQ4EFgQUq+vxRu6VxkCF
Ls4blIUdEka9gg0wHwYDVR0jBBgwFoAUq+vxRu6VxkCFLs4blIUdEka9gg0wDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARhwR/AAABgglsb2NhbGhvc3QwCgYIKoZI
zj0EAwIDSAAwRQIgGrO9W+F2dS0l/836Zf7cNJXZ5RT/j8UDCcc1uauLL6MCIQCu
VaSue5+zmqQZIwAaRaDa+nE9CNAzAFmEornX/O1hkw==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg8Vkfbad+BMLtF2Tn
AUz9pRMPoS5mQcY6Bk2fGFg/KrOhRANCAARw7zeJwTNnGQAemc4crV+otu1IqMhF
OBacbduQvmqJ78ex/BZWz8g9zETZb0/ul6b58D53m2OK8ViyLZHcaXU6
-----END PRIVATE KEY-----
"""
HUGE = 64 * 1024 * 1024
BOMB = gzip.compress(b"boom" * 12_500_000)


class Received(NamedTuple):
    """A request as it came. headers: names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Faults:
    """The server; a context manager. tls: speak TLS with a certificate that nobody has signed."""

    def __init__(self, tls: bool = False) -> None:
        self.requests: list[Received] = []
        self.sent_bytes = 0  # of the huge answer, until the other side gave up
        self.ended = threading.Event()  # the huge answer is over
        self._seen: Counter[str] = Counter()
        self._closing = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._context = _tls_context() if tls else None
        self._scheme = "https" if tls else "http"
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Faults:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.release()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def url(self, path: str) -> str:
        """Address of a path."""
        return f"{self._scheme}://127.0.0.1:{self.port}{path}"

    def release(self) -> None:
        """Let go of everybody who hangs; their connections are closed."""
        self._released.set()

    def received(self, path: str) -> list[Received]:
        """The requests for a path so far."""
        with self._lock:
            return [request for request in self.requests if request.target.partition("?")[0] == path]

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            stream = self._context.wrap_socket(connection, server_side=True) if self._context else connection
            with stream, stream.makefile("rb") as lines:
                while (request := _read(lines)) is not None:
                    with self._lock:
                        self.requests.append(request)
                    if not self._answer(stream, request):
                        return
        except (OSError, ValueError):
            pass

    def _answer(self, connection: socket.socket, request: Received) -> bool:
        """Answer, or do not; False if the connection is over."""
        kind, _, rest = request.target.partition("?")[0].removeprefix("/").partition("/")
        if kind.isdigit():
            extra = {"location": f"http://127.0.0.1:{self.port}/caught"} if kind.startswith("3") else {}
            return _send(connection, int(kind), b"" if kind == "204" else f"status {kind}\n".encode(), extra)
        if kind == "after":
            return _send(connection, 429, b"later\n", {"retry-after": unquote(rest)})
        if kind == "flaky":
            identity = request.headers.get("webhook-id", "")
            self._seen[identity] += 1
            return _send(connection, 500 if self._seen[identity] <= int(rest) else 200, b"flaky\n")
        faults: dict[str, Callable[[socket.socket], bool]] = {
            "hang": self._hang, "reset": self._reset, "close": self._close, "half": self._half, "drip": self._drip,
            "huge": self._huge, "bomb": self._bomb, "garbage": self._garbage,
        }  # fmt: skip
        return faults[kind](connection) if kind in faults else _send(connection, 200, b"ok\n")

    def _hang(self, _: socket.socket) -> bool:
        self._released.wait()
        return False

    def _reset(self, connection: socket.socket) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _close(self, _: socket.socket) -> bool:
        return False

    def _half(self, connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n0123456789")
        return False

    def _drip(self, connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n0123456789")
        return self._hang(connection)

    def _huge(self, connection: socket.socket) -> bool:
        connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {HUGE}\r\n\r\n".encode())
        try:
            while self.sent_bytes < HUGE:
                self.sent_bytes += connection.send(b"x" * 16_384)
        finally:
            self.ended.set()
        return False

    def _bomb(self, connection: socket.socket) -> bool:
        return _send(connection, 200, BOMB, {"content-encoding": "gzip"})

    def _garbage(self, connection: socket.socket) -> bool:
        connection.sendall(b"220 mail.example ESMTP\r\n")
        return False


def _read(lines: BufferedReader) -> Received | None:
    """One request; None if the other side has gone or speaks TLS to a server without it."""
    if lines.peek(1)[:1] == b"\x16":
        return None
    first = lines.readline().split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while (line := lines.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = lines.read(int(headers.get("content-length", 0)))
    return Received(first[0].decode(), first[1].decode("latin-1"), headers, body)


def _send(connection: socket.socket, status: int, body: bytes, headers: dict[str, str] | None = None) -> bool:
    lines = {"date": formatdate(usegmt=True), "content-length": str(len(body)), **(headers or {})}
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    connection.sendall(head.encode("latin-1") + body)
    return True


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        path.write_text(CERTIFICATE + KEY)
        context.load_cert_chain(path)
    return context
