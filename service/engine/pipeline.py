"""The road of one hit through the engine: one list of steps of one shape, and the only place that writes state.

Each step reads and fills the `Work` of this hit and answers None to go on, or the verdict that ends the road. Nothing is
written before `commit`; an exception on the way is the engine's own bug and becomes the verdict `engine_error`. One
inside `commit` passes through: half a state must not be taken for a whole one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from service.engine.admission import admit
from service.engine.keys import space, txid_key
from service.engine.memory import write_event, write_identity
from service.engine.model import Entry, Event, Firing, Hit, Outcome, Postback, Rejection, Verdict
from service.engine.parse import SIGNED, parse
from service.engine.postbacks import fire
from service.engine.recognition import Recognised, attribute, is_test, recognise
from service.engine.rulebook import EMPTY, Client, Rulebook
from service.engine.triggers import Case, decide
from service.engine.visitors import State

MAX_DETAIL = 300
# plain texts, since reading an enumeration's value costs as much as half a step
_ACCEPTED: Final[str] = Verdict.ACCEPTED.value
_REJECTED: Final[str] = Verdict.REJECTED.value
_DUPLICATE: Final[str] = Verdict.DUPLICATE.value
_ENGINE_ERROR: Final[str] = Verdict.ENGINE_ERROR.value
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # in the text of a bug, where it would make two runs differ


class Work(Case):
    """What is known so far about the hit at hand. A field is there once the step has run that finds it out.

    Made by `begin`: a constructor in Python would cost as much as two steps.
    """

    __slots__ = ("client", "entry", "fired", "hit", "parsed", "plan", "postbacks", "test", "txid")

    entry: Entry
    hit: Hit
    parsed: Event | Rejection
    client: Client
    test: bool
    plan: Recognised
    txid: str | None
    fired: tuple[Firing, ...]
    postbacks: tuple[Postback, ...]


def begin(entry: Entry, hit: Hit, state: State, rulebook: Rulebook, parsed: Event | Rejection) -> Work:
    """The work on a hit before any step."""
    work = Work()
    work.entry = entry
    work.hit = hit
    work.state = state
    work.rulebook = rulebook
    work.parsed = parsed
    work.hit_id = hit.id
    work.seq = entry.seq
    work.time_us = entry.time_us
    work.not_fired = {}
    work.fired = work.postbacks = ()
    return work


Step = Callable[[Work], "str | None"]


def read(work: Work) -> str | None:
    """An event, or a rejection with its reason."""
    parsed = work.parsed
    if isinstance(parsed, Rejection):
        return _REJECTED
    work.event = parsed
    work.fields = parsed.fields
    work.client = work.rulebook.clients[parsed.client]
    return None


def enter_space(work: Work) -> str | None:
    """Test traffic gets an identity and counting space of its own."""
    event = work.event
    test = event.test
    if not test and "click_id" in work.fields:
        test = is_test(event, work.state, work.client, work.time_us)
    work.test = test
    work.prefix = space(event.client, test)
    return None


def recognise_visitor(work: Work) -> str | None:
    """Whose hit this is."""
    work.plan = plan = recognise(work.event, work.prefix, work.state, work.client, work.hit_id, work.time_us)
    work.visitor = plan.visitor
    return None


def attribute_affiliate(work: Work) -> str | None:
    """Which affiliate this event belongs to."""
    own = work.fields.get("affiliate")
    work.affiliate = attribute(work.visitor.clicks, work.client, work.time_us) if own is None else own
    return None


def recall(work: Work) -> str | None:
    """Attach the remembered parameters; the event's own values win."""
    remembered = work.visitor.params  # sorted by name
    params = {name: value.last for name, value in remembered.items()}
    params.update(work.event.params)
    if len(params) > len(remembered):
        params = {name: params[name] for name in sorted(params)}
    work.params = params
    return None


def drop_duplicate(work: Work) -> str | None:
    """A (client, event, txid) of an earlier accepted hit fires nothing and counts for nothing."""
    work.txid = key = txid_key(work.prefix, work.event)
    if key is not None:
        earlier_us = work.state.txids.get(key)
        if earlier_us is not None and work.time_us - earlier_us <= work.client.remember_us:
            return _DUPLICATE
    return None


def decide_triggers(work: Work) -> str | None:
    """Which triggers fire."""
    decide(work)
    return None


def render(work: Work) -> str | None:
    """The postbacks of the firings."""
    if work.firing:
        made = [fire(trigger, work, work.rulebook, work.test) for trigger in work.firing]
        work.fired = tuple([firing for firing, _ in made])
        work.postbacks = tuple([postback for _, postbacks in made for postback in postbacks])
    return None


STEPS: Final[tuple[Step, ...]] = (
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
        work = begin(entry, hit, state, rulebook, parsed)
        verdict = _ACCEPTED
        for step in STEPS:
            ended = step(work)
            if ended is not None:
                verdict = ended
                break
        outcome = _rejected(work) if verdict is _REJECTED else _outcome(work, verdict)
    except Exception as bug:
        return _engine_error(entry, hit, parsed, rulebook, bug)
    if verdict is not _REJECTED:
        commit(work, verdict)
    return outcome


def _engine_error(
    entry: Entry, hit: Hit, parsed: Event | Rejection | None, rulebook: Rulebook, bug: Exception
) -> Outcome:
    detail = _ADDRESS.sub("0x", f"{type(bug).__name__}: {bug}")[:MAX_DETAIL]
    client = event = ""
    if parsed is not None:
        client, event = parsed.client, parsed.name if isinstance(parsed, Event) else parsed.event
    return Outcome(hit.id, entry.seq, entry.time_us, _ENGINE_ERROR, "", detail, client, event, rulebook_id=rulebook.id)


def commit(work: Work, verdict: str) -> None:
    """Write what a valid hit leaves behind: the identity if it is a duplicate, else all of it."""
    state, time_us, plan, event = work.state, work.time_us, work.plan, work.event
    signed = SIGNED in work.hit.flags
    if plan.link or plan.absorbed or signed:  # else nothing about the identity is new
        admit(plan, event, state, signed)
    visitor = write_identity(plan, state, work.fields.get("uid", ""), time_us)
    if verdict is _DUPLICATE:
        return
    if not plan.anonymous:
        write_event(visitor, event, work.seq, time_us, work.once)
    if work.txid is not None:
        state.put_txid(work.txid, time_us)
    for key in work.caps:
        state.put_cap(key, state.caps.get(key, 0) + 1)


def _rejected(work: Work) -> Outcome:
    parsed = work.parsed
    assert isinstance(parsed, Rejection)
    return Outcome(
        work.hit_id, work.seq, work.time_us, _REJECTED, str(parsed.reason), parsed.detail, parsed.client, parsed.event,
        params=dict(sorted(parsed.params.items())), rulebook_id=work.rulebook.id,
    )  # fmt: skip


def _outcome(work: Work, verdict: str) -> Outcome:
    event, plan = work.event, work.plan
    return Outcome(
        work.hit_id, work.seq, work.time_us, verdict, "", event.detail, event.client, event.name, work.affiliate,
        work.visitor.id, work.test, plan.new, work.fields.copy(), work.params, work.fired, work.not_fired,
        work.postbacks, plan.absorbed, plan.conflicts, work.rulebook.id,
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
