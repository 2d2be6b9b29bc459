"""The key `email`: to whom a mail goes, and the templates of its subject, its text and its HTML."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from urllib.parse import quote

from service.engine.document import Path
from service.engine.rulebook import MAIL, Webhook
from service.engine.templates import Template, compile_mail, compile_template
from service.engine.values import Values

EMAIL_KEYS = frozenset({"to", "subject", "text", "html"})
# the plain form of RFC 5321: nothing in it could end a command or a header, or be a macro
ADDRESS = re.compile(
    r"(?=.{3,254}\Z)(?!.*\.\.)[A-Za-z0-9!#$&'*+/=?^_`|~-](?:[A-Za-z0-9.!#$&'*+/=?^_`|~-]{0,63})(?<!\.)"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z"
)
PARTS = {"subject": "text", "text": "text", "html": "html"}  # and the context of each
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


class Mails(Values):
    """Reads mails."""

    def _email(self, path: Path, table: Any) -> Webhook | None:
        if not isinstance(table, dict) or "email" not in table:
            return None
        mail = self._table(path, table, "email")
        path = (*path, "email")
        before = len(self.problems)
        self._only_known(path, mail, EMAIL_KEYS)
        to, parts = self._to_whom(path, mail), self._parts(path, mail)
        return None if to is None or len(self.problems) > before else Webhook(to, MAIL, compile_mail(parts))

    def _to_whom(self, path: Path, mail: dict[str, Any]) -> Template | None:
        to = self._text(path, mail, "to")
        if not ADDRESS.match(to):
            remedy = "write one plain address without macros, such as postbacks@partner.example"
            self.wrong((*path, "to"), f"{to!r} is no mail address; {remedy}" if to else f"to is missing; {remedy}")
            return None
        return compile_template("mailto:" + quote(to, safe="@!$'*+"))

    def _parts(self, path: Path, mail: dict[str, Any]) -> dict[str, Template]:
        """Subject, text and HTML, each compiled for its own context."""
        parts: dict[str, Template] = {}
        for name, context in PARTS.items():
            source = self._text(path, mail, name)
            compiled = self._compiled(path, name, source, partial(compile_template, context=context))
            if source.strip() and compiled is not None:
                parts[name] = compiled
        if _CONTROL.search(str(mail.get("subject", ""))):
            self.wrong((*path, "subject"), "a subject is one line; drop the line breaks and other control characters")
        if not str(mail.get("subject", "")).strip():
            self.wrong((*path, "subject"), 'the subject is missing, such as subject = "New {event}"')
        if not (str(mail.get("text", "")) + str(mail.get("html", ""))).strip():
            self.wrong((*path, "text"), 'the mail is empty; write text, html or both, such as text = "{txid}"')
        return parts
