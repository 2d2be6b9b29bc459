"""A day of about 100,000 postbacks: `python -m tests.benchmarks verify [--json] [--hits N]`.

Generates the day of tests/lab/planted.py twice, verifies the clean one and the one with every class of defect planted in
ten postbacks each. Figures: `postbacks`, `clean_alarms` (0), `found` of `planted` classes that were found in every planted
place and nowhere else, `verify_s` and `verify_cpu_s` (replay included), `check_cpu_s` (without the replay), and
`postbacks_per_s` by processor time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import lab
from tests.lab.planted import Day, plant
from tests.lab.test_defects import found_in

HITS = 62_000
EACH = 10


def figures(hits: int) -> dict[str, Any]:
    """All figures."""
    day = Day(hits)
    with tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder:
        tables, record = day.store(Path(folder))
        started, processor = time.perf_counter(), time.process_time()
        clean = lab.open(tables).verify(record)
        seconds, busy = time.perf_counter() - started, time.process_time() - processor
        processor = time.process_time()
        lab.open(tables).replay()
        replay_cpu = time.process_time() - processor
    planted = plant(day, EACH)
    with tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder:
        tables, record = day.store(Path(folder))
        found = found_in(lab.open(tables).verify(record))
    return {
        "postbacks": clean.expected,
        "clean_alarms": clean.differences.height,
        "planted": len(planted),
        "found": sum(found.get(defect) == ids for defect, ids in planted.items()),
        "unplanted": sorted(set(found) - set(planted) - {"not_delivered"}),
        "verify_s": round(seconds, 1),
        "verify_cpu_s": round(busy, 1),
        "check_cpu_s": round(busy - replay_cpu, 1),
        "postbacks_per_s": round(clean.expected / busy),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--hits", type=int, default=HITS, help="how many hits, about")
    chosen = parser.parse_args(arguments)
    found = figures(chosen.hits)
    print(json.dumps(found) if chosen.json else "\n".join(f"{name:18}{value!s:>16}" for name, value in found.items()))


if __name__ == "__main__":
    main()
