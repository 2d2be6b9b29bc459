"""The processes of the live path for a benchmark: both servers, web, worker, each a process of its own, on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.processes import die_with_parent
from service.rulebooks import publish
from service.servers import check_journal, free_port, start_server
from service.settings import Settings
from service.wakeups import QUEUES

RULES = Path(__file__).parents[3] / "datasets" / "rules.toml"
WEB = "service.cli web"
WORKER = "service.cli worker"
WORKERS = {queue: f"service.cli worker --queues {queue}" for queue in QUEUES}  # as `backtrack up` has them
TRACKER = "service.cli worker --queues tracking"
NOOP = "tests.benchmarks.live.noop"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 30.0


class Stack:
    """Running processes by name, and their settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: str, **changes: object) -> None:
        """Start a module of ours with arguments. changes: settings of this process alone."""
        environment = {**os.environ, **self.settings.environment()}
        environment |= {f"BACKTRACK_{key.upper()}": str(value) for key, value in changes.items()}
        with (self.settings.var / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command.split()], env=environment, stdout=log, stderr=log,
                preexec_fn=die_with_parent,
            )  # fmt: skip

    def wait_ready(self, port: int) -> None:
        """Wait until a web process is ready."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"the web process is not ready; see the logs in {self.settings.var}")

    def end(self, name: str) -> None:
        """End a process politely."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def cpu_s(self, name: str) -> float:
        """Processor seconds of a process and its children so far."""
        return sum(_cpu_s(pid) for pid in family(self.processes[name].pid))

    def rss_mb(self, name: str) -> float:
        """Memory of a process and its children."""
        return round(sum(rss_mb(pid) for pid in family(self.processes[name].pid)), 1)


@contextlib.contextmanager
def stack(folder: Path, rules: str, **changes: Any) -> Iterator[Stack]:
    """The two servers with a rulebook in force; everything that was started ends with the block."""
    journal, broker = free_port(), free_port()
    settings = Settings(
        journal_url=f"redis://127.0.0.1:{journal}/0", broker_url=f"redis://127.0.0.1:{broker}/0", var=folder,
        port=free_port(), allow_addresses="127.0.0.1/32", **changes,
    )  # fmt: skip
    running = Stack(settings)
    try:
        running.processes["journal"] = start_server(journal, folder / "journal", durable=True)
        running.processes["broker"] = start_server(broker, folder / "broker", durable=False)
        with check_journal(settings.journal_url, settings.partitions) as connection:
            publish(connection, settings.partitions, settings.tables_path, rules, "benchmark")
        yield running
    finally:
        for name in reversed(list(running.processes)):
            running.end(name)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mb(pid: int) -> float:
    """Memory of one process, 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_json(command: str) -> Any:
    """What a module of ours prints."""
    ended = subprocess.run([sys.executable, "-m", *command.split()], check=True, stdout=subprocess.PIPE)
    return json.loads(ended.stdout)
