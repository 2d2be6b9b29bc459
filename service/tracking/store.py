"""The state of a partition in Redis: fetched for a batch, recorded while the engine writes, committed in one script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import redis

from service.engine.model import Event, Outcome, Postback, PostbackState, Rejection
from service.engine.rulebook import BROWSER_METHODS
from service.engine.visitors import State, Visitor, wanted_keys
from service.keys import Partition
from service.scripts import Script
from service.tracking.counters import increments, verdicts

_encode = msgspec.msgpack.Encoder().encode
Two = tuple[str, str]

_visitor = msgspec.msgpack.Decoder(Visitor).decode


class Recording(State):
    """A state that remembers what was written to it, for the commit."""

    __slots__ = ("dropped", "dropped_caps", "dropped_owners", "new_caps", "new_owners", "new_txids", "touched")

    def __init__(self) -> None:
        super().__init__()
        self.touched: set[str] = set()
        self.dropped: set[str] = set()
        self.dropped_owners: set[str] = set()
        self.dropped_caps: set[str] = set()
        self.new_owners: dict[str, str] = {}
        self.new_txids: dict[str, int] = {}
        self.new_caps: dict[str, int] = {}

    def put_visitor(self, visitor: Visitor) -> None:
        """Keep a new or changed visitor."""
        super().put_visitor(visitor)
        self.touched.add(visitor.id)
        self.dropped.discard(visitor.id)

    def put_owner(self, key: str, visitor_id: str) -> None:
        """Give an identifier to a visitor."""
        super().put_owner(key, visitor_id)
        self.new_owners[key] = visitor_id
        self.dropped_owners.discard(key)

    def drop_owner(self, key: str) -> None:
        """Remove an identifier of a forgotten visitor."""
        super().drop_owner(key)
        self.new_owners.pop(key, None)
        self.dropped_owners.add(key)

    def drop_visitor(self, visitor_id: str) -> None:
        """Remove a visitor that was absorbed or forgotten."""
        super().drop_visitor(visitor_id)
        self.touched.discard(visitor_id)
        self.dropped.add(visitor_id)

    def put_txid(self, key: str, time_us: int) -> None:
        """Note a transaction of an accepted hit."""
        super().put_txid(key, time_us)
        self.new_txids[key] = time_us

    def put_cap(self, key: str, count: int) -> None:
        """Set how many hits have reached a cap."""
        super().put_cap(key, count)
        self.new_caps[key] = count

    def drop_cap(self, key: str) -> None:
        """Remove the counter of a cap whose period is over."""
        super().drop_cap(key)
        self.new_caps.pop(key, None)
        self.dropped_caps.add(key)


def fetch(
    connection: redis.Redis, place: Partition, parsed: Iterable[Event | Rejection], caps: dict[str, int]
) -> Recording:
    """What the engine may read for these events, in one round trip. caps: all caps of the partition."""
    state = Recording()
    state.caps = dict(caps)
    owner_keys: dict[str, None] = {}
    txid_keys: dict[str, None] = {}
    for event in parsed:
        if isinstance(event, Event):
            owners, txids = wanted_keys(event)
            owner_keys.update(dict.fromkeys(owners))
            txid_keys.update(dict.fromkeys(txids))
    if not owner_keys and not txid_keys:
        return state
    owners_found, txids_found, visitors_found = Script(connection, "tracking/fetch")(
        [place.owners, place.txids, place.visitors], [len(owner_keys), *owner_keys, *txid_keys]
    )
    state.owners = _found(owner_keys, owners_found, bytes.decode)
    state.txids = _found(txid_keys, txids_found, int)
    state.visitors = _found(dict.fromkeys(state.owners.values()), visitors_found, _visitor)
    return state


def _found(names: Iterable[str], values: Sequence[Any], convert: Any) -> dict[str, Any]:
    return {name: convert(value) for name, value in zip(names, values, strict=False) if value is not None}


def commit_keys(place: Partition) -> list[str]:
    """The keys of the commit script."""
    return [
        place.fence, place.lease, place.tracked, place.head, place.owners, place.visitors, place.txids, place.caps,
        place.counts, place.decisions, place.postbacks, place.promises, place.due, place.settled, place.tries, place.dead,
        place.ended, place.new, place.verdicts,
    ]  # fmt: skip


def commit_args(
    state: Recording, decided: Sequence[tuple[int, Outcome]], place: Partition | None = None, keep_s: int = 0
) -> list[Any]:
    """The lists of the commit script.

    decided: epoch and outcome of each hit, in order. keep_s: how long a postback waits for a browser. place: whose
    keys that are, None where nothing waits for one.
    """
    postbacks = [postback for _, outcome in decided for postback in outcome.postbacks]
    in_browsers, moved = for_browsers(place, state, [outcome for _, outcome in decided]) if place else ([], [])
    rows = [(f"{epoch}-{outcome.seq}", _encode(without_postbacks(outcome))) for epoch, outcome in decided]
    lists: tuple[tuple[int, list[Any]], ...] = (
        (2, [part for pair in state.new_owners.items() for part in pair]),
        (2, [part for key in sorted(state.touched) for part in (key, _encode(state.visitors[key]))]),
        (1, sorted(state.dropped)),
        (2, [part for pair in state.new_txids.items() for part in pair]),
        (2, [part for pair in state.new_caps.items() for part in pair]),
        (2, [part for pair in increments(outcome for _, outcome in decided).items() for part in pair]),
        (2, [part for row in rows for part in row]),
        (3, [part for postback in postbacks for part in _promise(postback, keep_s)]),
        (3, [part for one in in_browsers for part in (*one, keep_s)]),
        (2, [part for one in moved for part in one]),
        (1, sorted(state.dropped_owners)),
        (1, sorted(state.dropped_caps)),
        (2, [part for pair in verdicts(outcome for _, outcome in decided).items() for part in pair]),
    )
    args: list[Any] = []
    for width, values in lists:
        args.append(len(values) // width)
        args += values
    return args


def _promise(postback: Postback, keep_s: int) -> tuple[str, int, bytes]:
    """id, when it is due, and itself. One for a browser is due for the courier when it expires."""
    due_us = postback.time_us if postback.state == PostbackState.DUE.value else 0
    if due_us and postback.method in BROWSER_METHODS:
        due_us += keep_s * 1_000_000
    return postback.id, due_us, _encode(postback)


def for_browsers(place: Partition, state: State, outcomes: Sequence[Outcome]) -> tuple[list[Two], list[Two]]:
    """Postbacks that wait for browsers, each with the list that it waits in, and lists that go on in another one.

    What an event with a tag id that is not believed has fired waits nowhere: it is not the visitor who may have it.
    """
    waiting, moved = [], []
    for outcome in outcomes:
        moved += [(place.waiting_of(one), place.waiting_of(outcome.visitor)) for one in outcome.absorbed]
        for postback in outcome.postbacks:
            if postback.method in BROWSER_METHODS and postback.state == PostbackState.DUE.value:
                visitor, tag = state.visitors.get(outcome.visitor), outcome.fields.get("tag_id")
                if visitor is not None and (tag is None or tag in visitor.browsers):
                    waiting.append((place.waiting_of(visitor.id), postback.id))
    return waiting, moved


def without_postbacks(outcome: Outcome) -> Outcome:
    """The outcome as the decisions keep it; its postbacks have a stream and a table of their own."""
    return msgspec.structs.replace(outcome, postbacks=()) if outcome.postbacks else outcome
