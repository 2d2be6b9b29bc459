"""Who a visitor is: what is kept of one, the state of a partition, and the keys by which visitors are found.

recognition: whose hit this is. memory: what a hit leaves behind.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from service.engine.model import IDENTIFIERS, Event

HISTORY = 256  # counted events and clicks kept per visitor
MAX_REMEMBERED = 200  # parameter names kept per visitor

_SEPARATOR = "\x1f"  # cannot be confused with a value: it only joins, nothing splits at it


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
    browsers: tag ids that may be given something, see `browsers.admit`.
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


@lru_cache(maxsize=4096)
def space(client: str, test: bool) -> str:
    """Prefix of all keys of a client; test traffic has a space of its own."""
    return f"{client}{_SEPARATOR}{'t' if test else ''}{_SEPARATOR}"


@lru_cache(maxsize=4096)
def _stems(prefix: str) -> tuple[tuple[str, str], ...]:
    """What stands before the value in the key of each kind of identifier."""
    return tuple([(kind, f"{prefix}{kind}{_SEPARATOR}") for kind in IDENTIFIERS])


def identifier_keys(prefix: str, fields: dict[str, str]) -> list[str]:
    """Keys of the identifiers that an event brings, strongest first."""
    keys = []
    for kind, stem in _stems(prefix):
        if kind in fields:
            keys.append(stem + fields[kind])
    return keys


def test_click_key(client: str, click_id: str) -> str:
    """The key that a test click leaves for the click id it minted. It makes every later hit with this id a test."""
    return f"{space(client, True)}minted{_SEPARATOR}{click_id}"


def txid_key(prefix: str, event: Event) -> str | None:
    """Key of (client, event, txid), None without a txid."""
    txid = event.fields.get("txid")
    return None if txid is None else f"{prefix}{event.name}{_SEPARATOR}{txid}"


def wanted_keys(event: Event) -> tuple[list[str], list[str]]:
    """Owner keys and transaction keys that the decision about this event may read: what a store has to fetch."""
    click_id = event.fields.get("click_id")
    owners = [] if event.test or click_id is None else [test_click_key(event.client, click_id)]
    txids: list[str] = []
    spaces = (True,) if event.test else ((False,) if click_id is None else (False, True))
    for test in spaces:
        prefix = space(event.client, test)
        owners += identifier_keys(prefix, event.fields)
        txid = txid_key(prefix, event)
        if txid is not None:
            txids.append(txid)
    return owners, txids
