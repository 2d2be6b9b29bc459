"""The road of one hit through the engine: one list of steps of one shape, and the only place that writes state.

Each step reads and fills the `Work` of this hit and answers None to go on, or the verdict that ends the road. Nothing is
written before `commit`; an exception on the way is the engine's own bug and becomes the verdict `engine_error`. One
inside `commit` passes through: half a state must not be taken for a whole one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from service.engine.model import Entry, Event, Firing, Hit, Outcome, Postback, Rejection, Verdict
from service.engine.parse import parse
from service.engine.postbacks import fire
from service.engine.rulebook import EMPTY, Client, Rulebook
from service.engine.triggers import Decision, Facts, decide
from service.engine.visitors import (
    Recognised,
    State,
    attribute,
    is_test,
    recognise,
    space,
    txid_key,
    write_event,
    write_identity,
)

MAX_DETAIL = 300
_ACCEPTED = Verdict.ACCEPTED
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # in the text of a bug, where it would make two runs differ


class Work(msgspec.Struct, gc=False):
    """What is known so far about the hit at hand."""

    entry: Entry
    hit: Hit
    state: State
    rulebook: Rulebook
    parsed: Event | Rejection
    event: Event | None = None
    client: Client | None = None
    test: bool = False
    prefix: str = ""
    plan: Recognised | None = None
    txid: str | None = None
    affiliate: str = ""
    facts: Facts | None = None
    decision: Decision | None = None
    fired: tuple[Firing, ...] = ()
    postbacks: tuple[Postback, ...] = ()


Step = Callable[[Work], "Verdict | None"]


def read(work: Work) -> Verdict | None:
    """An event, or a rejection with its reason."""
    if isinstance(work.parsed, Rejection):
        return Verdict.REJECTED
    work.event = work.parsed
    work.client = work.rulebook.clients[work.parsed.client]
    return None


def enter_space(work: Work) -> Verdict | None:
    """Test traffic gets an identity and counting space of its own."""
    assert work.event is not None
    assert work.client is not None
    work.test = is_test(work.event, work.state, work.client, work.entry.time_us)
    work.prefix = space(work.event.client, work.test)
    return None


def recognise_visitor(work: Work) -> Verdict | None:
    """Whose hit this is."""
    assert work.event is not None and work.client is not None
    work.plan = recognise(work.event, work.prefix, work.state, work.client, work.hit.id, work.entry.time_us)
    return None


def attribute_affiliate(work: Work) -> Verdict | None:
    """Which affiliate this event belongs to."""
    assert work.event is not None and work.client is not None and work.plan is not None
    work.affiliate = attribute(work.event, work.plan.visitor, work.client, work.entry.time_us)
    return None


def recall(work: Work) -> Verdict | None:
    """Attach the remembered parameters; the event's own values win."""
    assert work.event is not None and work.plan is not None
    remembered = work.plan.visitor.params  # sorted by name
    params = {name: value.last for name, value in remembered.items()}
    params.update(work.event.params)
    if len(params) > len(remembered):
        params = {name: params[name] for name in sorted(params)}
    work.facts = Facts(
        work.event, work.plan.visitor, work.affiliate, params, work.hit.id, work.entry.seq, work.entry.time_us
    )
    return None


def drop_duplicate(work: Work) -> Verdict | None:
    """A (client, event, txid) of an earlier accepted hit fires nothing and counts for nothing."""
    assert work.event is not None and work.client is not None
    work.txid = txid_key(work.prefix, work.event)
    if work.txid is not None:
        earlier_us = work.state.txids.get(work.txid)
        if earlier_us is not None and work.entry.time_us - earlier_us <= work.client.remember_us:
            return Verdict.DUPLICATE
    return None


def decide_triggers(work: Work) -> Verdict | None:
    """Which triggers fire."""
    assert work.facts is not None
    work.decision = decide(work.facts, work.state, work.rulebook, work.prefix)
    return None


def render(work: Work) -> Verdict | None:
    """The postbacks of the firings."""
    assert work.decision is not None and work.facts is not None
    if work.decision.fired:
        made = [fire(trigger, work.facts, work.rulebook, work.test) for trigger in work.decision.fired]
        work.fired = tuple(firing for firing, _ in made)
        work.postbacks = tuple(postback for _, postbacks in made for postback in postbacks)
    return None


STEPS: tuple[Step, ...] = (
    read,
    enter_space,
    recognise_visitor,
    attribute_affiliate,
    recall,
    drop_duplicate,
    decide_triggers,
    render,
)


def process(entry: Entry, state: State, rulebook: Rulebook, parsed: Event | Rejection | None = None) -> Outcome:
    """Decide one hit and write what it leaves behind into `state`.

    entry: a journal entry with a hit. parsed: the result of `parse` for the same hit and rulebook, if it is there already.
    The same entries, in the same order, with the same rulebooks, give the same outcomes, byte for byte.
    """
    hit = entry.hit
    if hit is None:
        raise ValueError("a rulebook entry has no outcome; switch the rulebook instead")
    try:
        if parsed is None:
            parsed = parse(hit, rulebook)
        work = Work(entry, hit, state, rulebook, parsed)
        verdict = _walk(work)
        outcome = _outcome(work, verdict)
    except Exception as bug:
        return _engine_error(entry, hit, parsed, rulebook, bug)
    commit(work, verdict)
    return outcome


def _walk(work: Work) -> Verdict:
    for step in STEPS:
        verdict = step(work)
        if verdict is not None:
            return verdict
    return _ACCEPTED


def _engine_error(
    entry: Entry, hit: Hit, parsed: Event | Rejection | None, rulebook: Rulebook, bug: Exception
) -> Outcome:
    detail = _ADDRESS.sub("0x", f"{type(bug).__name__}: {bug}")[:MAX_DETAIL]
    client = event = ""
    if parsed is not None:
        client, event = parsed.client, parsed.name if isinstance(parsed, Event) else parsed.event
    return Outcome(
        hit.id, entry.seq, entry.time_us, Verdict.ENGINE_ERROR.value, "", detail, client, event, rulebook_id=rulebook.id
    )


def commit(work: Work, verdict: Verdict) -> None:
    """Write what the hit leaves behind: nothing if it was rejected, the identity if it is a duplicate, else all of it."""
    if verdict is Verdict.REJECTED:
        return
    assert work.event is not None and work.plan is not None
    state, entry = work.state, work.entry
    visitor = write_identity(work.plan, state, work.event.fields.get("uid", ""), entry.time_us)
    if verdict is Verdict.DUPLICATE or work.decision is None:
        return
    if not work.plan.anonymous:
        write_event(visitor, work.event, entry.seq, entry.time_us, work.decision.once)
    if work.txid is not None:
        state.put_txid(work.txid, entry.time_us)
    for key in work.decision.caps:
        state.put_cap(key, state.caps.get(key, 0) + 1)


def _outcome(work: Work, verdict: Verdict) -> Outcome:
    entry, hit, parsed = work.entry, work.hit, work.parsed
    if isinstance(parsed, Rejection):
        return Outcome(
            hit.id, entry.seq, entry.time_us, verdict.value, str(parsed.reason), parsed.detail, parsed.client,
            parsed.event, params=dict(sorted(parsed.params.items())), rulebook_id=work.rulebook.id,
        )  # fmt: skip
    assert work.plan is not None and work.facts is not None
    plan, decision = work.plan, work.decision
    return Outcome(
        hit.id, entry.seq, entry.time_us, verdict.value, "", parsed.detail, parsed.client, parsed.name, work.affiliate,
        plan.visitor.id, work.test, plan.new, parsed.fields.copy(), work.facts.params, work.fired,
        decision.not_fired if decision else {}, work.postbacks, plan.absorbed, plan.conflicts, work.rulebook.id,
    )  # fmt: skip


def replay(entries: Iterable[Entry], state: State, rulebooks: Callable[[str], Rulebook], rulebook: Rulebook | None,
           pinned: bool = False) -> Iterable[Outcome]:  # fmt: skip
    """Run entries of one partition, in order, through the engine.

    rulebooks: finds a rulebook by id. rulebook: the one in force at the start. pinned: keep it, whatever the log says.
    Hits before any rulebook are decided by the empty one.
    """
    current = rulebook or EMPTY
    for entry in entries:
        if entry.hit is not None:
            yield process(entry, state, current)
        elif not pinned:
            current = rulebooks(entry.rulebook_id)
