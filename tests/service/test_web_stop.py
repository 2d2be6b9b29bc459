"""The end of a web process: nobody who holds a connection open can hold it up."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.servers import free_port
from tests.service.webprocess import Web, web_process

RULES = "[client.acme]\n"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    dead_broker = f"redis://127.0.0.1:{free_port()}/0"
    with web_process(tmp_path, dead_broker, free_port(), RULES, web_stop_s=2) as running:
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
