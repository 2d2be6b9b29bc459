"""How fast a past is decided again by sets: `python -m tests.benchmarks replay [--json] [--hits N]`.

Generates hits of the sample rulebook (lab/bulk.py says which) in a temporary folder, replays them by sets with a fresh
process per figure, and runs handwritten.sql over the same files. Figures: `set_hits_per_s` (Parquet to rendered postbacks
and counts), `full_hits_per_s` (an outcome for every hit; on at most FULL_HITS of them), `handwritten_hits_per_s`,
`ratio_to_handwritten` (how fast by sets, in terms of it), `peak_memory_gb` of the set run, `hard_share`, firings by both,
and the reference engine's figures from `engine`. `cpu_s` says how much processor time the set run took: on a shared
machine it is the steadier figure. In these hits 6 of a hundred visitors register and 3 buy; `busy_hits_per_s` is the
same with 40 and 20 of a hundred, on at most BUSY_HITS of them: there a trigger concerns every second hit.
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

import duckdb

import lab
from lab.bulk import CLIENTS, generate
from lab.sets import replay
from service.engine.partition import partition_of
from tests.benchmarks.engine import RULES, measure

HITS = 10_000_000
FULL_HITS = 200_000
BUSY_HITS = 2_000_000
BUSY = 0.4  # share of the visitors that register
QUERY = Path(__file__).with_name("handwritten.sql")


def by_sets(root: Path, full: bool) -> dict[str, Any]:
    """One replay by sets in this process."""
    log = lab.open(root)
    started, processor = time.perf_counter(), time.process_time()
    run = replay(log, RULES, full)
    firings = int(run.counts["firings"].sum())
    seconds, busy = time.perf_counter() - started, time.process_time() - processor
    return {
        "hits": run.hits, "seconds": seconds, "cpu_s": busy, "firings": firings, "hard": run.certificate.hard,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "certificate": str(run.certificate),
    }  # fmt: skip


def by_hand(root: Path) -> dict[str, Any]:
    """The handwritten query over the same files in this process."""
    files = "[" + ", ".join(f"'{name}'" for name in lab.open(root).files("hits")) + "]"
    partitions = {client: partition_of(client, 16) for client in CLIENTS}
    with duckdb.connect(config={"threads": 2, "memory_limit": "3GB"}) as connection:
        started, processor = time.perf_counter(), time.process_time()
        script = QUERY.read_text(encoding="utf-8").format(files=files, **partitions)
        for statement in script.strip().removesuffix(";").split(";\n"):
            connection.execute(statement).fetchall()
        seconds, busy = time.perf_counter() - started, time.process_time() - processor
        (firings,) = connection.execute("SELECT sum(firings) FROM counts").fetchall()[0]
    return {"seconds": seconds, "cpu_s": busy, "firings": int(firings)}


def figures(hits: int) -> dict[str, Any]:
    """All figures, each measured in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder:
        root, small, busy = Path(folder) / "all", Path(folder) / "some", Path(folder) / "busy"
        _apart("generate", root, hits)
        _apart("generate", small, min(hits, FULL_HITS))
        _apart("busy", busy, min(hits, BUSY_HITS))
        lean, full, hand = _apart("lean", root), _apart("full", small), _apart("hand", root)
        crowded = _apart("lean", busy)
    return {
        "hits": lean["hits"],
        "set_hits_per_s": round(lean["hits"] / lean["seconds"]),
        "full_hits_per_s": round(full["hits"] / full["seconds"]),
        "busy_hits_per_s": round(crowded["hits"] / crowded["seconds"]),
        "handwritten_hits_per_s": round(lean["hits"] / hand["seconds"]),
        "ratio_to_handwritten": round(hand["seconds"] / lean["seconds"], 2),
        "ratio_to_handwritten_cpu": round(hand["cpu_s"] / lean["cpu_s"], 2),
        "cpu_s": round(lean["cpu_s"], 1),
        "peak_memory_gb": round(lean["peak_memory_gb"], 2),
        "hard_share": round(lean["hard"] / lean["hits"], 4),
        "firings": lean["firings"],
        "handwritten_firings": hand["firings"],
        "certificate": lean["certificate"],
        **measure(20_000),
    }


def _apart(what: str, root: Path, hits: int = 0) -> Any:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.replay",
        "--part",
        what,
        "--root",
        str(root),
        "--hits",
        str(hits),
    ]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _part(what: str, root: Path, hits: int) -> Any:
    if what in ("generate", "busy"):
        root.mkdir(parents=True)
        return generate(root, hits, registering=BUSY) if what == "busy" else generate(root, hits)
    return by_hand(root) if what == "hand" else by_sets(root, what == "full")


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--hits", type=int, default=HITS, help="how many hits, about")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.part:
        print(json.dumps(_part(chosen.part, chosen.root, chosen.hits)))
        return
    found = figures(chosen.hits)
    if chosen.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:26}{value:>16,}" if not isinstance(value, str) else f"{name:26}{value}")


if __name__ == "__main__":
    main()
