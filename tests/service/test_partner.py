"""The partner as a process: it answers, records before it answers, fails when told to, and ends when asked."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.partner import unlucky


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(port: int, record: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "service.partner", "--port", str(port), "--record", str(record), *more]


class Running:
    """A partner process and a client of it."""

    def __init__(self, record: Path, *more: str) -> None:
        self.port, self.record = free_port(), record
        self.process = subprocess.Popen(command(self.port, record, *more), stderr=subprocess.PIPE)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.client.get("/_healthz").raise_for_status()
                return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError("the partner did not come up")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.record.read_text(encoding="utf-8").splitlines()]

    def end(self, name: signal.Signals = signal.SIGTERM) -> tuple[int, bytes]:
        self.client.close()
        self.process.send_signal(name)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def partner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("partner") / "new" / "received.jsonl")
    yield running
    running.end()


def test_a_postback_is_answered_and_recorded_as_it_came(partner: Running) -> None:
    # given a postback with bytes that are no UTF-8 in query and body
    before = time.time_ns() // 1000
    # when it is posted
    url = f"http://127.0.0.1:{partner.port}/acme/a%20b?cid=M%FCnchen&x=1"
    answer = partner.client.post(url, content=b"caf\xe9", headers={"Webhook-Id": "pb-1"})
    # then the answer is 200 and the line holds what was sent
    line = partner.lines()[-1]
    assert answer.status_code == 200
    assert before <= line.pop("time_us") <= time.time_ns() // 1000
    headers = line.pop("headers")
    assert headers["webhook-id"] == "pb-1" and all(name.islower() for name in headers)
    assert line == {
        "kind": "postback", "method": "POST", "path": "/acme/a%20b", "query": "cid=M%FCnchen&x=1",
        "body": "caf\N{REPLACEMENT CHARACTER}", "status": 200,
    }  # fmt: skip


def test_received_counts_postbacks_and_distinct_ids(partner: Running) -> None:
    # given what was received before
    before = partner.client.get("/_received").json()
    # when an id comes twice and a request without any once
    for headers in ({"webhook-id": "twice"}, {"webhook-id": "twice"}, {}):
        partner.client.get("/topten/s2s?click=1", headers=headers)
    # then three requests and one id more are counted
    after = partner.client.get("/_received").json()
    assert (after["received"] - before["received"], after["ids"] - before["ids"], after["failed"]) == (3, 1, 0)


def test_a_landing_page_shows_what_it_was_called_with_and_is_no_postback(partner: Running) -> None:
    # given what was received before
    before = partner.client.get("/_received").json()
    # when a visitor lands
    answer = partner.client.get("/welcome", params={"cid": "<script>alert(1)</script>", "sub1": "größe"})
    # then the page says so harmlessly, and only the record knows
    assert answer.status_code == 200 and "text/html" in answer.headers["content-type"]
    assert "Acme Casino" in answer.text and "größe" in answer.text
    assert "&lt;script&gt;" in answer.text and "<script>" not in answer.text
    assert partner.lines()[-1]["kind"] == "landing"
    assert partner.client.get("/_received").json() == before
    assert {partner.client.get(path).status_code for path in ("/shop", "/travel")} == {200}


def test_questions_about_the_partner_are_not_recorded(partner: Running) -> None:
    lines = len(partner.lines())
    partner.client.get("/_healthz")
    partner.client.get("/_received")
    assert len(partner.lines()) == lines


def test_unlucky_ids_fail_once_and_then_work(tmp_path: Path) -> None:
    # given a partner in trouble with half of the ids
    running = Running(tmp_path / "received.jsonl", "--fail", "0.5")
    ids = [f"pb-{number}" for number in range(40)]
    # when each id is tried twice
    first, second = (
        [running.client.get("/x", headers={"webhook-id": identity}).status_code for identity in ids] for _ in range(2)
    )
    recorded = [line["status"] for line in running.lines()]
    counts = running.client.get("/_received").json()
    running.end()
    # then the unlucky ones failed the first time, and all of it is in the record
    assert first == [500 if unlucky(identity, 0.5) else 200 for identity in ids]
    assert 5 < first.count(500) < 35
    assert second == [200] * 40
    assert recorded == first + second
    assert counts == {"received": 80, "ids": 40, "failed": first.count(500)}


def test_a_retry_without_an_id_is_known_by_the_request_itself(tmp_path: Path) -> None:
    running = Running(tmp_path / "received.jsonl", "--fail", "1")
    answers = [running.client.post("/x?a=1", content=body).status_code for body in (b"one", b"one", b"two")]
    running.end()
    assert answers == [500, 200, 500]


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_asked_and_keeps_the_record(tmp_path: Path, name: signal.Signals) -> None:
    # given a partner with an open connection that has received something
    running = Running(tmp_path / "received.jsonl")
    running.client.get("/x")
    # when it is asked to end
    status, errors = running.end(name)
    # then it says nothing, and a new one appends to the same file
    assert (status, errors) == (0, b"")
    again = Running(tmp_path / "received.jsonl")
    again.client.get("/y")
    assert [line["path"] for line in again.lines()] == ["/x", "/y"]
    again.end()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fail", "5"], "--fail 5.0: the share that fails is between 0 and 1"),
        (["--port", "70000"], "cannot listen on 127.0.0.1:70000"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:"),
        (["--record", "README.md/x.jsonl"], "cannot write README.md/x.jsonl"),
    ],
)
def test_bad_input_gives_one_line_and_status_2(tmp_path: Path, options: list[str], words: str) -> None:
    done = subprocess.run(command(free_port(), tmp_path / "r", *options), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("backtrack partner: ") and words in done.stderr


def test_a_used_port_gives_one_line_and_status_2(partner: Running, tmp_path: Path) -> None:
    done = subprocess.run(command(partner.port, tmp_path / "r"), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"cannot listen on 127.0.0.1:{partner.port} (Address already in use); choose another" in done.stderr
    assert not (tmp_path / "r").exists()
