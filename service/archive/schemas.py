"""The tables: columns, units, and the two ways across: values to rows and rows to values.

All tables are Delta tables partitioned by `day` (UTC date of `time`, as text). Every stream of rows into a table is one
partition's own contiguous sequence: `seq` in hits and decisions, `n` in postbacks and attempts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
import pyarrow as pa

from service.engine.model import DECODER_VERSION, Entry, Firing, Hit, Outcome, Postback

TABLE_VERSION = 1

_TIME = pa.timestamp("us", tz="UTC")
_TEXTS = pa.list_(pa.string())
_MAP = pa.map_(pa.string(), pa.string())
_FIRED = pa.list_(pa.struct([("trigger", pa.string()), ("payout", pa.string()), ("currency", pa.string())]))

SCHEMAS: dict[str, pa.Schema] = {
    # one row per journal entry: `kind` is hit, rulebook, epoch (something was lost before it) or unreadable (set aside, its
    # bytes are the body); `params` as the engine's decoder of version `decoder` read them
    "hits": pa.schema([
        ("day", pa.string()), ("partition", pa.int32()), ("epoch", pa.int32()), ("seq", pa.int64()), ("time", _TIME),
        ("kind", pa.string()), ("hit_id", pa.string()), ("received_at", _TIME), ("route", pa.string()),
        ("method", pa.string()), ("path", pa.binary()), ("query", pa.binary()), ("body", pa.binary()),
        ("content_type", pa.string()), ("address", pa.string()), ("user_agent", pa.string()), ("referrer", pa.string()),
        ("refusal", pa.string()), ("flags", _TEXTS), ("params", _MAP), ("decoder", pa.int32()),
        ("rulebook_id", pa.string()),
    ]),
    # one row per hit: what the engine said about it; `not_fired` maps trigger to stage
    "decisions": pa.schema([
        ("day", pa.string()), ("partition", pa.int32()), ("epoch", pa.int32()), ("seq", pa.int64()), ("time", _TIME),
        ("hit_id", pa.string()), ("verdict", pa.string()), ("reason", pa.string()), ("detail", pa.string()),
        ("client", pa.string()), ("event", pa.string()), ("affiliate", pa.string()), ("visitor", pa.string()),
        ("test", pa.bool_()), ("new_visitor", pa.bool_()), ("fields", _MAP), ("params", _MAP), ("fired", _FIRED),
        ("not_fired", _MAP), ("absorbed", _TEXTS), ("conflicts", _TEXTS), ("rulebook_id", pa.string()),
    ]),
    # one row per promise, immutable
    "postbacks": pa.schema([
        ("day", pa.string()), ("partition", pa.int32()), ("n", pa.int64()), ("seq", pa.int64()), ("time", _TIME),
        ("postback_id", pa.string()), ("hit_id", pa.string()), ("client", pa.string()), ("affiliate", pa.string()),
        ("trigger", pa.string()), ("event", pa.string()), ("recipient", pa.string()), ("method", pa.string()),
        ("state", pa.string()), ("verb", pa.string()), ("url", pa.string()), ("body", pa.string()), ("missing", _TEXTS),
        ("payout", pa.string()), ("currency", pa.string()), ("test", pa.bool_()),
    ]),
    # one row per try to deliver: the request as it was sent and the head of the answer
    "attempts": pa.schema([
        ("day", pa.string()), ("partition", pa.int32()), ("n", pa.int64()), ("time", _TIME), ("postback_id", pa.string()),
        ("number", pa.int32()), ("recipient", pa.string()), ("verb", pa.string()), ("url", pa.string()),
        ("body", pa.string()), ("headers", _MAP), ("result", pa.string()), ("status", pa.int32()), ("answer", pa.string()),
        ("error", pa.string()), ("duration_us", pa.int64()), ("state", pa.string()), ("next_due", _TIME),
    ]),
    # every text that was ever published
    "rulebooks": pa.schema([
        ("day", pa.string()), ("time", _TIME), ("rulebook_id", pa.string()), ("text", pa.string()), ("source", pa.string()),
    ]),
}  # fmt: skip


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try to deliver a postback, with its full request and the head of its answer.

    number: from 1. result: the class named in service/delivery/README.md. status: 0 without an answer. state: what the
    postback is afterwards (due, delivered, failed, dead). next_due_us: 0 if there is no further try.
    """

    postback_id: str
    number: int
    time_us: int
    recipient: str
    verb: str
    url: str
    body: str
    headers: dict[str, str]
    result: str
    status: int
    answer: str
    error: str
    duration_us: int
    state: str
    next_due_us: int = 0


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


def moment(time_us: int) -> datetime:
    """Microseconds since 1970 as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=time_us)


def microseconds(value: datetime) -> int:
    """An aware datetime as microseconds since 1970."""
    return (value - _EPOCH) // timedelta(microseconds=1)


def day_of(time_us: int) -> str:
    """UTC date as `2026-11-23`."""
    return _day(time_us // _DAY_US)


@lru_cache(maxsize=64)
def _day(days: int) -> str:
    return (_EPOCH + timedelta(days=days)).strftime("%Y-%m-%d")


def table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table in the columns of `name`."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS[name])


def hit_row(entry: Entry, params: Mapping[str, str]) -> dict[str, Any]:
    """A row of `hits`. params: what the engine's decoder read, empty where it could not."""
    row: dict[str, Any] = {
        "day": day_of(entry.time_us), "partition": entry.partition, "epoch": entry.epoch, "seq": entry.seq,
        "time": moment(entry.time_us), "kind": "rulebook", "rulebook_id": entry.rulebook_id, "decoder": DECODER_VERSION,
    }  # fmt: skip
    hit = entry.hit
    if hit is not None:
        row |= {
            "kind": "hit", "hit_id": hit.id, "received_at": moment(hit.received_at_us), "route": hit.route,
            "method": hit.method, "path": hit.path, "query": hit.query, "body": hit.body,
            "content_type": hit.content_type, "address": hit.address, "user_agent": hit.user_agent,
            "referrer": hit.referrer, "refusal": hit.refusal, "flags": list(hit.flags), "params": list(params.items()),
        }  # fmt: skip
    return row


def entry_of(row: Mapping[str, Any]) -> Entry:
    """The journal entry that a row of `hits` was made of."""
    hit = None
    if row["kind"] == "hit":
        hit = Hit(
            row["hit_id"], microseconds(row["received_at"]), row["route"], row["method"], row["path"], row["query"],
            row["body"], row["content_type"], row["address"], row["user_agent"], row["referrer"], row["refusal"],
            tuple(row["flags"] or ()),
        )  # fmt: skip
    return Entry(row["partition"], row["epoch"], row["seq"], microseconds(row["time"]), hit, row["rulebook_id"] or "")


def decision_row(partition: int, epoch: int, outcome: Outcome) -> dict[str, Any]:
    """A row of `decisions`; the postbacks go to their own table."""
    return {
        "day": day_of(outcome.time_us), "partition": partition, "epoch": epoch, "seq": outcome.seq,
        "time": moment(outcome.time_us), "hit_id": outcome.hit_id, "verdict": outcome.verdict, "reason": outcome.reason,
        "detail": outcome.detail, "client": outcome.client, "event": outcome.event, "affiliate": outcome.affiliate,
        "visitor": outcome.visitor, "test": outcome.test, "new_visitor": outcome.new_visitor,
        "fields": list(outcome.fields.items()), "params": list(outcome.params.items()),
        "fired": [{"trigger": f.trigger, "payout": f.payout, "currency": f.currency} for f in outcome.fired],
        "not_fired": list(outcome.not_fired.items()), "absorbed": list(outcome.absorbed),
        "conflicts": list(outcome.conflicts), "rulebook_id": outcome.rulebook_id,
    }  # fmt: skip


def outcome_of(row: Mapping[str, Any], postbacks: tuple[Postback, ...] = ()) -> Outcome:
    """The outcome that a row of `decisions` was made of."""
    return Outcome(
        row["hit_id"], row["seq"], microseconds(row["time"]), row["verdict"], row["reason"], row["detail"], row["client"],
        row["event"], row["affiliate"], row["visitor"], row["test"], row["new_visitor"], dict(row["fields"] or ()),
        dict(row["params"] or ()), tuple(Firing(**firing) for firing in row["fired"] or ()), dict(row["not_fired"] or ()),
        postbacks, tuple(row["absorbed"] or ()), tuple(row["conflicts"] or ()), row["rulebook_id"],
    )  # fmt: skip


def postback_row(partition: int, n: int, postback: Postback) -> dict[str, Any]:
    """A row of `postbacks`."""
    row = msgspec.structs.asdict(postback)
    row["postback_id"] = row.pop("id")
    time_us = row.pop("time_us")
    return row | {
        "day": day_of(time_us), "time": moment(time_us), "partition": partition, "n": n, "missing": list(postback.missing),
    }  # fmt: skip


def postback_of(row: Mapping[str, Any]) -> Postback:
    """The postback that a row of `postbacks` was made of."""
    return Postback(
        row["postback_id"], row["hit_id"], row["seq"], microseconds(row["time"]), row["client"], row["affiliate"],
        row["trigger"], row["event"], row["recipient"], row["method"], row["state"], row["verb"], row["url"], row["body"],
        tuple(row["missing"] or ()), row["payout"], row["currency"], row["test"],
    )  # fmt: skip


def attempt_row(partition: int, n: int, attempt: Attempt) -> dict[str, Any]:
    """A row of `attempts`."""
    row = msgspec.structs.asdict(attempt)
    time_us, next_due_us = row.pop("time_us"), row.pop("next_due_us")
    return row | {
        "day": day_of(time_us), "time": moment(time_us), "partition": partition, "n": n,
        "headers": list(attempt.headers.items()), "next_due": moment(next_due_us) if next_due_us else None,
    }  # fmt: skip


def rulebook_row(time_us: int, rulebook_id: str, text: str, source: str) -> dict[str, Any]:
    """A row of `rulebooks`. source: where the text came from, such as a file name."""
    return {"day": day_of(time_us), "time": moment(time_us), "rulebook_id": rulebook_id, "text": text, "source": source}
