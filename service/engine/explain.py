"""The story of one hit: how it was read, whom it was recognised as, what each trigger made of it, what was promised.

The hit walks the very steps of `pipeline`, nothing is written, and what they found is put into words: for somebody who
has to answer a partner. The lines can be read without knowing the engine.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from service.engine.explain_postbacks import PostbackStory, tell_postback
from service.engine.explain_request import request_line, tell_reading, tell_rejection
from service.engine.explain_triggers import tell_firing, tell_stop
from service.engine.explain_visitor import tell_affiliate, tell_visitor
from service.engine.model import Entry, Hit, Rejection, Stage, Verdict
from service.engine.parse import parameters, parse
from service.engine.pipeline import STEPS, Work, begin
from service.engine.rulebook import Client, Rulebook
from service.engine.trail import Trail
from service.engine.visitors import State
from service.engine.words import listed, moment, span, whole_span


class TriggerStory(msgspec.Struct, frozen=True):
    """One trigger: `fired` or the stage that stopped it, and why in words."""

    name: str
    stage: str
    says: str


class Story(msgspec.Struct, frozen=True):
    """What happened to one hit.

    request: the request line. verdict, reason: as in the outcome. says: the verdict in sentences, the remedy with it.
    reading: how the parameters were read. visitor, affiliate: whom it was recognised as. earlier: (hit id, what it is)
    of the earlier hits that the story names. `lines` is all of it as text.
    """

    hit_id: str
    seq: int
    time_us: int
    request: str
    verdict: str
    reason: str
    says: tuple[str, ...]
    reading: tuple[str, ...] = ()
    visitor: tuple[str, ...] = ()
    affiliate: str = ""
    triggers: tuple[TriggerStory, ...] = ()
    postbacks: tuple[PostbackStory, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """The story as readable lines, details indented."""
        return tuple(explain_lines(self))


def explain(
    entry: Entry, state: State, rulebook: Rulebook, trail: Trail | None = None, *, for_affiliate: bool = False
) -> Story:
    """Tell the story of one hit.

    state: as it was before the hit; it is read and left alone. rulebook: the one in force. trail: the outcomes before, so
    that earlier hits are named by id and time instead of by number. for_affiliate: without the values that are private to
    the client, and without what calls the client, so that it can be mailed to an affiliate. Raises ValueError for an
    entry without a hit.
    """
    hit, seen = entry.hit, trail or Trail()
    seen.named.clear()
    seen.private = frozenset()
    if hit is None:
        raise ValueError("an entry without a hit has no story")
    work = begin(entry, hit, state, rulebook, parse(hit, rulebook))
    if for_affiliate:
        seen.private = _private(hit, rulebook.clients.get(work.parsed.client))
    try:
        verdict = next((str(ended) for ended in (step(work) for step in STEPS) if ended is not None), "accepted")
    except Exception as bug:
        return _failed(entry, hit, bug, seen)
    head = (hit.id, entry.seq, entry.time_us, request_line(hit, seen), verdict)
    if isinstance(work.parsed, Rejection):
        return Story(*head, work.parsed.reason, tuple(tell_rejection(hit, work.parsed, seen)))
    says = tuple(_duplicate(work, seen)) if verdict == Verdict.DUPLICATE else (_accepted(work),)
    who = (tuple(tell_reading(work, seen)), tuple(tell_visitor(work, seen)), tell_affiliate(work, seen))
    if verdict == Verdict.DUPLICATE:
        return Story(*head, "", says, *who, earlier=tuple(seen.named.items()))
    then = (tuple(_triggers(work, seen)), tuple(_postbacks(work, seen)))
    return Story(*head, "", says, *who, *then, tuple(seen.named.items()))


def _private(hit: Hit, client: Client | None) -> frozenset[str]:
    """The names whose values stay with the client; of a client that the rulebook does not know all that came."""
    return client.private if client is not None else frozenset({"uid", *parameters(hit)})


def _failed(entry: Entry, hit: Hit, bug: Exception, trail: Trail) -> Story:
    what = type(bug).__name__ + ("" if trail.private else f": {bug}")
    says = (
        f"Failed: a bug of the engine ({what}). The hit is stored and counts for nothing so far.",
        "Nothing is wrong with the request. Report the bug; once it is mended, a replay decides the hit.",
    )
    return Story(hit.id, entry.seq, entry.time_us, request_line(hit, trail), Verdict.ENGINE_ERROR.value, "", says)


def _duplicate(work: Work, trail: Trail) -> Iterator[str]:
    event = work.event
    txid = event.fields["txid"]
    earlier_us = work.state.txids[work.txid or ""]
    seq = trail.accepted(event.client, work.test, event.name, txid)
    which = f"the {event.name} of {moment(earlier_us)}"
    if seq is not None:
        which = trail.event(seq, work.plan.visitor, event.name)
    ago, same = span(work.time_us - earlier_us), trail.shown("txid", txid)
    yield f"Duplicate: {which}, {ago} before, has the same txid {same} and was accepted."
    yield "The first one counts, this one does not: it fires nothing, so nothing is paid or posted twice."
    yield (
        f"What the sender can do: nothing, if it was a repeat; a second {event.name} needs a txid of its own "
        f"(one is remembered for {whole_span(work.client.remember_us)})."
    )


def _accepted(work: Work) -> str:
    if not work.test:
        return f"Accepted: {work.event.name} of client {work.client.name}."
    by = "it says test=1" if work.event.test else "a test click made its click_id"
    return (
        f"Accepted as a test: {work.event.name} of client {work.client.name}, since {by}. Tests have visitors, counts and "
        "caps of their own, so nothing has to be deleted afterwards."
    )


def _triggers(work: Work, trail: Trail) -> Iterator[TriggerStory]:
    firings = {firing.trigger: firing for firing in work.fired}
    for trigger in work.rulebook.triggers:
        if trigger.client != work.client.name:
            continue
        if trigger.name in firings:
            yield TriggerStory(trigger.name, "fired", tell_firing(trigger, firings[trigger.name], work, trail))
        else:
            stage = str(work.not_fired.get(trigger.name, Stage.EVENT.value))
            yield TriggerStory(trigger.name, stage, tell_stop(trigger, stage, work, trail))


def _postbacks(work: Work, trail: Trail) -> Iterator[PostbackStory]:
    triggers = {trigger.name: trigger for trigger in work.firing}
    for postback in work.postbacks:
        yield tell_postback(postback, triggers[postback.trigger], work, trail)


def explain_lines(story: Story, became: dict[str, tuple[str, ...]] | None = None) -> Iterator[str]:
    """The story as lines. became: what happened to each postback afterwards, by its id; the engine does not know it."""
    yield f"Hit {story.hit_id}, {moment(story.time_us)}"
    yield f"  {story.request}"
    yield from story.says
    yield from (f"  {sentence}" for sentence in story.reading)
    yield from story.visitor[:1]
    yield from (f"  {sentence}" for sentence in story.visitor[1:])
    if story.affiliate:
        yield story.affiliate
    yield from _trigger_lines(story, became or {})


def _trigger_lines(story: Story, became: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """The triggers, those that wait for another event in one line; below each firing its postbacks."""
    for trigger in story.triggers:
        if trigger.stage == "fired":
            yield f"Trigger {trigger.name} {trigger.says}"
            for postback in story.postbacks:
                if postback.trigger == trigger.name:
                    yield from _postback_lines(postback)
                    yield from (f"    {sentence}" for sentence in became.get(postback.id, ()))
        elif trigger.stage != Stage.EVENT:
            yield f"Trigger {trigger.name} did not fire ({trigger.stage}): {trigger.says}."
    others = [f"{trigger.name} ({trigger.says})" for trigger in story.triggers if trigger.stage == Stage.EVENT]
    if others:
        yield f"Not concerned: {listed(others)}."
    if story.earlier:
        yield "Earlier hits named here"
        yield from (f"  {hit_id}: {what}" for hit_id, what in story.earlier)


def _postback_lines(postback: PostbackStory) -> Iterator[str]:
    yield f"  {postback.says}"
    if postback.request:
        yield f"    {postback.request}"
    origins: dict[str, list[str]] = {}
    for value in postback.values:
        shown = value.name if value.value is None else f"{value.name} = {value.value}"
        origins.setdefault(value.origin, []).append(shown)
    yield from (f"    - {origin}: {', '.join(values)}" for origin, values in origins.items())
