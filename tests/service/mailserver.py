"""A real SMTP server with STARTTLS and a login, which keeps what it takes and refuses what the address asks for.

`mail-450@...` is answered 450 to MAIL, `rcpt-450@...` 450 to RCPT, `data-554@...` 554 to the text, `once-451@...` 451 to
the first text only; `break@...` breaks off after the text, `never@...` never answers.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, ClassVar

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from service.servers import free_port
from service.settings import Settings

HOST = "127.0.0.1"
USER, PASSWORD = "tracking", "open-sesame"
AUTHORITY = trustme.CA()


class Handler:
    """What the server does at each step. mails: sender, recipient and bytes of what was taken. logins: that were good."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str, bytes]] = []
        self.offered: list[bytes] = []
        self.connections: set[tuple[str, int]] = set()
        self.logins = 0

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return f"{_code(address, 'mail')} as asked" if _code(address, "mail") else "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        return f"{_code(address, 'rcpt')} as asked" if _code(address, "rcpt") else "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content, (recipient,) = bytes(envelope.original_content or b""), envelope.rcpt_tos
        self.connections.add(session.peer)  # type: ignore[arg-type]
        self.offered.append(content)
        code = _code(recipient, "data") or (_code(recipient, "once") if self.offered.count(content) == 1 else "")
        if code:
            return f"{code} as asked"
        if recipient.startswith("never"):
            await asyncio.Event().wait()
        if recipient.startswith("break") and server.transport is not None:
            server.transport.close()
        self.mails.append((str(envelope.mail_from), recipient, content))
        return "250 taken"

    def login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        self.logins += good
        return AuthResult(success=good, handled=False)


def _code(address: str, step: str) -> str:
    return address.partition("@")[0].removeprefix(f"{step}-") if address.startswith(f"{step}-") else ""


class MailServer:
    """The server in a thread. authority: who signed its certificate. tls: starttls, implicit or off. port: its own."""

    trusted: ClassVar[ssl.SSLContext] = ssl.create_default_context()

    def __init__(
        self, authority: trustme.CA = AUTHORITY, names: str = HOST, tls: str = "starttls", port: int = 0
    ) -> None:
        self.port = port or free_port()
        self.handler = Handler()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(names).configure_cert(context)
        secured: dict[str, Any] = {"tls_context": context, "require_starttls": True, "auth_required": True}
        plain = {"auth_require_tls": False, "ssl_context": context if tls == "implicit" else None}
        self._controller = Controller(
            self.handler, hostname=HOST, port=self.port, authenticator=self.handler.login,
            **(secured if tls == "starttls" else plain),
        )  # fmt: skip

    def __enter__(self) -> MailServer:
        self._controller.start()
        return self

    def stop(self) -> None:
        """End it, and all connections. Does nothing the second time."""
        if not self._controller.loop.is_closed():
            self._controller.stop()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def settings(self, settings: Settings, **more: Any) -> Settings:
        """The settings with this server."""
        values: dict[str, Any] = {name: getattr(settings, name) for name in settings.__struct_fields__}
        ours = {"smtp_host": HOST, "smtp_port": self.port, "smtp_user": USER, "smtp_password": PASSWORD,
                "smtp_from": "tracking@acme.example"}  # fmt: skip
        return Settings(**(values | ours | more))


AUTHORITY.configure_trust(MailServer.trusted)
