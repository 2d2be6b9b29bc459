"""What became of one hit, and why: its past is replayed, the engine tells the story, the tables say what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from lab.log import LabError
from lab.replay import Library, Progress, Rules, Stream, rulebook_of
from lab.show import plural, text_of
from service.archive.schemas import decision_row, microseconds
from service.engine import EMPTY, Entry, Outcome, Rulebook, State, process
from service.engine.explain import Story, explain_lines
from service.engine.explain import explain as tell
from service.engine.trail import Place, Trail
from service.engine.words import moment

if TYPE_CHECKING:
    from lab.log import Log

Row = dict[str, Any]

_PLACE = ("hit_id", "time", "partition", "epoch", "seq")
_REPORT_EVERY = 1_000  # hits between two calls of `progress`
_COMPARED = ("verdict", "reason", "client", "event", "affiliate", "visitor", "test", "fired", "not_fired")

RESULTS = {
    "delivered": "delivered",
    "redirect": "the recipient redirected, which is not followed",
    "refused": "the recipient refused it",
    "gone": "the recipient says that this address is gone",
    "busy": "the recipient is busy",
    "server_error": "the recipient's server failed",
    "timeout": "no answer in time",
    "connection": "no connection",
    "tls": "the certificate or the handshake is bad",
    "name": "the host's name does not resolve",
    "address": "the address may not be called",
    "no_secret": "the signing secret is not set",
    "mail_server": "trouble with the mail server of the settings",
    "unknown": "how it ended is not known, since the sending process died",
    "handed_out": "handed out to the visitor's browser",
    "script_error": "the snippet failed in the visitor's browser",
    "expired": "the visitor's browser did not come for it, or did not confirm it, in time",
}


class Explanation(msgspec.Struct, frozen=True):
    """One hit's story.

    lines: sentences and indented details, for a person. story: the same in parts, see service/engine/explain.py; None where
    the hit cannot be decided again. notes: what makes the story less than certain. hit, decision, postbacks, attempts: the
    rows of the tables; decision is None where the hit has none. For an affiliate only the rows of its own postbacks.

    >>> story = explain(log, run.postbacks["hit_id"][0])
    >>> story.decision["verdict"]
    'accepted'
    >>> len(story.postbacks) > 0
    True
    """

    hit_id: str
    lines: tuple[str, ...]
    story: Story | None
    notes: tuple[str, ...]
    hit: Row
    decision: Row | None
    postbacks: tuple[Row, ...]
    attempts: tuple[Row, ...]

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str:
        from lab.explain_page import explanation_html

        return explanation_html(self)


def explain(
    log: Log, hit_id: str, rules: Rules = None, progress: Progress | None = None, *, for_affiliate: bool = False
) -> Explanation:
    """Tell the story of a hit.

    The hits of its partition before it are replayed, so that the visitor is known as it was then. rules: None for the
    rulebooks of the log; or one for all of it, to see what another rulebook would have made of the hit. progress: called
    with (hits done, hits in all). for_affiliate: without what is private to the client. Raises LabError if the log holds no
    such hit (for an affiliate also without the rulebook, which says what is private), RulebookError for broken rules.
    """
    hit, pinned = find_hit(log, hit_id), rulebook_of(rules)
    mine = pl.col("hit_id") == hit["hit_id"]
    decision = next(iter(log.decisions.filter(mine).collect().to_dicts()), None)
    postbacks = tuple(log.postbacks.filter(mine).sort("n").collect().to_dicts())
    promised = [row["postback_id"] for row in postbacks]
    tried = log.attempts.filter(pl.col("postback_id").is_in(promised)).sort("postback_id", "number").collect()
    attempts = tuple(tried.to_dicts())
    if for_affiliate:
        postbacks = tuple(row for row in postbacks if row["recipient"].startswith("affiliate:"))
        attempts = tuple(row for row in attempts if row["postback_id"] in {one["postback_id"] for one in postbacks})
    shown = {name: hit[name] for name in _PLACE} if for_affiliate else hit
    try:
        told = Before(log, hit, pinned).tell(progress, for_affiliate)
    except LabError as error:
        if for_affiliate:  # without the rulebook nobody knows what is private
            raise
        lines = (*_stored(hit, decision), f"note: {error}")
        return Explanation(hit["hit_id"], lines, None, (str(error),), hit, decision, postbacks, attempts)
    story, outcome, by, warnings = told
    notes = () if for_affiliate else (*warnings, *_differs(decision, outcome, hit, pinned))
    sent = [
        p for p in story.postbacks if pinned is None and (not for_affiliate or p.recipient.startswith("affiliate:"))
    ]
    became = {p.id: tuple(_became(p.id, p.state, postbacks, attempts, decision)) for p in sent}
    lines = (*explain_lines(story, became), f"{by} In the log: {place_of(hit)}.", *(f"note: {note}" for note in notes))
    return Explanation(
        hit["hit_id"], lines, story, notes, shown, None if for_affiliate else decision, postbacks, attempts
    )


def find_hit(log: Log, hit_id: str) -> Row:
    """The row of a hit. Raises LabError if the log holds no such hit."""
    hits = log.hits.filter(pl.col("hit_id") == hit_id.strip()).collect().to_dicts()
    if hits:
        return hits[0]
    newer = int(log.cuts["beyond"].sum())
    among = f"; it may be among the {plural(newer, 'newer hit')} not yet committed in all tables" if newer else ""
    raise LabError(
        f"there is no hit {hit_id!r} in {log.path}; a hit id is the X-Hit-Id of an answer, 32 hex digits{among}"
    )


class Before:
    """The partition of a hit, replayed up to the hit."""

    def __init__(self, log: Log, hit: Row, pinned: Rulebook | None) -> None:
        self._log = log
        self._partition, self._seq = hit["partition"], hit["seq"]
        self._pinned = pinned

    def tell(
        self, progress: Progress | None, for_affiliate: bool = False
    ) -> tuple[Story, Outcome, str, tuple[str, ...]]:
        """The story, the outcome, a sentence about the rulebook in force, and what was odd on the way."""
        library, stream, state = Library(self._log), Stream(self._log, self._partition), State()
        trail = Trail(lru_cache(maxsize=None)(self._place))
        current = self._pinned or library.at_start(self._partition) or EMPTY
        since = ""
        for entry in stream.entries():
            if entry.hit is None:
                current = current if self._pinned else library.find(entry.rulebook_id)
                since = f", in force since {moment(entry.time_us)}"
            elif entry.seq < self._seq:
                trail.note(process(entry, state, current))
                self._report(entry, progress)
            else:
                story = tell(entry, state, current, trail, for_affiliate=for_affiliate)
                by = _decided_by(current, self._pinned is not None, since)
                return story, process(entry, state, current), by, tuple(stream.warnings)
        raise LabError(f"entry {self._seq} of partition {self._partition} is beyond the part of the log that is whole")

    def _report(self, entry: Entry, progress: Progress | None) -> None:
        if progress is not None and entry.seq % _REPORT_EVERY == 0:
            progress(entry.seq, self._seq)

    def _place(self, seq: int) -> Place | None:
        here = (pl.col("partition") == self._partition) & (pl.col("seq") == seq)
        rows = self._log.hits.filter(here).select("hit_id", "time").head(1).collect().rows()
        return (rows[0][0], microseconds(rows[0][1])) if rows else None


def _decided_by(rulebook: Rulebook, given: bool, since: str) -> str:
    if rulebook is EMPTY:
        return "No rulebook was in force yet."
    return f"Decided by rulebook {rulebook.id}{', which was given for this' if given else since}."


def place_of(hit: Row) -> str:
    """Where a hit stands in the log."""
    return f"partition {hit['partition']}, epoch {hit['epoch']}, entry {hit['seq']}"


def _differs(decision: Row | None, outcome: Outcome, hit: Row, pinned: Rulebook | None) -> Iterator[str]:
    """Whether the log itself says otherwise."""
    if decision is None:
        if pinned is None:
            yield "the log holds no decision about this hit; this is what the engine says now"
        return
    again = decision_row(hit["partition"], hit["epoch"], outcome)
    names = [name for name in _COMPARED if _plain(decision[name]) != _plain(again[name])]
    if names and pinned is None:
        was = "; ".join(f"{name} {_plain(decision[name])!r}" for name in names)
        yield f"the log's own decision differs: {was}"
    elif names:
        yield f"with these rules the hit ends differently than it did live, in {', '.join(names)}"


def _plain(value: Any) -> Any:
    """A value of a row in one form: a map is a mapping or a list of pairs, an empty one is nothing."""
    if not value:
        return None
    if isinstance(value, list) and isinstance(value[0], tuple):
        value = dict(value)
    if isinstance(value, dict):
        return {name: str(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _became(
    postback_id: str, state: str, postbacks: tuple[Row, ...], attempts: tuple[Row, ...], decision: Row | None
) -> Iterator[str]:
    """What became of one postback."""
    tried = [row for row in attempts if row["postback_id"] == postback_id]
    if decision is not None and all(row["postback_id"] != postback_id for row in postbacks):
        yield "It is missing among the postbacks of this log."
    yield from (_attempt(row) for row in tried)
    if not tried and state == "due":
        yield "Not tried yet, as far as this log goes."
    elif tried and tried[-1]["state"] in ("failed", "dead"):
        yield f"It was not delivered and will not be tried again ({tried[-1]['state']}). It is kept, with its tries."


def _attempt(row: Row) -> str:
    status = f", status {row['status']}" if row["status"] else ""
    error = f" ({row['error']})" if row["error"] else ""
    again = f"; next try at {text_of(row['next_due'])} UTC" if row["next_due"] else ""
    what = RESULTS.get(row["result"], row["result"])
    took = f"{row['duration_us'] / 1000:.0f} ms"
    return f"Try {row['number']}, {text_of(row['time'])} UTC: {what}{status}{error}, after {took}{again}."


def _stored(hit: Row, decision: Row | None) -> Iterator[str]:
    """What the tables say by themselves, where the hit cannot be decided again."""
    query = b"?" + hit["query"] if hit["query"] else b""
    yield f"Hit {hit['hit_id']}, {text_of(hit['time'])} UTC"
    yield f"  {hit['method']} {(hit['path'] + query).decode(errors='backslashreplace')} from {hit['address'] or 'nowhere'}"
    if decision is None:
        yield "The log holds no decision about it."
        return
    because = ": ".join(part for part in (decision["reason"], decision["detail"]) if part)
    yield f"Verdict: {decision['verdict']}{f', {because}' if because else ''}"
    yield from (f"Trigger {firing['trigger']} fired" for firing in decision["fired"])
    yield from (f"Trigger {name} did not fire ({stage})" for name, stage in decision["not_fired"].items())
