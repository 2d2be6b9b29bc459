"""Sending hits to the service of a notebook over real HTTP, and its answers."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

import msgspec

TIMEOUT_S = 30


class Answer(msgspec.Struct, frozen=True):
    """What the intake answered.

    id: of the hit, 32 hex digits, "" if it was not stored. said: its one line. status: 200 stored, 302 a tracker link,
    422 stored and rejected. reason: why it was rejected, "" if it was not. location: where a tracker link leads.

    >>> from lab.live_hits import Answer
    >>> Answer("01a207f722577424b6083e1c657a1524", "stored 01a207f722577424b6083e1c657a1524 acme sale", 200)
    stored 01a207f722577424b6083e1c657a1524 acme sale
    """

    id: str
    said: str
    status: int
    reason: str = ""
    location: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was stored and not rejected at the door.

        >>> Answer("01a2", "rejected 01a2 unknown_client: there is no client 'acmee'", 422, "unknown_client").ok
        False
        """
        return self.status in (200, 302)

    def __repr__(self) -> str:
        return f"{self.said} → {self.location}" if self.location and self.location != self.said else self.said


class Sender:
    """Calls one service on this machine: no proxy, no redirect is followed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())

    def send(self, path: str, parameters: dict[str, object]) -> Answer:
        """One hit. An answer of any status is an answer."""
        query = urlencode({name: str(value) for name, value in parameters.items()})
        status, headers, body = self._get(f"{path}?{query}" if query else path)
        location = headers.get("location", "")
        hit_id = headers.get("x-hit-id", "")
        said = f"stored {hit_id} click" if location else body.decode(errors="replace").strip()
        return Answer(hit_id, said, status, headers.get("x-reason", ""), location)

    def ask(self, path: str) -> str:
        """What it says under a path, "" if nobody answers."""
        try:
            return self._get(path)[2].decode(errors="replace")
        except OSError:
            return ""

    def _get(self, path: str) -> tuple[int, Any, bytes]:
        try:
            with self._opener.open(self._url + path, timeout=TIMEOUT_S) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it leads to the client's real page."""

    def redirect_request(self, *_: Any) -> None:
        return None
