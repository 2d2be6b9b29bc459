"""A firing to its postbacks: one immutable message per recipient, rendered the moment the trigger fires."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from msgspec import UNSET

from service.engine.body import Body
from service.engine.filling import fill
from service.engine.model import Firing, Postback, PostbackState
from service.engine.rulebook import Affiliate, Client, Rulebook, Trigger, Webhook, endpoint_for
from service.engine.times import iso_time
from service.engine.triggers import Asked, payout_of

_encode: Final = msgspec.json.Encoder().encode
_DUE: Final[str] = PostbackState.DUE.value
_WITHHELD: Final[str] = PostbackState.WITHHELD.value
_RECORDED: Final[str] = PostbackState.RECORDED.value
_NOTHING: Final[frozenset[str]] = frozenset()


def postback_id(hit_id: str, trigger: str, recipient: str) -> str:
    """The stable id of a postback: 32 hex digits of the SHA-256 of hit id, trigger and recipient."""
    return hashlib.sha256(f"{hit_id}\x1f{trigger}\x1f{recipient}".encode()).hexdigest()[:32]


POSTBACK_NAMES = frozenset({"trigger", "postback_id", "payout", "payout_currency"})  # known only where one is made


def fire(trigger: Trigger, facts: Asked, rulebook: Rulebook, test: bool) -> tuple[Firing, list[Postback]]:
    """The firing of a trigger and one postback for each of its recipients."""
    payout, currency = payout_of(trigger.payout, facts)
    firing = Firing(trigger.name, payout, currency)
    client = rulebook.clients[trigger.client]
    affiliate = rulebook.affiliates.get(facts.affiliate)
    return firing, [_postback(role, trigger, firing, facts, client, affiliate, test) for role in trigger.to]


def _postback(
    role: str, trigger: Trigger, firing: Firing, facts: Asked, client: Client, affiliate: Affiliate | None, test: bool
) -> Postback:
    to_affiliate = role == "affiliate"
    recipient = f"affiliate:{facts.affiliate}" if to_affiliate else f"client:{client.name}"
    identity = postback_id(facts.hit_id, trigger.name, recipient)
    webhook = endpoint(trigger, client, affiliate if to_affiliate else None, test)
    verb = url = body = ""
    missing: tuple[str, ...] = ()
    state = _RECORDED if test else _WITHHELD
    if webhook is not None:
        ask = _values(webhook, facts, firing, identity).get if webhook.macros else _no_value
        verb = webhook.verb
        url, missing, withheld = fill(webhook.url, ask)
        if webhook.body is not None:
            body, also_missing, also_withheld = fill(webhook.body, ask)
            withheld = withheld or also_withheld
            missing += tuple([name for name in also_missing if name not in missing])
        elif verb == "POST":
            body = json_body(facts, firing, identity, client.private if to_affiliate else _NOTHING)
        state = _WITHHELD if withheld else _DUE
    return Postback(
        identity, facts.hit_id, facts.seq, facts.time_us, client.name, facts.affiliate, trigger.name, facts.event.name,
        recipient, trigger.method, state, verb, url, body, missing, firing.payout, firing.currency, test,
    )  # fmt: skip


def _no_value(_: str) -> None:
    return None


def _values(webhook: Webhook, facts: Asked, firing: Firing, identity: str) -> dict[str, str | None]:
    """What the templates of one postback may ask. No name that a request brings stands for one of ours."""
    values: dict[str, str | None] = {
        **facts.params,
        **facts.fields,
        "affiliate": facts.affiliate or None,
        "hit_id": facts.hit_id,
        "visitor": facts.visitor.id,
        "trigger": firing.trigger,
        "postback_id": identity,
        "payout": firing.payout or None,
        "payout_currency": firing.currency or None,
    }
    for name in webhook.looked_up:
        values[name] = facts.value(name)
    return values


def endpoint(trigger: Trigger, client: Client, affiliate: Affiliate | None, test: bool) -> Webhook | None:
    """Where the postback goes: the most specific endpoint; for tests only the test endpoint."""
    if test:  # nothing that is a test ever goes to a page or into a mailbox
        return (affiliate or client).test_webhook if trigger.method == "webhook" else None
    if affiliate is None:
        return endpoint_for(trigger.method, client)
    return most_specific(affiliate, client.name, trigger.name, trigger.method)[1]


def most_specific(
    affiliate: Affiliate, client: str, trigger: str, method: str
) -> tuple[tuple[str, ...], Webhook | None]:
    """The endpoint of an affiliate for a trigger, and where it stands in the affiliate's table."""
    for where in (("for", client, trigger), ("for", client)):
        override = affiliate.overrides.get((client, trigger if len(where) == 3 else ""))
        own = None if override is None else endpoint_for(method, override)
        if own is not None:
            return where, own
    return (), endpoint_for(method, affiliate)


def endpoint_of(owner: Client | Affiliate, postback: Postback) -> Webhook | None:
    """The endpoint of a recipient for a postback that was promised earlier, as the rulebook has it now."""
    if isinstance(owner, Client) or postback.test:
        return owner.test_webhook if postback.test else owner.webhook
    return most_specific(owner, postback.client, postback.trigger, postback.method)[1]


def json_body(facts: Asked, firing: Firing, identity: str, hidden: frozenset[str]) -> str:
    """The event as JSON: ids, times, money, its parameters and the remembered ones, in a fixed order of keys."""
    event, params = facts.event, facts.params
    fields = facts.fields
    if hidden:
        fields = {name: value for name, value in fields.items() if name not in hidden}
        params = {name: value for name, value in params.items() if name not in hidden}
    sent = fields.get
    body = Body(
        identity, facts.hit_id, firing.trigger, event.name, iso_time(facts.time_us), event.client,
        facts.affiliate or None, facts.visitor.id, sent("uid", UNSET), sent("click_id", UNSET), sent("tag_id", UNSET),
        sent("txid", UNSET), sent("amount", UNSET), sent("currency", UNSET), sent("ts", UNSET),
        firing.payout or UNSET, firing.currency if firing.payout else UNSET, params,
    )  # fmt: skip
    return _encode(body).decode()
