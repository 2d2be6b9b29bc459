"""Where a log may be sent: to a staging service that somebody names, never to the production address.

What counts as production: `BACKTRACK_PUBLIC_URL` or the address that is given, and every host that a rulebook of the log
names as an endpoint or a landing page. This machine may always be named, unless it is the production address itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from lab.load import is_loopback
from lab.log import LabError
from service.engine import Rulebook
from service.engine.rulebook import Affiliate, Client, Endpoints

PUBLIC_URL = "BACKTRACK_PUBLIC_URL"
CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443}


def checked(to: str, production: str | None, rulebooks: Iterable[Rulebook]) -> str:
    """The address without a slash at its end. production: None for the setting. Raises LabError for what is refused."""
    target = _split("to", to)
    production = os.environ.get(PUBLIC_URL, "") if production is None else production
    ours = _split("production", production) if production else None
    if ours is not None and _same(target, ours):
        raise LabError(f"to={to!r} is the production address; name the staging service, such as http://127.0.0.1:8800")
    if is_loopback(_host(target)):
        return to.rstrip("/")
    if ours is None:
        raise LabError(
            f"to={to!r} is another machine, and nobody has said which one is production: set {PUBLIC_URL}, or give "
            'production="https://..." (--production), so that it can be refused'
        )
    for rulebook in rulebooks:
        for where, host in _named(rulebook):
            if host == _host(target):
                raise LabError(f"to={to!r}: {where} in a rulebook of this log is at {host}; it gets no hits of a log")
    return to.rstrip("/")


def somebody_listens(base: str) -> None:
    """Raises LabError if nobody takes a connection there: no log is sent into the void for hours."""
    parts = urlsplit(base)
    try:
        socket.create_connection((parts.hostname or "", _port(parts)), CONNECT_S).close()
    except OSError as error:
        raise LabError(
            f"nobody answers at {base} ({error}); start the staging service, or name another address"
        ) from None


def _split(name: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(str(url))
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise LabError(f"{name}={url!r} is no address: {error}") from None
    whole = parts.scheme in _PORTS and host and parts.path in ("", "/")
    if not whole or parts.query or parts.fragment or "@" in parts.netloc:
        raise LabError(
            f"{name}={url!r}: give scheme, host and port and nothing else, such as https://staging.example:8700"
        )
    return parts


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "").rstrip(".")


def _same(target: SplitResult, production: SplitResult) -> bool:
    """Whether both are one service. On this machine the port tells them apart, elsewhere no port does."""
    if is_loopback(_host(target)) and is_loopback(_host(production)):
        return _port(target) == _port(production)
    return _host(target) == _host(production)


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def _named(rulebook: Rulebook) -> Iterable[tuple[str, str]]:
    """What a rulebook names, and its host."""
    for name, client in rulebook.clients.items():
        landing = [client.landing.source] if client.landing is not None else []
        yield from ((f"client:{name}", host) for host in {*_hosts(client, landing), *client.hosts})
    for name, affiliate in rulebook.affiliates.items():
        owners: list[Affiliate | Endpoints] = [affiliate, *affiliate.overrides.values()]
        for one in owners:
            yield from ((f"affiliate:{name}", host) for host in _hosts(one))


def _hosts(owner: Client | Affiliate | Endpoints, more: Iterable[str] = ()) -> Iterable[str]:
    names = ("webhook", "test_webhook", "javascript", "pixel")
    endpoints = (getattr(owner, name, None) for name in names)
    for url in (*more, *(endpoint.url.source for endpoint in endpoints if endpoint is not None)):
        host = urlsplit(url).hostname if "://" in url and "{" not in url.partition("://")[2].partition("/")[0] else None
        if host:
            yield host.rstrip(".")
