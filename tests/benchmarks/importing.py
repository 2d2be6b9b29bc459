"""How fast a foreign access log becomes tables: `python -m tests.benchmarks importing [--json] [--lines N]`.

Writes a combined log (a seventh of the lines with a query, a tenth out of order) and imports it in a process of its own.
Figures: `lines_per_s` (wall), `lines_per_cpu_s`, `cpu_s_per_million`, `parse_lines_per_s` and `parse_lines_per_cpu_s`
(lines to columns alone, on one thread), `peak_memory_mb`.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

LINES = 2_000_000
_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
)


def write_log(path: Path, lines: int) -> None:
    """A log of so many lines, always the same."""
    draw, start = random.Random(7), datetime(2026, 3, 2, tzinfo=UTC)
    with path.open("w", encoding="ascii") as file:
        for number in range(lines):
            moment = start + timedelta(seconds=number // 8 - (draw.random() < 0.1) * 5)
            visitor = draw.randrange(lines // 12)
            query = f"?utm_source=s{draw.randrange(9)}&gclid={draw.randrange(10**9)}" if draw.random() < 1 / 7 else ""
            file.write(
                f"198.51.{visitor // 256 % 256}.{visitor % 256} - - [{moment:%d/%b/%Y:%H:%M:%S} +0000] "
                f'"GET /shop/item-{draw.randrange(4000)}.html{query} HTTP/1.1" 200 {draw.randrange(90000)} '
                f'"https://www.example.com/list-{draw.randrange(500)}" "{_AGENTS[visitor % 3]}"\n'
            )


def measure(path: Path, folder: Path) -> dict[str, Any]:
    """The figures, in this process."""
    from lab.blocks import Blocks, read_block
    from lab.formats import format_named
    from lab.importing import import_log

    started, busy = time.perf_counter(), time.process_time()
    lines = sum(read_block(block, format_named("combined"))[2] for block in Blocks([path]))
    parse_s, parse_cpu_s = time.perf_counter() - started, time.process_time() - busy
    started, busy = time.perf_counter(), time.process_time()
    report = import_log("combined", path, folder / "out")
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - busy
    assert report.lines == report.parsed == lines
    return {
        "lines": lines,
        "lines_per_s": round(lines / seconds),
        "lines_per_cpu_s": round(lines / cpu_s),
        "cpu_s_per_million": round(cpu_s / lines * 1e6, 2),
        "parse_lines_per_s": round(lines / parse_s),
        "parse_lines_per_cpu_s": round(lines / parse_cpu_s),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--lines", type=int, default=LINES, help="how many lines")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        print(json.dumps(measure(chosen.measure / "access.log", chosen.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder:
        write_log(Path(folder) / "access.log", chosen.lines)
        command = [sys.executable, "-m", "tests.benchmarks.importing", "--measure", folder]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(found) if chosen.json else "\n".join(f"{name:24}{value:>14,}" for name, value in found.items()))


if __name__ == "__main__":
    main()
