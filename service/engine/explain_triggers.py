"""Why a trigger fired or where it stopped, with the fact that stopped it. See explain.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal

from service.engine.conditions import Node, compile_condition, syntax
from service.engine.model import Firing, Stage
from service.engine.parse import NUMBER
from service.engine.pipeline import Work
from service.engine.rulebook import FOREVER_US, Trigger
from service.engine.trail import Trail
from service.engine.triggers import cap_key, sample_bucket
from service.engine.visitors import HISTORY
from service.engine.words import as_written, listed, moment, number, plural, span, whole_span

Tell = Callable[[Trigger, Work, Trail], str]


def tell_firing(trigger: Trigger, firing: Firing, work: Work, trail: Trail) -> str:
    """Why it fired and what it is worth."""
    because = ""
    if trigger.after:
        found = _latest(work, trigger.after)
        because = f" after {listed(trail.event(seq, work.plan.visitor) for seq, _, _ in found)}" if found else ""
    return f"fired{because}{_worth(trigger, firing, work, trail)}."


def _worth(trigger: Trigger, firing: Firing, work: Work, trail: Trail) -> str:
    payout = trigger.payout
    if payout is None:
        return ""
    if not firing.payout:
        base = work.value(payout.of)
        what = f"{payout.of} is {f'no number ({trail.shown(payout.of, base)})' if base else 'missing'}"
        currency = "" if base is None or not NUMBER.match(base) else "there is no currency"
        return f", and is worth nothing that can be said: {currency or what}"
    return f", worth {firing.payout} {firing.currency}{payout_in_words(trigger, work, trail)}"


def payout_in_words(trigger: Trigger, work: Work, trail: Trail) -> str:
    """`: 25 % of amount 50.00`, or that it is fixed."""
    payout = trigger.payout
    if payout is None or payout.fixed is not None:
        return " (fixed)" if payout is not None else ""
    return f" ({number(payout.percent)} % of {payout.of} {trail.shown(payout.of, work.value(payout.of) or '')})"


def tell_stop(trigger: Trigger, stage: str, work: Work, trail: Trail) -> str:
    """Which fact stopped it at this stage."""
    return STOPS[Stage(stage)](trigger, work, trail)


def _inactive(trigger: Trigger, work: Work, _: Trail) -> str:
    if trigger.paused:
        return "it is paused in the rulebook"
    if work.time_us < trigger.from_us:
        return f"it begins at {moment(trigger.from_us)}, {span(trigger.from_us - work.time_us)} after this hit"
    until = moment(trigger.until_us) if trigger.until_us < FOREVER_US else "never"
    return f"it ended at {until}, {span(work.time_us - trigger.until_us)} before this hit"


def _event(trigger: Trigger, _: Work, __: Trail) -> str:
    return f"waits for {trigger.on}"


def _recipient(_: Trigger, work: Work, __: Trail) -> str:
    if work.affiliate:
        return f"it posts to the affiliate, and the rulebook has no affiliate {work.affiliate}"
    return "it posts to the affiliate, and this event has none"


def _steps(trigger: Trigger, work: Work, trail: Trail) -> str:
    steps, visitor = trigger.after, work.plan.visitor
    wanted = f"it wants {' then '.join(steps)} before the {trigger.on}"
    found = _latest(work, steps)
    if found:
        seq, time_us, _ = found[0]
        age_us = work.time_us - time_us
        over = f"{span(age_us - trigger.within_us)} over the {whole_span(trigger.within_us)} allowed"
        return f"{wanted}, and {trail.event(seq, visitor)} was {span(age_us)} before, {over}"
    done: list[tuple[int, int, str]] = []
    for event in visitor.history:
        if len(done) < len(steps) and event[2] == steps[len(done)]:
            done.append(event)
    missing = steps[len(done)]
    if not visitor.history:
        return f"{wanted}, and this visitor did nothing before"
    after = f" after {trail.event(done[-1][0], visitor)}" if done else ""
    return f"{wanted}, and there is no {missing}{after}{_too_early(missing, done, work, trail)}"


def _too_early(missing: str, done: list[tuple[int, int, str]], work: Work, trail: Trail) -> str:
    earlier = [event for event in work.plan.visitor.history if event[2] == missing and event not in done]
    if earlier:
        return f"; the only one came too early: {trail.event(earlier[-1][0], work.plan.visitor)}"
    if missing in work.plan.visitor.events and not done:
        return f" among the last {HISTORY} events, which is as far as steps can look back"
    return ""


def _latest(work: Work, steps: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """The steps as they came, each as late as possible; empty if they did not all come."""
    found: list[tuple[int, int, str]] = []
    for event in reversed(work.plan.visitor.history):
        if len(found) < len(steps) and event[2] == steps[len(steps) - 1 - len(found)]:
            found.append(event)
    return found[::-1] if len(found) == len(steps) else []


def _condition(trigger: Trigger, work: Work, trail: Trail) -> str:
    assert trigger.when is not None
    blamed = list(dict.fromkeys(_blame(syntax(trigger.when.text), True, work, trail)))
    return f"its condition does not hold: {'; '.join(blamed)}"


def _blame(node: Node, wanted: bool, work: Work, trail: Trail) -> Iterator[str]:
    """The tests because of which a part of a condition is not what it should be, each with its values."""
    if _holds(node, work) == wanted:
        return
    if node[0] in ("either", "both"):
        for child in node[1:]:
            yield from _blame(child, wanted, work, trail)
    elif node[0] == "inverse":
        yield from _blame(node[1], not wanted, work, trail)
    else:
        yield _test(node, wanted, work, trail)


def _holds(node: Node, work: Work) -> bool:
    """By the very language of conditions, so that there is one meaning."""
    return compile_condition(as_written(node))(work)


def _test(node: Node, wanted: bool, work: Work, trail: Trail) -> str:
    if any(trail.hides(name) for name in compile_condition(as_written(node)).names):
        return "a test of a private value is " + ("false" if wanted else "true")
    asked = f"{as_written(node)} is {'false' if wanted else 'true'}"
    if node[0] == "exists":
        return f"{asked} ({node[1]} is {'missing' if wanted else work.value(node[1])})"
    sides = [node[1], node[3]] if node[0] == "compare" else [node[1]]
    facts = [fact for fact in (_fact(side, work) for side in sides) if fact]
    return f"{asked} ({listed(facts)})" if facts else asked


def _fact(operand: Node, work: Work) -> str:
    if operand[0] == "count":
        count = work.count(operand[1])
        if count == 0:
            return f"there was no earlier {operand[1]}"
        return f"{operand[1]} came {'once' if count == 1 else f'{count:,} times'} before"
    if operand[0] == "since":
        age_us = work.since_us(operand[1])
        return (
            f"there was no earlier {operand[1]}"
            if age_us is None
            else f"the last {operand[1]} was {span(age_us)} before"
        )
    if operand[0] == "name":
        value = work.value(operand[1])
        return f"{operand[1]} is missing" if value is None else f"{operand[1]} is {value}"
    return ""


def _sample(trigger: Trigger, work: Work, _: Trail) -> str:
    share = Decimal(sample_bucket(trigger.name, work.plan.visitor.id)) / 100
    return (
        f"it holds back {trigger.sample} % of the visitors, and this one is among them, at this trigger always "
        f"(drawn {share:.2f}, held back below {trigger.sample})"
    )


def _once(trigger: Trigger, work: Work, trail: Trail) -> str:
    seq = trail.used(trigger.name, (work.plan.visitor.id, *work.plan.absorbed))
    used = "an earlier hit has used it" if seq is None else f"{trail.event(seq, work.plan.visitor)} has used it"
    return f"it fires once per visitor, and {used}"


def _cap(trigger: Trigger, work: Work, _: Trail) -> str:
    cap = trigger.cap
    assert cap is not None
    before = work.state.caps.get(cap_key(trigger, cap, work, work.prefix), 0)
    whose = f" for affiliate {work.affiliate or 'none'}" if cap.per == "affiliate" else ""
    when = {
        "hour": f"in the hour from {moment(work.time_us)[:13]}:00 UTC", "day": f"on {moment(work.time_us)[:10]} (UTC)",
        "month": f"in {moment(work.time_us)[:7]} (UTC)", "total": "in all",
    }[cap.every]  # fmt: skip
    return f"its cap of {plural(cap.count, 'firing')}{whose} was reached {when}; this is number {before + 1:,}"


STOPS: dict[Stage, Tell] = {
    Stage.INACTIVE: _inactive, Stage.EVENT: _event, Stage.RECIPIENT: _recipient, Stage.STEPS: _steps,
    Stage.CONDITION: _condition, Stage.SAMPLE: _sample, Stage.ONCE: _once, Stage.CAP: _cap,
}  # fmt: skip
