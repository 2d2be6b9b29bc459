"""A complete service inside a notebook, for prototyping: web, workers, an embedded Redis, and a partner that records.

    live = lab.live("rules.toml")
    live.hit("registration", uid="me")        # a real request over HTTP; answers what the service answers
    live.log()                                # waits until it is decided, posted and archived: a Log like any other

It lives in a temporary folder, on ports of its own, and calls nobody: every webhook of the rulebook is led to the partner.
It ends with `live.stop()`, at the end of a `with`, and with the kernel, even if that is killed.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.live_hits import Answer, Sender
from lab.live_rules import EXAMPLE, SECRET, SECRET_NAME, pointed_at
from lab.log import LabError, Log
from lab.log import open as open_log

if TYPE_CHECKING:
    import polars as pl

    from service.engine import Rulebook

    Rules = str | Path | Rulebook | None

HOST = "127.0.0.1"
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 45.0
LOOK_EVERY_S = 0.1

_KEEPER = Path(__file__).with_name("live_keeper.py")
_running: list[weakref.ref[Live]] = []


def live(rules: Rules = None, port: int = 0, folder: str | Path | None = None) -> Live:
    """Start a service for this notebook and wait until it takes hits, some seconds.

    rules: a path, a TOML text (anything with a line break) or a rulebook; a small example if None. port: of the intake; 0
    takes a free one. folder: where everything is kept; if None a temporary one that goes with the kernel. A notebook has
    one service: starting another ends the former, whose logs stay open. Raises RulebookError for broken rules, LabError for
    a port in use, a missing Redis, and whatever else keeps it from starting, in one line.

    >>> with lab.live() as live:                                              # doctest: +SKIP
    ...     live.hit("registration", uid="me")
    ...     live.log().decisions.collect()["verdict"].to_list()
    ['accepted']
    """
    from lab.live_progress import steps
    from lab.replay import rulebook_of

    rulebook = rulebook_of(EXAMPLE if rules is None else rules)
    if rulebook is None:
        raise LabError("rules is empty; give a path, a text or a rulebook")
    if port and not _is_free(port):
        raise LabError(f"port {port} is in use; give lab.live another port, or 0 for a free one")
    _stop_former()
    with steps("starting a service: Redis, web, workers, partner") as say:
        found = Live(rulebook, port, folder)
        found._start(say)
    _running[:] = [weakref.ref(found)]
    return found


class Live:
    """A service that runs for this notebook. Made by `lab.live`; a context manager.

    url: of the intake, such as `http://127.0.0.1:40001`. rulebook: in force, with its webhooks led to the partner.
    folder: where its tables (`tables`), logs and the partner's record lie. seconds: how long it took to start.

    >>> live.url.startswith("http://127.0.0.1:")                              # doctest: +SKIP
    True
    """

    def __init__(self, rulebook: Rulebook, port: int = 0, folder: str | Path | None = None) -> None:
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="backtrack-live-") if folder is None else folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabError(f"the folder {self.folder} cannot be made: {error.strerror}; give another one") from None
        if self._temporary:
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self._port, self._partner_port, journal, broker = _free_ports(port)
        self.url = f"http://{HOST}:{self._port}"
        self.rulebook = pointed_at(rulebook, f"http://{HOST}:{self._partner_port}")
        self.seconds = 0.0
        self.answers: list[Answer] = []
        self._environment = _environment(self.folder, self._port, journal, broker)
        self._sender = Sender(self.url)
        self._keeper: subprocess.Popen[bytes] | None = None

    # its life

    def _start(self, say: Any) -> None:
        started = time.monotonic()
        path = self._write(self.rulebook)
        partner = ["partner", "--port", str(self._partner_port), "--record", str(self.record)]
        children = [self._child(*partner), self._child("up", "--rules", str(path))]
        task = {"parent": os.getpid(), "folder": str(self.folder), "remove": self._temporary, "children": children}
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", str(_KEEPER), json.dumps(task)], env=self._environment, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._finalizer = weakref.finalize(self, _end, self._keeper)
        try:
            self._wait_ready(self.rulebook, say)
        except BaseException:
            self.stop()
            raise
        self.seconds = time.monotonic() - started

    def _child(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "service.cli", *arguments]
        return {"command": command, "log": str(self.folder / f"{arguments[0]}.log")}

    def _wait_ready(self, rulebook: Rulebook, say: Any = None) -> None:
        """Until the intake takes hits by this rulebook, and the partner listens."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            said = self._sender.ask("/readyz")
            if rulebook.id in said and not _is_free(self._partner_port):
                return
            self._check_alive()
            if time.monotonic() > deadline:
                raise LabError(f"the service is not ready after {READY_TIMEOUT_S:.0f} s; its logs are in {self.folder}")
            if say is not None:
                say()
            time.sleep(LOOK_EVERY_S)

    def _check_alive(self) -> None:
        if self._keeper is None or self._keeper.poll() is not None:
            last = [_last_line(self.folder / name) for name in ("up.log", "partner.log")]
            why = next((line for line in last if line), "")
            raise LabError(f"the service is not running{f': {why}' if why else ''}")

    def stop(self) -> None:
        """End every process of it, the work under way first. Logs that were opened stay readable until the kernel ends.

        >>> live.stop()                                                       # doctest: +SKIP
        """
        if self._keeper is not None:
            self._finalizer()

    @property
    def running(self) -> bool:
        """Whether it takes hits.

        >>> live.running                                                      # doctest: +SKIP
        True
        """
        return self._keeper is not None and self._keeper.poll() is None

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # hits

    def hit(self, event: str, client: str = "", **parameters: object) -> Answer:
        """Send one event over HTTP (`GET /e`), as a client's server would.

        client: may be left out where the rulebook has only one. parameters: any of the intake, such as uid, click_id,
        amount, currency, txid, test, or the client's own.

        >>> live.hit("sale", uid="me", amount="50.00", currency="EUR")       # doctest: +SKIP
        stored 01a207f722577424b6083e1c657a1524 acme sale
        """
        return self._send("/e", {"client": client or self._only_client(), "event": event, **parameters})

    def click(self, affiliate: str, client: str = "", **parameters: object) -> Answer:
        """Follow an affiliate's tracker link (`GET /c/CLIENT/AFFILIATE`), as a visitor's browser would; the answer's id is
        the new click id. Where the link leads is told (`location`), and not opened.

        >>> live.hit("registration", click_id=live.click("bestodds", sub1="a").id)       # doctest: +SKIP
        stored 01a207f7225a7cc0a4f32c07a9b61e02 acme registration
        """
        return self._send(f"/c/{client or self._only_client()}/{affiliate}", parameters)

    def _send(self, path: str, parameters: dict[str, object]) -> Answer:
        self._check_alive()
        answer = self._sender.send(path, parameters)
        self.answers.append(answer)
        return answer

    def _only_client(self) -> str:
        names = sorted(self.rulebook.clients)
        if len(names) == 1:
            return names[0]
        raise LabError(f"which client? The rulebook has {', '.join(names) or 'none'}; name one with client=")

    # what became of them

    def log(self, ids: Iterable[str] = (), timeout_s: float = 60.0) -> Log:
        """The log, as soon as every hit that was acknowledged here is archived with all that follows from it.

        That is: decided, and each postback tried at least once. ids: hit ids of others to wait for too. Raises LabError
        after `timeout_s` seconds, with what is open.

        >>> live.log().funnel("click", "registration")                        # doctest: +SKIP
        """
        from lab.live_wait import open_work

        wanted = {answer.id for answer in self.answers if answer.id} | set(ids)
        deadline = time.monotonic() + timeout_s
        while True:
            log = open_log(self.folder / "tables")
            work = open_work(log, wanted)
            if not work:
                return log
            self._check_alive()
            if time.monotonic() > deadline:
                raise LabError(f"after {timeout_s:.0f} s there is still work: {work}; logs are in {self.folder}")
            time.sleep(LOOK_EVERY_S)

    def postbacks(self) -> pl.DataFrame:
        """What was promised, and what became of it; waits as `log` does.

        Columns: time (UTC, of the firing), trigger, recipient, state (of the last try; `withheld`, `recorded` without
        one), tries, verb, url, body, missing (macros without a value), payout and currency (texts), hit_id, postback_id.

        >>> live.postbacks().select("trigger", "recipient", "state")          # doctest: +SKIP
        """
        from lab.live_wait import promised

        return promised(self.log())

    def received(self) -> pl.DataFrame:
        """What the partner of this notebook received, in its own words; waits as `log` does.

        Columns: time (UTC), trigger, recipient (by the postback's id, null for a request that is no postback), verb, path,
        query (as it came), body, status (of the partner's answer), postback_id.

        >>> live.received().select("recipient", "path", "query")              # doctest: +SKIP
        """
        from lab.live_wait import received

        return received(self.log(), self.record)

    def publish(self, rules: Rules) -> str:
        """Put another rulebook in force, for every hit from now on; returns its id. Webhooks are led to the partner.

        rules: as for `lab.live`. Raises RulebookError for broken rules.

        >>> live.publish("rules-next.toml")                                   # doctest: +SKIP
        '4c1f0b9a7e6d2385'
        """
        from lab.replay import rulebook_of

        given = rulebook_of(rules)
        if given is None:
            raise LabError("rules is empty; give a path, a text or a rulebook")
        self._check_alive()
        rulebook = pointed_at(given, f"http://{HOST}:{self._partner_port}")
        command = [sys.executable, "-m", "service.cli", "rules", "publish", str(self._write(rulebook))]
        done = subprocess.run(
            command, env=self._environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(f"the rulebook was not published: {done.stderr.strip()}")
        self._wait_ready(rulebook)
        self.rulebook = rulebook
        return rulebook.id

    @property
    def record(self) -> Path:
        """The partner's record, a file of JSON lines for `verify`.

        >>> live.log().verify(live.record).ok                                 # doctest: +SKIP
        True
        """
        return self.folder / "partner.jsonl"

    def _write(self, rulebook: Rulebook) -> Path:
        path = self.folder / f"rules-{rulebook.id}.toml"
        path.write_text(rulebook.text, encoding="utf-8")
        return path

    def __repr__(self) -> str:
        if not self.running:
            return f"Live: stopped, after {len(self.answers):,} hits from here"
        return (
            f"Live at {self.url}: rulebook {self.rulebook.id}, {len(self.answers):,} hits from here, "
            f"started in {self.seconds:.1f} s"
        )

    def _repr_html_(self) -> str:
        from lab.live_page import live_html

        return live_html(self)


def _stop_former() -> None:
    for former in _running:
        found = former()
        if found is not None:
            found.stop()
    _running.clear()


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """Tell the keeper to end everything, and wait for it."""
    try:
        if keeper.stdin is not None:
            keeper.stdin.write(b"stop\n")
            keeper.stdin.close()
    except OSError:
        pass  # it has ended already
    try:
        keeper.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        keeper.kill()  # its children are asked to end by the kernel
        keeper.wait()


def _environment(folder: Path, port: int, journal: int, broker: int) -> dict[str, str]:
    """For the processes: nothing of the settings that a production service on this machine may have."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("BACKTRACK_")}
    return plain | {
        SECRET_NAME: SECRET,
        "BACKTRACK_VAR": str(folder),
        "BACKTRACK_HOST": HOST,
        "BACKTRACK_PORT": str(port),
        "BACKTRACK_JOURNAL_URL": f"redis://{HOST}:{journal}/0",
        "BACKTRACK_BROKER_URL": f"redis://{HOST}:{broker}/0",
        "BACKTRACK_ALLOW_ADDRESSES": f"{HOST}/32",
        "BACKTRACK_ARCHIVE_MS": "200",
        "BACKTRACK_LINGER_MS": "200",
    }


def _free_ports(port: int) -> list[int]:
    """The given port, or a free one, and three more; held at the same time, so that they are different ones."""
    probes = [socket.socket() for _ in range(4)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        found = [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
    return [port or found[0], *found[1:]]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        except OverflowError:
            raise LabError(f"port {port} is no port; give 1 to 65535, or 0 for a free one") from None
        return True


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
