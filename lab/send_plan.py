"""What of a log is sent, and when: each logged request as it came, with the marks of a test added to its query.

`plan` needs no network. A request that would not be read as a test in spite of the mark is kept back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from lab.erased import ERASED
from lab.log import Log
from lab.traffic import PLACEHOLDER, Request
from service.engine import Hit
from service.engine.parse import parameters

RUN = "test_run"  # the parameter that names the run
BATCH = b"/e/batch"
_NOT_IN_A_URL = re.compile(rb"[^\x21-\x7e]|[\"#'<>`\\]")
_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_DOTS = re.compile(rb"/\.\.?(?:/|\Z)")
_FORM = "application/x-www-form-urlencoded"
_REDONE = {"do_not_track": ("dnt", "1"), "prefetch": ("sec-purpose", "prefetch")}  # flags that a header has caused
_OURS = frozenset({ERASED, "engine_error"})  # reasons that no intake gives
_COLUMNS = (
    "hit_id", "time", "partition", "epoch", "seq", "route", "method", "path", "query", "body", "content_type",
    "user_agent", "referrer", "flags", "refusal",
)  # fmt: skip


class Planned(msgspec.Struct, frozen=True):
    """One request of the plan. hit_id: of the log. expected: the reason that it was rejected for, "" for none, None if no
    decision is in the log. rewritten: whether a client has to write its address in other bytes."""

    request: Request
    hit_id: str
    expected: str | None
    rewritten: bool


class Plan(msgspec.Struct, frozen=True):
    """Requests in the order of log time. kept_back: what is not sent, by its reason. seconds: from first to last."""

    requests: tuple[Planned, ...]
    kept_back: dict[str, int]
    seconds: float


def plan(log: Log, run: str, speed: float, gap_cap_s: float, limit: int | None = None) -> Plan:
    """Plan the sending of a log, or of its first `limit` hits."""
    rows = _rows(log, limit)
    kept_back: Counter[str] = Counter()
    sent: list[Planned] = []
    times: list[int] = []
    clicks: dict[bytes, int] = {}
    visitors: dict[str, int] = {}
    for row in rows:
        marked = _marked(row, run)
        if isinstance(marked, str):
            kept_back[marked] += 1
            continue
        target, body = (_renamed(part, clicks) for part in marked)
        visitor = visitors.setdefault(row["visitor"] or row["hit_id"], len(visitors))
        request = Request(0, row["method"], target, body, row["content_type"], _headers(row), "", visitor)
        if row["route"] == "c":
            clicks[row["hit_id"].encode()] = len(sent)
        expected = row["reason"] if row["verdict"] == "rejected" else ""
        expected = None if row["verdict"] is None or expected in _OURS else expected
        rewritten = _NOT_IN_A_URL.search(row["path"] + row["query"]) is not None or bool(_DOTS.search(row["path"]))
        sent.append(Planned(request, row["hit_id"], expected, rewritten))
        times.append(row["time_us"])
    offsets = schedule(times, speed, gap_cap_s)
    timed = (
        msgspec.structs.replace(one, request=msgspec.structs.replace(one.request, offset_us=at))
        for one, at in zip(sent, offsets, strict=True)
    )
    return Plan(tuple(timed), dict(kept_back), (offsets[-1] if offsets else 0) / 1e6)


def schedule(times_us: Sequence[int], speed: float, gap_cap_s: float) -> list[int]:
    """When to send each, in microseconds from the first: the gaps divided by the speed, none longer than the cap."""
    offsets, at_us = [], 0.0
    for before, now in zip([*times_us[:1], *times_us[:-1]], times_us, strict=True):
        at_us += min((now - before) / speed, gap_cap_s * 1e6)
        offsets.append(round(at_us))
    return offsets


def _rows(log: Log, limit: int | None) -> Iterator[dict[str, Any]]:
    """Hits with their decisions, in the order of log time."""
    decisions = log.decisions.select("hit_id", "verdict", "reason", "visitor")
    hits = log.hits.filter(kind="hit").select(_COLUMNS).sort("time", "partition", "epoch", "seq")
    hits = hits.with_columns(time_us=pl.col("time").dt.epoch("us"))
    found = hits.head(limit) if limit is not None else hits
    return found.join(decisions, on="hit_id", how="left", maintain_order="left").collect().iter_rows(named=True)


def _marked(row: Mapping[str, Any], run: str) -> tuple[bytes, bytes] | str:
    """Target and body with the marks of a test, or why the hit is kept back."""
    if ERASED in (row["refusal"], row["reason"]):
        return ERASED
    if PLACEHOLDER.search(row["path"] + row["query"] + row["body"]):
        return "looks_like_a_placeholder"  # the sender would fill it
    mark = b"test=1&%s=%s" % (RUN.encode(), run.encode())
    path, body = row["path"], row["body"]
    if path == BATCH:  # a line of a batch is what an event of its own would have been
        path = b"/e"
    query = row["query"] + b"&" + mark if row["query"] else mark
    if not _is_test(row, query, body) and row["content_type"].startswith(_FORM):
        body += b"&" + mark  # a test parameter in the body beats the one in the query
    if not _is_test(row, query, body):
        return "says_it_is_no_test"
    return _NOT_IN_A_URL.sub(lambda found: b"%%%02X" % found[0][0], path + b"?" + query), body


def _is_test(row: Mapping[str, Any], query: bytes, body: bytes) -> bool:
    """Whether the engine reads it as a test, or cannot read it at all, so that it fires nothing."""
    hit = Hit(row["hit_id"], 0, row["route"], row["method"], row["path"], query, body, row["content_type"])
    found = parameters(hit)
    return not found or found.get("test") == "1"


def _renamed(data: bytes, clicks: Mapping[bytes, int]) -> bytes:
    """Ids of clicks that are sent too become placeholders for the ids that the staging service gives them."""
    if not clicks:
        return data

    def rename(found: re.Match[bytes]) -> bytes:
        return b"{id:%d}" % clicks[found[0]] if found[0] in clicks else found[0]

    return _ID.sub(rename, data)


def _headers(row: Mapping[str, Any]) -> dict[str, str]:
    named: Iterable[tuple[str, str]] = (("user-agent", row["user_agent"]), ("referer", row["referrer"]))
    redone = (_REDONE[flag] for flag in row["flags"] or () if flag in _REDONE)
    return {name: value for name, value in (*named, *redone) if value}
