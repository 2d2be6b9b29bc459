"""`backtrack up`: everything starts, what dies is started again, and nothing outlives it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from service.backlog import backlog
from service.servers import client, free_port
from service.settings import Settings
from service.supervisor import Child, Up
from tests.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

RULES = Path(__file__).parents[2] / "datasets" / "rules.toml"
END_WITHIN_S = 15


def commands() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process there is, zombies left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(folder.name)] = int(parent), (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            pass
    return found


def below(root: int) -> dict[int, str]:
    """Process id and command line of everything that a process has started, directly or not."""
    everything, family, size = commands(), {root}, 0
    while len(family) != size:
        size = len(family)
        family |= {pid for pid, (parent, _) in everything.items() if parent in family}
    return {pid: everything[pid][1] for pid in family - {root} if pid in everything}


def alive(family: dict[int, str]) -> list[int]:
    """Those of them that still run."""
    now = commands()
    return [pid for pid, command in family.items() if pid in now and now[pid][1] == command]


def server(url: str) -> str:
    """What the process of a server calls itself."""
    return url.removeprefix("redis://").removesuffix("/0")


class Running:
    """A `backtrack up` of its own."""

    def __init__(self, var: Path) -> None:
        self.settings = Settings(
            var=var, port=free_port(), journal_url=f"redis://127.0.0.1:{free_port()}/0",
            broker_url=f"redis://127.0.0.1:{free_port()}/0",
        )  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "up", "--rules", str(RULES)],
            env={**os.environ, **self.settings.environment()}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.web = httpx.Client(base_url=f"http://127.0.0.1:{self.settings.port}", trust_env=False)
        until(self.ready, "everything to be up", 30)

    def ready(self) -> bool:
        assert self.process.poll() is None
        try:
            return self.web.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def the(self, role: str) -> int:
        """Process id of the child with these words in its command; 0 if there is none now."""
        children = [p for p, (parent, line) in commands().items() if parent == self.process.pid and f" {role} " in line]
        return children[0] if children else 0

    def kill(self, role: str) -> int:
        """SIGKILL a child that must be there; its process id."""
        pid = self.the(role)
        assert pid > 1  # 0 would be the tests' own group
        os.kill(pid, signal.SIGKILL)
        return pid

    def all_done(self) -> bool:
        """Whether everything that was logged is decided and in the tables."""
        connection = client(self.settings.journal_url)
        try:
            look = backlog(connection, self.settings.partitions)
            return look.logged > 0 and look.to_decide == look.to_archive == 0
        finally:
            connection.close()

    def hit(self) -> str:
        """Send a hit that is acknowledged; its id."""
        answer = self.web.get("/e", params={"client": "acme", "event": "click", "tag_id": "me"})
        assert answer.status_code == 200
        return answer.headers["x-hit-id"]

    def close(self) -> None:
        self.web.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    up = Running(tmp_path_factory.mktemp("up") / "var")
    yield up
    up.close()


def test_up_starts_everything_and_a_hit_goes_through(running: Running) -> None:
    # given web, a worker for each kind of work and two servers
    assert all(map(running.the, ("web", "tracking", "delivery", "archive")))
    assert running.the(server(running.settings.journal_url)) and running.the(server(running.settings.broker_url))
    # when a hit comes
    running.hit()
    # then it is decided and archived
    until(running.all_done, "the hit to be archived")


@pytest.mark.parametrize("role", ["tracking", "delivery", "archive", "web"])
def test_what_is_killed_is_started_again_and_goes_on(running: Running, role: str) -> None:
    # given a process that is killed
    family = below(running.the(role))
    pid = running.kill(role)
    # when another one has taken its place
    until(lambda: running.the(role) not in (0, pid), f"another {role}")
    until(lambda: not alive(family), "what it had started to end")
    until(running.ready, "the intake", 30)
    # then hits are taken and worked on as before
    running.hit()
    until(running.all_done, "the hit to be archived", 30)


def test_the_worker_process_of_the_web_server_is_started_again(running: Running) -> None:
    # given the process that answers requests, a child of the web process
    web = running.the("web")
    [answering] = below(web)
    os.kill(answering, signal.SIGKILL)
    # then the web process starts another one and stays itself
    until(lambda: [pid for pid in below(web) if pid != answering], "another process that answers")
    until(running.ready, "the intake", 30)
    assert running.the("web") == web and running.hit()


def test_a_killed_journal_comes_back_with_everything_that_was_acknowledged(running: Running) -> None:
    # given an acknowledged hit and a journal that is killed at once
    connection = client(running.settings.journal_url)
    before = backlog(connection, running.settings.partitions).logged
    connection.close()
    running.hit()
    running.kill(server(running.settings.journal_url))
    # when it is back
    until(lambda: _logged(running) > before, "the journal to be back with the hit", 30)
    # then the next hits are stored and worked on, too
    running.hit()
    until(running.all_done, "everything to be archived", 40)
    assert _logged(running) >= before + 2


def _logged(running: Running) -> int:
    connection = client(running.settings.journal_url)
    try:
        return backlog(connection, running.settings.partitions).logged
    except redis.RedisError:  # it is being started
        return 0
    finally:
        connection.close()


def test_a_second_up_on_the_same_folder_is_refused(running: Running) -> None:
    # when somebody starts another one on the same folder, with other ports
    ports = {
        "BACKTRACK_PORT": str(free_port()),
        "BACKTRACK_JOURNAL_URL": f"redis://127.0.0.1:{free_port()}/0",
        "BACKTRACK_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
    }
    command = [sys.executable, "-m", "service.cli", "up", "--var", str(running.settings.var)]
    done = subprocess.run(command, env={**os.environ, **ports}, capture_output=True, text=True, timeout=60)
    # then two servers never write the same files
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"is used by another `backtrack up` or `demo` (process {running.process.pid})" in done.stderr
    assert running.ready()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_soon_and_cleanly(tmp_path: Path, name: signal.Signals) -> None:
    # given everything up, with a hit under way
    up = Running(tmp_path / "var")
    family = below(up.process.pid)
    assert len(family) >= 5
    up.hit()
    # when it is told to end
    started = time.monotonic()
    up.process.send_signal(name)
    _, errors = up.process.communicate(timeout=60)
    # then it ends soon, by itself, and leaves nothing behind
    assert time.monotonic() - started < END_WITHIN_S
    assert up.process.returncode == 0 and "Traceback" not in errors
    assert alive(family) == []
    up.close()


def test_a_killed_up_takes_everything_with_it_and_can_be_started_again(tmp_path: Path) -> None:
    # given everything up, with an acknowledged hit
    up = Running(tmp_path / "var")
    family = below(up.process.pid)
    up.hit()
    # when it is killed without a chance to say anything
    up.process.kill()
    # then its children end by themselves, the embedded servers too
    until(lambda: not alive(family), "every child to end", END_WITHIN_S)
    up.close()
    # and the next one finds the hit
    again = Running(tmp_path / "var")
    until(again.all_done, "the hit of before", 30)
    assert _logged(again) >= 17  # the hit and one entry of the rulebook for each partition
    again.close()


def test_a_signal_that_comes_while_the_end_is_being_told_does_no_harm() -> None:
    # given a process that is told to end again while it holds a lock because it was told to end: when a parent with many
    # threads is killed, the kernel sends the parent-death signal once for each of them
    script = (
        "import os, signal, threading\n"
        "from service.processes import when_told_to_end\n"
        "told, lock = threading.Event(), threading.Lock()\n"
        "def end():\n"
        "    with lock:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('ended', flush=True)\n"
        "    told.set()\n"
        "when_told_to_end(end)\n"
        "print('up', flush=True)\n"
        "while not told.wait(0.1): pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        # when the first signal comes
        process.terminate()
        # then it ends once
        try:
            until(lambda: process.poll() is not None, "the end", 10)
        finally:
            process.kill()
        assert process.stdout.read() == b"ended\n"


def test_a_child_that_a_thread_has_started_ends_in_its_turn(tmp_path: Path) -> None:
    # given two children that note when they are told to end, both started again by the thread that looks after them
    note = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(float(sys.argv[2])); open(sys.argv[3], 'a').write(sys.argv[1]); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path(sys.argv[3] + sys.argv[1]).touch()\n"
        "signal.pause()\n"
    )
    record = tmp_path / "order"
    up = Up(Settings(var=tmp_path), embedded=False)
    up.keep()
    for name, order, takes_s in (("first", 1, "0.3"), ("last", 0, "0")):
        up.add(name, [sys.executable, "-c", note, name, takes_s, str(record)], order)
        started = tmp_path / f"order{name}"
        until(started.exists, f"{name} to be up")
        started.unlink()
        up.kill(name)
        until(started.exists, f"{name} to be up again")
    # when everything is stopped
    up.stop()
    # then the one that needs the other has ended before the other was told to
    assert record.read_text() == "firstlast"


def test_a_child_that_ends_again_and_again_is_started_less_and_less_often(tmp_path: Path) -> None:
    # given a child that cannot work
    up = Up(Settings(var=tmp_path), embedded=False)
    child: Child = up.add("hopeless", [sys.executable, "-c", "raise SystemExit(3)"], 1)
    try:
        # when it is looked after until it has been started five times
        def tired() -> bool:
            up.look_after()
            return child.restarts >= 4

        until(tired, "four restarts")
        # then the waits have grown
        assert child.not_before_s - time.monotonic() > 0.3
    finally:
        up.stop()
