"""What every process keeps in memory under steady load: `python -m tests.benchmarks memory [--json] [--minutes M]`.

Web, worker (all queues), both servers and a partner that answers 200; 2,000 hits a second for ten minutes. Visitors and
transactions come again and again, so what has to be kept stays of one size and growth is a leak. Every 30 seconds the
resident memory of each process with its children is noted. Figures: `rss_mb` per process in order of time, `growth`
(the median of the last third in terms of that of the middle one: a worker takes and gives back with every merge of files,
so single samples say little), `journal_entries` in order of time, which the archive lets go of,
`sent`, `acked`, `refused`, and `behind`: hits that were not decided at the last sample.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from service import keys
from service.servers import client, free_port
from tests.benchmarks.live.printing import parser, show
from tests.benchmarks.live.stack import RULES, WEB, WORKER, Stack, stack

EVERY_S = 30.0
RATE = 2_000
MINUTES = 10.0
PROCESSES = ("web", "worker", "journal", "broker")
Figures = dict[str, Any]


def measure(minutes: float, rate: int, every_s: float) -> Figures:
    """All figures."""
    partner = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder,
        stack(Path(folder), RULES.read_text(encoding="utf-8").replace(":8701", f":{partner}")) as running,
    ):
        running.start("partner", f"service.partner --port {partner} --record {folder}/partner.jsonl")
        running.start("web", WEB)
        running.start("worker", WORKER)
        running.wait_ready(running.settings.port)
        sender = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.live.steady",
                str(running.settings.port),
                str(rate),
                str(minutes * 60),
            ],
            stdout=subprocess.PIPE,
        )
        samples = _watch(running, sender, every_s)
        sent = json.loads(sender.communicate()[0])
        return {
            **sent,
            "behind": sum(sample["behind"] for sample in samples[-1:]),
            "every_s": every_s,
            "rss_mb": {name: [sample[name] for sample in samples] for name in PROCESSES},
            "growth": {name: _growth([sample[name] for sample in samples]) for name in PROCESSES},
            "journal_entries": [sample["entries"] for sample in samples],
        }


def _watch(running: Stack, sender: subprocess.Popen[bytes], every_s: float) -> list[Figures]:
    samples: list[Figures] = []
    while True:
        try:
            sender.wait(every_s)
            return samples or [_sample(running)]
        except subprocess.TimeoutExpired:
            samples.append(_sample(running))
            print(samples[-1], file=sys.stderr, flush=True)


def _sample(running: Stack) -> Figures:
    return {"at": time.strftime("%H:%M:%S"), **{name: running.rss_mb(name) for name in PROCESSES}, **_journal(running)}


def _journal(running: Stack) -> Figures:
    """How many entries lie in the journal, and how many of them are not decided yet."""
    entries = behind = 0
    with client(running.settings.journal_url) as connection:
        for place in keys.partitions(running.settings.partitions):
            head: Any = connection.hget(place.head, "seq")
            tracked: Any = connection.hget(place.tracked, "seq")
            length: Any = connection.xlen(place.journal)
            entries, behind = entries + int(length), behind + int(head or 0) - int(tracked or 0)
    return {"entries": entries, "behind": behind}


def _growth(values: list[float]) -> float:
    """The median of the last third in terms of that of the middle third."""
    third = len(values) // 3
    if not third:
        return 1.0
    return round(statistics.median(values[-third:]) / statistics.median(values[third : 2 * third]), 3)


def main() -> None:
    """Print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=MINUTES, help="how long")
    arguments.add_argument("--rate", type=int, default=RATE, help="hits per second")
    arguments.add_argument("--every", type=float, default=EVERY_S, help="seconds between samples")
    chosen = arguments.parse_args()
    show(measure(chosen.minutes, chosen.rate, chosen.every), chosen.json)


if __name__ == "__main__":
    main()
