"""Who a visitor is: the state of one partition, recognition, absorption, forgetting, attribution.

Recognition reads the state and answers with a plan; only `commit` writes, as the last thing that happens to a hit, so
that a hit that fails on the way leaves the state as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from service.engine.model import IDENTIFIERS, Event
from service.engine.rulebook import Client

HISTORY = 256  # counted events and clicks kept per visitor
MAX_REMEMBERED = 200  # parameter names kept per visitor

_SEPARATOR = "\x1f"  # cannot be confused with a value: it only joins, nothing splits at it
_INFIXES = tuple([(kind, kind + _SEPARATOR) for kind in IDENTIFIERS])


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
        """Remove an identifier of a forgotten visitor. One that is left over does no harm: it leads to nobody."""
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


class Recognised(msgspec.Struct, gc=False):
    """The plan of recognition: the visitor as it will be (not yet written), and what has to be written.

    keys: identifier keys of the hit in order of strength. link: those that will belong to the visitor anew.
    anonymous: the hit brought no identifier, so nobody will ever ask for this visitor again.
    """

    visitor: Visitor
    new: bool = False
    anonymous: bool = False
    link: tuple[str, ...] = ()
    absorbed: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def space(client: str, test: bool) -> str:
    """Prefix of all keys of a client; test traffic has a space of its own."""
    return f"{client}{_SEPARATOR}{'t' if test else ''}{_SEPARATOR}"


def identifier_keys(prefix: str, fields: dict[str, str]) -> list[str]:
    """Keys of the identifiers that an event brings, strongest first."""
    keys = []
    for kind, infix in _INFIXES:
        value = fields.get(kind)
        if value is not None:
            keys.append(prefix + infix + value)
    return keys


def test_click_key(client: str, click_id: str) -> str:
    """The key that a test click leaves for the click id it minted. It makes every later hit with this id a test."""
    return f"{space(client, True)}minted{_SEPARATOR}{click_id}"


def txid_key(prefix: str, event: Event) -> str | None:
    """Key of (client, event, txid), None without a txid."""
    txid = event.fields.get("txid")
    return None if txid is None else f"{prefix}{event.name}{_SEPARATOR}{txid}"


def is_test(event: Event, state: State, client: Client, time_us: int) -> bool:
    """Whether the event belongs to the space of tests: it says so, or a test click that is not forgotten minted its id."""
    if event.test:
        return True
    click_id = event.fields.get("click_id")
    if click_id is None:
        return False
    owner = state.owners.get(test_click_key(event.client, click_id))
    visitor = None if owner is None else state.visitors.get(owner)
    return visitor is not None and visitor.last_us >= time_us - client.remember_us


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


def recognise(event: Event, prefix: str, state: State, client: Client, hit_id: str, time_us: int) -> Recognised:
    """Whose hit this is, by the identifiers' owners: section "Recognition" of the engine's README."""
    keys = identifier_keys(prefix, event.fields)
    if not keys:
        return Recognised(Visitor(hit_id, last_us=time_us), new=True, anonymous=True)
    oldest_us = time_us - client.remember_us
    sole = _sole_owner(keys, state, oldest_us)
    if sole is not None:
        return Recognised(sole)
    owners, forgotten = _owners(keys, state, oldest_us)
    uid = event.fields.get("uid", "")
    visitor = _choose(uid, keys, owners)
    if visitor is None:
        chosen = Recognised(Visitor(hit_id, uid, time_us), new=True, forgotten=forgotten)
    else:
        chosen = Recognised(visitor, forgotten=forgotten)
    _claim(chosen, keys, owners)
    if event.fields.get("click_id") == hit_id and prefix == space(event.client, True):
        chosen.link += (test_click_key(event.client, hit_id),)
    return chosen


def _sole_owner(keys: list[str], state: State, oldest_us: int) -> Visitor | None:
    """The living visitor who owns every key: nearly all hits, and nothing is to be done about their identity."""
    owners = state.owners
    owner = owners.get(keys[0])
    if owner is None:
        return None
    for key in keys:
        if owners.get(key) != owner:
            return None
    visitor = state.visitors.get(owner)
    return visitor if visitor is not None and visitor.last_us >= oldest_us else None


def _owners(keys: list[str], state: State, oldest_us: int) -> tuple[dict[str, Visitor], tuple[str, ...]]:
    """The living owner of each key; a visitor last seen before `oldest_us` is forgotten."""
    owners: dict[str, Visitor] = {}
    forgotten: list[str] = []
    for key in keys:
        visitor_id = state.owners.get(key)
        if visitor_id is None:
            continue
        visitor = state.visitors.get(visitor_id)
        if visitor is None:
            continue
        if visitor.last_us < oldest_us:
            if visitor_id not in forgotten:
                forgotten.append(visitor_id)
            continue
        owners[key] = visitor
    return owners, tuple(forgotten)


def _choose(uid: str, keys: list[str], owners: dict[str, Visitor]) -> Visitor | None:
    """The owner of the uid; for an unknown uid the first owner that has none yet; without a uid the first owner."""
    if not uid:
        return next(iter(owners.values()), None)
    if keys[0] in owners:
        return owners[keys[0]]
    return next((visitor for visitor in owners.values() if not visitor.uid), None)


def _claim(chosen: Recognised, keys: list[str], owners: dict[str, Visitor]) -> None:
    """What happens to the hit's identifiers and to their other owners."""
    visitor = chosen.visitor
    absorbed: list[Visitor] = []
    conflicts: list[str] = []
    link: list[str] = []
    for key in keys:
        owner = owners.get(key)
        if owner is None:
            link.append(key)
        elif owner.id != visitor.id:
            if owner.uid:
                if owner.id not in conflicts:
                    conflicts.append(owner.id)
            elif all(owner.id != other.id for other in absorbed):
                absorbed.append(owner)
    if absorbed:
        chosen.visitor = _merge(visitor, absorbed)
        chosen.absorbed = tuple(other.id for other in absorbed)
    chosen.link = tuple(link)
    chosen.conflicts = tuple(conflicts)


def _merge(visitor: Visitor, absorbed: Iterable[Visitor]) -> Visitor:
    """One visitor out of several, in log order; the inputs stay untouched."""
    merged = _copy(visitor)
    for other in absorbed:
        merged.identifiers += [key for key in other.identifiers if key not in merged.identifiers]
        merged.history = sorted(merged.history + other.history)[-HISTORY:]
        merged.clicks = sorted(merged.clicks + other.clicks)[-HISTORY:]
        merged.once += [name for name in other.once if name not in merged.once]
        merged.last_us = max(merged.last_us, other.last_us)
        merged.dropped += other.dropped
        for name, stat in other.events.items():
            merged.events[name] = _merge_stat(merged.events.get(name), stat)
        for name, value in other.params.items():
            merged.params[name] = _merge_param(merged.params.get(name), value)
    merged.params = dict(sorted(merged.params.items()))
    _drop_oldest(merged)
    return merged


def _copy(visitor: Visitor) -> Visitor:
    """A visitor that shares nothing that can change with the other."""
    return Visitor(
        visitor.id, visitor.uid, visitor.last_us, visitor.identifiers.copy(), visitor.history.copy(),
        {name: msgspec.structs.replace(stat) for name, stat in visitor.events.items()},
        {name: msgspec.structs.replace(value) for name, value in visitor.params.items()},
        visitor.clicks.copy(), visitor.once.copy(), visitor.dropped,
    )  # fmt: skip


def _merge_stat(mine: EventStat | None, other: EventStat) -> EventStat:
    if mine is None:
        return msgspec.structs.replace(other)
    later = mine if mine.last_seq >= other.last_seq else other
    return EventStat(
        mine.count + other.count, min(mine.first_us, other.first_us), later.last_us, later.last_seq, later.fields
    )


def _merge_param(mine: Remembered | None, other: Remembered) -> Remembered:
    if mine is None:
        return msgspec.structs.replace(other)
    last = mine if mine.last_seq >= other.last_seq else other
    first = mine if mine.first_seq <= other.first_seq else other
    return Remembered(last.last, last.last_seq, first.first, first.first_seq)


def attribute(event: Event, visitor: Visitor, client: Client, time_us: int) -> str:
    """The affiliate of an event: its own, else that of the last (or first) click within the click window, else ""."""
    own = event.fields.get("affiliate")
    if own is not None:
        return own
    oldest_us = time_us - client.click_window_us
    if client.attribution == "last_click":
        if visitor.clicks and visitor.clicks[-1][1] >= oldest_us:
            return visitor.clicks[-1][2]
        return ""
    return next((affiliate for _, clicked_us, affiliate in visitor.clicks if clicked_us >= oldest_us), "")


def write_identity(plan: Recognised, state: State, uid: str, time_us: int) -> Visitor:
    """Write what accepted and duplicate hits have in common: the links, the absorption, the time of the last hit."""
    visitor = plan.visitor
    if plan.anonymous:
        return visitor
    if plan.link or plan.absorbed or plan.forgotten:
        _write_owners(plan, state)
    if uid and not visitor.uid:
        visitor.uid = uid
    visitor.last_us = time_us
    state.put_visitor(visitor)
    return visitor


def _write_owners(plan: Recognised, state: State) -> None:
    visitor = plan.visitor
    for visitor_id in plan.absorbed:
        absorbed = state.visitors[visitor_id]
        for key in absorbed.identifiers:
            state.put_owner(key, visitor.id)
        state.drop_visitor(visitor_id)
    for visitor_id in plan.forgotten:
        for key in state.visitors[visitor_id].identifiers:
            state.drop_owner(key)
        state.drop_visitor(visitor_id)
    for key in plan.link:
        state.put_owner(key, visitor.id)
        if key not in visitor.identifiers:
            visitor.identifiers.append(key)


def write_event(visitor: Visitor, event: Event, seq: int, time_us: int, once: list[str]) -> None:
    """Write what only an accepted hit leaves behind: history, counts, clicks, remembered parameters, used once keys."""
    name, fields, history = event.name, event.fields, visitor.history
    history.append((seq, time_us, name))
    if len(history) > HISTORY:
        del history[0]
    stat = visitor.events.get(name)
    if stat is None:
        visitor.events[name] = EventStat(1, time_us, time_us, seq, fields)
    else:
        visitor.events[name] = EventStat(stat.count + 1, stat.first_us, time_us, seq, fields)
    if name == "click" and "affiliate" in fields:
        visitor.clicks.append((seq, time_us, fields["affiliate"]))
        if len(visitor.clicks) > HISTORY:
            del visitor.clicks[0]
    _remember(visitor, event.params, seq)
    if once:
        visitor.once.extend(once)


def _remember(visitor: Visitor, params: dict[str, str], seq: int) -> None:
    remembered = visitor.params
    before = len(remembered)
    for name, value in params.items():
        known = remembered.get(name)
        if known is None:
            remembered[name] = Remembered(value, seq, value, seq)
        else:
            remembered[name] = Remembered(value, seq, known.first, known.first_seq)
    if len(remembered) > before:
        visitor.params = dict(sorted(remembered.items()))
        _drop_oldest(visitor)


def _drop_oldest(visitor: Visitor) -> None:
    excess = len(visitor.params) - MAX_REMEMBERED
    if excess <= 0:
        return
    oldest = sorted(visitor.params, key=lambda name: (visitor.params[name].last_seq, name))
    for name in oldest[:excess]:
        del visitor.params[name]
    visitor.dropped += excess
