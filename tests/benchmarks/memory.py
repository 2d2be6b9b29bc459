"""What every process keeps in memory under steady load: `python -m tests.benchmarks memory [--json] [--minutes M]`.

Web, the three workers of `backtrack up`, both servers and a partner that answers 200; 2,000 hits a second for ten minutes.
Visitors and transactions come again and again, so what has to be kept stays of one size and growth is a leak. Every 30
seconds the resident memory of each process is noted, of the web with its children. The archive's child that merges files
comes and goes: of it, the most since the last note. Figures: `rss_mb` per process in order of time, `thirds_mb` (the
median of each third of the run), `growth` (the last of them in terms of the middle one), `journal_entries` in order of
time, which the archive lets go of, `sent`, `acked`, `refused`, and `behind`: hits that were not decided at the last sample.
"""

from __future__ import annotations

import contextlib
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
from tests.benchmarks.live.stack import RULES, WEB, WORKERS, Stack, family, rss_mb, stack

EVERY_S = 30.0
RATE = 2_000
MINUTES = 10.0
UPKEEP = "upkeep"  # the archive's child
PROCESSES = ("web", *WORKERS, UPKEEP, "journal", "broker")
LOOK_S = 0.2  # for the most that a process takes which lives for a second or two
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
        for name, command in WORKERS.items():
            running.start(name, command)
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
            "thirds_mb": {name: _thirds([sample[name] for sample in samples]) for name in PROCESSES},
            "growth": {name: _growth(_thirds([sample[name] for sample in samples])) for name in PROCESSES},
            "journal_entries": [sample["entries"] for sample in samples],
        }


def _watch(running: Stack, sender: subprocess.Popen[bytes], every_s: float) -> list[Figures]:
    samples: list[Figures] = []
    most_mb, next_s = 0.0, time.monotonic() + every_s
    while True:
        try:
            sender.wait(LOOK_S)
            return samples or [_sample(running, most_mb)]
        except subprocess.TimeoutExpired:
            most_mb = max(most_mb, _upkeep_mb(running))
        if time.monotonic() >= next_s:
            samples.append(_sample(running, most_mb))
            print(samples[-1], file=sys.stderr, flush=True)
            most_mb, next_s = 0.0, next_s + every_s


def _sample(running: Stack, upkeep_mb: float) -> Figures:
    alone = {name: _alone_mb(running, name) for name in WORKERS}
    others = {name: running.rss_mb(name) for name in PROCESSES if name not in alone and name != UPKEEP}
    found = {**alone, **others, UPKEEP: round(upkeep_mb, 1)}
    return {"at": time.strftime("%H:%M:%S"), **{name: found[name] for name in PROCESSES}, **_journal(running)}


def _upkeep_mb(running: Stack) -> float:
    """What the archive's child takes now. One that has only been forked shows the archive's own memory as its."""
    found = 0.0
    for pid in family(running.processes["archive"].pid)[1:]:
        with contextlib.suppress(OSError):
            if b"upkeep" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found += rss_mb(pid)
    return found


def _alone_mb(running: Stack, name: str) -> float:
    return round(rss_mb(running.processes[name].pid), 1)


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


def _thirds(values: list[float]) -> list[float]:
    """The median of each third; of fewer than three values, those."""
    third = len(values) // 3
    if not third:
        return values
    parts = values[:third], values[third : 2 * third], values[-third:]
    return [round(statistics.median(part), 1) for part in parts]


def _growth(thirds: list[float]) -> float:
    """The last third in terms of the middle one; 1 where there is nothing to compare."""
    return round(thirds[2] / thirds[1], 3) if len(thirds) == 3 and thirds[1] else 1.0


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
