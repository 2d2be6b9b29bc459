"""The partner: receives postbacks, answers 200 and records every request, so that nobody needs a real recipient to try.

It ships with the product: the demo, compose.yaml and the tests deliver to it. Each request becomes one JSON line
{"time_us", "kind", "method", "path", "query", "headers", "body", "status"}, on disk before the answer goes out;
kind is `postback`, or `landing` for the pages that tracker links lead to. Query as it came; undecodable bytes of a body
are replaced. `GET /_received` counts, `GET /_healthz` answers ok; neither is recorded.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import click
import msgspec
from granian.constants import Interfaces
from granian.server.embed import Server

PAGES = {"/welcome": "Acme Casino", "/shop": "Bolt Shop", "/travel": "Cozy Travel"}
MAX_BODY_BYTES = 1_048_576

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, str, bytes]  # status, content type, body

_encode = msgspec.json.Encoder().encode
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}
dt{{font-weight:600}}dd{{margin:0 0 .5rem;overflow-wrap:anywhere}}</style>
<h1>{title}</h1>
<p>A tracker link led here. This page stands for the client's own site; it brought along:</p>
<dl>{values}</dl>
</html>
"""


class PartnerError(Exception):
    """A partner that cannot start. The message names the value and the remedy."""


class Partner:
    """The ASGI application: what was received since it started, and the file that it is recorded in.

    fail: share of the webhook ids that get a 500 on their first try. A hash of the id decides, so it is the same ids
    every time. Used by one event loop.
    """

    def __init__(self, record: int, fail: float = 0.0) -> None:
        self.record = record  # file descriptor, opened for appending
        self.fail = fail
        self.received = 0
        self.failed = 0
        self.ids: set[str] = set()
        self._refused: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        body = await _read(receive)
        if body is None:
            return
        status, content_type, content = self.answer(scope, body)
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def answer(self, scope: Scope, body: bytes) -> Answer:
        """Record a request, unless it is a question about the partner itself, and decide its answer."""
        path = scope["path"]
        if path == "/_healthz":
            return 200, "text/plain", b"ok\n"
        if path == "/_received":
            counts = {"received": self.received, "ids": len(self.ids), "failed": self.failed}
            return 200, "application/json", _encode(counts)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        if path in PAGES:
            self._write("landing", scope, query, headers, body, 200)
            return 200, "text/html; charset=utf-8", _page(PAGES[path], query)
        status = self._status(headers, f"{scope['method']} {path}?{query} ".encode() + body)
        self._write("postback", scope, query, headers, body, status)
        self.received += 1
        self.failed += status != 200
        return status, "text/plain", b"ok\n" if status == 200 else b"trouble on purpose, try again\n"

    def _status(self, headers: dict[str, str], request: bytes) -> int:
        """500 on the first try of an unlucky id, else 200. Without a webhook id, the request itself is the id."""
        identity = headers.get("webhook-id", "")
        if identity:
            self.ids.add(identity)
        else:
            identity = hashlib.sha256(request).hexdigest()
        if not self.fail or identity in self._refused or not unlucky(identity, self.fail):
            return 200
        self._refused.add(identity)
        return 500

    def _write(self, kind: str, scope: Scope, query: str, headers: dict[str, str], body: bytes, status: int) -> None:
        path = scope.get("raw_path") or scope["path"].encode()
        line = _encode({
            "time_us": time.time_ns() // 1000, "kind": kind, "method": scope["method"],
            "path": path.partition(b"?")[0].decode("latin-1"), "query": query, "headers": headers,
            "body": body.decode(errors="replace"), "status": status,
        })  # fmt: skip
        data = memoryview(line + b"\n")
        while data:
            data = data[os.write(self.record, data) :]


def unlucky(identity: str, fail: float) -> bool:
    """Whether this id belongs to the share that fails on its first try."""
    digest = hashlib.sha256(identity.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fail * 2**64


async def _read(receive: Receive) -> bytes | None:
    """The body, cut at MAX_BODY_BYTES; None if the sender went away in the middle of it."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunk = message.get("body", b"")
        chunks.append(chunk[: max(0, MAX_BODY_BYTES - size)])
        size += len(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


def _page(title: str, query: str) -> bytes:
    pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
    values = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in pairs)
    return _PAGE.format(title=html.escape(title), values=values or "<dt>nothing</dt>").encode()


def run(host: str, port: int, record_path: Path, fail: float = 0.0) -> None:
    """Serve until SIGTERM or SIGINT. Raises PartnerError for a used port, a file that cannot be written, a bad share."""
    if not 0 <= fail <= 1:
        raise PartnerError(f"--fail {fail}: the share that fails is between 0 and 1, such as 0.05")
    _check_address(host, port)
    record = _open_record(record_path)
    try:
        asyncio.run(_serve(host, port, Partner(record, fail)))
    finally:
        os.close(record)


def _check_address(host: str, port: int) -> None:
    """Bind plainly once: the HTTP server itself would start silently beside another on the same port."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PartnerError(f"cannot listen on {host}:{port} ({reason}); choose another with --host or --port") from None


def _open_record(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise PartnerError(f"cannot write {path} ({error.strerror}); choose another file with --record") from None


async def _serve(host: str, port: int, partner: Partner) -> None:
    server = Server(partner, host, port, interface=Interfaces.ASGINL, log_enabled=False, websockets=False)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, server.stop)
    await server.serve()


@click.command("partner")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8701, show_default=True, help="Port to listen on.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("var/partner.jsonl"),
    show_default=True,
    help="File that every request is appended to, a JSON line each.",
)
@click.option("--fail", default=0.0, show_default=True, help="Share of postbacks that get a 500 on their first try.")
def partner_command(host: str, port: int, record: Path, fail: float) -> None:
    """Receive postbacks, answer 200 and record them."""
    try:
        run(host, port, record, fail)
    except PartnerError as error:
        click.echo(f"backtrack partner: {error}", err=True)
        sys.exit(2)
    # The record is closed and on disk. A thread of the server that still asks for the interpreter while it is taken apart
    # aborts the process (SIGABRT, seen once in some twenty ends under load), so nothing is taken apart.
    os._exit(0)


if __name__ == "__main__":
    partner_command()
