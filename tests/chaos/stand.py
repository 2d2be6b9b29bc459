"""The processes: two web processes, two workers, an archive, both Redis, a recipient; each can be hurt and is replaced."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import redis

from service import keys
from service.backlog import backlog
from service.processes import die_with_parent
from service.rulebooks import publish
from service.servers import check_journal, client, free_port, run_id, start_server
from service.settings import Settings
from tests.chaos.proxy import Proxy
from tests.chaos.web import SKEW
from tests.service.faults import Faults
from tests.service.hits import logged_hits
from tests.service.partitions import RULES

PARTITIONS = 4
SETTLE_S = 60.0
SKEWS_S = {"web a": -300, "web b": 240}
WEB = (sys.executable, "-m", "tests.chaos.web")
WORKER = (sys.executable, "-m", "service.cli", "worker", "--queues")
COMMANDS = {
    "web a": WEB,
    "web b": WEB,
    "worker a": (*WORKER, "tracking,delivery"),
    "worker b": (*WORKER, "tracking,delivery"),
    "archive": (*WORKER, "archive"),
}


class Stand:
    """Everything that runs. `processes` by name; the servers are `journal` and `broker`."""

    def __init__(self, folder: Path, recipient: Faults, journal_port: int) -> None:
        self.folder = folder
        self.journal_port, self.broker_port = journal_port, free_port()
        self.ports = {name: free_port() for name in SKEWS_S}
        self.web_way, self.worker_way = Proxy(journal_port), Proxy(journal_port)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started_s: dict[str, float] = {}
        self.settings = Settings(
            journal_url=f"redis://127.0.0.1:{journal_port}/0", broker_url=f"redis://127.0.0.1:{self.broker_port}/0",
            var=folder / "var", partitions=PARTITIONS, allow_addresses="127.0.0.1/32", linger_ms=300, spool_floor_mb=0,
            journal_timeout_ms=1_000, archive_ms=300, worker_threads=12,
        )  # fmt: skip
        self.rules = RULES.replace("http://127.0.0.1:9/", recipient.url("/200/"))

    def start(self) -> None:
        """Start everything and wait until it works."""
        (self.folder / "var").mkdir(parents=True)
        self.start_servers()
        with check_journal(self.settings.journal_url, PARTITIONS) as connection:
            publish(connection, PARTITIONS, self.settings.tables_path, self.rules, "chaos")
        for name in COMMANDS:
            self.start_process(name)
        self.wait_ready()

    def start_servers(self) -> None:
        """Start those servers that do not run."""
        for name, port, durable in (("journal", self.journal_port, True), ("broker", self.broker_port, False)):
            if name not in self.processes or self.processes[name].poll() is not None:
                self.processes[name] = start_server(port, self.folder / name, durable)

    def start_process(self, name: str) -> None:
        """Start a role again."""
        role = name.split()[0]
        way = self.web_way if role == "web" else self.worker_way
        changes = {"journal_url": way.url} | ({"port": self.ports[name]} if role == "web" else {})
        settings = msgspec.structs.replace(self.settings, **changes)
        environment = {**os.environ, **settings.environment(), SKEW: str(SKEWS_S.get(name, 0))}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._started_s[name] = time.monotonic()
            self.processes[name] = subprocess.Popen(
                COMMANDS[name], env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    def age_s(self, name: str) -> float:
        """How long ago a role was started."""
        return time.monotonic() - self._started_s.get(name, 0.0)

    def replace_the_dead(self) -> None:
        """As a supervisor would."""
        self.start_servers()
        for name in COMMANDS:
            if self.processes[name].poll() is not None:
                self.start_process(name)

    def tell(self, name: str, sign: signal.Signals) -> None:
        """Send a signal to a process; to a stopped web process's children too."""
        for pid in [self.processes[name].pid, *self.children(name)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
            if sign in (signal.SIGTERM, signal.SIGKILL):
                return

    def children(self, name: str) -> list[int]:
        """Process ids below a web process."""
        if not name.startswith("web"):
            return []
        pid = self.processes[name].pid
        with contextlib.suppress(OSError):
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return [int(one) for one in found if b"resource_tracker" not in Path(f"/proc/{one}/cmdline").read_bytes()]
        return []

    def end(self, name: str, sign: signal.Signals = signal.SIGKILL) -> int:
        """End a process and wait for it; returns its status."""
        process = self.processes[name]
        process.send_signal(sign)
        try:
            return process.wait(40)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} does not end by {sign.name}; see {self.folder / name}.log") from None

    def copy_file(self) -> Path:
        """The journal's file as it is now."""
        copied = self.folder / "older"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(self.folder / "journal", copied)
        return copied

    def archived(self) -> int:
        """How many entries the table of hits has, as Redis was told."""
        with contextlib.suppress(redis.RedisError), client(self.settings.journal_url) as connection:
            found = connection.hgetall(keys.ARCHIVED)
            return sum(int(number) for name, number in found.items() if name.startswith(b"hits/"))
        return 0

    def journal_ids(self) -> frozenset[str]:
        """Ids of the hits that lie in the journal."""
        with client(self.settings.journal_url) as connection:
            return frozenset(hit.id for hit in logged_hits(connection, PARTITIONS))

    def set_back(self, copied: Path) -> None:
        """Kill the journal and start it from an older file."""
        self.end("journal")
        shutil.rmtree(self.folder / "journal")
        copied.rename(self.folder / "journal")
        self.start_servers()

    def wait_ready(self) -> None:
        """Wait until both web processes are."""
        for name in self.ports:
            self.wait(functools.partial(self._is_ready, name), f"{name} to be ready")

    def settle(self) -> None:
        """Heal everything and wait until nothing is left to do: no spool, nothing undecided, nothing unarchived."""
        self.web_way.heal()
        self.worker_way.heal()
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        self.replace_the_dead()
        self.wait(self._is_settled, "everything to be settled")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, replacing what ends meanwhile. Fails with what was waited for."""
        deadline = time.monotonic() + SETTLE_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"waited {SETTLE_S:.0f} s in vain for {what}; see {self.folder}: {self.what_is_left()}"
                )
            self.replace_the_dead()
            time.sleep(0.05)

    def _is_ready(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/readyz", timeout=5).status == 200)
        return False

    def _is_settled(self) -> bool:
        if any(self.settings.spool_path.glob("*.spool")):
            return False
        try:
            with client(self.settings.journal_url) as connection:
                if (connection.hget(keys.META, "run") or b"").decode() != run_id(connection):
                    return False
                look = backlog(connection, PARTITIONS)
        except redis.RedisError:
            return False
        return look.to_decide == look.to_archive == 0

    def what_is_left(self) -> str:
        """For whoever has to find out why it does not settle."""
        spools = [path.name for path in self.settings.spool_path.glob("*.spool")]
        with contextlib.suppress(redis.RedisError), client(self.settings.journal_url) as connection:
            return f"spools {spools}, {backlog(connection, PARTITIONS)}"
        return f"spools {spools}, the journal is away"

    def stop(self) -> None:
        """End everything that was started."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(10)


@contextlib.contextmanager
def stand(folder: Path) -> Iterator[Stand]:
    """A running stand that is gone afterwards."""
    with Faults() as recipient:
        one = Stand(folder, recipient, free_port())
        with one.web_way, one.worker_way:
            try:
                one.start()
                yield one
            finally:
                one.stop()
