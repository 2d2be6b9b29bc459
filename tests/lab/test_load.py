"""Driving requests over real HTTP: order, ids, further tries, and never to another machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab.load import LoadError, drive
from lab.traffic import Request

Step = Callable[[int, str], int]  # how often this target came before, and the target; to a status, 0 hangs up


class Intake(ThreadingHTTPServer):
    """Answers each request with a hit id of its own and remembers the targets in the order they came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.targets: list[str] = []
        self.status: Step = lambda times, target: 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Intake

    def do_GET(self) -> None:
        with self.server.lock:
            times, hit_id = self.server.targets.count(self.path), f"{len(self.server.targets):032x}"
            self.server.targets.append(self.path)
        status = self.server.status(times, self.path)
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", "0")
        if status < 500:
            self.send_header("X-Hit-Id", hit_id)
        if status == 422:
            self.send_header("X-Reason", "unknown_client")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def intake() -> Iterator[Intake]:
    server = Intake()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def request(target: str, visitor: int = 0, offset_us: int = 0) -> Request:
    return Request(offset_us, "GET", target.encode(), visitor=visitor)


def test_every_request_is_answered_and_counted(intake: Intake) -> None:
    # given an intake that rejects one request in five
    intake.status = lambda times, target: 422 if target.endswith(("3", "8")) else 200
    seen: list[tuple[int, int]] = []
    # when fifty are sent
    report = drive(intake.url, [request(f"/e?n={n}", n) for n in range(50)], 4, lambda *done: seen.append(done))
    # then the report and its ledger say so
    assert (report.sent, report.acknowledged, report.retried, report.unanswered) == (50, 50, 0, 0)
    assert (report.statuses, report.reasons) == ({200: 40, 422: 10}, {"unknown_client": 10})
    assert len(report.ids) == 50
    assert [receipt.index for receipt in report.ledger] == list(range(50))
    assert report.latency_us["p50"] <= report.latency_us["p99"] <= report.latency_us["max"]
    assert seen[-1] == (50, 50)


def test_a_visitor_s_requests_go_one_after_the_other(intake: Intake) -> None:
    drive(intake.url, [request(f"/e?v={n % 5}&n={n}", n % 5) for n in range(100)], connections=16)
    for visitor in range(5):
        mine = [int(target.rpartition("=")[2]) for target in intake.targets if f"v={visitor}&" in target]
        assert mine == sorted(mine) and len(mine) == 20


def test_a_needed_hit_id_is_waited_for_and_put_in(intake: Intake) -> None:
    # given requests of other visitors that need the id of the first
    requests = [request("/c/acme/one", 1), *(request(f"/e?n={n}&click_id={{id:0}}", n) for n in range(2, 9))]
    # when they are sent
    report = drive(intake.url, requests)
    # then each carries the id that the first was answered with
    first = report.ledger[0].hit_id
    assert intake.targets[0] == "/c/acme/one"
    assert len(first) == 32
    assert all(target.endswith(f"click_id={first}") for target in intake.targets[1:])


def test_a_request_that_fails_is_sent_again_and_a_lost_answer_is_counted(intake: Intake) -> None:
    # given an intake that answers 503 first, then hangs up, then works
    intake.status = lambda times, target: (503, 0, 200)[min(times, 2)] if target == "/e?n=1" else 200
    # when three requests are sent
    report = drive(intake.url, [request(f"/e?n={n}", n) for n in range(3)], waits_s=(0.0, 0.0, 0.0))
    # then the one in trouble got through at the third try
    assert (report.acknowledged, report.retried, report.unanswered) == (3, 2, 1)
    assert report.ledger[1].tries == 3 and report.ledger[1].status == 200


def test_the_bytes_of_a_target_arrive_as_they_are(intake: Intake) -> None:
    target = "/e?city=M%FCnchen&a=%C3%28&sub1=%e2%82%ac&b=%27%20x+y"
    drive(intake.url, [request(target)])
    assert intake.targets == [target]


def test_a_redirect_is_an_answer_and_is_not_followed(intake: Intake) -> None:
    intake.status = lambda times, target: 302
    report = drive(intake.url, [request("/c/acme/one")])
    assert report.statuses == {302: 1} and report.acknowledged == 1 and len(intake.targets) == 1


def test_a_service_that_is_gone_ends_in_a_report(intake: Intake) -> None:
    # given an address where nobody listens any more
    gone = Intake()
    gone.server_close()
    # when requests are sent there
    report = drive(gone.url, [request(f"/e?n={n}", n) for n in range(40)], waits_s=(0.0, 0.0))
    # then none is acknowledged, none can have been logged, and only the first ones were tried often
    assert (report.acknowledged, report.unanswered, report.statuses) == (0, 0, {0: 40})
    assert report.retried <= 2 * 16


def test_the_planned_pace_is_kept(intake: Intake) -> None:
    # given a plan of twenty seconds, sent a hundred times faster
    plan = [request(f"/e?n={n}", n, n * 10_000_000) for n in range(3)]
    # then the run takes as long as the plan says, and no less
    assert drive(intake.url, plan, speed=100).seconds >= 0.2


@pytest.mark.parametrize("url", ["http://backtrack.example:8700", "https://127.0.0.1:8700", "http://10.0.0.1", "8700"])
def test_another_machine_never_gets_generated_traffic(url: str) -> None:
    with pytest.raises(LoadError, match="this machine only"):
        drive(url, [request("/e")])


def test_a_reference_to_a_later_request_is_refused_before_anything_is_sent(intake: Intake) -> None:
    with pytest.raises(LoadError, match="request 0 needs the hit id of request 1"):
        drive(intake.url, [request("/e?click_id={id:1}"), request("/e")])
    assert intake.targets == []
