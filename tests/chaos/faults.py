"""What is done to the processes, by name: each takes the stand and a random source, and says what may be lost."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

from tests.chaos.stand import Stand

STARTING_S = 15.0


Lost = frozenset[str]  # ids of hits that an older file may take along
Fault = Callable[[Stand, random.Random], "Lost | None"]


def _kill(*names: str) -> Fault:
    def fault(stand: Stand, chance: random.Random) -> None:
        stand.end(chance.choice(names), signal.SIGKILL)
        _pass(chance, 0.1, 1.0)
        stand.replace_the_dead()

    return fault


def _stop(*names: str) -> Fault:
    def fault(stand: Stand, chance: random.Random) -> None:
        name = chance.choice(names)
        stand.tell(name, signal.SIGSTOP)
        _pass(chance, 0.5, 3.5)
        stand.tell(name, signal.SIGCONT)

    return fault


def _restart(*names: str) -> Fault:
    def fault(stand: Stand, chance: random.Random) -> None:
        name = chance.choice(names)
        starting = stand.age_s(name) < STARTING_S  # not yet listening to signals, and with nothing to lose
        status = stand.end(name, signal.SIGTERM)
        assert status == 0 or (starting and status == -signal.SIGTERM), (
            f"{name} ended with status {status} when it was asked to"
        )
        stand.replace_the_dead()

    return fault


def _kill_child(stand: Stand, chance: random.Random) -> None:
    for pid in stand.children(chance.choice(("web a", "web b"))):
        os.kill(pid, signal.SIGKILL)
    _pass(chance, 0.2, 0.6)


def _cut(way: str) -> Fault:
    def fault(stand: Stand, chance: random.Random) -> None:
        proxy = getattr(stand, way)
        proxy.cut()
        _pass(chance, 0.3, 2.5)
        proxy.heal()

    return fault


def _slow(way: str) -> Fault:
    def fault(stand: Stand, chance: random.Random) -> None:
        proxy = getattr(stand, way)
        proxy.slow(chance.uniform(0.02, 0.4))
        _pass(chance, 0.5, 2.0)
        proxy.heal()

    return fault


def _set_back(stand: Stand, chance: random.Random) -> Lost:
    copied = stand.copy_file()
    archived = stand.archived()
    _pass(chance, 0.3, 2.0)
    stand.wait(lambda: stand.archived() > archived, "the archive to get further than the older file")
    stand.web_way.cut()  # what is answered from here on is in a spool
    ids = stand.journal_ids()
    stand.set_back(copied)
    stand.web_way.heal()
    return ids


def _pass(chance: random.Random, least_s: float, most_s: float) -> None:
    """The load goes on meanwhile."""
    time.sleep(chance.uniform(least_s, most_s))


FAULTS: dict[str, Fault] = {
    "SIGKILL of a web process": _kill("web a", "web b"),
    "SIGKILL of the server process below it": _kill_child,
    "SIGSTOP and SIGCONT of a web process": _stop("web a", "web b"),
    "restart of a web process": _restart("web a", "web b"),
    "SIGKILL of a worker": _kill("worker a", "worker b"),
    "SIGSTOP and SIGCONT of a worker": _stop("worker a", "worker b"),
    "restart of a worker": _restart("worker a", "worker b"),
    "SIGKILL of the archive": _kill("archive"),
    "SIGSTOP and SIGCONT of the archive": _stop("archive"),
    "restart of the archive": _restart("archive"),
    "SIGKILL of the journal's Redis": _kill("journal"),
    "SIGSTOP and SIGCONT of the journal's Redis": _stop("journal"),
    "restart of the journal's Redis": _restart("journal"),
    "SIGKILL of the broker's Redis": _kill("broker"),
    "journal cut off from the web processes": _cut("web_way"),
    "journal cut off from the workers": _cut("worker_way"),
    "journal slow for the web processes": _slow("web_way"),
    "journal slow for the workers": _slow("worker_way"),
    "journal's Redis back from an older file": _set_back,
}
