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
/echo                                    200 and the headers of the request
/down                                    503 until everybody is released, then 200
/slow/SECONDS                            200, so much later
/to/URL                                  302 to this address, percent-encoded

With `tls` the server speaks TLS: `good` with a certificate of an authority of its own, else with what its name says.
"""

from __future__ import annotations

import gzip
import ipaddress
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HUGE = 64 * 1024 * 1024
BOMB = gzip.compress(b"boom" * 12_500_000)


class Received(NamedTuple):
    """A request as it came. headers: names in lower case. at_s: when, by a clock that never falls."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at_s: float = 0.0


class Faults:
    """The server; a context manager. tls: good, expired, wrong_name or self_signed; "" for none.

    authority: the certificate of the authority that signed, PEM.
    """

    def __init__(self, tls: str = "") -> None:
        self.requests: list[Received] = []
        self.sent_bytes = 0  # of the huge answer, until the other side gave up
        self.ended = threading.Event()  # the huge answer is over
        self._seen: Counter[str] = Counter()
        self._closing = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._context: ssl.SSLContext | None = None
        self.authority = b""
        if tls:
            self._context, self.authority = _tls_context(tls)
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
        if kind == "echo":
            return _send(connection, 200, "".join(f"{k}: {v}\n" for k, v in request.headers.items()).encode())
        if kind == "down":
            return _send(connection, 200 if self._released.is_set() else 503, b"down\n")
        if kind == "slow":
            self._released.wait(float(rest))
            return _send(connection, 200, b"slow\n")
        if kind == "to":
            return _send(connection, 302, b"", {"location": unquote(rest)})
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
    return Received(first[0].decode(), first[1].decode("latin-1"), headers, body, time.monotonic())


def _send(connection: socket.socket, status: int, body: bytes, headers: dict[str, str] | None = None) -> bool:
    lines = {"date": formatdate(usegmt=True), "content-length": str(len(body)), **(headers or {})}
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    connection.sendall(head.encode("latin-1") + body)
    return True


def _tls_context(kind: str) -> tuple[ssl.SSLContext, bytes]:
    """A context whose certificate is for 127.0.0.1 and localhost unless `kind` says otherwise, and its authority."""
    authority = trustme.CA()
    names = ("other.example",) if kind == "wrong_name" else ("127.0.0.1", "localhost")
    past = datetime(2020, 1, 1, tzinfo=UTC) if kind == "expired" else None
    certificate = authority.issue_cert(*names, not_after=past)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if kind == "self_signed":
        _self_signed(context)
    else:
        certificate.configure_cert(context)
    return context, authority.cert_pem.bytes()


def _self_signed(context: ssl.SSLContext) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*plain))
        context.load_cert_chain(path)
