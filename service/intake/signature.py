"""Signatures of requests: `sig` is the HMAC-SHA256 of what is sent, in hexadecimal digits.

What is signed: the query as it is sent, cut at each `&`, without `sig`, the parts sorted by their bytes and joined by `&`
again; where there is a body, a line feed and the body follow. Nothing is decoded, so there is one way to read it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable, Mapping

from service.engine.rulebook import Client

log = logging.getLogger("backtrack.intake")

SIG = b"sig"


def signed_text(query: bytes, body: bytes = b"", names: frozenset[bytes] = frozenset({SIG})) -> bytes:
    """What is signed. names: what `sig` is called."""
    parts = sorted(part for part in query.split(b"&") if part and part.partition(b"=")[0] not in names)
    text = b"&".join(parts)
    return text + b"\n" + body if body else text


def sign(key: bytes, query: bytes, body: bytes = b"") -> str:
    """The value of `sig`."""
    return hmac.new(key, signed_text(query, body), hashlib.sha256).hexdigest()


class Keys:
    """The keys of the clients, from variables. environment: of the process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._missed: set[str] = set()

    def get(self, references: str) -> list[bytes]:
        """The keys behind `env:NAME`, or behind two of them with a space between during a rotation; those that are set."""
        names = [reference.removeprefix("env:") for reference in references.split()]
        found = {name: self._environment.get(name, "").strip() for name in names}
        for name, value in found.items():
            if not value and name not in self._missed:
                self._missed.add(name)
                log.error("the variable %s is not set: what it should sign is refused", name)
        return [value.encode() for value in found.values() if value]


class Seal:
    """The signature of one request, tried once per client: the hits of a batch share it."""

    def __init__(self, keys: Keys, query: bytes, body: bytes) -> None:
        self._keys = keys
        self._query = query
        self._body = body
        self._tried: dict[str, str | None] = {}

    def wrong(self, client: Client) -> str | None:
        """What is wrong about the signature for this client: None if it is good, "" if there is none."""
        if client.name not in self._tried:
            self._tried[client.name] = self._try(client)
        return self._tried[client.name]

    def _try(self, client: Client) -> str | None:
        names = frozenset({SIG, *(alias.encode() for alias, name in client.aliases.items() if name == "sig")})
        given = _given(self._query, names)
        if not given:
            return ""
        keys = self._keys.get(client.sig_secret)
        if not keys:
            return "the key is not set where the request came in; tell who runs it"
        text = signed_text(self._query, self._body, names)
        tried = [hmac.compare_digest(hmac.new(key, text, hashlib.sha256).hexdigest().encode(), given) for key in keys]
        return None if any(tried) else f"sig {given[:16].decode('latin-1')!r}... does not fit {_shown(text)}"


def _given(query: bytes, names: Iterable[bytes]) -> bytes:
    parts = (part.partition(b"=") for part in query.split(b"&"))
    values = {name: value for name, _, value in parts if name in names and value}
    return (values.get(SIG) or next(iter(values.values()), b"")).lower()


def _shown(text: bytes) -> str:
    shown = text[:80].decode("utf-8", "replace")
    return repr(shown) + ("..." if len(text) > 80 else "")
