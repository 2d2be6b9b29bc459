"""Recognition: whose hit this is, who is absorbed, in conflict or forgotten, and which affiliate the event belongs to.

It reads the state and answers with a plan; only `memory` writes, as the last thing that happens to a hit, so that a hit
that fails on the way leaves the state as it was.
"""

from __future__ import annotations

from service.engine.keys import identifier_keys, space, test_click_key
from service.engine.merging import merge
from service.engine.model import Event
from service.engine.rulebook import Client
from service.engine.visitors import State, Visitor


class Recognised:
    """The plan of recognition: the visitor as it will be (not yet written), and what has to be written.

    link: identifier keys that will belong to the visitor anew. absorbed, conflicts, forgotten: ids of other visitors.
    anonymous: the hit brought no identifier, so nobody will ever ask for this visitor again.
    """

    __slots__ = ("absorbed", "anonymous", "conflicts", "forgotten", "link", "new", "visitor")

    def __init__(
        self, visitor: Visitor, new: bool = False, anonymous: bool = False, forgotten: tuple[str, ...] = ()
    ) -> None:
        self.visitor = visitor
        self.new = new
        self.anonymous = anonymous
        self.link: tuple[str, ...] = ()
        self.absorbed: tuple[str, ...] = ()
        self.conflicts: tuple[str, ...] = ()
        self.forgotten = forgotten


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


def recognise(event: Event, prefix: str, state: State, client: Client, hit_id: str, time_us: int) -> Recognised:
    """Whose hit this is, by the identifiers' owners: section "Recognition" of the engine's README."""
    fields = event.fields
    keys = identifier_keys(prefix, fields)
    if not keys:
        return Recognised(Visitor(hit_id, last_us=time_us), new=True, anonymous=True)
    oldest_us = time_us - client.remember_us
    sole = _sole_owner(keys, state, oldest_us)
    if sole is not None:
        return Recognised(sole)
    owners, forgotten = _owners(keys, state, oldest_us)
    uid = fields.get("uid", "")
    visitor = _choose(uid, keys, owners)
    if visitor is None:
        chosen = Recognised(Visitor(hit_id, uid, time_us), new=True, forgotten=forgotten)
    else:
        chosen = Recognised(visitor, forgotten=forgotten)
    _claim(chosen, keys, owners)
    if fields.get("click_id") == hit_id and prefix == space(event.client, True):
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
        chosen.visitor = merge(visitor, absorbed)
        chosen.absorbed = tuple(other.id for other in absorbed)
    chosen.link = tuple(link)
    chosen.conflicts = tuple(conflicts)


def attribute(clicks: list[tuple[int, int, str]], client: Client, time_us: int) -> str:
    """The affiliate of an event that names none: that of the last (or first) click within the click window, else ""."""
    if not clicks:
        return ""
    oldest_us = time_us - client.click_window_us
    if client.attribution == "last_click":
        _, clicked_us, affiliate = clicks[-1]
        return affiliate if clicked_us >= oldest_us else ""
    return next((affiliate for _, clicked_us, affiliate in clicks if clicked_us >= oldest_us), "")
