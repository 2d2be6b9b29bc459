"""Web sites of a client and of an affiliate, on ports of their own; every request to them is kept."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]


class Site:
    """Answers its pages, a 1x1 image for `.gif`, and 404; a context manager. pages: path to HTML."""

    def __init__(self, host: str = "localhost") -> None:
        self.pages: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[Asked] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.base = f"http://{host}:{self._server.server_port}"

    def __enter__(self) -> Site:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def received(self, path: str) -> list[Asked]:
        """Requests for a path so far."""
        return [one for one in self.asked if one.path == path]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                where = urlsplit(self.path)
                site.asked.append(Asked(self.command, where.path, dict(parse_qsl(where.query))))
                page = site.pages.get(where.path)
                body = GIF if where.path.endswith(".gif") else (page or "").encode()
                self.send_response(200 if page is not None or body else 404)
                self.send_header("content-type", "image/gif" if body is GIF else "text/html; charset=utf-8")
                for name, value in site.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def page(intake: str, inside: str = "", attributes: str = 'data-client="acme"') -> str:
    """A page with the tag as the README says it."""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>page</title><link rel="icon" href="data:,">
<script>window.backtrack = window.backtrack || function () {{ (backtrack.q = backtrack.q || []).push(arguments) }}</script>
<script async src="{intake}/tag.js?client=acme" {attributes}></script>
<script>addEventListener('pageshow', function (event) {{ window.persisted = event.persisted }})</script>
{inside}</html>"""
