"""A made-up postback for trying an endpoint: its values say themselves what they are, and it is marked as a test."""

from __future__ import annotations

import secrets
import time

import msgspec

from service.delivery.webhook import TEST_ID
from service.engine.model import Postback, PostbackState
from service.engine.postbacks import most_specific
from service.engine.rulebook import MAIL, Affiliate, Client, Webhook, endpoint_for
from service.engine.times import iso_time

METHODS = ("webhook", "email", "javascript", "pixel")  # in the order in which they are tried
MARK = "[test] "  # what the subject of a mail begins with
VALUES = {
    "amount": "12.50",
    "currency": "EUR",
    "payout": "2.50",
    "payout_currency": "EUR",
    "event": "test",
    "test": "1",
}


def method_of(owner: Client | Affiliate, client: str, trigger: str) -> str:
    """The first method for which a recipient has an endpoint, "" if it has none. trigger: "" for any."""
    return next((method for method in METHODS if endpoint(owner, client, trigger, method) is not None), "")


def endpoint(owner: Client | Affiliate, client: str, trigger: str, method: str) -> Webhook | None:
    """Where a test goes: for webhooks the endpoint for tests, else the recipient's own for this client and trigger."""
    if method == "webhook" and owner.test_webhook is not None:
        return owner.test_webhook
    if isinstance(owner, Affiliate):
        return most_specific(owner, client, trigger, method)[1]
    return endpoint_for(method, owner)


def sample(
    owner: Client | Affiliate, recipient: str, client: str, trigger: str = "", method: str = "webhook"
) -> Postback | None:
    """The postback, rendered for the recipient's endpoint. trigger: "" for none. None if it has no endpoint."""
    to = endpoint(owner, client, trigger, method)
    if to is None:
        return None
    identity, now_us = TEST_ID + secrets.token_hex(8), time.time_ns() // 1000

    def ask(name: str) -> str:
        if name == "time":
            return iso_time(now_us)
        known = {"postback_id": identity, "client": client, **VALUES} | ({"trigger": trigger} if trigger else {})
        return known.get(name.rpartition(".")[2], f"test-{name}")

    body = ""
    if to.body is not None:
        body = to.body.fill(ask).text
    elif to.whole_event:
        names = ("postback_id", "hit_id", "trigger", "event", "time", "client", "test", "amount", "currency")
        body = msgspec.json.encode({name: ask(name) for name in names}).decode()
    return Postback(
        identity, "", 0, now_us, client, "", trigger, "test", recipient, method, PostbackState.DUE.value, to.verb,
        to.url.fill(ask).text, _marked(body) if to.verb == MAIL else body, test=to is owner.test_webhook,
    )  # fmt: skip


def _marked(mail: str) -> str:
    parts = msgspec.json.decode(mail, type=dict[str, str])
    return msgspec.json.encode(parts | {"subject": MARK + parts["subject"]}).decode()
