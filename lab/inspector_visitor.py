"""One visitor as the tables have it: its hits in order, and for each value of each hit the hit that brought it.

Only the hits of this visitor, and of those it met, are decided again, by the rulebooks that decided them live. What this
finds is compared with the stored decisions: where it differs, other visitors had a part in it, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.log import LabError
from lab.replay import Library
from service.archive.schemas import entry_of
from service.engine import Entry, Event, Outcome, Rulebook, State, parse, process
from service.engine.explain import Story, explain
from service.engine.trail import Trail
from service.engine.visitors import space, txid_key

if TYPE_CHECKING:
    from lab.log import Log

FIELDS = ("uid", "click_id", "tag_id", "txid")
MOST = 2_000  # hits of one visitor that are looked at
THIS = "this hit"

# a row per value that a hit had: its own, or remembered from an earlier hit
_LINEAGE: dict[str, Any] = {
    "hit_id": pl.String, "name": pl.String, "value": pl.String, "origin": pl.String, "from_hit": pl.String,
    "from_time": pl.Datetime("us", "UTC"), "from_event": pl.String,
}  # fmt: skip


class Inspected:
    """What is known of one visitor.

    timeline: hit_id, time, event, verdict, affiliate, fired (names), amount, visitor; in log order. lineage: hit_id, name,
    value, origin (`this hit` or `remembered`), from_hit, from_time, from_event. postbacks: the promises of these hits with
    what became of them. stories: by hit id. notes: what makes this less than certain.
    """

    def __init__(self, log: Log, visitor: str) -> None:
        self.visitor = visitor
        decisions = _decisions(log, visitor)
        hits = log.hits.filter(pl.col("hit_id").is_in(decisions["hit_id"].implode()))
        rows = hits.sort("partition", "seq").collect().to_dicts()
        self.stories: dict[str, Story] = {}
        self.notes: list[str] = []
        self._lineage: list[tuple[Any, ...]] = []
        self._decide(log, rows, {row["hit_id"]: row for row in decisions.to_dicts()})
        self.timeline = _timeline(decisions)
        self.lineage = pl.DataFrame(self._lineage, _LINEAGE, orient="row")
        self.postbacks = _postbacks(log, decisions["hit_id"])

    def _decide(self, log: Log, rows: list[dict[str, Any]], decided: dict[str, dict[str, Any]]) -> None:
        library, state, trail = Library(log), State(), Trail()
        told: dict[int, tuple[str, int, str]] = {}
        different = 0
        for row in rows:
            decision = decided[row["hit_id"]]
            try:
                rulebook = library.find(decision["rulebook_id"] or "")
            except LabError as error:
                self.notes.append(str(error))
                return
            entry = entry_of(row)
            _recall(state, entry, rulebook, decision)
            self.stories[row["hit_id"]] = explain(entry, state, rulebook, trail)
            before = {
                visitor: {name: value.last_seq for name, value in known.params.items()}
                for visitor, known in state.visitors.items()
            }
            outcome = process(entry, state, rulebook)
            trail.note(outcome)
            told[entry.seq] = row["hit_id"], entry.time_us, outcome.event
            self._trace(outcome, entry, rulebook, before, told)
            different += _differs(outcome, decision)
        if different:
            self.notes.append(
                f"{different:,} of these hits were decided with others' part in it, such as a cap: see explain"
            )

    def _trace(
        self, outcome: Outcome, entry: Entry, rulebook: Rulebook, before: dict[str, dict[str, int]],
        told: dict[int, tuple[str, int, str]],
    ) -> None:  # fmt: skip
        """Where each value of a hit came from."""
        assert entry.hit is not None
        event = parse(entry.hit, rulebook)
        own = event.params if isinstance(event, Event) else outcome.params
        remembered = dict(before.get(outcome.visitor, {}))
        for other in outcome.absorbed:
            for name, seq in before.get(other, {}).items():
                remembered[name] = max(seq, remembered.get(name, 0))
        for name, value in [*outcome.fields.items(), *outcome.params.items()]:
            if name in outcome.fields or name in own or name not in remembered:
                self._lineage.append((entry.hit.id, name, value, THIS, entry.hit.id, entry.time_us, outcome.event))
            else:
                source = told.get(remembered[name], ("", None, ""))
                self._lineage.append((entry.hit.id, name, value, "remembered", *source))


def find_visitors(log: Log, asked: str) -> pl.DataFrame:
    """Visitors that a text names: visitor, client, hits, first, last; the newest first.

    asked: a hit id, a visitor id, a postback id, or the value of uid, click_id, tag_id or txid; `uid:anna` asks for that
    field alone. Raises LabError if nobody is found.
    """
    asked = asked.strip()
    field, colon, value = asked.partition(":")
    named = colon and field in (*FIELDS, "hit", "visitor", "postback")
    value = value.strip() if named else asked
    wanted = [field] if named else [*FIELDS, "hit", "visitor", "postback"]
    tests = [pl.col("fields").map.get(name) == value for name in FIELDS if name in wanted]
    tests += [pl.col("hit_id") == value] if "hit" in wanted else []
    tests += [pl.col("visitor") == value, pl.col("absorbed").list.contains(value)] if "visitor" in wanted else []
    if "postback" in wanted:
        promised = log.postbacks.filter(pl.col("postback_id") == value).select("hit_id").collect()["hit_id"]
        tests.append(pl.col("hit_id").is_in(promised.implode()))
    found = log.decisions.filter(pl.any_horizontal(*(test.fill_null(False) for test in tests)), pl.col("visitor") != "")
    visitors = found.group_by("visitor", "client").agg(
        hits=pl.len().cast(pl.Int64), first=pl.col("time").min(), last=pl.col("time").max()
    ).sort(["last", "visitor"], descending=[True, False]).collect()  # fmt: skip
    if visitors.is_empty():
        what = f"{field} {value!r}" if named else repr(value)
        raise LabError(
            f"nobody in this log has {what}; give a hit id, a visitor, a postback id, or a uid, click id or txid"
        )
    return visitors


def _decisions(log: Log, visitor: str) -> pl.DataFrame:
    """The decisions of a visitor, of those it absorbed or was absorbed by, and of those it met; in log order."""
    known: set[str] = {visitor}
    while True:
        mine = pl.Series(sorted(known))
        met = pl.col("absorbed").list.concat(pl.col("conflicts"))
        touched = pl.col("visitor").is_in(mine.implode()) | met.list.eval(pl.element().is_in(mine.implode())).list.any()
        found = log.decisions.filter(touched).sort("partition", "seq").head(MOST + 1).collect()
        if found.height > MOST:
            raise LabError(f"visitor {visitor} and those it met have more than {MOST:,} hits; explain one hit instead")
        more = {
            *found["visitor"],
            *found["absorbed"].explode().drop_nulls(),
            *found["conflicts"].explode().drop_nulls(),
        }
        if more <= known:
            return found
        known |= more


def _recall(state: State, entry: Entry, rulebook: Rulebook, decision: dict[str, Any]) -> None:
    """A transaction that somebody else made before: known from the verdict."""
    assert entry.hit is not None
    event = parse(entry.hit, rulebook)
    if decision["verdict"] == "duplicate" and isinstance(event, Event):
        key = txid_key(space(event.client, decision["test"]), event)
        if key is not None and key not in state.txids:
            state.put_txid(key, entry.time_us)


def _differs(outcome: Outcome, decision: dict[str, Any]) -> bool:
    fired = sorted(firing["trigger"] for firing in decision["fired"])
    mine = sorted(firing.trigger for firing in outcome.fired)
    return (outcome.verdict, outcome.visitor, mine) != (decision["verdict"], decision["visitor"], fired)


def _timeline(decisions: pl.DataFrame) -> pl.DataFrame:
    field = pl.col("fields").map.get
    return decisions.select(
        "hit_id", "time", "event", "verdict", "affiliate",
        fired=pl.col("fired").list.eval(pl.element().struct.field("trigger")),
        amount=field("amount"), visitor="visitor",
    )  # fmt: skip


def _postbacks(log: Log, hit_ids: Iterable[str]) -> pl.DataFrame:
    """hit_id, postback_id, trigger, recipient, state, verb, url, body, payout, currency, tries, result of the last one."""
    mine = log.postbacks.filter(pl.col("hit_id").is_in(pl.Series(hit_ids).implode())).collect()
    tried = log.attempts.filter(pl.col("postback_id").is_in(mine["postback_id"].implode()))
    last = tried.sort("number").group_by("postback_id").agg(
        tries=pl.len().cast(pl.Int64), result=pl.col("result").last()
    ).collect()  # fmt: skip
    found = mine.sort("partition", "seq", "n").join(last, on="postback_id", how="left", maintain_order="left")
    return found.select(
        "hit_id", "postback_id", "trigger", "recipient", "state", "verb", "url", "body", "payout", "currency",
        pl.col("tries").fill_null(0), pl.col("result").fill_null(""),
    )  # fmt: skip
