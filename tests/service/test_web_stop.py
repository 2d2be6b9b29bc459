"""The end of a web process: nobody who holds a connection open can hold it up."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.servers import free_port
from service.web import GRACE_S
from tests.service.webprocess import Web, web_process
from tests.waiting import until

RULES = "[client.acme]\n"
STOP_S = 2


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    dead_broker = f"redis://127.0.0.1:{free_port()}/0"
    with web_process(tmp_path, dead_broker, free_port(), RULES, web_stop_s=STOP_S, web_workers=2) as running:
        yield running


def test_a_sender_that_hangs_does_not_hold_up_the_end(web: Web) -> None:
    # given a hit that was acknowledged, and a sender that has sent half of a body and says nothing more
    hit_id = web.client.get("/e?client=acme&event=login&uid=u1").headers["x-hit-id"]
    with socket.create_connection((web.settings.host, web.settings.port), timeout=20) as wire:
        wire.sendall(b"POST /e HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nclient=acme")
        # when the process is told to end
        began = time.monotonic()
        web.end()
        # then it does, in the time that the setting gives and what the machine needs beside it
        assert time.monotonic() - began < 15
    # and what was acknowledged is there
    assert web.entry(hit_id).seq > 0


def test_it_ends_when_it_is_told_to_twice_at_once(tmp_path: Path) -> None:
    dead_broker = f"redis://127.0.0.1:{free_port()}/0"
    with web_process(tmp_path, dead_broker, free_port(), RULES, web_stop_s=STOP_S) as web:
        for _ in range(4):  # where one signal comes while the other is handled is chance
            # given a hit that was acknowledged
            hit_id = web.client.get("/e?client=acme&event=login&uid=u1").headers["x-hit-id"]
            assert web.process is not None
            # when a terminal and a supervisor tell the process to end, or the kernel does for each thread of its parent
            began = time.monotonic()
            web.process.send_signal(signal.SIGINT)
            web.process.send_signal(signal.SIGTERM)
            # then it ends in the time that the setting gives and a bound
            web.process.wait(STOP_S + GRACE_S + 5)
            assert time.monotonic() - began < STOP_S + GRACE_S
            assert web.entry(hit_id).seq > 0
            web.start()


def test_a_worker_that_is_only_starting_holds_up_nothing(tmp_path: Path) -> None:
    # given a web process that would wait long for its workers
    dead_broker = f"redis://127.0.0.1:{free_port()}/0"
    with web_process(tmp_path, dead_broker, free_port(), RULES, web_stop_s=25, web_workers=2) as web:
        web.end()
        for _ in range(5):  # how far the worker has come is chance
            # when it is told to end as soon as it has a worker
            web.spawn()
            until(web.workers, "a worker")
            began = time.monotonic()
            web.end()
            # then nobody waits for workers that have not begun
            assert time.monotonic() - began < 10


def test_a_worker_that_stands_still_is_not_waited_for(web: Web) -> None:
    # given workers that do nothing any more
    for worker in web.workers():
        os.kill(worker, signal.SIGSTOP)
    # when the process is told to end
    began = time.monotonic()
    web.end()
    # then it does
    assert time.monotonic() - began < STOP_S + GRACE_S


def test_workers_that_are_starting_end_with_a_process_that_is_killed(web: Web) -> None:
    # given a process that is killed as soon as it has a worker
    web.end()
    web.spawn()
    assert web.process is not None
    workers = until(web.workers, "a worker")
    web.process.kill()
    web.process.wait(20)
    # then no worker goes on without it
    until(lambda: not any(is_running(worker) for worker in workers), "the workers to end")
