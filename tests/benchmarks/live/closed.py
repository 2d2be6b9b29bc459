"""A sender that keeps connections busy: each sends its next request when the last one is answered. A process of its own.

`python -m tests.benchmarks.live.closed PORT CONNECTIONS SECONDS [PATH]` prints one JSON document: `acked_per_s`,
`p50_ms`, `p99_ms`, `acked`, `refused` (answers that promise nothing), `answers` (those of the warm-up too) and
`cpu_share` (of one core, taken by the sender itself). With PATH it asks for that page only, and every 200 counts; else
every answer with a hit id.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from array import array

from tests.benchmarks.live.requests import get, requests

WARM_UP_S = 0.5
DIFFERENT = 20_000


class Sender:
    """Connections to one port. Answers must carry a content-length. promise: what every good answer's head holds."""

    def __init__(self, port: int, connections: int, wanted: list[bytes], promise: bytes) -> None:
        self._wanted = wanted
        self._promise = promise
        self._next = 0
        self._sockets = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(connections)]
        self._sent_s: dict[int, float] = {}
        self.latencies_s = array("d")
        self.acked = self.refused = self.answers = 0

    def run(self, seconds: float) -> None:
        """Send for so long. What is measured starts anew with each call, but for the number of answers."""
        self.latencies_s, self.acked, self.refused = array("d"), 0, 0
        waiting = select.epoll()
        by_number = {one.fileno(): one for one in self._sockets}
        for number, one in by_number.items():
            waiting.register(number, select.EPOLLIN)
            self._send(number, one)
        end_s = time.perf_counter() + seconds
        open_ones = set(by_number)
        while open_ones:
            more = time.perf_counter() < end_s
            for number, _ in waiting.poll(10):
                self._receive(number, by_number[number])
                if more:
                    self._send(number, by_number[number])
                else:
                    open_ones.discard(number)
        waiting.close()

    def _send(self, number: int, one: socket.socket) -> None:
        self._next = (self._next + 1) % len(self._wanted)
        self._sent_s[number] = time.perf_counter()
        one.send(self._wanted[self._next])

    def _receive(self, number: int, one: socket.socket) -> None:
        data = one.recv(65_536)
        while not _is_whole(data):
            more = one.recv(65_536)
            if not more:
                raise ConnectionError(f"the server closed a connection after {data!r}")
            data += more
        self.latencies_s.append(time.perf_counter() - self._sent_s[number])
        self.answers += 1
        if self._promise in data:
            self.acked += 1
        else:
            self.refused += 1


def _is_whole(data: bytes) -> bool:
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    lowered = data[:head].lower()
    place = lowered.find(b"content-length:")
    end = lowered.find(b"\r", place)
    return len(data) >= head + 4 + int(lowered[place + 15 : end if end > 0 else None])


def quantile_ms(sorted_s: list[float], share: float) -> float:
    """A quantile of sorted seconds, in milliseconds."""
    return round(sorted_s[int(share * (len(sorted_s) - 1))] * 1000, 2) if sorted_s else 0.0


def measure(port: int, connections: int, seconds: float, path: str = "") -> dict[str, float]:
    """The figures of one run."""
    wanted = [get(path)] if path else [request.data for request in requests(DIFFERENT)]
    sender = Sender(port, connections, wanted, b" 200 " if path else b"x-hit-id")
    sender.run(WARM_UP_S)
    started, busy = time.perf_counter(), time.process_time()
    sender.run(seconds)
    took, used = time.perf_counter() - started, time.process_time() - busy
    latencies = sorted(sender.latencies_s)
    return {
        "acked_per_s": round(sender.acked / took),
        "p50_ms": quantile_ms(latencies, 0.5),
        "p99_ms": quantile_ms(latencies, 0.99),
        "acked": sender.acked,
        "refused": sender.refused,
        "answers": sender.answers,
        "cpu_share": round(used / took, 2),
    }


if __name__ == "__main__":
    port, connections, seconds, *path = sys.argv[1:]
    print(json.dumps(measure(int(port), int(connections), float(seconds), *path)))
