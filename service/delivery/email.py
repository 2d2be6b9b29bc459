"""One mail: prepare, call, classify. It goes to the one SMTP server of the settings, which takes it further.

The server is the operator's own and named by nobody else, so the address guard has no say here.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email import policy
from email.header import Header
from email.headerregistry import Address, HeaderRegistry, UniqueUnstructuredHeader
from email.message import EmailMessage
from email.policy import Policy
from urllib.parse import unquote

import aiosmtplib
import msgspec

from service.delivery.record import Answer, Owner, Request
from service.engine.model import Postback
from service.settings import Settings

MAILTO = "mailto:"
CONNECTIONS = 8  # of one worker process
IDLE_S = 20.0  # servers close connections that say nothing for longer
SURE_S = 1.0  # so long a connection is taken to be there still without asking
ANSWER_CHARACTERS = 2048
OUR_FAULT = frozenset({530, 534, 535, 538})  # RFC 4954: what is wrong is the login, whatever was asked for


class _Subject(UniqueUnstructuredHeader):
    """A subject that is encoded as a whole: between two encoded words a reader drops the space (RFC 2047, 6.2)."""

    def fold(self, *, policy: Policy) -> str:
        if str(self).isascii():
            return str(super().fold(policy=policy))  # type: ignore[misc]  # every header has it
        encoded = Header(str(self), "utf-8", header_name="Subject").encode(linesep=policy.linesep)
        return f"Subject: {encoded}{policy.linesep}"


_HEADERS = HeaderRegistry()
_HEADERS.map_to_type("subject", _Subject)  # type: ignore[arg-type]
_POLICY = policy.SMTP.clone(cte_type="7bit", header_factory=_HEADERS)  # no server on the way needs 8BITMIME or SMTPUTF8


class Mail(msgspec.Struct, frozen=True):
    """The body of a postback by e-mail, as the rulebook's templates have made it."""

    subject: str
    text: str = ""
    html: str = ""


class Emails:
    """The method email. settings: the server and who is the sender. tls: what to trust, by default as the machine does."""

    def __init__(self, settings: Settings, tls: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._timeout_s = settings.delivery_timeout_ms / 1000
        self._tls = tls
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[tuple[float, aiosmtplib.SMTP]] = []

    async def deliver(self, postback: Postback, owner: Owner, now_us: int) -> tuple[Request, Answer]:
        """Write the mail and hand it over. Every try of a postback hands over the same bytes."""
        if not self._settings.smtp_host:
            unsent = Request(postback.verb, postback.url, {}, postback.body)
            return unsent, Answer("mail_server", error="the worker has no BACKTRACK_SMTP_HOST to send mails by")
        message = write(postback, self._settings.smtp_from)
        headers = {name.lower(): str(value) for name, value in message.items()}
        return Request(postback.verb, postback.url, headers, postback.body), await self._call(postback, message)

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            await _leave(self._idle.pop()[1])

    async def _call(self, postback: Postback, message: EmailMessage) -> Answer:
        """Hand over. Never raises for what the server can do."""
        try:
            async with asyncio.timeout(self._timeout_s), self._free, self._connected() as server:
                return await self._send(server, recipient_of(postback), message.as_bytes())
        except TimeoutError:
            return Answer("mail_server", error=f"timeout: no whole answer within {self._timeout_s:g} s")
        except ssl.SSLError as error:
            return Answer("mail_server", error=f"TLS: {error}")
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            status = error.code if isinstance(error, aiosmtplib.SMTPResponseException) else 0
            return Answer("mail_server", status, error=_said(error))

    async def _send(self, server: aiosmtplib.SMTP, recipient: str, message: bytes) -> Answer:
        try:
            await server.mail(self._settings.smtp_from)
            await server.rcpt(recipient)
            taken = await server.data(message)
        except aiosmtplib.SMTPResponseException as refusal:
            await _begin_anew(server)
            return classify(refusal.code, refusal.message)
        return classify(taken.code, taken.message)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[aiosmtplib.SMTP]:
        """A connection of the pool, or a new one; it goes back only if all went well with it."""
        server = await self._waiting() or await self._connect()
        try:
            yield server
        except BaseException:
            server.close()
            raise
        if server.is_connected:
            self._idle.append((time.monotonic(), server))

    async def _waiting(self) -> aiosmtplib.SMTP | None:
        """One of the pool that is still there; the others are closed."""
        while self._idle:
            since_s, server = self._idle.pop()
            quiet_s = time.monotonic() - since_s
            if server.is_connected and quiet_s < IDLE_S and (quiet_s < SURE_S or await _answers(server)):
                return server
            server.close()
        return None

    async def _connect(self) -> aiosmtplib.SMTP:
        settings = self._settings
        encrypted = settings.smtp_tls != "off"
        if encrypted and self._tls is None:
            self._tls = ssl.create_default_context()
        server = aiosmtplib.SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_user or None,
            password=settings.smtp_password or None,
            local_hostname=domain_of(settings.smtp_from),
            timeout=self._timeout_s,
            use_tls=settings.smtp_tls == "implicit",
            start_tls=settings.smtp_tls == "starttls",
            tls_context=self._tls if encrypted else None,
        )
        try:
            await server.connect()
        except BaseException:
            server.close()
            raise
        return server


def write(postback: Postback, sender: str) -> EmailMessage:
    """The mail of a postback: plain ASCII on the wire (RFC 2045, 2047), with the same id and date at every try."""
    mail = msgspec.json.decode(postback.body, type=Mail)
    message = EmailMessage(policy=_POLICY)
    message["From"] = _address(sender)
    message["To"] = _address(recipient_of(postback))
    message["Subject"] = mail.subject
    message["Date"] = datetime.fromtimestamp(postback.time_us // 1_000_000, UTC)
    message["Message-ID"] = f"<{postback.id}@{domain_of(sender)}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday notice answers it
    if mail.text or not mail.html:
        message.set_content(mail.text)
    if mail.html and mail.text:
        message.add_alternative(mail.html, subtype="html")
        message.set_boundary(f"={postback.id}=")
    elif mail.html:
        message.set_content(mail.html, subtype="html")
    return message


def recipient_of(postback: Postback) -> str:
    """The address of a `mailto:` URL."""
    return unquote(postback.url.removeprefix(MAILTO))


def domain_of(address: str) -> str:
    """What stands behind the @."""
    return address.rpartition("@")[2]


def classify(code: int, said: str) -> Answer:
    """What the server's answer to MAIL, RCPT or DATA means for this mail (RFC 5321, 4.2.1)."""
    head = f"{code} {said}"[:ANSWER_CHARACTERS]
    if code in OUR_FAULT:
        return Answer("mail_server", code, head)
    if 200 <= code < 300:
        return Answer("delivered", code, head)
    return Answer("refused" if 500 <= code < 600 else "busy", code, head)


def _address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address("", local, domain)


async def _answers(server: aiosmtplib.SMTP) -> bool:
    try:
        await server.noop()
    except (aiosmtplib.SMTPException, OSError):
        return False
    return True


async def _begin_anew(server: aiosmtplib.SMTP) -> None:
    """Forget the refused mail, so that the connection can take another; the refusal stands, whatever comes of this."""
    try:
        await server.rset()
    except (aiosmtplib.SMTPException, OSError):
        server.close()


async def _leave(server: aiosmtplib.SMTP) -> None:
    try:
        await server.quit(timeout=1)
    except (aiosmtplib.SMTPException, OSError):
        server.close()


def _said(error: Exception) -> str:
    return f"{type(error).__name__.removeprefix('SMTP')}: {error}"[:500]
