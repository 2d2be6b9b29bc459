"""What became of one hit, and why: read from the tables, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from lab.log import LabError
from lab.replay import Library
from lab.show import html_block, text_of
from service.engine import Stage

if TYPE_CHECKING:
    from lab.log import Log

Row = dict[str, Any]


class Explanation(msgspec.Struct, frozen=True):
    """One hit's story.

    lines: sentences and indented details in the order in which things happened. hit, decision, postbacks, attempts: the
    rows of the tables they were read from; decision is None where the hit has none.
    """

    hit_id: str
    lines: tuple[str, ...]
    hit: Row
    decision: Row | None
    postbacks: tuple[Row, ...]
    attempts: tuple[Row, ...]

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str:
        body = "<br>".join(escape(line).replace("  ", "&emsp;") for line in self.lines[1:])
        return html_block(self.lines[0], f"<div>{body}</div>")


def explain(log: Log, hit_id: str) -> Explanation:
    """Tell the story of a hit. Raises LabError if the log holds no such hit."""
    mine = pl.col("hit_id") == hit_id.strip()
    hits = log.hits.filter(mine).collect().to_dicts()
    if not hits:
        raise LabError(
            f"there is no hit {hit_id!r} in {log.path}; a hit id is the X-Hit-Id of an answer, 32 hex digits"
        )
    decision = next(iter(log.decisions.filter(mine).collect().to_dicts()), None)
    postbacks = tuple(log.postbacks.filter(mine).sort("n").collect().to_dicts())
    promised = [row["postback_id"] for row in postbacks]
    tried = log.attempts.filter(pl.col("postback_id").is_in(promised)).sort("postback_id", "number").collect()
    attempts = tuple(tried.to_dicts())
    lines = (*_request(hits[0]), *_verdict(decision), *_triggers(log, decision), *_postbacks(postbacks, attempts))
    return Explanation(hits[0]["hit_id"], lines, hits[0], decision, postbacks, attempts)


def _request(hit: Row) -> Iterator[str]:
    place = f"partition {hit['partition']}, epoch {hit['epoch']}, entry {hit['seq']}"
    query = b"?" + hit["query"] if hit["query"] else b""
    yield f"Hit {hit['hit_id']} at {text_of(hit['time'])} UTC ({place})"
    yield f"  {hit['method']} {(hit['path'] + query).decode(errors='backslashreplace')} from {hit['address'] or 'nowhere'}"
    if hit["body"]:
        yield f"  body: {hit['body'].decode(errors='backslashreplace')[:300]}"
    if hit["flags"]:
        yield f"  flags: {', '.join(hit['flags'])}"
    yield f"  read as: {_pairs(hit['params'])}"


def _verdict(decision: Row | None) -> Iterator[str]:
    if decision is None:
        yield "There is no decision about it in the log; replay the log to see one"
        return
    if decision["verdict"] != "accepted":
        because = ": ".join(part for part in (decision["reason"], decision["detail"]) if part)
        yield f"Verdict: {decision['verdict']}{f', {because}' if because else ''}"
    else:
        yield f"Verdict: accepted as event {decision['event']!r} of client {decision['client']!r}" + (
            ", a test" if decision["test"] else ""
        )
    if decision["visitor"]:
        known = "seen for the first time" if decision["new_visitor"] else "known before"
        yield f"  visitor: {decision['visitor']}, {known}"
        yield f"  affiliate: {decision['affiliate'] or 'none'}"
        yield f"  parameters, own and remembered: {_pairs(decision['params'])}"
    for name, meaning in (("absorbed", "visitors that became one with it"), ("conflicts", "visitors left apart")):
        if decision[name]:
            yield f"  {meaning}: {', '.join(decision[name])}"


def _triggers(log: Log, decision: Row | None) -> Iterator[str]:
    """Every trigger of the client: fired, or where it stopped."""
    if decision is None or decision["verdict"] != "accepted":
        return
    yield f"Triggers (rulebook {decision['rulebook_id']})"
    fired = {firing["trigger"]: firing for firing in decision["fired"]}
    for name in _names(log, decision, [*fired, *decision["not_fired"]]):
        if name in fired:
            payout = f", payout {fired[name]['payout']} {fired[name]['currency']}" if fired[name]["payout"] else ""
            yield f"  {name}: fired{payout}"
        else:
            stage = decision["not_fired"].get(name, Stage.EVENT.value)
            yield f"  {name}: stopped at {stage} ({STOPPED[stage]})"


def _names(log: Log, decision: Row, known: list[str]) -> list[str]:
    """The client's triggers in the order of the rulebook; only the named ones if its text is not stored."""
    try:
        rulebook = Library(log).find(decision["rulebook_id"])
    except LabError:
        return known
    return [trigger.name for trigger in rulebook.triggers if trigger.client == decision["client"]]


STOPPED = {
    Stage.INACTIVE: "paused or outside its dates",
    Stage.EVENT: "waits for another event",
    Stage.RECIPIENT: "no known affiliate to post to",
    Stage.STEPS: "the steps before did not happen in order and in time",
    Stage.CONDITION: "its condition does not hold",
    Stage.SAMPLE: "the visitor is in the held back sample",
    Stage.ONCE: "used up by an earlier hit of the visitor",
    Stage.CAP: "the cap is reached",
}


def _postbacks(postbacks: tuple[Row, ...], attempts: tuple[Row, ...]) -> Iterator[str]:
    if postbacks:
        yield "Postbacks"
    for postback in postbacks:
        request = f"{postback['verb']} {postback['url']}".strip() or "no endpoint"
        yield f"  {postback['trigger']} to {postback['recipient']}: {postback['state']}, {request}"
        yield f"    id {postback['postback_id']}"
        if postback["body"]:
            yield f"    body: {postback['body']}"
        if postback["missing"]:
            yield f"    without a value: {', '.join(postback['missing'])}"
        tried = [row for row in attempts if row["postback_id"] == postback["postback_id"]]
        yield from (f"    {_attempt(row)}" for row in tried)
        if not tried and postback["state"] == "due":
            yield "    not tried yet"


def _attempt(row: Row) -> str:
    answer = f"status {row['status']}" if row["status"] else row["error"] or "no answer"
    again = f", again at {text_of(row['next_due'])} UTC" if row["next_due"] else ""
    what = f"{row['result']}, {answer}, {row['duration_us'] / 1000:.0f} ms"
    return f"attempt {row['number']} at {text_of(row['time'])} UTC: {what}; {row['state']}{again}"


def _pairs(params: dict[str, str] | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in (params or {}).items()) or "nothing"
