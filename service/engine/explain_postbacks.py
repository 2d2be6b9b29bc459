"""What a postback holds and where each value came from. See explain.py."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from service.engine.explain_triggers import payout_in_words
from service.engine.model import Postback, PostbackState
from service.engine.parse import parameters
from service.engine.pipeline import Work
from service.engine.postbacks import endpoint
from service.engine.rulebook import BROWSER_METHODS, Trigger, Webhook
from service.engine.templates import Macro
from service.engine.trail import Trail
from service.engine.visitors import Remembered
from service.engine.words import listed

_OURS = "Backtrack's own"
_NO_TESTS = dict.fromkeys(BROWSER_METHODS, "no page is given a test") | {"email": "no mail is sent for a test"}


class Value(msgspec.Struct, frozen=True):
    """One value of a postback. value: None if there was none. origin: where it came from, in words.

    seq: the entry of the log that brought it, 0 if it is this hit or no hit did.
    """

    name: str
    value: str | None
    origin: str
    seq: int = 0


class PostbackStory(msgspec.Struct, frozen=True):
    """One postback: what became of it when the trigger fired, and its values in the order of its address or body."""

    id: str
    trigger: str
    recipient: str
    state: str
    request: str
    says: str
    values: tuple[Value, ...]


def tell_postback(postback: Postback, trigger: Trigger, work: Work, trail: Trail) -> PostbackStory:
    """The story of one postback."""
    template = _template(postback, trigger, work)
    names = [] if template is None else _asked(template, postback)
    values = tuple(_value(name, macro, postback, trigger, work, trail) for name, macro in names)
    if trail.private:
        values = tuple(msgspec.structs.replace(v, value=v.value and trail.shown(v.name, v.value)) for v in values)
    hidden = trail.private and not postback.recipient.startswith("affiliate:")  # where it calls is the client's matter
    request = "" if hidden else f"{postback.verb} {postback.url}".strip()
    return PostbackStory(
        postback.id, trigger.name, postback.recipient, postback.state, request,
        _says(postback, template), values,
    )  # fmt: skip


def _template(postback: Postback, trigger: Trigger, work: Work) -> Webhook | None:
    to_affiliate = postback.recipient.startswith("affiliate:")
    affiliate = work.rulebook.affiliates.get(postback.affiliate) if to_affiliate else None
    return endpoint(trigger, work.client, affiliate, postback.test)


def _asked(template: Webhook, postback: Postback) -> list[tuple[str, Macro | None]]:
    asked: dict[str, Macro | None] = {macro.name: macro for macro in template.macros}
    body = msgspec.json.decode(postback.body) if template.whole_event and postback.body else {}
    own = [name for name in body if name not in ("params", "event", "client")]
    return list((asked | dict.fromkeys([*own, *(f"param.{name}" for name in body.get("params", {}))])).items())


def _says(postback: Postback, template: Webhook | None) -> str:
    whom = postback.recipient.replace(":", " ")
    if postback.state == PostbackState.RECORDED:
        lacks = _NO_TESTS.get(postback.method) or f"{whom} has no test_webhook"
        return f"To {whom}: not sent, since this is a test and {lacks}; recorded only."
    if template is None:
        return f"To {whom}: not sent, since {whom} has no {postback.method}; withheld. Add one to the rulebook."
    if postback.state == PostbackState.WITHHELD:
        required = [macro.name for macro in template.macros if macro.required and macro.name in postback.missing]
        return f"To {whom}: not sent, since {listed(required)} must have a value and has none; withheld."
    lacking = f", without a value for {listed(postback.missing)}" if postback.missing else ""
    kind = ", with the event as JSON" if template.whole_event else ""
    return f"To {whom}{' (its test address)' if postback.test else ''}: promised{kind}{lacking}."


def _value(
    name: str, macro: Macro | None, postback: Postback, trigger: Trigger, work: Work, trail: Trail
) -> Value:  # fmt: skip
    made = _made(name, postback, trigger, work, trail)
    if made is not None:
        return Value(name, *made)
    value = work.value(name)
    if value is None:
        instead = "left empty" if macro is None or macro.default is None else f'"{macro.default}" was sent instead'
        return Value(name, None, f"nobody ever brought it, {instead}")
    return _brought(name, value, work, trail)


def _made(name: str, postback: Postback, trigger: Trigger, work: Work, trail: Trail) -> tuple[str | None, str] | None:
    """A value that the engine makes, None for all others."""
    if name == "payout":
        worth = payout_in_words(trigger, work, trail)
        return (
            postback.payout or None,
            worth.strip(" ()").replace("fixed", "fixed in the rulebook") if postback.payout else _unpaid(trigger),
        )
    if name == "payout_currency":
        if not postback.currency:
            return None, _unpaid(trigger)
        own = trigger.payout is not None and (trigger.payout.fixed is not None or "currency" not in work.event.fields)
        return postback.currency, "from the rulebook" if own else "sent with this hit"
    plain = {
        "trigger": (trigger.name, _OURS), "postback_id": (postback.id, _OURS), "hit_id": (work.hit.id, _OURS),
        "time": (work.value("time"), _OURS), "visitor": (work.plan.visitor.id, _OURS),
    }  # fmt: skip
    if name == "affiliate" and "affiliate" not in work.event.fields:
        return work.affiliate or None, "by attribution as said above"
    return plain.get(name)


def _unpaid(trigger: Trigger) -> str:
    return f"left empty, since {'the firing is worth nothing' if trigger.payout else 'the trigger has no payout'}"


def _brought(name: str, value: str, work: Work, trail: Trail) -> Value:
    """A value that a hit brought: this one or an earlier one."""
    scope, _, rest = name.partition(".")
    if work.hit.route == "c" and name in ("click_id", "affiliate"):
        return Value(name, value, "made by this click")
    if name in work.event.fields:
        return Value(name, value, f"sent with this hit{_alias(name, work)}")
    if scope == "last":
        event = rest.rpartition(".")[0]
        return _from(name, value, work.plan.visitor.events[event].last_seq, work, trail)
    plain = rest if scope in ("param", "first") and rest else name
    known: Remembered | None = work.plan.visitor.params.get(plain)
    if scope == "first" and known is not None:
        return _from(name, value, known.first_seq, work, trail)
    if plain in work.event.params or known is None:
        return Value(name, value, "sent with this hit")
    return _from(name, value, known.last_seq, work, trail)


def _from(name: str, value: str, seq: int, work: Work, trail: Trail) -> Value:
    return Value(name, value, f"remembered from {trail.event(seq, work.plan.visitor)}", seq)


def _alias(name: str, work: Work) -> str:
    return next((f' as "{alias}"' for alias, reserved in aliases_used(work) if reserved == name), "")


def aliases_used(work: Work) -> Iterator[tuple[str, str]]:
    """(name that was sent, reserved name that it filled)."""
    sent, filled = parameters(work.hit), set[str]()
    for alias, name in work.client.aliases.items():
        value = work.event.fields.get(name, "")
        took = sent.get(alias, "").upper() == value.upper() and sent.get(name, "").upper() != value.upper()
        if value and took and name not in filled:
            filled.add(name)
            yield alias, name
