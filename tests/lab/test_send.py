"""A log sent to a staging service: what is sent when, as which bytes, what the answers say, and where it never goes."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lab
from lab.load import Clock
from lab.log import LabError, Log
from lab.send import send
from lab.send_plan import schedule
from lab.send_target import PUBLIC_URL
from service.cli import main
from service.engine import Hit
from service.servers import free_port
from tests.lab.conftest import RULES, START_US, Past
from tests.service.webprocess import web_process

LANDING = '\nlanding = "https://shop.example/welcome?cid={click_id}"'


class Staging(socketserver.ThreadingTCPServer):
    """Answers as an intake does and keeps what came: first line, headers and body, byte for byte."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.lock = threading.Lock()
        self.came: list[tuple[bytes, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def targets(self) -> list[bytes]:
        return sorted(line.split(b" ")[1] for line, _, _ in self.came)


class _Talk(socketserver.StreamRequestHandler):
    server: Staging

    def handle(self) -> None:
        while line := self.rfile.readline().strip():
            headers = {}
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            with self.server.lock:
                hit_id = f"{0xFEED0000 + len(self.server.came):032x}"
                self.server.came.append((line, headers, body))
            self.wfile.write(_answer(line, hit_id))


def _answer(line: bytes, hit_id: str) -> bytes:
    status, reason = ("422 No", "x-reason: unknown_client\r\n") if b"client=nobody" in line else ("200 OK", "")
    if b"fail=1" in line:
        return b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n"
    return f"HTTP/1.1 {status}\r\nx-hit-id: {hit_id}\r\n{reason}content-length: 0\r\n\r\n".encode()


@pytest.fixture
def staging() -> Iterator[Staging]:
    with Staging() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def no_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PUBLIC_URL, raising=False)


def a_log(folder: Path, *queries: str, rules: str = RULES, after_s: int = 60) -> Log:
    """A log of some GET requests, which came one after the other."""
    past = Past()
    past.publish(rules)
    for query in queries:
        past.hit(query, after_s=after_s)
    return lab.open(past.store(folder))


def at_once() -> Clock:
    return Clock(lambda: 0.0, _no_wait)


async def _no_wait(seconds: float) -> None:
    return None


def test_gaps_are_divided_by_the_speed_and_none_is_longer_than_the_cap() -> None:
    # given requests after 1, 10, 0 and 3600 seconds
    times_us = [START_US + 1_000_000 * second for second in (0, 1, 11, 11, 3611)]
    # then ten times as fast they come after 0.1, 1, 0 and, as the longest pause is 5, 5 seconds
    assert schedule(times_us, 10, 5) == [0, 100_000, 1_100_000, 1_100_000, 6_100_000]
    assert schedule(times_us, 1, 0) == [0] * 5 and schedule([], 1, 1) == []


def test_each_request_goes_out_at_its_time_by_the_clock(tmp_path: Path, staging: Staging) -> None:
    # given three requests a minute apart, and a clock that notes when somebody wants to go on
    log = a_log(tmp_path, *(f"client=acme&event=login&uid=u{n}" for n in range(3)))
    wanted: list[float] = []

    async def sleep(seconds: float) -> None:
        wanted.append(seconds)

    # when they are sent thirty times as fast
    report = send(log, staging.url, speed=30, clock=Clock(lambda: 0.0, sleep))
    # then they leave two seconds apart
    assert sorted(wanted) == [0.0, 2.0, 4.0] and report.seconds == 4.0


def test_the_bytes_of_each_request_arrive_as_they_were_logged(tmp_path: Path, staging: Staging) -> None:
    # given requests with odd encodings, bodies in two forms, headers, a test of then, and a line of a batch
    past = Past()
    past.publish(RULES)
    odd = b"client=acme&event=sale&x=%E9%zz&y=a%20b+c&k=1&k=2&%6b={id}&z"
    form = "application/x-www-form-urlencoded"
    past.take(
        Hit("1" * 32, START_US, "e", "GET", b"/e", odd, user_agent="Caf\xe9/1.0", referrer="https://a.example/?q=1")
    )
    past.take(Hit("2" * 32, START_US, "e", "POST", b"/e", b"", b"client=acme&event=sale&n=M%FCller\xff", form))
    past.take(
        Hit("3" * 32, START_US, "e", "POST", b"/e", b"q=1", b'{"client":"acme", "event":"sale"}', "application/json")
    )
    past.take(Hit("4" * 32, START_US, "e", "GET", b"/e", b"client=acme&event=sale&test=1"))
    past.take(Hit("5" * 32, START_US, "e/batch", "POST", b"/e/batch", b"", b'{"client":"acme","event":"sale"}'))
    log = lab.open(past.store(tmp_path))
    # when they are sent
    report = send(log, staging.url, run="r1", clock=at_once())
    # then each came with the marks of a test behind its query and is otherwise what it was
    mark = b"test=1&test_run=r1"
    assert staging.targets() == sorted([
        b"/e?" + odd + b"&" + mark, b"/e?" + mark, b"/e?q=1&" + mark, b"/e?client=acme&event=sale&test=1&" + mark,
        b"/e?" + mark,
    ])  # fmt: skip
    by_body = {body: headers for _, headers, body in staging.came}
    line, document = b'{"client":"acme","event":"sale"}', b'{"client":"acme", "event":"sale"}'
    assert by_body.keys() == {b"", b"client=acme&event=sale&n=M%FCller\xff", line, document}
    (headers,) = (headers for first, headers, _ in staging.came if odd in first)
    assert (headers["user-agent"], headers["referer"]) == ("Caf\xe9/1.0", "https://a.example/?q=1")
    assert by_body[b'{"client":"acme", "event":"sale"}']["content-type"] == "application/json"
    assert report.frame["acknowledged"][0] == 5 and report.kept_back == {}


def test_what_would_not_be_read_as_a_test_is_kept_back(tmp_path: Path, staging: Staging) -> None:
    # given bodies that say they are no tests: a form, which gets the mark too, and a document, which cannot
    past = Past()
    past.publish(RULES)
    form = "application/x-www-form-urlencoded"
    past.take(Hit("1" * 32, START_US, "e", "POST", b"/e", b"", b"client=acme&event=sale&test=0", form))
    past.take(
        Hit("2" * 32, START_US, "e", "POST", b"/e", b"client=acme", b'{"event":"sale","test":"0"}', "application/json")
    )
    log = lab.open(past.store(tmp_path))
    # when they are sent
    report = send(log, staging.url, run="r1", clock=at_once())
    # then only the form has been, as a test
    ((_, _, body),) = staging.came
    assert body == b"client=acme&event=sale&test=0&test=1&test_run=r1"
    assert report.kept_back == {"says_it_is_no_test": 1} and "1 kept back (says_it_is_no_test)" in repr(report)


def test_click_ids_of_the_log_become_those_of_the_staging_service(tmp_path: Path, staging: Staging) -> None:
    # given a click by a tracker link, and a registration that brings its id
    past = Past()
    past.publish(RULES.replace("[client.acme]", "[client.acme]" + LANDING))
    click = past.hit("sub1=a", path="/c/acme/best")
    past.hit(f"client=acme&event=registration&uid=u1&click_id={click.hit_id}&other={'f' * 32}")
    log = lab.open(past.store(tmp_path))
    # when both are sent
    send(log, staging.url, run="r1", clock=at_once())
    # then the registration brings the new id
    _, (line, _, _) = staging.came
    assert f"click_id={0xFEED0000:032x}&other={'f' * 32}&test=1".encode() in line


def test_answers_are_counted_and_compared_with_the_log(tmp_path: Path, staging: Staging) -> None:
    # given hits that were taken, one that was rejected then and now, one then only, and one that will be answered 503
    queries = [f"client=acme&event=login&uid=u{n}" for n in range(4)]
    log = a_log(
        tmp_path, *queries, "client=nobody&event=sale", "client=bolt", "client=acme&event=login&fail=1", after_s=1
    )
    # when they are sent
    done: list[tuple[int, int]] = []
    report = send(log, staging.url, clock=at_once(), progress=lambda *now: done.append(now))
    # then the frame counts them, and each answer unlike the log is there with an example
    row = report.frame.row(0, named=True)
    assert {name: row[name] for name in ("sent", "acknowledged", "rejected", "errors", "kept_back")} == {
        "sent": 7, "acknowledged": 6, "rejected": 1, "errors": 1, "kept_back": 0,
    }  # fmt: skip
    assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] and done[-1] == (7, 7)
    assert report.answers.rows() == [(200, "", 5), (503, "", 1), (422, "unknown_client", 1)]
    found = {
        (row["logged_reason"], row["reason"], row["status"]): row["count"] for row in report.differences.to_dicts()
    }
    assert found == {("missing_event", "", 200): 1, ("", "", 503): 1}
    assert "2 answers unlike the log" in repr(report) and "missing_event" in report._repr_html_()


def test_nothing_is_sent_in_a_dry_run_and_a_limit_holds(tmp_path: Path, staging: Staging) -> None:
    log = a_log(tmp_path, *(f"client=acme&event=login&uid=u{n}" for n in range(3)))
    dry = log.send(to=staging.url, limit=2, dry_run=True)
    assert not staging.came and "it would be 2 requests in 5.0 s" in repr(dry) and dry.dry


@pytest.mark.parametrize(
    ("to", "production", "said"),
    [
        ("staging.example", "https://track.example", "give scheme, host and port"),
        ("https://staging.example/e?x=1", "https://track.example", "give scheme, host and port"),
        ("https://me@staging.example", "https://track.example", "give scheme, host and port"),
        ("https://staging.example:x", "https://track.example", "is no address"),
        ("http://TRACK.example.:8080", "https://track.example", "is the production address"),
        ("http://127.0.0.1:8700", "http://localhost:8700", "is the production address"),
        ("https://staging.example", None, "set BACKTRACK_PUBLIC_URL"),
        ("https://acme.example", "https://track.example", "client:acme"),
        ("https://best.example:8443", "https://track.example", "affiliate:best"),
        ("https://shop.example", "https://track.example", "client:acme"),
        ("http://127.0.0.1:9", "https://track.example", "nobody answers"),
    ],
)
def test_the_production_address_and_what_a_rulebook_names_are_refused(
    tmp_path: Path, to: str, production: str | None, said: str
) -> None:
    log = a_log(tmp_path, "client=acme&event=login", rules=RULES.replace("[client.acme]", "[client.acme]" + LANDING))
    with pytest.raises(LabError, match=said) as error:
        log.send(to=to, production=production)
    assert to in str(error.value) and "\n" not in str(error.value)


def test_the_setting_names_the_production_address(
    tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = a_log(tmp_path, "client=acme&event=login")
    monkeypatch.setenv(PUBLIC_URL, staging.url)
    with pytest.raises(LabError, match="is the production address"):
        log.send(to=staging.url)
    assert not staging.came


def test_a_log_sent_to_a_real_service_is_stored_there_as_tests(tmp_path: Path) -> None:
    # given a log, and a staging service with the same rulebook
    a_log(
        tmp_path / "log", "client=acme&event=registration&uid=u1", "client=nobody&event=sale", "client=acme&event=a%FFb",
        *(f"client=bolt&event=sale&txid=t{n}&amount=1{n}.50&sub1=%C3%A9+x" for n in range(20)), after_s=1,
    )  # fmt: skip
    dead_broker = f"redis://127.0.0.1:{free_port()}/0"
    with web_process(tmp_path / "web", dead_broker, free_port(), RULES) as web:
        # when the command sends it
        result = CliRunner().invoke(
            main, ["send", str(tmp_path / "log"), "--to", web.base, "--speed", "100", "--run", "r7", "--json"]
        )
        entries = web.entries()
    # then every answer is like the log, and every hit of theirs is ours, marked
    document: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == 0 and document["differences"] == [], result.output
    assert (document["sent"], document["acknowledged"], document["rejected"]) == (23, 23, 2)
    queries = sorted(entry.hit.query for entry in entries if entry.hit is not None)
    assert len(queries) == 23 and all(query.endswith(b"&test=1&test_run=r7") for query in queries)
    assert b"client=acme&event=a%FFb&test=1&test_run=r7" in queries


@pytest.mark.parametrize("wrong", [["--to", "x"], ["--to", "http://127.0.0.1:1", "--gap-cap", "long"]])
def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, wrong: list[str]) -> None:
    a_log(tmp_path, "client=acme&event=login")
    result = CliRunner().invoke(main, ["send", str(tmp_path), *wrong])
    assert result.exit_code == 2 and wrong[-1] in result.stderr and result.stderr.count("\n") == 1
