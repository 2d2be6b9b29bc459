"""The tables `[client.NAME]` and `[affiliate.NAME]`."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any

from service.engine.browsers import InBrowser
from service.engine.document import Path, nearest
from service.engine.mails import Mails
from service.engine.model import RESERVED
from service.engine.names import DERIVED, MADE_PARAMS, Declared
from service.engine.rulebook import (
    BROWSER_EVENTS,
    DAY_US,
    NOT_AN_ID,
    Affiliate,
    Client,
    Endpoints,
    close_private,
)
from service.engine.values import host_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?\Z|\[?[0-9a-f:.]+\]?\Z")
CLIENT_KEYS = frozenset({
    "name", "landing", "hosts", "params", "private", "aliases", "not_an_id", "browser_events", "remember",
    "attribution", "click_window", "webhook", "test_webhook", "secret", "rate",
    "sig_secret", "addresses", "bots", "browser", "javascript", "pixel", "email",
})  # fmt: skip
AFFILIATE_KEYS = frozenset({
    "name", "params", "webhook", "test_webhook", "secret", "rate", "for", "javascript", "pixel", "email",
})  # fmt: skip
ENDPOINT_KEYS = frozenset({"webhook", "javascript", "pixel", "email"})


class Parties(InBrowser, Mails, Declared):
    """Reads clients and affiliates."""

    def _tables(self, document: dict[str, Any], kind: str) -> list[tuple[str, dict[str, Any]]]:
        group = document.get(kind, {})
        if not isinstance(group, dict):
            self.wrong((kind,), f"write [{kind}.NAME] with a name of its own")
            return []
        found = []
        for name, table in group.items():
            if not NAME.match(name):
                self.wrong((kind, name), f"{name!r} is no name: use 1 to 64 letters, digits, _ . -")
            elif not isinstance(table, dict):
                self.wrong((kind, name), f"write [{kind}.{name}] as a table")
            else:
                found.append((name, table))
        return found

    def _client(self, name: str, table: dict[str, Any]) -> Client:
        path: Path = ("client", name)
        self._only_known(path, table, CLIENT_KEYS)
        landing = self._url(path, table, "landing")
        hosts = self._hosts(path, table)
        if landing is not None and not hosts:
            hosts = (host_of(landing.source),)
        aliases = self._aliases(path, table)
        params, private = frozenset(self._declared(path, table)), self._parameters(path, table, "private")
        return Client(
            name,
            self._text(path, table, "name"),
            landing,
            hosts,
            params,
            close_private(frozenset({"uid", *private}), aliases),
            aliases,
            frozenset(self._names(path, table, "not_an_id", NOT_AN_ID)),
            frozenset(
                self._event(path, "browser_events", event)
                for event in self._names(path, table, "browser_events", BROWSER_EVENTS)
            ),
            self._duration(path, table, "remember", 90 * DAY_US),
            self._choice(path, table, "attribution", ("last_click", "first_click"), "last_click"),
            self._duration(path, table, "click_window", 30 * DAY_US),
            self._webhook(path, table, "webhook"),
            self._webhook(path, table, "test_webhook"),
            self._secrets(path, table),
            self._rate(path, table),
            self._secrets(path, table, "sig_secret"),
            self._networks(path, table, "addresses"),
            self._choice(path, table, "bots", ("keep", "reject"), "keep"),
            self._browser(path, table, params | frozenset(private)),
            self._javascript(path, table),
            self._pixel(path, table),
            self._email(path, table),
        )

    def _networks(self, path: Path, table: dict[str, Any], key: str) -> tuple[str, ...]:
        """Networks in their shortest form; a single address is one too."""
        found = []
        for text in self._names(path, table, key):
            try:
                found.append(str(ip_network(text)))
            except ValueError as error:
                self.wrong((*path, key), f"{error}; write networks such as 203.0.113.0/24 or 2001:db8::/32")
        if table.get(key) == []:
            self.wrong((*path, key), "an empty list would let nobody in; name a network, or drop the key")
        return tuple(found)

    def _hosts(self, path: Path, table: dict[str, Any]) -> tuple[str, ...]:
        """Host names as a browser compares them: small letters, no scheme, no port."""
        hosts = tuple([host.lower() for host in self._names(path, table, "hosts")])
        for host in hosts:
            if not HOST.match(host):
                self.wrong((*path, "hosts"), f"{host!r} is no host: write it as www.acme.example, without port or path")
        return hosts

    def _aliases(self, path: Path, table: dict[str, Any]) -> dict[str, str]:
        aliases = self._table(path, table, "aliases")
        for alias, name in aliases.items():
            key = (*path, "aliases", alias)
            if name == "client":
                self.wrong(key, "client has no alias: the request must name it")
            elif name not in RESERVED:
                self.wrong(key, f"{name!r} is no reserved name{nearest(str(name), RESERVED)}")
            elif alias in RESERVED:
                self.wrong(key, f"{alias!r} is a reserved name itself and cannot be an alias")
        return {alias: str(name) for alias, name in aliases.items()}

    def _declared(self, path: Path, table: dict[str, Any]) -> tuple[str, ...]:
        """The custom parameters. One that is called like a name of ours would be hidden by it."""
        names = self._parameters(path, table, "params")
        for name in names:
            if name in RESERVED:
                self.wrong((*path, "params"), f"{name!r} is a reserved name and needs no declaration; drop it")
            elif name in DERIVED - MADE_PARAMS:
                self.wrong(
                    (*path, "params"), f"{name!r} is a name of ours; drop it, it is always there as param.{name}"
                )
        return names

    def _affiliate(self, name: str, table: dict[str, Any]) -> Affiliate:
        path: Path = ("affiliate", name)
        self._only_known(path, table, AFFILIATE_KEYS)
        overrides: dict[tuple[str, str], Endpoints] = {}
        for client, inner in self._table(path, table, "for").items():
            key: Path = (*path, "for", client)
            if not isinstance(inner, dict):
                self.wrong(key, f"write [affiliate.{name}.for.{client}] as a table")
                continue
            if client not in self.clients:
                self.wrong(key, f"there is no client {client!r}{nearest(client, self.clients)}")
            flat = {k: v for k, v in inner.items() if not _is_trigger(k, v)}
            for trigger, deeper in inner.items():
                if trigger not in flat:
                    overrides[client, trigger] = self._endpoints((*key, trigger), deeper)
            if flat:
                overrides[client, ""] = self._endpoints(key, flat)
        return Affiliate(
            name,
            self._text(path, table, "name"),
            frozenset(self._declared(path, table)),
            self._webhook(path, table, "webhook"),
            self._webhook(path, table, "test_webhook"),
            overrides,
            self._secrets(path, table),
            self._rate(path, table),
            self._javascript(path, table),
            self._pixel(path, table),
            self._email(path, table),
        )

    def _endpoints(self, path: Path, table: dict[str, Any]) -> Endpoints:
        self._only_known(path, table, ENDPOINT_KEYS)
        return Endpoints(
            self._webhook(path, table, "webhook"),
            self._javascript(path, table),
            self._pixel(path, table),
            self._email(path, table),
        )


def _is_trigger(key: str, value: Any) -> bool:
    """Whether what stands in `for` under a client belongs to one of its triggers, which may be called `email` too."""
    return isinstance(value, dict) and (key not in ("webhook", "email") or not ENDPOINT_KEYS.isdisjoint(value))
