"""The intake over real HTTP: what is answered is logged, once, as it came; and nothing that is stored is answered 5xx."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.archive.schemas import hit_row, table
from service.engine import Hit, Rejection, load, parse
from service.engine.parse import parameters
from service.engine.partition import partition_of
from service.servers import free_port
from tests.service.conftest import Servers
from tests.service.webprocess import Reply, Web, web_process
from tests.waiting import until

RULES = """
[client.acme]
landing = "https://acme.example/welcome?cid={click_id}"
params = ["country", "sub1"]
aliases = { subid = "click_id" }

[client.bolt]
landing = "https://bolt.example/{sub1|raw}"
params = ["sub1"]

[affiliate.best]
name = "Best"
"""


@pytest.fixture(scope="module")
def web(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web_process(tmp_path_factory.mktemp("web"), servers.broker_url, free_port(), RULES) as running:
        yield running


def the_hit(web: Web, answer: httpx.Response | Reply) -> Hit:
    """The logged hit of an answer: there once, in the partition of its client."""
    entry = web.entry(answer.headers["x-hit-id"])
    assert entry.hit is not None
    parsed = parse(entry.hit, load(RULES))
    assert entry.partition == (partition_of(parsed.client, web.settings.partitions) if parsed.client else 0)
    return entry.hit


# the routes


def test_an_event_in_the_query_is_logged_as_it_came(web: Web) -> None:
    # when an event comes with headers of its own
    headers = [(b"User-Agent", "shop/1.0 ü".encode()), (b"Referer", b"https://shop.example/?a=1")]
    answer = web.client.get("/e?client=acme&event=sale&amount=1%2e5&x=%C3%BC+y", headers=headers)
    # then it is answered in one line and logged with all of that
    hit = the_hit(web, answer)
    assert (answer.status_code, answer.text) == (200, f"stored {hit.id} acme sale\n")
    assert (hit.route, hit.method, hit.path, hit.query) == (
        "e",
        "GET",
        b"/e",
        b"client=acme&event=sale&amount=1%2e5&x=%C3%BC+y",
    )
    assert (hit.user_agent, hit.referrer, hit.address) == ("shop/1.0 ü", "https://shop.example/?a=1", "127.0.0.1")
    assert (hit.body, hit.refusal, hit.flags) == (b"", "", ())


def test_an_event_in_a_form_is_logged_with_its_body(web: Web) -> None:
    # when an event comes partly in the query and partly in a form
    answer = web.client.post("/e?client=acme", data={"event": "sale", "txid": "a b"})
    # then both are logged and read together
    hit = the_hit(web, answer)
    assert answer.text == f"stored {hit.id} acme sale\n"
    assert (hit.method, hit.query, hit.body) == ("POST", b"client=acme", b"event=sale&txid=a+b")
    assert hit.content_type == "application/x-www-form-urlencoded"


def test_an_event_in_json_is_logged_with_its_body(web: Web) -> None:
    # when an event comes as JSON from somebody who wants JSON
    document = b'{"client": "acme", "event": "sale", "amount": 12.50}'
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    answer = web.client.post("/e", content=document, headers=headers)
    # then it is answered in JSON and logged byte for byte
    hit = the_hit(web, answer)
    assert answer.json() == {"result": "stored", "id": hit.id, "client": "acme", "event": "sale"}
    assert answer.headers["content-type"] == "application/json" and hit.body == document


def test_an_image_answers_an_image(web: Web) -> None:
    # when a page loads the image
    answer = web.client.get("/e.gif?client=acme&event=pageview")
    # then it gets one, which nobody may keep
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/gif")
    assert answer.headers["cache-control"] == "no-store" and answer.content.startswith(b"GIF89a")
    assert the_hit(web, answer).route == "e.gif"


@pytest.mark.parametrize("path", ["/c/acme/best", "/c/acme/best/", "/c/acme/nobody-knows", "/c/acm%65/best"])
def test_a_tracker_link_leads_to_the_clients_page(web: Web, path: str) -> None:
    # when somebody follows a link with parameters, be the affiliate known or not
    answer = web.client.get(f"{path}?sub1=a%20b&country=DE&click_id=theirs")
    # then the page gets a new click id, which is the hit's, and the parameters
    hit = the_hit(web, answer)
    where = urlsplit(answer.headers["location"])
    assert answer.status_code == 302 and where.netloc == "acme.example" and where.path == "/welcome"
    assert parse_qs(where.query) == {"cid": [hit.id], "sub1": ["a b"], "country": ["DE"]}
    assert hit.path == path.encode() and "x-reason" not in answer.headers


def test_a_tracker_link_may_be_posted(web: Web) -> None:
    # when a form is posted to a link, with more than a query may hold
    fields = {f"p{number}": "ü" * 200 for number in range(40)}
    answer = web.client.post("/c/acme/best", data=fields)
    # then the redirect carries all of it
    assert answer.status_code == 302
    assert {name: value[0] for name, value in parse_qs(urlsplit(answer.headers["location"]).query).items()} == {
        **fields, "cid": the_hit(web, answer).id,
    }  # fmt: skip


def test_a_raw_value_in_the_address_of_the_page_cannot_break_the_answer(web: Web) -> None:
    # when control characters stand where the page takes a value raw
    answer = web.client.get("/c/bolt/best?sub1=a%00%1b%0d%0aX-Evil:1%C3%BC")
    # then the visitor is led on, and no header was made
    assert answer.status_code == 302 and "x-evil" not in answer.headers
    where = urlsplit(answer.headers["location"])
    assert (
        where.netloc == "bolt.example" and where.path.startswith("/a%00%1B") and where.path.endswith("X-Evil:1%C3%BC")
    )
    the_hit(web, answer)


# what is rejected


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/e", "missing_client"),
        ("/e?event=sale", "missing_client"),
        ("/e?client=acmee&event=sale", "unknown_client"),
        ("/e?client=acme", "missing_event"),
        ("/e?client=acme&event=", "missing_event"),
        ("/e?client=acme&event=a%20b", "invalid_event"),
        ("/e?client=acme&event=sale&amount=1e3", "invalid_amount"),
        ("/e?client=acme&event=sale&currency=euro", "invalid_currency"),
        ("/e?client=acme&event=sale&x=%FF", "not_utf8"),
        ("/e?client=acme&event=sale&%e9=1", "not_utf8"),
        ("/e?client=acme&event=sale&" + "&".join(f"p{n}=1" for n in range(99)), "too_many_parameters"),
        ("/e?client=acme&event=sale&" + "n" * 65 + "=1", "name_too_long"),
        ("/e?client=acme&event=sale&x=" + "v" * 1025, "value_too_long"),
        ("/e?client=acme&event=sale&x=" + "v" * (8 * 1024), "query_too_long"),
        ("/e?client=acme&event=sale&x=" + "v" * 60_000, "query_too_long"),
        ("/e.gif?client=acme&event=sale", "event_not_allowed"),
        ("/c", "bad_path"),
        ("/c/", "bad_path"),
        ("/c/acme", "bad_path"),
        ("/c/acme/best/more", "bad_path"),
        ("/c/acme//best", "bad_path"),
        ("/c/nobody/best", "unknown_client"),
        ("/c/%FF/best", "not_utf8"),
    ],
)
def test_what_is_wrong_is_said_and_logged(web: Web, target: str, reason: str) -> None:
    # when a request comes that the intake knows to be wrong
    answer = web.client.get(target)
    # then it is answered 422 with the reason, and logged whole with the same reason
    assert answer.status_code == 422 and answer.headers["x-reason"] == reason
    hit = the_hit(web, answer)
    assert hit.refusal == reason and hit.path + (b"?" + hit.query if hit.query else b"") == target.encode()
    if not target.startswith("/e.gif"):
        assert answer.text.startswith(f"rejected {hit.id} {reason}: ")


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b'{"client": "acme", "event": }', "application/json", "invalid_body"),
        (b'["client"]', "application/json", "invalid_body"),
        (b'{"client": "acme", "event": "sale", "x": "\xff"}', "application/json", "not_utf8"),
        (b"client=acme&event=sale&x=\xff", "application/x-www-form-urlencoded", "not_utf8"),
        (b"--b\r\n\r\nx\r\n--b--", "multipart/form-data; boundary=b", "invalid_body"),
        (b"[" * 60_000, "application/json", "invalid_body"),
        (b"client=acme&event=sale&x=" + b"v" * 70_000, "application/x-www-form-urlencoded", "body_too_long"),
        (b"v" * 3_000_000, "text/plain", "body_too_long"),
    ],
)
def test_a_body_that_is_wrong_is_said_and_logged(web: Web, body: bytes, kind: str, reason: str) -> None:
    # when such a body comes
    answer = web.client.post("/e", content=body, headers={"Content-Type": kind})
    # then it is answered 422 with the reason, and logged up to 64 KiB
    assert (answer.status_code, answer.headers["x-reason"]) == (422, reason)
    hit = the_hit(web, answer)
    assert hit.body == body[: 64 * 1024]
    assert hit.flags == (("body_cut",) if len(body) > 64 * 1024 else ())


def test_a_body_of_exactly_64_kib_is_whole(web: Web) -> None:
    # given a form of just that size
    body = b"client=acme&event=sale" + b"".join(b"&p%02d=%s" % (n, b"v" * 1000) for n in range(65))
    body += b"&z=" + b"z" * (64 * 1024 - len(body) - 3)
    # when it is posted in chunks
    answer = web.client.post("/e", content=iter([body[:10], body[10:40_000], body[40_000:]]))
    # then nothing was cut
    assert len(body) == 64 * 1024 and answer.status_code == 200
    assert the_hit(web, answer).flags == ()


def test_a_client_that_goes_away_in_mid_body_is_logged_and_rejected(web: Web) -> None:
    # given how many there were
    before = {entry.hit.id for entry in web.entries() if entry.hit is not None}
    # when a sender promises 100 bytes, sends 23 and resets the connection
    with socket.create_connection(("127.0.0.1", web.settings.port)) as wire:
        wire.sendall(b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nclient=acme&event=sale&")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # then the hit is there, marked, and refused, so that half a request is never taken for a whole one
    def found() -> list[Hit]:
        return [entry.hit for entry in web.entries() if entry.hit is not None and entry.hit.id not in before]

    (hit,) = until(found, "the hit of the client that went away")
    assert (hit.body, hit.flags, hit.refusal) == (b"client=acme&event=sale&", ("disconnected",), "invalid_body")
    assert isinstance(parse(hit, load(RULES)), Rejection)


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"fffffffffffffffff\r\n", b"5\r\nabcdefg\r\n"])
@pytest.mark.parametrize("path", [b"/e?client=acme&event=sale", b"/e/batch"])
def test_a_body_whose_chunks_are_broken_is_refused(web: Web, path: bytes, chunk: bytes) -> None:
    # when the sender is still there, but its body makes no sense
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    (answer,) = web.talk(head + b"4\r\na=b&\r\n" + chunk)
    # then it is told, and what came is logged
    assert (answer.status, answer.headers["x-reason"]) == (422, "invalid_body")
    hit = the_hit(web, answer)
    assert (hit.flags, hit.refusal) == (("disconnected",), "invalid_body") and hit.body.startswith(b"a=b&")


# what is no event


TARGETS = ["/e?client=acme&event=sale", "/e.gif?client=acme&event=click", "/c/acme/best", "/e/batch?client=acme"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_who_only_asks_brings_no_event(web: Web, method: str, target: str) -> None:
    # given how much is logged
    before = len(web.entries())
    # when somebody asks what could be done
    answer = web.client.request(method, target)
    # then it is told, without an id, and nothing is logged
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST" if "batch" in target else "GET, POST")
    assert "x-hit-id" not in answer.headers and len(web.entries()) == before


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "BREW", "get", "GET"])
def test_another_method_is_refused_and_logged(web: Web, method: str, target: str) -> None:
    # when a request comes by a method that the route does not take (GET is one for a batch only)
    if method == "GET" and "batch" not in target:
        return
    data = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\nclient=acme&".encode()
    (answer,) = web.talk(data)
    # then it is refused with an id and the ones that are taken, and logged with its body for its client
    assert (answer.status, answer.headers["x-reason"]) == (405, "bad_method")
    assert answer.headers["allow"] == ("POST" if "batch" in target else "GET, POST")
    hit = the_hit(web, answer)
    assert (hit.method, hit.refusal, hit.body) == (method, "bad_method", b"" if method == "GET" else b"client=acme&")
    parsed = parse(hit, load(RULES))
    assert isinstance(parsed, Rejection) and (parsed.reason, parsed.client) == ("bad_method", "acme")


@pytest.mark.parametrize("target", ["/", "/x", "/candy/acme/best", "/event", "/e/extra", "/e.gif2", "/E"])
def test_other_paths_are_not_found(web: Web, target: str) -> None:
    # when a path comes that is no route, then it is not found and not logged
    before = len(web.entries())
    assert web.client.get(f"{target}?client=acme&event=sale").status_code == 404
    assert len(web.entries()) == before


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"GET /e?x=" + b"v" * 140_000 + b" HTTP/1.1", id="longer than the server reads"),
        pytest.param(b"GET /e?client=acme&event=\xff\xfe HTTP/1.1", id="raw bytes that are no UTF-8"),
        pytest.param(b"GET /e?a=\x01 HTTP/1.1", id="a control character"),
        pytest.param(b"GET /e?a=b c HTTP/1.1", id="a blank"),
        pytest.param(b"GET /e?client=acme&event=click HTTP/9.9", id="a version that is none"),
        pytest.param(b"nonsense", id="no request at all"),
    ],
)
def test_what_the_server_refuses_carries_no_id(web: Web, line: bytes) -> None:
    # given how much is logged
    before = len(web.entries())
    # when what is no HTTP comes
    reply = web.talk(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")[0]
    # then the server itself refuses, and promises nothing
    assert reply.status in (400, 414, 431, 505), reply
    assert "x-hit-id" not in reply.headers and len(web.entries()) == before


# many at once


def test_pipelined_requests_are_answered_in_order_and_logged_once(web: Web) -> None:
    # given ten requests in one packet, of which some are wrong and some carry a body
    requests = []
    for number in range(10):
        if number % 3 == 2:
            body = b"event=sale&n=%d" % number
            requests.append(
                b"POST /e?client=acme HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
        else:
            event = b"&event=sale" if number % 3 else b""
            requests.append(b"GET /e?client=acme&n=%d%s HTTP/1.1\r\nHost: x\r\n\r\n" % (number, event))
    # when they are sent without waiting for an answer
    replies = web.talk(b"".join(requests), answers=10)
    # then each gets its own answer, in order
    assert [reply.status for reply in replies] == [422, 200, 200, 422, 200, 200, 422, 200, 200, 422]
    for number, reply in enumerate(replies):
        hit = the_hit(web, reply)
        assert parameters(hit)["n"] == str(number)


def test_every_acknowledged_hit_is_logged_once(web: Web) -> None:
    # given twenty senders with forty requests each
    def send(sender: int) -> list[str]:
        with httpx.Client(base_url=web.base, trust_env=False, timeout=30) as client:
            answers = [client.get(f"/e?client={('acme', 'bolt')[n % 2]}&event=sale&n={sender}.{n}") for n in range(40)]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.headers["x-hit-id"] for answer in answers]

    # when they send at once
    with ThreadPoolExecutor(20) as pool:
        ids = [hit_id for found in pool.map(send, range(20)) for hit_id in found]
    # then each id is another one, and in the log once
    logged = Counter(entry.hit.id for entry in web.entries() if entry.hit is not None)
    assert len(set(ids)) == 800 and {logged[hit_id] for hit_id in ids} == {1}


# anything at all

BYTES = st.binary(max_size=40)
PERCENT = st.binary(max_size=12).map(lambda data: b"".join(b"%%%02x" % byte for byte in data))
WORDS = st.sampled_from(
    [b"client=acme", b"client=bolt", b"event=sale", b"event=click", b"amount=9" + b"9" * 17, b"txid=1", b"test=1",
     b"sub1=", b"click_id=", b"&", b"&&", b"=", b"%", b"%zz", b"+", b"%00", b"%ed%a0%80", b"affiliate=best"]
)  # fmt: skip
QUERY = st.lists(st.one_of(BYTES, PERCENT, WORDS), max_size=12).map(b"&".join)
PATHS = st.one_of(
    st.sampled_from([b"/e", b"/e.gif", b"/c/acme/best", b"/c/bolt/best"]),
    st.tuples(PERCENT, PERCENT).map(lambda parts: b"/c/" + b"/".join(parts)),
    BYTES.map(lambda data: b"/c/" + data),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
JSON_BODY = st.dictionaries(st.sampled_from(["client", "event", "amount", "sub1", "x", "\ud800"]), JSON).map(
    lambda document: (
        msgspec.json.encode(document | {"client": "bolt"}) if "\ud800" not in document else b'{"x":"\\ud800"}'
    )
)
BODY = st.one_of(
    st.none(),
    st.binary(max_size=200),
    QUERY,
    JSON_BODY,
    st.just(b'{"client":"bolt","event":"sale","\\ud800":"\\udfff"}'),
)
VALUE = st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b""))


def request(path: bytes, query: bytes, body: bytes | None, headers: dict[bytes, bytes]) -> bytes:
    """The bytes of a request; what would end its first line is taken out."""
    target = bytes(byte for byte in path + b"?" + query if byte not in b"\r\n")
    lines = [(b"GET " if body is None else b"POST ") + target + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    lines += [name + b": " + value for name, value in headers.items()]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=PATHS, query=QUERY, body=BODY,
    headers=st.dictionaries(
        st.sampled_from([b"Content-Type", b"User-Agent", b"Referer", b"Accept", b"X-Forwarded-For"]),
        st.one_of(VALUE, st.sampled_from([b"application/json", b"text/html", b"multipart/form-data"])), max_size=4,
    ),
)  # fmt: skip
def test_no_request_at_all_is_answered_5xx(
    web: Web, path: bytes, query: bytes, body: bytes | None, headers: dict[bytes, bytes]
) -> None:
    # when any bytes come
    (reply,) = web.talk(request(path, query, body, headers))
    # then the answer promises a hit, or the server itself refused
    assert reply.status in (200, 302, 422) if "x-hit-id" in reply.headers else reply.status in (400, 404), reply
    assert (reply.status == 422) == ("x-reason" in reply.headers)


def test_everything_that_came_can_be_read_and_archived(web: Web) -> None:
    # given all that the tests above have sent
    entries = web.entries()
    assert len(entries) > 900
    # when the engine reads it again and the archive makes rows of it
    rulebook = load(RULES)
    verdicts: Counter[str] = Counter()
    for entry in entries:
        assert entry.hit is not None
        parsed = parse(entry.hit, rulebook)
        verdicts[parsed.reason if isinstance(parsed, Rejection) else ""] += 1
        # then the engine says what the sender was told
        assert (parsed.reason if isinstance(parsed, Rejection) else "") == entry.hit.refusal
    rows = table("hits", [hit_row(entry, parameters(entry.hit)) for entry in entries if entry.hit is not None])
    assert rows.num_rows == len(entries) and len(verdicts) > 12


# when Redis, workers or the disk are away (last, since they disturb the process of the others)


def test_health_and_readiness_tell_what_is_there(web: Web) -> None:
    # when everything is well, then both say so, with the rulebook
    assert (web.client.get("/healthz").text, web.client.get("/healthz").status_code) == ("ok\n", 200)
    assert web.client.get("/readyz").text == f"ready, rulebook {load(RULES).id}\n"
    # when Redis is dead, then hits can be stored all the same
    web.server.kill()
    try:
        ready = web.client.get("/readyz")
        assert ready.status_code == 200 and "hits go to the spool" in ready.text
        assert web.client.get("/healthz").status_code == 200
        stored = web.client.get("/e?client=acme&event=sale&while=away")
        assert stored.status_code == 200 and list(web.settings.spool_path.glob("*.spool"))
    finally:
        web.server.start()
    # and when it is back, they are in the journal
    until(lambda: not list(web.settings.spool_path.glob("*.spool")), "the spool to drain")
    the_hit(web, stored)


def test_a_worker_that_starts_while_redis_is_away_knows_the_last_rulebook(web: Web) -> None:
    # given a dead Redis and a worker that is killed meanwhile
    web.server.kill()
    try:
        (worker,) = web.workers()
        os.kill(worker, signal.SIGKILL)

        def knock() -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{web.base}/c/acme/best?sub1=x", trust_env=False, timeout=20, follow_redirects=False)
            return None

        # when somebody follows a link
        answer = until(knock, "the next worker")
        # then the click is stored and the visitor led on
        assert answer is not None
        assert answer.status_code == 302 and answer.headers["x-hit-id"] in answer.headers["location"]
    finally:
        web.server.start()
    until(lambda: not list(web.settings.spool_path.glob("*.spool")), "the spool to drain")
    the_hit(web, answer)


@pytest.fixture(scope="module")
def full(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A process whose disk is full."""
    folder = tmp_path_factory.mktemp("full")
    with web_process(folder, servers.broker_url, free_port(), RULES, spool_floor_mb=10**9) as running:
        yield running


def test_a_worker_that_is_killed_is_replaced_and_refuses_nobody_by_ignorance(full: Web) -> None:
    # given a worker behind the port that is killed
    (worker,) = full.workers()
    os.kill(worker, signal.SIGKILL)

    # when a sender knocks until it is answered again
    def knock() -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{full.base}/e?client=acme&event=sale&after=kill", trust_env=False, timeout=20)
        return None

    # then the first answer knows the client
    answer = until(knock, "the next worker")
    assert answer is not None
    assert (answer.status_code, answer.headers.get("x-reason")) == (200, None)


def test_what_nobody_can_store_is_not_promised(full: Web) -> None:
    # given a process whose disk is full and whose Redis is dead
    full.server.kill()
    # when an event comes
    event = full.client.get("/e?client=acme&event=sale", headers={"Accept": "application/json"})
    # then it gets no id and is told to come again
    assert event.status_code == 503 and "x-hit-id" not in event.headers
    assert event.headers["x-reason"] == event.json()["result"] == "not_stored"
    # and when a visitor comes, then the client does not lose him
    click = full.client.get("/c/acme/best?sub1=x")
    assert (click.status_code, click.headers["x-reason"]) == (302, "not_stored")
    assert click.headers["location"].startswith("https://acme.example/") and "x-hit-id" not in click.headers
    # and the process says that it cannot work
    ready = full.client.get("/readyz")
    assert ready.status_code == 503 and "spool full" in ready.text
