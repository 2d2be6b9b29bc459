"""Who a visitor is: what is kept of one, and the state of a partition.

keys: by which visitors are found. recognition: whose hit this is. memory: what a hit leaves behind.
"""

from __future__ import annotations

import msgspec

from service.engine.keys import identifier_keys, space, test_click_key, txid_key, wanted_keys

__all__ = [
    "HISTORY", "MAX_REMEMBERED", "EventStat", "Remembered", "State", "Visitor", "identifier_keys", "space",
    "test_click_key", "txid_key", "wanted_keys",
]  # fmt: skip

HISTORY = 256  # counted events and clicks kept per visitor
MAX_REMEMBERED = 200  # parameter names kept per visitor


class EventStat(msgspec.Struct, array_like=True, gc=False):
    """How often a visitor did one event, when first and last, and the reserved values of the last time."""

    count: int
    first_us: int
    last_us: int
    last_seq: int
    fields: dict[str, str]


class Remembered(msgspec.Struct, array_like=True, gc=False):
    """One remembered parameter: last and first value, and the sequence numbers of the hits they came from."""

    last: str
    last_seq: int
    first: str
    first_seq: int


class Visitor(msgspec.Struct, array_like=True, gc=False):
    """A person as one client knows them.

    history: (seq, time_us, event) of the last counted events. clicks: (seq, time_us, affiliate) of the last clicks that
    named one. params: sorted by name. once: triggers used up. dropped: remembered names lost to the bound.
    browsers: tag ids that may be given something, see `admission`.
    """

    id: str
    uid: str = ""
    last_us: int = 0
    identifiers: list[str] = msgspec.field(default_factory=list)
    history: list[tuple[int, int, str]] = msgspec.field(default_factory=list)
    events: dict[str, EventStat] = msgspec.field(default_factory=dict)
    params: dict[str, Remembered] = msgspec.field(default_factory=dict)
    clicks: list[tuple[int, int, str]] = msgspec.field(default_factory=list)
    once: list[str] = msgspec.field(default_factory=list)
    dropped: int = 0
    browsers: list[str] = msgspec.field(default_factory=list)


class State:
    """What the engine remembers of one partition. Every write goes through a method, so that a store can record it."""

    __slots__ = ("caps", "owners", "txids", "visitors")

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}  # identifier key -> visitor id
        self.visitors: dict[str, Visitor] = {}
        self.txids: dict[str, int] = {}  # transaction key -> time of the accepted hit
        self.caps: dict[str, int] = {}  # cap key -> hits that reached it

    def put_visitor(self, visitor: Visitor) -> None:
        """Keep a new or changed visitor."""
        self.visitors[visitor.id] = visitor

    def put_owner(self, key: str, visitor_id: str) -> None:
        """Give an identifier to a visitor."""
        self.owners[key] = visitor_id

    def drop_owner(self, key: str) -> None:
        """Remove an identifier of a forgotten visitor; a later `put_owner` gives it away anew.

        The key need not be in `owners`: a store that fetches only what is asked for drops what it did not fetch, too.
        """
        self.owners.pop(key, None)

    def drop_visitor(self, visitor_id: str) -> None:
        """Remove a visitor that was absorbed or forgotten."""
        self.visitors.pop(visitor_id, None)

    def put_txid(self, key: str, time_us: int) -> None:
        """Note a transaction of an accepted hit."""
        self.txids[key] = time_us

    def put_cap(self, key: str, count: int) -> None:
        """Set how many hits have reached a cap."""
        self.caps[key] = count

    def drop_cap(self, key: str) -> None:
        """Remove the counter of a cap whose period is over. See `triggers.drop_past_caps`."""
        self.caps.pop(key, None)
