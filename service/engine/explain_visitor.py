"""Whom a hit was recognised as and why, and which affiliate its event belongs to. See explain.py."""

from __future__ import annotations

from collections.abc import Iterator

from service.engine.pipeline import Work
from service.engine.trail import Trail
from service.engine.visitors import Visitor, identifier_keys
from service.engine.words import listed, moment, plural, span, whole_span


def tell_visitor(work: Work, trail: Trail) -> Iterator[str]:
    """Sentences about the visitor: who, by which identifier, what was joined, left apart or forgotten."""
    plan = work.plan
    keys = identifier_keys(work.prefix, work.event.fields)
    if plan.anonymous:
        yield "Visitor: a stranger. The hit has no identifier (uid, tag_id or click_id), so it has no past and no future."
        return
    if plan.new and work.event.fields.get("click_id") == work.hit.id and len(keys) == 1:
        yield f"Visitor {plan.visitor.id}, new: a click without an identifier known before."
    elif plan.new:
        yield f"Visitor {plan.visitor.id}, new: nobody was known by {listed(_named(key, trail) for key in keys)}."
    else:
        yield f"Visitor {plan.visitor.id}, {_recognised(work, keys, trail)}."
        yield _past(_before(work), work)
    yield from _joined(work, trail)
    yield from _left_apart(work, keys, trail)
    yield from _forgotten(work, keys, trail)
    joined = "uid" in work.event.fields and work.state.owners.get(keys[0]) is None  # said with the recognition already
    linked = [_named(key, trail) for key in plan.link if key in keys and not (joined and key == keys[0])]
    if linked and not plan.new:
        yield f"From this hit on {listed(linked)} {'is' if len(linked) == 1 else 'are'} known as this visitor's too."


def _before(work: Work) -> Visitor:
    return work.state.visitors.get(work.plan.visitor.id, work.plan.visitor)


def _named(key: str, trail: Trail) -> str:
    """An identifier of a key in words: `uid "anna"`."""
    kind, value = key.split("\x1f", 3)[2:]
    return f'{kind} "{trail.shown(kind, value)}"'


def _recognised(work: Work, keys: list[str], trail: Trail) -> str:
    by = next(key for key in keys if work.state.owners.get(key) == work.plan.visitor.id)
    if keys[0] != by and work.event.fields.get("uid"):
        new = _named(keys[0], trail)
        return f"known by {_named(by, trail)}; {new} is new, and this visitor had no uid yet, so both are one person"
    return f"known by {_named(by, trail)}"


def _past(visitor: Visitor, work: Work) -> str:
    if not visitor.events:
        return f"Last seen {moment(visitor.last_us)}, with no counted event so far."
    first_us = min(stat.first_us for stat in visitor.events.values())
    counts = listed(f"{stat.count} {name}" for name, stat in sorted(visitor.events.items()))
    away = span(work.time_us - visitor.last_us)
    return f"Known since {moment(first_us)}, last seen {away} before; earlier events: {counts}."


def _joined(work: Work, trail: Trail) -> Iterator[str]:
    for visitor_id in work.plan.absorbed:
        other = work.state.visitors[visitor_id]
        known = listed(
            _named(key, trail) for key in other.identifiers if key.count("\x1f") >= 3 and "minted" not in key
        )
        yield (
            f"Visitor {visitor_id}, known by {known}, turned out to be the same person: "
            f"{plural(len(other.history), 'event')} and {plural(len(other.params), 'remembered parameter')} count here now."
        )


def _left_apart(work: Work, keys: list[str], trail: Trail) -> Iterator[str]:
    for key in keys:
        owner = work.state.visitors.get(work.state.owners.get(key, ""))
        if owner is not None and owner.id in work.plan.conflicts:
            uid = trail.shown("uid", owner.uid)
            yield (
                f'{_named(key, trail)} belongs to another person: visitor {owner.id}, who has the uid "{uid}". '
                "Two uids never become one person, so nothing was taken from there."
            )


def _forgotten(work: Work, keys: list[str], trail: Trail) -> Iterator[str]:
    for key in keys:
        owner = work.state.visitors.get(work.state.owners.get(key, ""))
        if owner is not None and owner.id in work.plan.forgotten:
            yield (
                f"{_named(key, trail)} was known as visitor {owner.id}, not seen for {span(work.time_us - owner.last_us)}: "
                f"forgotten, since client {work.client.name} remembers for {whole_span(work.client.remember_us)}."
            )


def tell_affiliate(work: Work, trail: Trail) -> str:
    """One sentence: which affiliate, and by what."""
    name = work.affiliate
    window = whole_span(work.client.click_window_us)
    clicks = work.plan.visitor.clicks
    if "affiliate" in work.event.fields:
        return f"Affiliate {name}{_stranger(work)}: the hit itself names it."
    if name:
        seq, time_us, _ = _click(work)
        which = "last" if work.client.attribution == "last_click" else "first"
        ago = span(work.time_us - time_us)
        return (
            f"Affiliate {name}{_stranger(work)}: by the visitor's {which} click within {window}, "
            f"{trail.event(seq, work.plan.visitor)}, {ago} before."
        )
    if clicks:
        seq, time_us, affiliate = clicks[-1]
        return (
            f"No affiliate: {trail.event(seq, work.plan.visitor)}, which named {affiliate}, was "
            f"{span(work.time_us - time_us)} before, and clicks count for {window}."
        )
    return "No affiliate: the hit names none, and no earlier click of this visitor did."


def _click(work: Work) -> tuple[int, int, str]:
    clicks = work.plan.visitor.clicks
    if work.client.attribution == "last_click":
        return clicks[-1]
    oldest_us = work.time_us - work.client.click_window_us
    return next(click for click in clicks if click[1] >= oldest_us)


def _stranger(work: Work) -> str:
    return "" if work.affiliate in work.rulebook.affiliates else " (which the rulebook does not know)"
