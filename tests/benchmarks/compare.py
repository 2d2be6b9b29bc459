"""How fast two rulebooks are compared by sets: `python -m tests.benchmarks compare [--json] [--hits N]`.

Generates hits of the sample rulebook (lab/bulk.py says which), then compares datasets/rules.toml with rules-next.toml on
all of them in a fresh process: `compare_s` from the opened log to postbacks gained, lost and changed with their money,
`cpu_s` of processor time, `peak_memory_gb`, and how many postbacks were gained, lost and changed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lab
from lab.bulk import generate
from tests.benchmarks.live.printing import show

HITS = 10_000_000
DATASETS = Path(__file__).parents[2] / "datasets"


def compared(root: Path) -> dict[str, Any]:
    """One comparison in this process."""
    log = lab.open(root)
    started, processor = time.perf_counter(), time.process_time()
    what = log.compare(DATASETS / "rules.toml", DATASETS / "rules-next.toml", engine="set")
    return {
        "hits": what.hits, "compare_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - processor, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "gained": what.gained.height, "lost": what.lost.height, "changed": what.changed.height,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--hits", type=int, default=HITS, help="how many hits, about")
    parser.add_argument("--root", type=Path, help="tables that are there already")
    chosen = parser.parse_args(arguments)
    if chosen.root:
        show(compared(chosen.root), chosen.json)
        return
    with tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder:
        generate(Path(folder), chosen.hits)
        command = [sys.executable, "-m", "tests.benchmarks.compare", "--json", "--root", folder]
        show(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout), chosen.json)


if __name__ == "__main__":
    main()
