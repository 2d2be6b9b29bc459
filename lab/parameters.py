"""A request taken apart into parameters, so that two requests can be compared one by one and a difference has a name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

Parameters = dict[str, str]


class Request(msgspec.Struct, frozen=True):
    """One HTTP request of a postback. query: as sent, not decoded. host: with port, "" if it is not known."""

    verb: str
    host: str
    path: str
    query: str = ""
    body: str = ""

    @property
    def address(self) -> str:
        """The path, decoded: where the request went on its host."""
        return unquote(self.path) or "/"


def request_to(verb: str, url: str, body: str) -> Request:
    """The request that a URL asks for."""
    parts = urlsplit(url)
    return Request(verb, parts.netloc, parts.path, parts.query, body)


def parameters(request: Request) -> Parameters:
    """Query parameters decoded, then the leaves of a JSON body as `params.country`; another body whole, as `body`.

    A repeated name gets `#2`, `#3`. Values that are no texts say their kind, so that `12` and `"12"` differ.
    """
    found: Parameters = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True, errors="backslashreplace"):
        _put(found, name, value)
    if request.body:
        try:
            document = json.loads(
                request.body,
                parse_int=_Written,
                parse_float=_Written,
                parse_constant=_Written,
                object_pairs_hook=_Pairs,
            )
        except (ValueError, RecursionError):
            document = None
        leaves = _leaves("", document) if isinstance(document, _Pairs) else [("body", request.body)]
        for name, value in leaves:
            _put(found, name, value)
    return found


def compare(expected: Request, found: Request) -> list[tuple[str, str | None, str | None]]:
    """What differs: (parameter, expected, found), None where one side has no such parameter.

    Verb, host (if both are known) and path are compared too, under these names.
    """
    differences: list[tuple[str, str | None, str | None]] = []
    if expected.verb != found.verb:
        differences.append(("verb", expected.verb, found.verb))
    if expected.host and found.host and expected.host != found.host:
        differences.append(("host", expected.host, found.host))
    if expected.address != found.address:
        differences.append(("path", expected.address, found.address))
    if expected.query != found.query or expected.body != found.body:
        mine, theirs = parameters(expected), parameters(found)
        names = [*mine, *(name for name in theirs if name not in mine)]
        differences += [(n, mine.get(n), theirs.get(n)) for n in names if mine.get(n) != theirs.get(n)]
    return differences


def fingerprint(request: Request, own_id: str) -> tuple[str, ...]:
    """What the request says apart from its own id: equal for two ids of one message."""
    values = sorted(parameters(request).items())
    return (request.verb, request.address, *(f"{name}={value.replace(own_id, '*')}" for name, value in values))


class _Written(str):
    """A JSON number in its written form."""

    __slots__ = ()


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repeated names."""


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, _Pairs) and value:
        for name, inner in value:
            yield from _leaves(f"{prefix}.{name}" if prefix else name, inner)
    elif isinstance(value, list) and value and not isinstance(value, _Pairs):
        for index, inner in enumerate(value):
            yield from _leaves(f"{prefix}[{index}]", inner)
    elif prefix:
        yield prefix, _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, _Written):
        return f"{value} (a number)"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true (a boolean)" if value else "false (a boolean)"
    return "null" if value is None else ("{} (empty)" if isinstance(value, _Pairs) else "[] (empty)")


def _put(found: Parameters, name: str, value: str) -> None:
    unique, number = name, 1
    while unique in found:
        number += 1
        unique = f"{name}#{number}"
    found[unique] = value
