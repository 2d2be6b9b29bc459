"""The method email, against a real SMTP server with STARTTLS and a login: what arrives, what is tried again."""

from __future__ import annotations

import asyncio
import json
import re
import socketserver
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import redis
import trustme
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import settings as how
from hypothesis import strategies as st

from service import keys
from service.cli import main
from service.delivery.courier import methods_of
from service.delivery.email import CONNECTIONS, Emails, write
from service.delivery.ladder import RESULTS
from service.engine import Postback
from service.settings import Settings, SettingsError, from_environment
from tests.engine.test_contexts import HOSTILE, TRICKY
from tests.engine.world import World, book
from tests.service.faults import Faults
from tests.service.mailserver import AUTHORITY, PASSWORD, MailServer
from tests.service.test_courier import deliver_until, make_due
from tests.service.test_due import PLACE, attempts_of, leftovers, promise, put
from tests.waiting import until

README = (Path(__file__).parents[2] / "service" / "delivery" / "README.md").read_text(encoding="utf-8")
CLIENT = '[client.acme]\nparams = ["sub1"]\nprivate = ["email"]\n'
MAIL = """
[affiliate.bestodds]
[affiliate.bestodds.email]
to = "pb+1@bestodds.example"
subject = "Neu: {sub1} für Sie"
text = "Grüße,\\n.\\n{sub1}\\nEnd\\n"
html = "<p>Größe {sub1}</p>"
"""


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as running:
        yield running


def by_engine(*values: str) -> list[Postback]:
    """What the engine promises to the affiliate for a sale with each value as `sub1`."""
    world = World(book('method = "email"\nto = ["affiliate"]', client=CLIENT, affiliates=MAIL))
    return [world.send(f"sale affiliate=bestodds sub1={quote(value)}").postbacks[0] for value in values]


def to(address: str, identity: str = "pb1") -> Postback:
    """A postback by e-mail to an address."""
    body = '{"subject":"New sale","text":"Order 7"}'
    return Postback(identity, "hit1", 1, 1_700_000_000_000_000, "acme", "bestodds", "t1", "sale", "affiliate:bestodds",
                    "email", "due", "MAIL", f"mailto:{address}", body)  # fmt: skip


def read(raw: bytes) -> EmailMessage:
    """A mail as a mail program reads it."""
    found = message_from_bytes(raw, policy=policy.default)
    assert isinstance(found, EmailMessage) and not found.defects
    return found


def content(part: object) -> str:
    """The text of a part, with plain line ends."""
    assert isinstance(part, EmailMessage)
    return str(part.get_content()).replace("\r\n", "\n")


def send(settings: Settings, journal: redis.Redis, tries: int, tls: ssl.SSLContext = MailServer.trusted) -> None:
    """Let a courier work until so many tries are recorded."""
    methods = {"email": Emails(settings, tls)}
    deliver_until(settings, lambda: journal.xlen(PLACE.attempts) == tries, "the tries", 20, methods)


def test_a_mail_arrives_with_its_parts_headers_and_encodings(
    settings: Settings, journal: redis.Redis, server: MailServer
) -> None:
    # given a sale whose values are beyond ASCII, posted back by a mail of text and HTML
    (postback,) = by_engine("Zoë <b>&\nBcc: x@y.example")
    put(journal, postback)
    # when a courier delivers it
    send(server.settings(settings), journal, 1)
    # then the server, after STARTTLS and a login, took one mail of both parts
    ((sender, recipient, raw),) = server.handler.mails
    assert (sender, recipient, server.handler.logins) == ("tracking@acme.example", "pb+1@bestodds.example", 1)
    mail = read(raw)
    assert [name.lower() for name in mail.keys()] == [  # noqa: SIM118 a name may come twice
        "from", "to", "subject", "date", "message-id", "auto-submitted", "mime-version", "content-type",
    ]  # fmt: skip
    assert (mail["From"], mail["To"]) == ("tracking@acme.example", "pb+1@bestodds.example")
    assert mail["Subject"] == "Neu: Zoë <b>& Bcc: x@y.example für Sie"
    assert mail["Message-ID"] == f"<{postback.id}@acme.example>"
    assert mail["Date"].datetime.timestamp() == postback.time_us // 1_000_000
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "multipart/alternative"
    text, html = mail.iter_parts()
    assert content(text) == "Grüße,\n.\nZoë <b>& Bcc: x@y.example\nEnd\n"
    assert content(html) == "<p>Größe Zoë &#60;b&#62;&#38; Bcc: x@y.example</p>\n"
    assert {part.get_content_type() for part in (text, html)} == {"text/plain", "text/html"}
    assert {part.get_content_charset() for part in (text, html)} == {"utf-8"}
    # and on the wire it is ASCII, in short lines that end as they should
    assert raw.isascii() and b"=?utf-8?" in raw and not re.search(rb"(?<!\r)\n|\r(?!\n)", raw)
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    # and the record holds what was sent and answered, and no password
    (attempt,) = attempts_of(journal)
    assert (attempt.verb, attempt.url, attempt.body) == ("MAIL", postback.url, postback.body)
    assert (attempt.result, attempt.status, attempt.answer, attempt.state) == (
        "delivered",
        250,
        "250 taken",
        "delivered",
    )
    assert attempt.headers["message-id"] == mail["Message-ID"] and PASSWORD not in repr(attempt)


CASES = {  # what the server does, as the README says it: address, status, state
    "takes the mail (250 after the text)": [("pb@x.example", 250, "delivered")],
    "answers `MAIL`, `RCPT` or the text with 4xx": [
        ("rcpt-450@x.example", 450, "due"), ("rcpt-421@x.example", 421, "due"), ("data-451@x.example", 451, "due"),
        ("data-452@x.example", 452, "due"),
    ],
    "answers `MAIL`, `RCPT` or the text with 5xx": [
        ("rcpt-550@x.example", 550, "failed"), ("rcpt-553@x.example", 553, "failed"), ("data-552@x.example", 552, "failed"),
        ("data-554@x.example", 554, "failed"),
    ],
    "asks for a login that it was not given, or refuses it (530, 534, 535, 538)": [("rcpt-530@x.example", 530, "due")],
    "breaks off, or gives no whole answer within `BACKTRACK_DELIVERY_TIMEOUT_MS`": [
        ("break@x.example", 0, "due"), ("never@x.example", 0, "due"),
    ],
}  # fmt: skip
ROWS = re.findall(r"^\| (.+) \| `(\w+)` \| (\w+) \|$", README.partition("| what the mail server does")[2], re.MULTILINE)


def test_4xx_is_tried_again_and_5xx_is_not(settings: Settings, journal: redis.Redis, server: MailServer) -> None:
    # given a mail for each thing that a server may do
    expected = {row: (result, step) for row, result, step in ROWS if row in CASES}
    assert set(expected) == set(CASES)
    flat = [(row, *case) for row, cases in CASES.items() for case in cases]
    quick = server.settings(settings, delivery_timeout_ms=1_500)
    put(journal, *[to(address, f"pb{number}") for number, (_, address, _, _) in enumerate(flat)])
    # when a courier tries each once
    send(quick, journal, len(flat))
    # then class, status and what is next are what the table says, and only what was taken is gone
    found = {one.postback_id: one for one in attempts_of(journal)}
    for number, (row, address, status, state) in enumerate(flat):
        one = found[f"pb{number}"]
        result, step = expected[row]
        assert (one.result, one.status, one.state) == (result, status, state), address
        assert RESULTS[result] == step and (one.next_due_us > 0) == (step == "retry")
    assert not journal.exists("bt:failing")


def test_what_was_put_off_comes_with_the_same_bytes(
    settings: Settings, journal: redis.Redis, server: MailServer
) -> None:
    # given a server that puts the mail off once
    put(journal, to("once-451@x.example"))
    ours = server.settings(settings)

    def delivered() -> bool:
        make_due(journal)
        return leftovers(journal) == [0, 0, 0, 0]

    deliver_until(ours, delivered, "the second try", 20, {"email": Emails(ours, MailServer.trusted)})
    # then the second try carries what the first did, so that a mailbox can drop a repeat
    first, second = server.handler.offered
    assert first == second
    assert [(one.result, one.state) for one in attempts_of(journal)] == [("busy", "due"), ("delivered", "delivered")]


@pytest.mark.parametrize(
    ("trouble", "words", "row"),
    [
        ("authority", "certificate", "offers no STARTTLS, or has a certificate that is wrong"),
        ("name", "certificate", "offers no STARTTLS, or has a certificate that is wrong"),
        ("no starttls", "STARTTLS", "offers no STARTTLS, or has a certificate that is wrong"),
        ("password", "Authentication", "asks for a login that it was not given, or refuses it (530, 534, 535, 538)"),
        (
            "away",
            "ConnectError",
            "is not there, is not named in the settings, or answers the greeting with anything but 220",
        ),
        (
            "no server",
            "BACKTRACK_SMTP_HOST",
            "is not there, is not named in the settings, or answers the greeting with anything but 220",
        ),
    ],
)
def test_trouble_with_the_server_is_tried_again_and_never_unencrypted(
    settings: Settings, journal: redis.Redis, trouble: str, words: str, row: str
) -> None:
    # given a server that cannot be trusted, or that does not let us in
    authority = trustme.CA() if trouble == "authority" else AUTHORITY
    name = "mail.other.example" if trouble == "name" else "127.0.0.1"
    with MailServer(authority, name, "off" if trouble == "no starttls" else "starttls") as server:
        more: dict[str, dict[str, Any]] = {
            "password": {"smtp_password": "wrong"},
            "away": {"smtp_port": 9},
            "no server": {"smtp_host": ""},
        }
        put(journal, to("pb@x.example"))
        send(server.settings(settings, **more.get(trouble, {})), journal, 1)
    # then nothing was handed over, and it is tried again
    (attempt,) = attempts_of(journal)
    assert (attempt.result, attempt.state, server.handler.offered) == ("mail_server", "due", [])
    assert words in attempt.error and PASSWORD not in repr(attempt)
    assert (row, "mail_server", "retry") in ROWS


def test_no_value_breaks_out_of_a_mail(settings: Settings, journal: redis.Redis, server: MailServer) -> None:
    # given sales with hostile values
    postbacks = by_engine(*[value[:600] for value in HOSTILE])
    put(journal, *postbacks)
    # when their mails arrive
    send(server.settings(settings), journal, len(postbacks))
    arrived = {str(read(raw)["Message-ID"])[1:33]: (recipient, raw) for _, recipient, raw in server.handler.mails}
    assert len(arrived) == len(HOSTILE)
    for postback, value in zip(postbacks, HOSTILE, strict=True):
        recipient, raw = arrived[postback.id]
        mail, said = read(raw), json.loads(postback.body)
        # then each is for the one recipient, with the same headers and parts as any other, in lines that are not too long
        assert (recipient, len(mail.keys())) == ("pb+1@bestodds.example", 8), value
        assert " ".join(mail["Subject"].split()) == " ".join(said["subject"].split())
        text, html = mail.iter_parts()
        assert (content(text), content(html)) == (said["text"], said["html"] + "\n")
        assert len(said["text"].splitlines()) == 4 and "<" not in said["html"][3:-4]
        assert raw.isascii() and max(map(len, raw.split(b"\r\n"))) <= 998


@how(max_examples=60, deadline=None)
@given(
    st.one_of(st.text(max_size=300), st.text(alphabet=TRICKY, max_size=40), st.text("x", min_size=900, max_size=2000))
)
@example("00000\xa0\xa0\xa0\xa0\xa0\xa0" + "\U00010000" * 5)  # a space between two encoded words is no space
def test_any_value_is_read_back_as_it_was_written(value: str) -> None:
    # given any value that a hit can bring, written by the engine
    (postback,) = by_engine(value[:1000]) if len(quote(value[:1000])) < 8_000 else by_engine("x")
    said = json.loads(postback.body)
    # when the mail is written and read
    raw = write(postback, "tracking@acme.example").as_bytes()
    mail = read(raw)
    # then it says the same in lines that no server cuts; white space in a header may be folded
    assert raw.isascii() and max(map(len, raw.split(b"\r\n"))) <= 998
    assert " ".join(mail["Subject"].split()) == " ".join(said["subject"].split())
    assert [content(part).rstrip("\n") for part in mail.iter_parts()] == [
        said["text"].rstrip("\n"), said["html"].rstrip("\n"),
    ]  # fmt: skip


@pytest.mark.parametrize(("part", "kind"), [("text", "text/plain"), ("html", "text/html")])
def test_a_mail_of_one_part_has_no_other(part: str, kind: str) -> None:
    body = json.dumps({"subject": "s", part: "é" * 2_000})
    mail = read(write(msgspec.structs.replace(to("a@b.example"), body=body), "c@d.example").as_bytes())
    assert (mail.get_content_type(), content(mail)) == (kind, "é" * 2_000 + "\n")


def test_a_sender_who_is_refused_is_told_apart_like_a_recipient(server: MailServer) -> None:
    for code, result in ((450, "busy"), (451, "busy"), (550, "refused"), (530, "mail_server")):
        ours = server.settings(Settings(), smtp_from=f"mail-{code}@acme.example")
        assert asyncio.run(hand_over(ours, to("pb@x.example"))) == [(result, code)]


def test_a_greeting_that_is_none_is_tried_again() -> None:
    # given a server that does not want to speak with anybody
    class Closed(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"554 no service for you\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Closed) as closed:
        thread = threading.Thread(target=closed.handle_request)
        thread.start()
        ours = Settings(smtp_host="127.0.0.1", smtp_port=closed.server_address[1], smtp_from="a@b.example")
        found = asyncio.run(hand_over(ours, to("pb@x.example")))
        thread.join(10)
    # then that says nothing about the mail
    assert found == [("mail_server", 554)]
    assert (
        "is not there, is not named in the settings, or answers the greeting with anything but 220",
        "mail_server",
        "retry",
    ) in ROWS


def test_encryption_from_the_first_byte_on() -> None:
    with MailServer(tls="implicit") as server:
        ours = server.settings(Settings(), smtp_tls="implicit")
        assert asyncio.run(hand_over(ours, to("pb@x.example"))) == [("delivered", 250)]
        assert server.handler.logins == 1


def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    # given a sender with an open connection to a server that ends
    first, second = to("pb@x.example", "pb1"), to("pb@x.example", "pb2")
    with MailServer() as server:
        ours = server.settings(Settings())

        async def restarted() -> list[tuple[str, int]]:
            emails = Emails(ours, MailServer.trusted)
            try:
                before = await emails.deliver(first, None, 0)
                await asyncio.to_thread(server.stop)
                with MailServer(port=server.port) as again:
                    after = await emails.deliver(second, None, 0)
                    assert len(again.handler.mails) == 1
            finally:
                await emails.close()
            return [(answer.result, answer.status) for _, answer in (before, after)]

        # then the next mail goes out by a new one at once
        assert asyncio.run(restarted()) == [("delivered", 250)] * 2


async def hand_over(ours: Settings, *postbacks: Postback) -> list[tuple[str, int]]:
    """Result and status of each mail, one after the other."""
    emails = Emails(ours, MailServer.trusted)
    try:
        found = [(await emails.deliver(one, None, 0))[1] for one in postbacks]
    finally:
        await emails.close()
    return [(answer.result, answer.status) for answer in found]


def test_connections_are_used_again(settings: Settings, journal: redis.Redis, server: MailServer) -> None:
    # given more mails than connections
    ours = server.settings(settings)
    put(journal, *[to("pb@x.example", f"pb{number}") for number in range(40)])

    def work() -> bool:
        return len(server.handler.mails) == 40 and journal.xlen(PLACE.attempts) == 40

    deliver_until(ours, work, "all mails", 20, {"email": Emails(ours, MailServer.trusted)})
    # then a few connections carried them all, with one login each
    assert len(server.handler.connections) == server.handler.logins <= CONNECTIONS
    assert {one.result for one in attempts_of(journal)} == {"delivered"}


def test_the_operator_is_told_of_a_pause_by_mail(settings: Settings, journal: redis.Redis, server: MailServer) -> None:
    # given a recipient that is down, and an operator with a mailbox
    ours = server.settings(settings, operator_email="ops@acme.example", pause_failures=3, pause_ms=0)
    with Faults() as faults:
        promise(journal, *[faults.url("/500")] * 5)
        methods = methods_of(ours) | {"email": Emails(ours, MailServer.trusted)}
        deliver_until(ours, lambda: server.handler.mails, "the notice", 20, methods)
    # then one mail says who is paused and why, and it is nobody's postback
    ((_, recipient, raw),) = server.handler.mails
    mail = read(raw)
    assert (recipient, mail["Subject"]) == ("ops@acme.example", "affiliate:bestodds is paused")
    assert re.search(r"^reason: server_error 500", content(mail), re.MULTILINE)
    assert {one.recipient for one in attempts_of(journal)} == {"affiliate:bestodds"}
    until(lambda: not journal.hlen("bt:operator:promises"), "the notice to be settled")


def test_a_mail_says_nothing_of_an_endpoint_and_does_not_wait_for_it(
    settings: Settings, journal: redis.Redis, server: MailServer
) -> None:
    # given a recipient whose webhook is paused, and another whose webhook has begun to fail
    paused, failing = "affiliate:bestodds", "affiliate:clickhub"
    journal.hset(keys.PAUSED, paused, json.dumps({"since": 1, "reason": "timeout", "probes": 1}))
    journal.zadd(keys.PROBES, {paused: 9e15})
    journal.hset(keys.FAILING, failing, "3")
    journal.hset(keys.FAILING_SINCE, failing, "1")
    webhook = msgspec.structs.replace(to("", "pb1"), method="webhook", verb="GET", url="http://127.0.0.1:9/")
    put(
        journal, webhook, to("a@b.example", "pb2"), msgspec.structs.replace(to("c@d.example", "pb3"), recipient=failing)
    )
    # when the mails to both are delivered
    send(server.settings(settings), journal, 2)
    # then the webhook still waits, and the run of failures goes on
    assert {(one.postback_id, one.result) for one in attempts_of(journal)} == {
        ("pb2", "delivered"),
        ("pb3", "delivered"),
    }
    assert journal.hexists(keys.PAUSED, paused) and journal.zcard(keys.room(paused)) == 1
    assert journal.hget(keys.FAILING, failing) == b"3"


def test_a_server_that_drips_holds_nobody_for_longer_than_a_try() -> None:
    # given a server that always has another line of its greeting, and never a last one
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"220-wait\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            writer.close()

    async def tried() -> list[tuple[str, int]]:
        async with await asyncio.start_server(drip, "127.0.0.1", 0) as dripping:
            port = dripping.sockets[0].getsockname()[1]
            ours = Settings(
                smtp_host="127.0.0.1", smtp_port=port, smtp_from="a@b.example", delivery_timeout_ms=300
            )  # fmt: skip
            return await asyncio.wait_for(hand_over(ours, to("pb@x.example")), 10)

    # then the try ends in time
    assert asyncio.run(tried()) == [("mail_server", 0)]


SERVER = {"BACKTRACK_SMTP_HOST": "mail.acme.example", "BACKTRACK_SMTP_FROM": "tracking@acme.example"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"SMTP_HOST": "mail.acme.example"},
            "BACKTRACK_SMTP_HOST is set, but BACKTRACK_SMTP_FROM is not: name the sender",
        ),
        ({"SMTP_FROM": "a@b.example"}, "BACKTRACK_SMTP_FROM is set, but BACKTRACK_SMTP_HOST is not: name the server"),
        ({"OPERATOR_EMAIL": "a@b.example"}, "BACKTRACK_OPERATOR_EMAIL is set, but BACKTRACK_SMTP_HOST is not"),
        ({"SMTP_PASSWORD": PASSWORD}, "BACKTRACK_SMTP_PASSWORD is set, but BACKTRACK_SMTP_HOST is not"),
        (
            {**SERVER, "SMTP_USER": "u"},
            "BACKTRACK_SMTP_USER is set, but BACKTRACK_SMTP_PASSWORD is not: a login needs both",
        ),
        ({**SERVER, "SMTP_PASSWORD": PASSWORD}, "BACKTRACK_SMTP_PASSWORD is set, but BACKTRACK_SMTP_USER is not"),
        ({**SERVER, "SMTP_USER": "u", "SMTP_PASSWORD": PASSWORD, "SMTP_TLS": "off"}, "the password in the clear"),
        ({**SERVER, "SMTP_TLS": "tls"}, "BACKTRACK_SMTP_TLS='tls': use starttls, implicit, off"),
        ({**SERVER, "SMTP_FROM": "Ops <a@b.example>"}, "BACKTRACK_SMTP_FROM='Ops <a@b.example>' is no mail address"),
        ({**SERVER, "SMTP_FROM": "a@b.example\r\nBcc: c@d.example"}, "is no mail address"),
        ({**SERVER, "SMTP_PORT": "0"}, "BACKTRACK_SMTP_PORT=0: use 1 to 65535"),
    ],
)
def test_half_set_settings_are_refused_in_one_line(variables: dict[str, str], said: str) -> None:
    environment = {"BACKTRACK_" + name.removeprefix("BACKTRACK_"): value for name, value in variables.items()}
    with pytest.raises(SettingsError) as caught:
        from_environment(environment)
    assert said in str(caught.value) and "\n" not in str(caught.value) and PASSWORD not in str(caught.value)


def test_a_worker_does_not_start_with_half_of_them() -> None:
    result = CliRunner().invoke(main, ["worker"], env={"BACKTRACK_SMTP_HOST": "mail.acme.example"})
    assert result.exit_code == 2 and "BACKTRACK_SMTP_FROM is not" in result.output and result.output.count("\n") == 1


def test_a_whole_set_is_taken() -> None:
    assert from_environment({**SERVER, "BACKTRACK_SMTP_TLS": "off"}).smtp_port == 587
