"""What a hit leaves behind in the state: identity, history, counts, remembered parameters."""

from __future__ import annotations

from service.engine.merging import drop_oldest
from service.engine.model import Event
from service.engine.recognition import Recognised
from service.engine.visitors import HISTORY, EventStat, Remembered, State, Visitor


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
            known.last = value
            known.last_seq = seq
    if len(remembered) > before:
        visitor.params = {name: remembered[name] for name in sorted(remembered)}
        drop_oldest(visitor)
