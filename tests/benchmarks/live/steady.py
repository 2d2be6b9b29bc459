"""A sender with a fixed pace: `python -m tests.benchmarks.live.steady PORT RATE SECONDS` prints `sent`, `acked`, `refused`.

A burst every 20 ms, over as many connections as it has requests; all of its answers are waited for before the next.
"""

from __future__ import annotations

import itertools
import json
import socket
import sys
import time

from tests.benchmarks.live.requests import requests

BURST_S = 0.02
DIFFERENT = 20_000


def send(port: int, rate: int, seconds: float) -> dict[str, int]:
    """Send for so long."""
    size = max(1, int(rate * BURST_S))
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(size)]
    wanted = itertools.cycle([request.data for request in requests(DIFFERENT)])
    sent = acked = 0
    start_s = time.perf_counter()
    while (at_s := sent / rate) < seconds:
        time.sleep(max(0.0, start_s + at_s - time.perf_counter()))
        for one in sockets:
            one.sendall(next(wanted))
        for one in sockets:
            acked += b"x-hit-id" in one.recv(65_536)
        sent += size
    return {"sent": sent, "acked": acked, "refused": sent - acked}


if __name__ == "__main__":
    port, rate, seconds = sys.argv[1:]
    print(json.dumps(send(int(port), int(rate), float(seconds))))
