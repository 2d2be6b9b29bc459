"""How many hits a second are stored and answered: `python -m tests.benchmarks intake [--json] [--seconds S]`.

One web process with a worker for each core (`--workers`), an embedded journal with fsync on every commit, and a sender in
a process of its own: 64 connections, each with the next request once the last is answered. Five
rounds; each measures, one after the other, the service (`acked_per_s`, `p50_ms`, `p99_ms`), the same server and handler
with a journal that stores nothing (`noop_per_s`), and empty_gif of nginx with an access log (`nginx_per_s`, null where
no nginx is on the PATH). Figures are medians, `ratio_to_noop` and `ratio_to_nginx` medians of the ratios of a round.
`with_tracking_per_s` is a round with a worker at work beside. `cpu_ms_per_1000`: processor milliseconds per 1,000 hits of
web and journal, on a shared machine the steadier figures; `sender_share`: of one core, taken by the sender itself.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from service.servers import free_port
from tests.benchmarks.live.nginx import nginx
from tests.benchmarks.live.printing import parser, show
from tests.benchmarks.live.stack import NOOP, RULES, WEB, WORKER, Stack, run_json, stack

CONNECTIONS = 64
ROUNDS = 5
SECONDS = 4.0
Figures = dict[str, Any]


def drive(port: int, seconds: float, path: str = "") -> Figures:
    """One run of the sender."""
    found: Figures = run_json(f"tests.benchmarks.live.closed {port} {CONNECTIONS} {seconds} {path}")
    return found


def of_web(running: Stack, command: str, seconds: float, workers: int) -> Figures:
    """A web process started for this run alone."""
    running.start("web", command, web_workers=workers)
    running.wait_ready(running.settings.port)
    before = {name: running.cpu_s(name) for name in ("web", "journal")}
    found = drive(running.settings.port, seconds)
    for name, busy_s in before.items():
        found[f"{name}_cpu_s"] = running.cpu_s(name) - busy_s
    running.end("web")
    return found


def of_nginx(folder: Path, seconds: float) -> Figures | None:
    """The same load on nginx; None without one."""
    if shutil.which("nginx") is None:
        return None
    port = free_port()
    with nginx(folder, port):
        return drive(port, seconds, "/e")


def measure(seconds: float, workers: int) -> Figures:
    """All figures."""
    with (
        tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder,
        stack(Path(folder), RULES.read_text(encoding="utf-8")) as running,
    ):
        rounds = [
            (
                of_web(running, WEB, seconds, workers),
                of_web(running, NOOP, seconds, workers),
                of_nginx(Path(folder), seconds),
            )
            for _ in range(ROUNDS)
        ]
        running.start("worker", WORKER)
        with_tracking = of_web(running, WEB, seconds, workers)
    stored = [one[0] for one in rounds]
    return {
        **{name: statistics.median(one[name] for one in stored) for name in ("acked_per_s", "p50_ms", "p99_ms")},
        "noop_per_s": statistics.median(noop["acked_per_s"] for _, noop, _ in rounds),
        "ratio_to_noop": _ratio([(one["acked_per_s"], noop["acked_per_s"]) for one, noop, _ in rounds]),
        "nginx_per_s": statistics.median(empty["acked_per_s"] for *_, empty in rounds if empty)
        if rounds[0][2]
        else None,
        "ratio_to_nginx": _ratio([(one["acked_per_s"], empty["acked_per_s"]) for one, _, empty in rounds if empty]),
        "with_tracking_per_s": with_tracking["acked_per_s"],
        "with_tracking_p99_ms": with_tracking["p99_ms"],
        "cpu_ms_per_1000": {name: _cpu_ms(stored, f"{name}_cpu_s") for name in ("web", "journal")},
        "sender_share": statistics.median(one["cpu_share"] for one in stored),
        "refused": sum(one["refused"] for one in stored),
        "rounds": [one["acked_per_s"] for one in stored],
    }


def _ratio(pairs: list[tuple[float, float]]) -> float | None:
    return round(statistics.median(one / other for one, other in pairs), 2) if pairs else None


def _cpu_ms(runs: list[Figures], name: str) -> float:
    return round(float(statistics.median(run[name] * 1e6 / run["answers"] for run in runs)), 1)


def main() -> None:
    """Print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="length of each of the sixteen runs")
    arguments.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="of the web process; by itself one per core"
    )
    chosen = arguments.parse_args()
    show({"web_workers": chosen.workers, **measure(chosen.seconds, chosen.workers)}, chosen.json)


if __name__ == "__main__":
    main()
