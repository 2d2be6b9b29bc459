"""What recipients can do, from end to end: the README's table against a server that really does it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
import redis

from service.archive.schemas import Attempt
from service.delivery.webhook import Webhooks
from service.servers import free_port
from service.settings import Settings
from tests.service.faults import Faults
from tests.service.test_courier import deliver_until, make_due
from tests.service.test_due import attempts_of, leftovers, promise

README = Path(__file__).parents[2] / "service" / "delivery" / "README.md"
TABLE = README.read_text(encoding="utf-8").split("| what a recipient does |")[1].split("\n\n")[0]
ROW = re.compile(r"^\| ([a-z][^|`]*(?:`Retry-After`)?) \| `(\w+)` \| (\w+) \|$", re.MULTILINE)
SAID = {name.strip(): (result, step) for name, result, step in ROW.findall(TABLE)}
STATES = {"delivered": "delivered", "retry": "due", "final": "failed"}
LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)
TIMEOUT_MS = 2_000
IN_AN_HOUR = "/after/HOUR"  # the date is written when the call is made: a file may be read minutes before its tests run

# what the README calls it: the server's certificate and the path that makes it do so
DONE = {
    "answers slowly, but in time": ("", "/slow/0.3"),
    "never answers": ("", "/hang"),
    "sends the half of an answer and nothing more": ("", "/drip"),
    "sends the half of an answer and closes": ("", "/half"),
    "sends a huge answer": ("", "/huge"),
    "sends a gzip bomb": ("", "/bomb"),
    "closes instead of answering": ("", "/close"),
    "resets the connection": ("", "/reset"),
    "sends what is no HTTP": ("", "/garbage"),
    "redirects to an internal address": ("", f"/to/{quote('http://169.254.169.254/latest/meta-data', safe='')}"),
    "answers 404": ("", "/404"),
    "answers 410": ("", "/410"),
    "answers 429 with seconds in `Retry-After`": ("", "/after/3600"),
    "answers 429 with a date in `Retry-After`": ("", IN_AN_HOUR),
    "answers 500, then 200": ("", "/flaky/1"),
    "listens no more": ("", ""),
    "has an expired certificate": ("expired", "/200"),
    "has a certificate for another name": ("wrong_name", "/200"),
    "has a self-signed certificate": ("self_signed", "/200"),
    "closes in the middle of an answer over TLS": ("good", "/half"),
    "speaks no TLS where it should": ("", "/200"),
}


class Outcome(msgspec.Struct):
    """The first try of a postback to such a recipient, and the server that was called."""

    attempt: Attempt
    server: Faults


@pytest.fixture(scope="module")
def recipients() -> Iterator[dict[str, Faults]]:
    """One server of each kind; the courier trusts the authorities of those with TLS, but for the self-signed."""
    with ExitStack() as stack:
        yield {kind: stack.enter_context(Faults(kind)) for kind in ("", "good", "expired", "wrong_name", "self_signed")}


def url_of(name: str, recipients: dict[str, Faults]) -> str:
    kind, path = DONE[name]
    if name == "listens no more":
        return f"http://127.0.0.1:{free_port()}/"
    if path == IN_AN_HOUR:
        path = f"/after/{quote(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))}"
    url = recipients[kind].url(path)
    return url.replace("http:", "https:") if "no TLS" in name else url


def deliver(settings: Settings, journal: redis.Redis, recipients: dict[str, Faults]) -> dict[str, Attempt]:
    """One try of a postback to each recipient, all by one courier."""
    urls = {name: url_of(name, recipients) for name in DONE}
    for number, (name, url) in enumerate(urls.items(), 1):
        promise(journal, url, recipient=f"affiliate:{quote(name)}", start=number)
    roots = [server.authority for kind, server in recipients.items() if kind != "self_signed" and server.authority]
    methods = {"webhook": Webhooks(TIMEOUT_MS, LOOPBACK, {}, roots)}
    deliver_until(settings, lambda: len(attempts_of(journal)) >= len(DONE), "every first try", methods=methods)
    return {list(DONE)[int(a.postback_id[2:]) - 1]: a for a in attempts_of(journal) if a.number == 1}


def test_the_readme_says_what_is_tried_here() -> None:
    assert set(SAID) == set(DONE)


def test_every_behaviour_has_the_class_and_the_next_step_of_the_readme(
    settings: Settings, journal: redis.Redis, recipients: dict[str, Faults]
) -> None:
    # when a courier delivers one postback to each
    attempts = deliver(settings, journal, recipients)
    # then class and state are those of the table
    found = {name: (attempt.result, attempt.state) for name, attempt in attempts.items()}
    assert found == {name: (result, STATES[step]) for name, (result, step) in SAID.items()}
    # and a retry has its time, later where the recipient asked for it in either form, and nobody followed the redirect
    for name, attempt in attempts.items():
        wait_s = (attempt.next_due_us - attempt.time_us - attempt.duration_us) / 1e6
        asked = "Retry-After" in name
        assert (
            (3590 < wait_s < 3601 if asked else 4 <= wait_s <= 6)
            if attempt.state == "due"
            else attempt.next_due_us == 0
        )
        assert bool(attempt.error) == (attempt.status == 0) and len(attempt.answer) <= 2048
        assert "127.0.0.1:" not in attempt.error  # the address stands in the record once
    # and the certificates were refused for what is wrong with them, before anything was sent
    assert "expired" in attempts["has an expired certificate"].error
    assert "name" in attempts["has a certificate for another name"].error.lower()
    assert "issuer" in attempts["has a self-signed certificate"].error.lower()
    assert not any(recipients[kind].requests for kind in ("expired", "wrong_name", "self_signed"))
    # and the one that answers 500 first is delivered by its second try
    deliver_again(settings, journal)
    last = [a for a in attempts_of(journal) if a.url.endswith("/flaky/1")]
    assert [(a.number, a.result) for a in last] == [(1, "server_error"), (2, "delivered")]


def deliver_again(settings: Settings, journal: redis.Redis) -> None:
    def done() -> bool:
        make_due(journal)
        return any(a.url.endswith("/flaky/1") and a.result == "delivered" for a in attempts_of(journal))

    quick = msgspec.structs.replace(settings, delivery_timeout_ms=TIMEOUT_MS)
    deliver_until(quick, done, "the second try")
    assert leftovers(journal)[3] == 0


@pytest.mark.parametrize("host", ["tls.localhost.example", "ssl-certificate.example"])
def test_a_word_in_the_address_decides_nothing(settings: Settings, journal: redis.Redis, host: str) -> None:
    # given a path that looks like an error of TLS, on a port where nobody listens
    promise(journal, f"http://127.0.0.1:{free_port()}/{host}/certificate")
    deliver_until(settings, lambda: attempts_of(journal), "the try")
    assert attempts_of(journal)[0].result == "connection"
