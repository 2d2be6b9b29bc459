"""How fast a funnel is counted: `python -m tests.benchmarks funnel [--json] [--events N] [--rounds N]`.

Draws events of the sample's visitors (lab/bulk.py says which) into one Parquet file and counts three steps within a window,
with two threads: by the query behind `log.funnel`, and by `windowFunnel` of chdb where that is installed (an embedded
ClickHouse; most of a gigabyte on disk, hence no dependency: `pip install chdb`). Both must give the same numbers before a
time counts. Rounds take turns; a fresh process each. Figures: `events_per_s`, `cpu_s`, `ratio_to_chdb` (their best time
over ours), `ratio_to_chdb_cpu` (the same in processor time, steadier on a shared machine), and `hard_share`: of those who
started, those whose events had to be put in order. With `--retentioneering PYTHON`, an interpreter that has it, the funnel
without a window is counted by it too, once: `ratio_to_retentioneering` from the file to the answer, and
`ratio_to_retentioneering_counted` with our whole time against that of its funnel alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet

from lab.attempts import find_attempts
from lab.bulk import draw
from lab.funnel_steps import read_question
from lab.sets.session import Session

EVENTS = 10_000_000
STEPS = ("click", "registration", "sale")
WITHIN_US = 12 * 3_600 * 1_000_000
THREADS = 2


def generate(path: Path, events: int) -> None:
    """One Parquet file in log order, visitors named as the engine names them."""
    with duckdb.connect(config={"memory_limit": "3GB", "threads": THREADS}) as connection:
        draw(connection, events, days=7)
        query = "SELECT md5(v::VARCHAR) AS visitor, t AS time_us, client AS partition, seq, event FROM placed"
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)").fetchall()


def ours(path: Path, within_us: int = WITHIN_US) -> dict[str, Any]:
    """The funnel by the lab, in this process."""
    asked = read_question(STEPS, within_us, "ordered", (), None)._replace(by=False)
    with Session(threads=THREADS) as session:
        started, processor = time.perf_counter(), time.process_time()
        session.run("SET preserve_insertion_order = false")
        find_attempts(session, asked, f"(SELECT *, '' AS by_value FROM read_parquet('{path}'))")
        (counts,) = session.rows("SELECT count(t1), count(t2), count(t3) FROM attempts")
        seconds, busy = time.perf_counter() - started, time.process_time() - processor
        ((share,),) = session.rows("SELECT avg((NOT easy)::INT) FROM bounds")
    return {"seconds": seconds, "cpu_s": busy, "visitors": list(counts), "hard_share": share}


def theirs(path: Path) -> dict[str, Any]:
    """The same by chdb, in this process."""
    import chdb  # type: ignore[import-not-found, import-untyped, unused-ignore]

    names = ", ".join(f"'{step}'" for step in STEPS)
    tests = ", ".join(f"event = '{step}'" for step in STEPS)
    query = (
        f"SELECT countIf(level >= 1), countIf(level >= 2), countIf(level >= 3) FROM (SELECT visitor, "
        f"windowFunnel({WITHIN_US})(toUInt64(time_us), {tests}) AS level "
        f"FROM file('{path}', Parquet) WHERE event IN ({names}) GROUP BY visitor) "
        f"SETTINGS max_threads = {THREADS}"
    )
    chdb.query("SELECT 1", "JSONCompact")  # starting it is no part of the answer
    started, processor = time.perf_counter(), time.process_time()
    found = json.loads(str(chdb.query(query, "JSONCompact")))
    seconds, busy = time.perf_counter() - started, time.process_time() - processor
    return {"seconds": seconds, "cpu_s": busy, "visitors": [int(value) for value in found["data"][0]]}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ours": ours, "theirs": theirs, "unbounded": lambda path: ours(path, 2**52),
}  # fmt: skip


def elsewhere(python: str, path: Path) -> dict[str, Any]:
    """The ratios to retentioneering, which knows no window; the answers must be the same."""
    command = [python, str(Path(__file__).parent / "live" / "funnel_elsewhere.py"), str(path), *STEPS]
    other = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    mine = min((_apart("unbounded", path, 0) for _ in range(3)), key=lambda run: float(run["seconds"]))
    counted = [step["unique_paths"] for step in other["found"]["steps"]]
    if counted != mine["visitors"]:
        sys.exit(f"the answers differ: {counted}, {mine['visitors']}")
    return {
        "ratio_to_retentioneering": round(other["seconds"] / mine["seconds"], 1),
        "ratio_to_retentioneering_counted": round(other["counted_s"] / mine["seconds"], 1),
    }


def figures(events: int, rounds: int, python: str = "") -> dict[str, Any]:
    """All figures."""
    names = ["ours", *(["theirs"] if importlib.util.find_spec("chdb") else [])]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder:
        path = Path(folder) / "events.parquet"
        _apart("generate", path, events)
        total = pyarrow.parquet.read_metadata(path).num_rows
        for _ in range(rounds):
            for name in names:
                runs[name].append(_apart(name, path, events))
        beside = elsewhere(python, path) if python else {"ratio_to_retentioneering": None}
    answers = {tuple(run["visitors"]) for found in runs.values() for run in found}
    if len(answers) != 1:
        sys.exit(f"the answers differ: {answers}")
    best = {name: min(found, key=lambda run: run["seconds"]) for name, found in runs.items()}
    cpu = {name: min(run["cpu_s"] for run in found) for name, found in runs.items()}
    mine = best["ours"]
    compared = {
        "ratio_to_chdb": round(best["theirs"]["seconds"] / mine["seconds"], 2),
        "ratio_to_chdb_cpu": round(cpu["theirs"] / cpu["ours"], 2),
        "chdb_events_per_s": round(total / best["theirs"]["seconds"]),
    } if "theirs" in best else {"ratio_to_chdb": None}  # fmt: skip
    return {
        "events": total, "visitors": mine["visitors"], "events_per_s": round(total / mine["seconds"]),
        "cpu_s": round(cpu["ours"], 2), **compared, **beside, "hard_share": round(mine["hard_share"], 4),
    }  # fmt: skip


def _apart(what: str, path: Path, events: int) -> Any:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.funnel",
        "--part",
        what,
        "--path",
        str(path),
        "--events",
        str(events),
    ]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--events", type=int, default=EVENTS, help="how many events, about")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--retentioneering", default="", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.part == "generate":
        generate(chosen.path, chosen.events)
        print("{}")
    elif chosen.part:
        print(json.dumps(PARTS[chosen.part](chosen.path)))
    else:
        found = figures(chosen.events, chosen.rounds, chosen.retentioneering)
        lines = [f"{name:26}{value}" for name, value in found.items()]
        print(json.dumps(found) if chosen.json else "\n".join(lines))


if __name__ == "__main__":
    main()
