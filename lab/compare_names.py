"""The names of the parameters that differ in changed postbacks, for many of them.

Says exactly what `compare_cases.differences_of` says, and tests hold it to that. Where two requests are plain only what
differs is taken apart; whatever is unusual about them (repeated names, odd characters, a query beside a body) goes there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
import polars as pl

from lab.compare_cases import PLAIN, differences_of
from lab.parameters import Request, compare

_REQUEST = [f"{name}_{side}" for name in ("verb", "url", "body") for side in ("before", "after")]
_QUERY = re.compile(r"""[A-Za-z0-9_.-]+=[!"$%'-~]*(?:&[A-Za-z0-9_.-]+=[!"$%'-~]*)*""")
_NAMES = re.compile("[A-Za-z0-9_-]*")
_leaves = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def names_of(changed: pl.DataFrame) -> list[str]:
    """What differs in each row, `sum, payout`. changed: the postbacks, each compared field with _before and _after."""
    beside = changed.select(
        pl.concat_list(
            pl.when(pl.col(f"{name}_before").ne_missing(pl.col(f"{name}_after"))).then(pl.lit(name)) for name in PLAIN
        ).list.drop_nulls()
    ).to_series().to_list()  # fmt: skip
    names = []
    for number, request in enumerate(changed.select(_REQUEST).iter_rows()):
        found = _of_requests(*request)
        if found is None:
            found = [name for name, _, _ in differences_of(changed.row(number, named=True))]
        else:
            found += [name for name in beside[number] if name not in found]
        names.append(", ".join(found))
    return names


def _of_requests(verb: str, other_verb: str, url: str, other_url: str, body: str, other_body: str) -> list[str] | None:
    """The parameters of two requests that differ, None if they are not plain."""
    if verb != other_verb:
        return None
    if url == other_url:
        if body == other_body:
            return []
        return None if "?" in url else _of_bodies(body, other_body)
    return None if body or other_body else _of_urls(url, other_url)


def _of_urls(url: str, other: str) -> list[str] | None:
    (head, _, query), (other_head, _, other_query) = url.partition("?"), other.partition("?")
    if head != other_head or "#" in head:
        return None
    mine, theirs = _values(query), _values(other_query)
    if mine is None or theirs is None:
        return None
    return [name for name in _unlike(mine, theirs) if _decoded(mine.get(name)) != _decoded(theirs.get(name))]


def _values(query: str) -> dict[str, str] | None:
    """Names and values as they stand there, None if that is not all there is to it."""
    if not _QUERY.fullmatch(query):
        return None
    parts = query.split("&")
    found = dict(part.split("=", 1) for part in parts)
    return found if len(found) == len(parts) else None


def _decoded(value: str | None) -> str | None:
    """As `parse_qsl` reads it."""
    return None if value is None else unquote(value.replace("+", " "), errors="backslashreplace")


def _of_bodies(body: str, other: str) -> list[str] | None:
    mine, theirs = _members(body), _members(other)
    if mine is None or theirs is None:
        return None
    unlike = set(_unlike(mine, theirs))
    less = [{name: value for name, value in side.items() if name in unlike} for side in (mine, theirs)]
    requests = (Request("", "", "", body=msgspec.json.encode(members).decode()) for members in less)
    return [name for name, _, _ in compare(*requests)]


def _members(body: str) -> dict[str, msgspec.Raw] | None:
    """The members of a JSON object as they stand there, None if that is not all there is to it."""
    try:
        found = _leaves(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    # written again it is the same: no name came twice, and none was written in another way
    same = msgspec.json.encode(found) == body.encode()
    return found if same and "" not in found and _NAMES.fullmatch("".join(found)) else None


def _unlike(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The names whose values are not written alike, in the order in which a comparison names them."""
    names = [*mine, *(name for name in theirs if name not in mine)]
    return [name for name in names if mine.get(name) != theirs.get(name)]
