"""What became of a hit or a postback, as one JSON document: from Redis while it is there, else from the tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from service.admin.live import Live
from service.admin.stored import Stored
from service.archive.schemas import day_of, microseconds
from service.archive.writer import Row

MASK = "***"
MOST_BODY = 2_048  # characters shown of a request's body
# names of headers and parameters whose values are secrets of somebody
_SECRET = re.compile(r"(?i)(^|[_.-])(sig|signature|token|secret|password|passwd|pwd|auth|authorization|api_?key|key)$")
_ID = re.compile("[0-9a-f]{32}")

Document = dict[str, Any]
_T = TypeVar("_T")


class Status:
    """Answers about ids. Blocking: called from a thread."""

    def __init__(self, live: Live, stored: Stored) -> None:
        self._live = live
        self._stored = stored

    def hit(self, hit_id: str) -> Document | None:
        """The hit, the decision about it, its postbacks with their tries; None if neither Redis nor tables know it.

        `verdict` is None while the hit is not decided. Raises RedisError where the journal is away.
        """
        if not _ID.fullmatch(hit_id):
            return None
        waiting = self._live.hit(hit_id)
        found = waiting or _first(self._stored.of_hit("hits", hit_id))
        if found is None:
            return None
        decision = self._live.decision(found) or _first(self._stored.of_hit("decisions", hit_id))
        fired = decision is not None and bool(decision["fired"])
        postbacks = self._postbacks(found, hit_id) if fired else []
        return _hit(found, "journal" if waiting else "tables") | _decision(decision) | {"postbacks": postbacks}

    def postback(self, postback_id: str) -> Document | None:
        """A postback with its tries, None if neither Redis nor tables know it. Raises RedisError as `hit` does."""
        if not _ID.fullmatch(postback_id):
            return None
        row = self._live.postback(postback_id) or self._stored.postback(postback_id)
        return None if row is None else self._told([row])[0]

    def _postbacks(self, hit: Row, hit_id: str) -> list[Document]:
        rows = [*self._live.postbacks(hit["partition"], hit_id), *self._stored.of_hit("postbacks", hit_id)]
        return self._told(_distinct(rows, lambda row: row["postback_id"]))

    def _told(self, rows: Sequence[Row]) -> list[Document]:
        """The postbacks of one hit with their tries."""
        if not rows:
            return []
        partition, day = rows[0]["partition"], day_of(microseconds(rows[0]["time"]))
        ids = [row["postback_id"] for row in rows]
        tries = [*self._live.attempts(partition, ids), *self._stored.attempts(ids, day)]
        attempts = sorted(_distinct(tries, lambda row: row["n"]), key=lambda row: row["n"])
        unsettled = self._live.unsettled(partition, ids)
        return [
            _postback(row, [a for a in attempts if a["postback_id"] == row["postback_id"]], unsettled) for row in rows
        ]


def _hit(row: Row, found_in: str) -> Document:
    names = ("hit_id", "partition", "epoch", "seq", "time", "received_at", "route", "refusal", "flags")
    request = {name: _text(row[name]) for name in ("method", "path", "query", "content_type", "address", "user_agent",
                                                   "referrer")}  # fmt: skip
    request["query"] = _masked_query(request["query"])
    request["body"] = _text(row["body"])[:MOST_BODY]
    return {name: _plain(row.get(name)) for name in names} | {"found_in": found_in, "request": request}


def _decision(row: Row | None) -> Document:
    if row is None:
        return {"verdict": None, "says": "stored, not decided yet", "firings": []}
    names = (
        "verdict",
        "reason",
        "detail",
        "client",
        "event",
        "affiliate",
        "visitor",
        "test",
        "not_fired",
        "rulebook_id",
    )
    what = ": ".join(part for part in (row["reason"], row["detail"]) if part)
    return {name: _plain(row[name]) for name in names} | {
        "says": f"{row['verdict']}{f', {what}' if what else ''}", "fields": dict(row["fields"] or ()),
        "params": dict(row["params"] or ()), "firings": list(row["fired"] or ()),
    }  # fmt: skip


def _postback(row: Row, attempts: Sequence[Row], unsettled: frozenset[str]) -> Document:
    names = ("postback_id", "hit_id", "time", "client", "affiliate", "trigger", "event", "recipient", "method", "verb",
             "body", "missing", "payout", "currency", "test")  # fmt: skip
    state = attempts[-1]["state"] if attempts else row["state"]
    return {name: _plain(row[name]) for name in names} | {
        "url": masked_url(row["url"] or ""), "state": state, "held": row["postback_id"] in unsettled,
        "attempts": [_attempt(attempt) for attempt in attempts],
    }  # fmt: skip


def _attempt(row: Row) -> Document:
    names = (
        "number",
        "time",
        "verb",
        "body",
        "result",
        "status",
        "answer",
        "error",
        "duration_us",
        "state",
        "next_due",
    )
    headers = {name: MASK if _SECRET.search(name) else value for name, value in dict(row["headers"] or ()).items()}
    return {name: _plain(row[name]) for name in names} | {"url": masked_url(row["url"] or ""), "headers": headers}


def masked_url(url: str) -> str:
    """The address without what opens doors: a login in front of the host, parameters that are named like secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    host = parts.netloc.rpartition("@")
    netloc = f"{MASK}@{host[2]}" if host[1] else parts.netloc
    return urlunsplit((parts.scheme, netloc, parts.path, _masked_query(parts.query), parts.fragment))


def _masked_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(f"{name}={MASK}" if sign and _SECRET.search(name) else name + sign + value
                    for name, sign, value in pairs)  # fmt: skip


def _first(rows: Sequence[Row]) -> Row | None:
    return rows[0] if rows else None


def _distinct(rows: Iterable[Row], identity: Callable[[Row], _T]) -> list[Row]:
    """Each row once: what is being archived is in Redis and in the tables for a moment."""
    return list({identity(row): row for row in rows}.values())


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value or "")


def _plain(value: Any) -> Any:
    """A value of a row as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return dict(value)
    return value
