"""The story of one hit: how it was read, whom it was recognised as, what each trigger made of it, what was promised.

The hit walks the very steps of `pipeline`, nothing is written, and what they found is put into words: for somebody who
has to answer a partner. The lines can be read without knowing the engine.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from service.engine.explain_postbacks import PostbackStory, aliases_used, tell_postback
from service.engine.explain_triggers import tell_firing, tell_stop
from service.engine.explain_visitor import tell_affiliate, tell_visitor
from service.engine.model import Entry, Hit, Reason, Rejection, Stage, Verdict
from service.engine.parse import MACRO, parameters, parse
from service.engine.pipeline import STEPS, Work, begin
from service.engine.rulebook import Rulebook
from service.engine.trail import Trail
from service.engine.visitors import State
from service.engine.words import listed, moment, span, whole_span

REMEDIES: dict[str, str] = {
    Reason.MISSING_CLIENT: "add it; it has no alias",
    Reason.UNKNOWN_CLIENT: "check spelling and case; publish the client first",
    Reason.MISSING_EVENT: "add it",
    Reason.INVALID_EVENT: "use 1 to 64 of A-Z a-z 0-9 _ . : / -",
    Reason.EVENT_NOT_ALLOWED: "send it server to server, or allow it",
    Reason.INVALID_AMOUNT: "write 12.50: up to 18 digits, a point, up to 9 digits",
    Reason.INVALID_CURRENCY: "write EUR",
    Reason.NOT_UTF8: "encode texts as UTF-8, then percent-encode",
    Reason.QUERY_TOO_LONG: "send the parameters in a POST body",
    Reason.BODY_TOO_LONG: "send less, or several hits",
    Reason.INVALID_BODY: "send a form or one JSON object",
    Reason.TOO_MANY_PARAMETERS: "send fewer",
    Reason.NAME_TOO_LONG: "shorten it",
    Reason.VALUE_TOO_LONG: "shorten it",
    Reason.BAD_PATH: "give both parts, and no more",
    Reason.BAD_METHOD: "use GET or POST, for a batch POST",
    Reason.BATCH_TOO_LONG: "send several batches",
    Reason.MISSING_SIGNATURE: "sign the request with the client's key",
    Reason.BAD_SIGNATURE: "sign exactly what is sent, with the key in use",
    Reason.ADDRESS_NOT_ALLOWED: "send from a listed address, or list this one",
    Reason.PREFETCH: "nothing: the visit itself counts",
    Reason.BOT: 'nothing, unless it is no bot: bots = "keep"',
    Reason.DO_NOT_TRACK: "nothing: it is the visitor's wish",
    Reason.ERASED: "nothing: the person asked to be forgotten",
}


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


def explain(entry: Entry, state: State, rulebook: Rulebook, trail: Trail | None = None) -> Story:
    """Tell the story of one hit.

    state: as it was before the hit; it is read and left alone. rulebook: the one in force. trail: the outcomes before, so
    that earlier hits are named by id and time instead of by number. Raises ValueError for an entry without a hit.
    """
    hit, seen = entry.hit, trail or Trail()
    seen.named.clear()
    if hit is None:
        raise ValueError("an entry without a hit has no story")
    work = begin(entry, hit, state, rulebook, parse(hit, rulebook))
    try:
        verdict = next((str(ended) for ended in (step(work) for step in STEPS) if ended is not None), "accepted")
    except Exception as bug:
        return _failed(entry, hit, bug)
    head = (hit.id, entry.seq, entry.time_us, request_line(hit), verdict)
    if isinstance(work.parsed, Rejection):
        return Story(*head, work.parsed.reason, tuple(_rejected(hit, work.parsed)))
    says = tuple(_duplicate(work, seen)) if verdict == Verdict.DUPLICATE else (_accepted(work),)
    who = (tuple(_reading(work)), tuple(tell_visitor(work, seen)), tell_affiliate(work, seen))
    if verdict == Verdict.DUPLICATE:
        return Story(*head, "", says, *who, earlier=tuple(seen.named.items()))
    then = (tuple(_triggers(work, seen)), tuple(_postbacks(work, seen)))
    return Story(*head, "", says, *who, *then, tuple(seen.named.items()))


def request_line(hit: Hit) -> str:
    """`GET /e?client=acme from 192.0.2.1`, with bytes that are no text escaped."""
    query = b"?" + hit.query if hit.query else b""
    address = f" from {hit.address}" if hit.address else ""
    return f"{hit.method} {(hit.path + query).decode(errors='backslashreplace')}{address}"


def _failed(entry: Entry, hit: Hit, bug: Exception) -> Story:
    says = (
        f"Failed: a bug of the engine ({type(bug).__name__}: {bug}). The hit is stored and counts for nothing so far.",
        "Nothing is wrong with the request. Report the bug; once it is mended, a replay decides the hit.",
    )
    return Story(hit.id, entry.seq, entry.time_us, request_line(hit), Verdict.ENGINE_ERROR.value, "", says)


def _rejected(hit: Hit, rejection: Rejection) -> Iterator[str]:
    yield f"Rejected ({rejection.reason}): {rejection.detail}."
    yield "It is stored, but it is no event: it counts for nothing, and no trigger was asked."
    if hit.refusal:
        yield f"The sender was told so in the answer: X-Reason: {hit.refusal}."
    else:
        yield "The answer did not say so, so the sender may believe that it counted."
    remedy = REMEDIES.get(rejection.reason)
    if remedy:
        yield f"What the sender can do: {remedy}. Then send it again."


def _duplicate(work: Work, trail: Trail) -> Iterator[str]:
    event = work.event
    txid = event.fields["txid"]
    earlier_us = work.state.txids[work.txid or ""]
    seq = trail.accepted(event.client, work.test, event.name, txid)
    which = f"the {event.name} of {moment(earlier_us)}"
    if seq is not None:
        which = trail.event(seq, work.plan.visitor, event.name)
    yield f"Duplicate: {which}, {span(work.time_us - earlier_us)} before, has the same txid {txid} and was accepted."
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


def _reading(work: Work) -> Iterator[str]:
    event, client = work.event, work.client
    made = ("affiliate", "click_id") if work.hit.route == "c" else ()
    hidden = ("client", "event", "test", "sig", *made)
    own = {name: value for name, value in event.fields.items() if name not in hidden}
    params = {name: value for name, value in event.params.items() if name not in client.aliases}
    pairs = [f"{name} {value}" for name, value in (own | params).items()]
    if made:
        yield f"It followed the tracker link of {event.fields['affiliate']}; its click id is the id of this hit."
    if pairs or not made:
        yield f"It brought {', '.join(pairs) or 'nothing but client and event'}."
    for alias, name in aliases_used(work):
        yield f'"{alias}" is an alias of {client.name} and was read as {name}.'
    sent = parameters(work.hit)
    for name in ("uid", "tag_id", "click_id", *client.aliases):
        value, meant = sent.get(name, ""), client.aliases.get(name, name)
        if value and meant in ("uid", "tag_id", "click_id") and f"{name} {value[:80]!r}" in event.detail:
            macro = MACRO.match(value) is not None
            why = "is a macro that the sender never filled in" if macro else "stands for no value"
            remedy = f" What the sender can do: fill in the {meant} that belongs to the visitor." if macro else ""
            yield f'{name} "{value[:80]}" {why}, so it identifies nobody and was ignored.{remedy}'


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
