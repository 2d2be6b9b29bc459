"""A firing to its postbacks: one immutable message per recipient, rendered the moment the trigger fires."""

from __future__ import annotations

import hashlib

import msgspec

from service.engine.model import Firing, Postback, PostbackState
from service.engine.rulebook import Affiliate, Client, Rulebook, Trigger
from service.engine.templates import Template, encode_url, iso_time
from service.engine.triggers import Facts, payout_of

_json = msgspec.json.Encoder()


def postback_id(hit_id: str, trigger: str, recipient: str) -> str:
    """The stable id of a postback: 32 hex digits of the SHA-256 of hit id, trigger and recipient."""
    return hashlib.sha256(f"{hit_id}\x1f{trigger}\x1f{recipient}".encode()).hexdigest()[:32]


POSTBACK_NAMES = frozenset({"trigger", "postback_id", "payout", "payout_currency"})  # known only where one is made


class _Values:
    """What a template of one postback may ask: the facts and what only the postback knows."""

    __slots__ = ("_facts", "_own")

    def __init__(self, facts: Facts, firing: Firing, identity: str) -> None:
        self._facts = facts
        self._own = {"postback_id": identity, "trigger": firing.trigger}
        if firing.payout:
            self._own["payout"] = firing.payout
            self._own["payout_currency"] = firing.currency

    def value(self, name: str) -> str | None:
        return self._own.get(name) if name in POSTBACK_NAMES else self._facts.value(name)


def fire(trigger: Trigger, facts: Facts, rulebook: Rulebook, test: bool) -> tuple[Firing, list[Postback]]:
    """The firing of a trigger and one postback for each of its recipients."""
    payout, currency = payout_of(trigger.payout, facts)
    firing = Firing(trigger.name, payout, currency)
    client = rulebook.clients[trigger.client]
    affiliate = rulebook.affiliates.get(facts.affiliate)
    return firing, [_postback(role, trigger, firing, facts, client, affiliate, test) for role in trigger.to]


def _postback(
    role: str, trigger: Trigger, firing: Firing, facts: Facts, client: Client, affiliate: Affiliate | None, test: bool
) -> Postback:
    to_affiliate = role == "affiliate"
    recipient = f"affiliate:{facts.affiliate}" if to_affiliate else f"client:{client.name}"
    identity = postback_id(facts.hit_id, trigger.name, recipient)
    template = _endpoint(trigger, client, affiliate if to_affiliate else None, test)
    values = _Values(facts, firing, identity)
    verb = url = body = ""
    missing: tuple[str, ...] = ()
    state = PostbackState.RECORDED if test else PostbackState.WITHHELD
    if template is not None:
        rendered = template.render(values, encode_url)
        url, missing = rendered.text, rendered.missing
        state = PostbackState.WITHHELD if rendered.withheld else PostbackState.DUE
        verb = "GET" if template.macros else "POST"
        if verb == "POST":
            body = json_body(facts, firing, identity, client.private if to_affiliate else frozenset())
    return Postback(
        identity, facts.hit_id, facts.seq, facts.time_us, client.name, facts.affiliate, trigger.name, facts.event.name,
        recipient, trigger.method, state.value, verb, url, body, missing, firing.payout, firing.currency, test,
    )  # fmt: skip


def _endpoint(trigger: Trigger, client: Client, affiliate: Affiliate | None, test: bool) -> Template | None:
    """Where the postback goes: the most specific endpoint; for tests only the test endpoint."""
    if affiliate is None:
        return client.test_webhook if test else client.webhook
    if test:
        return affiliate.test_webhook
    for key in ((client.name, trigger.name), (client.name, "")):
        override = affiliate.overrides.get(key)
        if override is not None and override.webhook is not None:
            return override.webhook
    return affiliate.webhook


def json_body(facts: Facts, firing: Firing, identity: str, hidden: frozenset[str]) -> str:
    """The event as JSON: ids, times, money, its parameters and the remembered ones, in a fixed order of keys."""
    fields = facts.event.fields
    document: dict[str, object] = {
        "postback_id": identity,
        "hit_id": facts.hit_id,
        "trigger": firing.trigger,
        "event": facts.event.name,
        "time": iso_time(facts.time_us),
        "client": facts.event.client,
        "affiliate": facts.affiliate or None,
        "visitor": facts.visitor.id,
    }
    for name in ("uid", "click_id", "tag_id", "txid", "amount", "currency", "ts"):
        if name in fields and name not in hidden:
            document[name] = fields[name]
    if firing.payout:
        document["payout"], document["payout_currency"] = firing.payout, firing.currency
    document["params"] = {name: value for name, value in facts.params.items() if name not in hidden}
    return _json.encode(document).decode()
