"""The key `webhook`: an address alone, or a table with the method, the form or JSON to post, and headers."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from service.engine.document import Path
from service.engine.rulebook import Webhook
from service.engine.templates import Template, compile_form, compile_template
from service.engine.values import SECRET, Values

WEBHOOK_KEYS = frozenset({"url", "method", "form", "json", "headers"})
VERBS = ("GET", "POST")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")
HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?\Z")
OUR_HEADERS = frozenset({
    "connection", "content-encoding", "content-length", "content-type", "expect", "host", "te", "trailer",
    "transfer-encoding", "upgrade", "webhook-id", "webhook-signature", "webhook-timestamp",
})  # fmt: skip
NEVER_IN_CLEAR = frozenset({"authorization", "cookie", "proxy-authorization"})
RATE = re.compile(r"([1-9][0-9]{0,5})/([smh])\Z")


class Webhooks(Values):
    """Reads endpoints and what limits them."""

    def _webhook(self, path: Path, table: Any, key: str) -> Webhook | None:
        value = table.get(key) if isinstance(table, dict) else None
        if not isinstance(value, dict):
            url = self._address(path, table, key)
            return None if url is None else Webhook(url, "GET" if url.macros else "POST")
        path = (*path, key)
        self._only_known(path, value, WEBHOOK_KEYS)
        url = self._address(path, value, "url")
        if url is None:
            if not value.get("url"):
                self.wrong((*path, "url"), "the address to call is missing")
            return None
        body = self._form(path, value) if "form" in value else self._json(path, value)
        if "form" in value and "json" in value:
            self.wrong((*path, "json"), "a request has one body: write form or json")
        plain = "POST" if body is not None or not url.macros else "GET"
        verb = self._choice(path, value, "method", VERBS, plain)
        if verb == "GET" and body is not None:
            self.wrong((*path, "method"), "a GET has no body; write POST, or put the parameters into the address")
        return Webhook(url, verb, body, self._headers(path, value))

    def _address(self, path: Path, table: Any, key: str) -> Template | None:
        url = self._url(path, table, key)
        try:
            inside = url is not None and "@" in urlsplit(url.source).netloc
        except ValueError:
            inside = False
        if inside:
            remedy = 'send it as a header, such as headers = { authorization = "env:NAME" }'
            self.wrong((*path, key), f"a user or password in an address would stand in every record; {remedy}")
            return None  # the problem is said without the address
        return url

    def _form(self, path: Path, table: dict[str, Any]) -> Template | None:
        form = self._table(path, table, "form")
        path = (*path, "form")
        for name, value in form.items():
            if not isinstance(value, str):
                self.wrong((*path, name), f'{value!r}: write text in quotes, such as {name} = "{{txid}}"')
                return None
        if not form:
            self.wrong(path, 'a form needs a field, such as form = { id = "{postback_id}" }')
            return None
        for name, value in form.items():
            self._compiled(path, name, value, partial(compile_template, context="form"))
        return self._compiled(path[:-1], "form", "", lambda _: compile_form(form)) if not self._wrong_in(path) else None

    def _wrong_in(self, path: Path) -> bool:
        return any(where[: len(path)] == path for where, _ in self.problems)

    def _json(self, path: Path, table: dict[str, Any]) -> Template | None:
        text = self._text(path, table, "json").strip()
        if not text:
            return None
        template = self._compiled(path, "json", text, partial(compile_template, context="json"))
        if template is not None and (not template.frame or template.frame[0][:1] not in ("{", "[")):
            self.wrong((*path, "json"), "the body is an object or a list: it begins with {{ or [")
            return None
        return template

    def _headers(self, path: Path, table: dict[str, Any]) -> dict[str, str]:
        headers = self._table(path, table, "headers")
        found: dict[str, str] = {}
        for name, value in headers.items():
            problem = _header_problem(name, value)
            if problem:
                self.wrong((*path, "headers", name), problem)
            else:
                found[name.lower()] = value
        return found

    def _secrets(self, path: Path, table: dict[str, Any], key: str = "secret") -> str:
        """One variable, or two during a rotation, separated by a space."""
        if not isinstance(table.get(key), list):
            return self._secret(path, table, key)
        names = self._names(path, table, key)
        if not 1 <= len(names) <= 2:
            self.wrong((*path, key), f"{len(names)} secrets: write one, or the old and the new one of a rotation")
        for name in names:
            self._secret(path, {key: name}, key)
        return " ".join(names)

    def _rate(self, path: Path, table: dict[str, Any]) -> str:
        rate = self._text(path, table, "rate")
        if rate and not RATE.match(rate):
            self.wrong((*path, "rate"), f'{rate!r} is no rate: write a number per s, m or h, such as "50/s"')
            return ""
        return rate


def _header_problem(name: str, value: Any) -> str:
    """What is wrong with a header, "" if nothing is. Never says the value, which may be a secret."""
    if not HEADER.match(name):
        return f"{name!r} is no name of a header"
    if name.lower() in OUR_HEADERS:
        return f"{name} is set by Backtrack; drop it"
    if not isinstance(value, str) or not HEADER_VALUE.match(value):
        return "write the value as visible ASCII text in quotes"
    if "{" in value:
        return "a header holds no macros; put them into the address, the form or the JSON"
    if name.lower() in NEVER_IN_CLEAR and not SECRET.match(value):
        return 'a secret is never written in clear: name a variable that holds the value, such as "env:ACME_TOKEN"'
    return ""
