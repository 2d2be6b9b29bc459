"""Steady load, and the ledger of what was answered."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter

THREADS = 6
TIMEOUT_S = 6.0
PAUSE_S = 0.03  # between two requests of a thread

_QUERIES = (
    "client=acme&event=click&affiliate=best&tag_id=t{v}&sub1=s{n}",
    "client=acme&event=registration&tag_id=t{v}&uid=u{v}",
    "client=acme&event=sale&uid=u{v}&amount=20&currency=EUR&txid=x{n}",
    "client=bolt&event=sale&uid=b{v}&amount=7.50&txid=b{half}",
    "client=acme&event=sale&uid=u{v}&amount=much",
    "client=nobody&event=click",
)


class Ledger:
    """What was answered. Nothing is ever taken out: an answer is a promise."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.without_answer = 0
        self.refused = 0
        self.statuses: Counter[int] = Counter()
        self._lock = threading.Lock()

    def answered(self, status: int, hit_id: str | None) -> None:
        """Note an answer."""
        with self._lock:
            self.statuses[status] += 1
            if hit_id:
                self.acknowledged.add(hit_id)
            else:
                self.refused += 1

    def unanswered(self) -> None:
        """Note a request that may or may not be stored."""
        with self._lock:
            self.without_answer += 1


class Load:
    """Threads that send requests to the web processes in turn while it is on."""

    def __init__(self, ports: list[int]) -> None:
        self.ledger = Ledger()
        self._ports = ports
        self._numbers = itertools.count()
        self._on = threading.Event()
        self._ended = threading.Event()
        self._busy = [False] * THREADS
        self._threads = [threading.Thread(target=self._work, args=(index,), daemon=True) for index in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def on(self) -> None:
        """Go on."""
        self._on.set()

    def off(self) -> None:
        """Send nothing more; returns when every request has its answer or none."""
        self._on.clear()
        while any(self._busy):
            time.sleep(0.01)

    def end(self) -> None:
        """End the threads."""
        self._ended.set()
        self._on.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 1)

    def _work(self, index: int) -> None:
        connections: dict[int, http.client.HTTPConnection] = {}
        while not self._ended.is_set():
            self._on.wait()
            self._busy[index] = True
            if self._on.is_set() and not self._ended.is_set():
                number = next(self._numbers)
                port = self._ports[number % len(self._ports)]
                self._send(connections, port, number)
            self._busy[index] = False
            self._ended.wait(PAUSE_S)

    def _send(self, connections: dict[int, http.client.HTTPConnection], port: int, number: int) -> None:
        query = _QUERIES[number % len(_QUERIES)].format(n=number, v=number % 83, half=number // 12)
        connection = connections.get(port) or http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"/e?{query}")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            connections.pop(port, None)
            self.ledger.unanswered()
            return
        connections[port] = connection
        self.ledger.answered(answer.status, answer.getheader("x-hit-id"))
