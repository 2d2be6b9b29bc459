"""How fast hits are decided, and how long until the partner hears: `python -m tests.benchmarks pipeline [--json]`.

`tracking_hits_per_s`: one worker process over a journal that holds HITS hits of three clients of the sample rulebook,
from the first tenth decided to the last hit; the median of three fillings. `tracking_cpu_ms_per_1000`: processor
milliseconds per 1,000 hits of worker and journal, on a shared machine the steadier figures. Then web, the three
workers of `backtrack up` and both servers run, and every hit fires one webhook. `idle_worker_share` is what the workers
take of a core together while nothing happens. `at_200` and `at_1000` hold `p50_ms`, `p95_ms`, `p99_ms`, `max_ms` from
the moment a request was due to the arrival of its webhook at the partner, `ack_p95_ms` to the answer of the intake,
webhooks that were `missing` 15 s after the last request, and the share of a core of each process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from service import keys
from service.servers import client, free_port
from tests.benchmarks.live import filling, paced
from tests.benchmarks.live.printing import parser, show
from tests.benchmarks.live.stack import RULES, TRACKER, WEB, WORKERS, Stack, run_json, stack

HITS = 60_000
FILLINGS = 3
SECONDS = 15.0
IDLE_S = 10.0
RATES = (200, 1_000)
TRACKING_TIMEOUT_S = 120.0
Figures = dict[str, Any]


def tracking(hits: int) -> Figures:
    """One worker over a filled journal."""
    with (
        tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder,
        stack(Path(folder), RULES.read_text(encoding="utf-8")) as running,
    ):
        filling.fill(running.settings, hits)
        running.start("worker", TRACKER)
        started = _decided(running, hits // 10)
        before = {name: running.cpu_s(name) for name in ("worker", "journal")}
        ended = _decided(running, hits)
        counted = ended[1] - started[1]
        cpu_s = {name: running.cpu_s(name) - busy_s for name, busy_s in before.items()}
    return {
        "hits_per_s": counted / (ended[0] - started[0]),
        **{name: busy_s * 1e6 / counted for name, busy_s in cpu_s.items()},
    }


def _decided(running: Stack, wanted: int) -> tuple[float, int]:
    """When so many hits were decided, and how many that were."""
    deadline = time.monotonic() + TRACKING_TIMEOUT_S
    places = keys.partitions(running.settings.partitions)
    with client(running.settings.journal_url) as connection:
        while time.monotonic() < deadline:
            pipeline = connection.pipeline(transaction=False)
            for place in places:
                pipeline.hget(place.tracked, "seq")
            now_s, count = time.perf_counter(), sum(int(seq or 0) for seq in pipeline.execute())
            if count >= wanted:
                return now_s, count
            time.sleep(0.02)
    raise TimeoutError(f"{wanted} hits are not decided after {TRACKING_TIMEOUT_S:.0f} s; see the worker's log")


def latency(seconds: float) -> Figures:
    """The whole road at every rate, and idle workers before."""
    partner_port = free_port()
    found: Figures = {}
    with (
        tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder,
        stack(Path(folder), paced.rules(partner_port)) as running,
    ):
        running.start("web", WEB)
        for name, command in WORKERS.items():
            running.start(name, command)
        running.wait_ready(running.settings.port)
        run_json(f"tests.benchmarks.live.paced {running.settings.port} {partner_port} 50 1")
        found["idle_worker_share"] = idle(running)
        for rate in RATES:
            before = {name: running.cpu_s(name) for name in running.processes}
            started = time.perf_counter()
            run = run_json(f"tests.benchmarks.live.paced {running.settings.port} {partner_port} {rate} {seconds}")
            took = time.perf_counter() - started
            run["missing"] = run.pop("sent") - run.pop("arrived")
            run["share_of_a_core"] = {
                name: round((running.cpu_s(name) - busy_s) / took, 2) for name, busy_s in before.items()
            }
            found[f"at_{rate}"] = run
    return found


def idle(running: Stack) -> float:
    """Share of a core that the workers take when nothing is to be done, once its actors have given back what they held."""
    time.sleep(running.settings.linger_ms / 1000 + 1)
    before = sum(map(running.cpu_s, WORKERS))
    time.sleep(IDLE_S)
    return round((sum(map(running.cpu_s, WORKERS)) - before) / IDLE_S, 3)


def measure(hits: int, seconds: float) -> Figures:
    """All figures."""
    runs = [tracking(hits) for _ in range(FILLINGS)]
    return {
        "tracking_hits_per_s": round(statistics.median(run["hits_per_s"] for run in runs)),
        "tracking_cpu_ms_per_1000": {
            name: round(statistics.median(run[name] for run in runs), 1) for name in ("worker", "journal")
        },
        **latency(seconds),
    }


def main() -> None:
    """Print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--hits", type=int, default=HITS, help="hits in the journal that the worker decides")
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="length of the run at each rate")
    chosen = arguments.parse_args()
    show(measure(chosen.hits, chosen.seconds), chosen.json)


if __name__ == "__main__":
    main()
