"""How fast webhooks go out and who waits for whom: `python -m tests.benchmarks.delivery [--json] [--postbacks N]`.

A real journal (fsync always), couriers in processes of their own, a sink in another that answers at once. Promises come
through tracking's own commit script.

webhooks_per_s       signed POSTs from the first call to the last recorded attempt; the better of three runs
cpu_us_per_webhook   user and system time of couriers, sink and Redis together
p95_ms_others        from promise to arrival, 49 recipients, while one of 50 hangs; p95_ms_alone: while none does
start_ms_100k        from the start of a courier to its first call, with 100,000 retries in the index; start_ms without
p95_ms_new_100k      from promise to arrival with 100,000 retries in the index that are due later; p95_ms_new without;
                     ..._backlog when all of them have become due in one moment; the lowest of three turns each
left_of_backlog      how many of those were still due after the last turn
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from service import keys
from service.delivery.actor import run
from service.delivery.courier import Courier
from service.engine.model import Outcome, Postback
from service.rulebooks import publish
from service.scripts import Script
from service.servers import check_journal, client, free_port, start_server
from service.settings import Settings
from service.tracking.store import Recording, commit_args, commit_keys

RECIPIENTS = 50
COURIERS = 2
RUNS = 3
HANG_S = 30
STREAM_S = 4
BATCH = 250
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = json.dumps(
    {"event": "sale", "amount": "80.00", "currency": "EUR", "params": {"sub1": "banner-7", "country": "DE"}}
)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"


# the sink: its own process, so that its time is no courier's


class Sink(asyncio.Protocol):
    """Answers at once, or after HANG_S where the path says so; notes when each id came."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length: ")
            size = int(head[at + 16 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + size:
                return
            self._buffer = self._buffer[end + 4 + size :]
            at = head.find(b"webhook-id: ")
            self._out.write(head[at + 12 :].split(b"\r\n", 1)[0] + b" %d\n" % (time.time_ns() // 1000))
            if b"/hang" in head[:40]:
                asyncio.get_running_loop().call_later(HANG_S, self._answer)
            else:
                self._answer()

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(OK)


def run_sink(port: int, path: str) -> None:
    out = Path(path).open("ab", buffering=1 << 16)  # noqa: SIM115 (open as long as the process)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Sink(out), "127.0.0.1", port, backlog=1024)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
        print("ready", flush=True)
        while server.is_serving():
            out.flush()
            await asyncio.sleep(0.02)

    asyncio.run(main())


def run_courier(journal_url: str, timeout_ms: int) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    settings = Settings(journal_url=journal_url, allow_addresses="127.0.0.1/32", delivery_timeout_ms=timeout_ms)
    run(Courier(settings, lambda: bool(stopping)).run(600))


# the house around them


class House:
    """Journal, sink and couriers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal_port, self.sink_port = free_port(), free_port()
        self.processes: list[subprocess.Popen[bytes]] = [start_server(self.journal_port, folder / "journal", True)]
        self.settings = Settings(journal_url=f"redis://127.0.0.1:{self.journal_port}/0")
        check_journal(self.settings.journal_url, self.settings.partitions).close()
        self.redis = client(self.settings.journal_url, 60)
        self.places = keys.partitions(self.settings.partitions)
        self.commit = Script(self.redis, "tracking/commit")
        self.made = 0
        self.received = folder / "received"
        self.start("sink", str(self.sink_port), str(self.received)).stdout.readline()  # type: ignore[union-attr]
        names = "".join(f'[affiliate.a{n}]\nsecret = "env:BENCH_SECRET"\n' for n in range(RECIPIENTS))
        publish(self.redis, self.settings.partitions, folder / "tables", "[client.acme]\n" + names, "benchmark")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.delivery", "--as", *arguments], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=os.environ | {"BENCH_SECRET": SECRET},
        )  # fmt: skip
        self.processes.append(process)
        return process

    @contextmanager
    def couriers(self, count: int, timeout_ms: int = 15_000) -> Iterator[list[subprocess.Popen[bytes]]]:
        started = [self.start("courier", self.settings.journal_url, str(timeout_ms)) for _ in range(count)]
        try:
            yield started
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(60)
                self.processes.remove(process)

    def end(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(20)

    def promise(self, count: int, recipient: Callable[[int], int], due_us: int = 0, hang: int = -1) -> list[str]:
        """Promise so many postbacks, over all partitions. Returns their ids."""
        ids = [f"{self.made + n:032x}" for n in range(count)]
        for start in range(0, count, BATCH):
            place = self.places[(self.made + start) // BATCH % len(self.places)]
            made = []
            for n in range(start, min(start + BATCH, count)):
                to = recipient(n)
                url = f"http://127.0.0.1:{self.sink_port}/{'hang' if to == hang else 'in'}/{to}"
                time_us = due_us or time.time_ns() // 1000
                made.append(Postback(ids[n], "hit", 1, time_us, "acme", f"a{to}", "sale", "sale", f"affiliate:a{to}",
                                     "webhook", "due", "POST", url, BODY))  # fmt: skip
            self._commit(place, tuple(made))
        self.made += count
        return ids

    def _commit(self, place: keys.Partition, postbacks: tuple[Postback, ...]) -> None:
        found: Any = self.redis.hget(place.tracked, "seq")
        seq = int(found or 0) + 1
        outcome = Outcome(
            "hit", seq, postbacks[0].time_us, "accepted", client="acme", event="sale", postbacks=postbacks
        )
        self.redis.set(place.fence, 1)
        self.commit(
            commit_keys(place),
            [1, 2_000, seq - 1, 1, seq, "", outcome.time_us, *commit_args(Recording(), [(1, outcome)])],
        )

    def retries(self, count: int, due_us: int) -> None:
        """Postbacks that were tried once and are to be tried again at that time."""
        ids = self.promise(count, lambda n: n % RECIPIENTS, due_us)
        pipeline = self.redis.pipeline(transaction=False)
        for start in range(0, count, BATCH):
            place = self.places[(self.made - count + start) // BATCH % len(self.places)]
            some = ids[start : start + BATCH]
            pipeline.hset(place.tries, mapping=dict.fromkeys(some, "1"))
            pipeline.zrem(place.new, *some)
        pipeline.execute()

    def make_due(self) -> None:
        """Let everything in the index be due now."""
        for place in self.places:
            ids: Any = self.redis.zrange(place.due, 0, -1)
            now_us = time.time_ns() // 1000
            for start in range(0, len(ids), 1_000):
                self.redis.zadd(place.due, dict.fromkeys(ids[start : start + 1_000], now_us))

    def due_now(self) -> int:
        """Retries and others that are due and that nobody has taken."""
        pipeline = self.redis.pipeline(transaction=False)
        for place in self.places:
            pipeline.zcount(place.due, "-inf", time.time_ns() // 1000)
        return sum(pipeline.execute())

    def attempts(self) -> int:
        """Attempts on disk."""
        pipeline = self.redis.pipeline(transaction=False)
        for place in self.places:
            pipeline.hget(place.head, "attempts")
        return sum(int(found or 0) for found in pipeline.execute())

    def until_attempts(self, count: int, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while self.attempts() < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {self.attempts():,} of {count:,} attempts within {timeout_s:.0f} s")
            time.sleep(0.01)

    def arrivals(self) -> dict[str, int]:
        """When each id came for the first time, us."""
        time.sleep(0.1)  # the sink writes its record every 20 ms
        found: dict[str, int] = {}
        for line in self.received.read_text().splitlines():
            identity, _, time_us = line.partition(" ")
            found.setdefault(identity, int(time_us))
        return found

    def cpu_s(self) -> float:
        """User and system time of all processes so far."""
        ticks = 0
        for process in self.processes:
            if process.poll() is None:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory() as folder:
        built = House(Path(folder))
        try:
            yield built
        finally:
            built.end()


def warm(built: House) -> None:
    """Every courier has its connections."""
    built.promise(RECIPIENTS * 20, lambda n: n % RECIPIENTS)
    built.until_attempts(built.made)


def measure_rate(postbacks: int) -> dict[str, float]:
    """Webhooks per second and CPU per webhook."""
    rates, costs = [], []
    with house() as built, built.couriers(COURIERS):
        warm(built)
        for _ in range(RUNS):
            # due in the near future, so that all is promised before the first call
            due_us = time.time_ns() // 1000 + 200 * postbacks + 500_000
            before, cpu_s = built.attempts(), 0.0
            built.promise(postbacks, lambda n: n % RECIPIENTS, due_us)
            while time.time_ns() // 1000 < due_us:
                time.sleep(0.001)
            cpu_s, started_s = built.cpu_s(), time.perf_counter()
            built.until_attempts(before + postbacks)
            rates.append(postbacks / (time.perf_counter() - started_s))
            costs.append((built.cpu_s() - cpu_s) / postbacks * 1e6)
        assert len(built.arrivals()) == built.made
    return {"webhooks_per_s": round(max(rates)), "cpu_us_per_webhook": round(min(costs), 1)}


def latencies(built: House, seconds: float, per_s: int, hang: int = -1) -> float:
    """p95 in ms from promise to arrival of a steady stream to all recipients but the one that hangs."""
    sent: dict[str, int] = {}
    began_s, number = time.perf_counter(), 0
    while time.perf_counter() - began_s < seconds:
        to = number % RECIPIENTS
        now_us = time.time_ns() // 1000
        [identity] = built.promise(1, lambda _, to=to: to, hang=hang)  # type: ignore[misc]
        if to != hang:
            sent[identity] = now_us
        number += 1
        time.sleep(max(0.0, began_s + number / per_s - time.perf_counter()))
    deadline = time.monotonic() + 20
    while not sent.keys() <= (came := built.arrivals()).keys():
        if time.monotonic() > deadline:
            raise SystemExit("not all of the stream had arrived 20 s after its end")
        time.sleep(0.5)
    waits = sorted((came[identity] - at_us) / 1000 for identity, at_us in sent.items())
    return round(waits[int(len(waits) * 0.95)], 2)


def measure_others(seconds: float) -> dict[str, float]:
    """The others' p95 with and without one recipient that hangs, in turns."""
    figures: dict[str, list[float]] = {"alone": [], "others": []}
    for _ in range(3):
        for name, hang in (("alone", -1), ("others", 7)):
            with house() as built, built.couriers(1, HANG_S * 1000):
                warm(built)
                figures[name].append(latencies(built, seconds, 100, hang))
    alone, others = min(figures["alone"]), min(figures["others"])
    return {"p95_ms_alone": alone, "p95_ms_others": others, "p95_ratio_others": round(others / alone, 2)}


def start_ms(built: House, couriers: ExitStack) -> float:
    """From the start of a courier to its first call."""
    built.received.write_bytes(b"")
    built.promise(1, lambda _: 0)
    started_us = time.time_ns() // 1000
    couriers.enter_context(built.couriers(1))
    while not built.received.stat().st_size:
        time.sleep(0.002)
    return round((time.time_ns() // 1000 - started_us) / 1000)


def measure_index(retries: int) -> dict[str, float]:
    """Start of a courier and p95 of new ones with and without retries in the index, which are due later or now."""
    figures: dict[str, float] = {}
    p95s: dict[str, list[float]] = {"": [], "_100k": [], "_backlog": []}
    with house() as plain, house() as full, ExitStack() as couriers:
        full.retries(retries, time.time_ns() // 1000 + 3_600_000_000)
        for name, built in (("", plain), ("_100k", full)):
            figures[f"start_ms{name}"] = start_ms(built, couriers)
            built.promise(1_000, lambda n: n % RECIPIENTS)  # every courier has its connections
        for _ in range(RUNS):
            p95s[""].append(latencies(plain, STREAM_S, 50))
            p95s["_100k"].append(latencies(full, STREAM_S, 50))
        full.make_due()
        p95s["_backlog"] = [latencies(full, STREAM_S, 50) for _ in range(RUNS)]
        figures["left_of_backlog"] = full.due_now()
    figures |= {f"p95_ms_new{name}": min(found) for name, found in p95s.items()}
    return figures | {
        f"p95_ratio_new{name}": round(min(found) / min(p95s[""]), 2) for name, found in p95s.items() if name
    }


def measure(postbacks: int, seconds: float) -> dict[str, float]:
    """All figures."""
    return measure_rate(postbacks) | measure_others(seconds) | measure_index(100_000)


def main() -> None:
    """Print the figures, or be the sink or a courier."""
    if sys.argv[1:2] == ["--as"]:
        if sys.argv[2] == "sink":
            run_sink(int(sys.argv[3]), sys.argv[4])
        else:
            run_courier(sys.argv[3], int(sys.argv[4]))
        return
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    arguments.add_argument("--postbacks", type=int, default=20_000, help="webhooks per run")
    arguments.add_argument("--seconds", type=float, default=6, help="of each stream whose latency is measured")
    chosen = arguments.parse_args()
    figures = measure(chosen.postbacks, chosen.seconds)
    if chosen.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:22}{value:12,.1f}")


if __name__ == "__main__":
    main()
