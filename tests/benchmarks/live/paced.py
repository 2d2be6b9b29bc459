"""A sender with a fixed pace that is the partner too, so that one clock times a hit from its request to its postback.

`python -m tests.benchmarks.live.paced PORT PARTNER_PORT RATE SECONDS` prints one JSON document. Latency counts from the
moment at which a request was due, so a sender that comes late hides nothing: `p50_ms`, `p95_ms`, `p99_ms`, `max_ms` to
the arrival of the postback, `ack_p95_ms` to the answer. `sent`, `acked`, `arrived`: how many; `cpu_share`: of one core,
taken by this process.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from itertools import count

from tests.benchmarks.live.closed import quantile_ms
from tests.benchmarks.live.requests import get

WARM_UP_S = 2.0
PATIENCE_S = 15.0  # for postbacks that are late
CLIENTS = ("acme", "bolt", "cozy")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
RULES = "\n".join(
    f"""
[client.{name}]
[affiliate.of-{name}]
webhook = "http://127.0.0.1:{{port}}/{name}?n={{{{param.n}}}}&id={{{{postback_id}}}}"
[[trigger]]
name = "each-{name}"
client = "{name}"
on = "ping"
to = ["affiliate"]
"""
    for name in CLIENTS
)


def rules(partner_port: int) -> str:
    """A rulebook by which every hit is one postback; three clients, three recipients."""
    return RULES.format(port=partner_port)


class Paced:
    """Requests at a pace, and the postbacks that they lead to."""

    def __init__(self, port: int, partner_port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", partner_port), backlog=512)
        self._waiting = select.epoll()
        self._waiting.register(self._listener, select.EPOLLIN)
        self._free: list[socket.socket] = []
        self._asked: dict[int, tuple[socket.socket, int]] = {}
        self._partner: dict[int, socket.socket] = {}
        self._number = count()
        self.due_s: list[float] = []
        self.answered_s: dict[int, float] = {}
        self.arrived_s: dict[int, float] = {}

    def run(self, rate: int, seconds: float) -> None:
        """Send for so long, then wait for what is still on its way."""
        start_s = time.perf_counter()
        first = len(self.due_s)
        planned = int(rate * seconds)
        while (sent := len(self.due_s) - first) < planned:
            due_s = start_s + sent / rate
            left_s = due_s - time.perf_counter()
            if left_s <= 0:
                self._ask(due_s)
            self._handle(max(0.0, left_s))
        patience_s = time.perf_counter() + PATIENCE_S
        while len(self.arrived_s) < len(self.due_s) and time.perf_counter() < patience_s:
            self._handle(0.1)

    def _ask(self, due_s: float) -> None:
        n = next(self._number)
        self.due_s.append(due_s)
        one = self._free.pop() if self._free else self._connect()
        self._asked[one.fileno()] = (one, n)
        client = CLIENTS[n % len(CLIENTS)]
        one.sendall(get(f"/e?client={client}&affiliate=of-{client}&event=ping&uid=u{n % 5000}&n={n}"))

    def _connect(self) -> socket.socket:
        one = socket.create_connection(self._address)
        self._waiting.register(one, select.EPOLLIN)
        return one

    def _handle(self, timeout_s: float) -> None:
        for number, _ in self._waiting.poll(timeout_s):
            if number == self._listener.fileno():
                self._accept()
            elif number in self._partner:
                self._receive(number)
            else:
                self._answered(number)

    def _accept(self) -> None:
        one, _ = self._listener.accept()
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._partner[one.fileno()] = one
        self._waiting.register(one, select.EPOLLIN)

    def _receive(self, number: int) -> None:
        one = self._partner[number]
        data = one.recv(65_536)
        if not data:
            self._waiting.unregister(number)
            del self._partner[number]
            one.close()
            return
        place = data.index(b"?n=") + 3
        self.arrived_s.setdefault(int(data[place : data.index(b"&", place)]), time.perf_counter())
        one.sendall(OK)

    def _answered(self, number: int) -> None:
        one, n = self._asked.pop(number)
        if b"x-hit-id" in one.recv(65_536):
            self.answered_s[n] = time.perf_counter()
        self._free.append(one)


def measure(port: int, partner_port: int, rate: int, seconds: float) -> dict[str, float]:
    """The figures of one run, after a short one that opens connections."""
    paced = Paced(port, partner_port)
    paced.run(rate, WARM_UP_S)
    first = len(paced.due_s)
    started, busy = time.perf_counter(), time.process_time()
    paced.run(rate, seconds)
    share = (time.process_time() - busy) / (time.perf_counter() - started)
    postbacks = sorted(at_s - paced.due_s[n] for n, at_s in paced.arrived_s.items() if n >= first)
    answers = sorted(at_s - paced.due_s[n] for n, at_s in paced.answered_s.items() if n >= first)
    return {
        "p50_ms": quantile_ms(postbacks, 0.5),
        "p95_ms": quantile_ms(postbacks, 0.95),
        "p99_ms": quantile_ms(postbacks, 0.99),
        "max_ms": quantile_ms(postbacks, 1.0),
        "ack_p95_ms": quantile_ms(answers, 0.95),
        "sent": len(paced.due_s) - first,
        "acked": len(answers),
        "arrived": len(postbacks),
        "cpu_share": round(share, 2),
    }


if __name__ == "__main__":
    port, partner_port, rate, seconds = sys.argv[1:]
    print(json.dumps(measure(int(port), int(partner_port), int(rate), float(seconds))))
