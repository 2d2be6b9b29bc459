"""A made-up postback for trying an endpoint: its values say themselves what they are, and it is marked as a test."""

from __future__ import annotations

import secrets
import time

import msgspec

from service.delivery.webhook import TEST_ID
from service.engine.model import Postback, PostbackState
from service.engine.postbacks import endpoint_of
from service.engine.rulebook import Affiliate, Client, Rulebook
from service.engine.templates import iso_time

VALUES = {
    "amount": "12.50",
    "currency": "EUR",
    "payout": "2.50",
    "payout_currency": "EUR",
    "event": "test",
    "test": "1",
}


def sample(rulebook: Rulebook, owner: Client | Affiliate, recipient: str, client: str) -> Postback | None:
    """The postback, rendered for the recipient's test endpoint or else its own. None if it has neither."""
    identity, now_us = TEST_ID + secrets.token_hex(8), time.time_ns() // 1000
    empty = Postback(
        identity, "", 0, now_us, client, "", "", "test", recipient, "webhook", PostbackState.DUE.value, "", ""
    )
    made = msgspec.structs.replace(empty, test=owner.test_webhook is not None)
    endpoint = endpoint_of(owner, made)
    if endpoint is None:
        return None

    def ask(name: str) -> str:
        if name == "time":
            return iso_time(now_us)
        return {"postback_id": identity, "client": client, **VALUES}.get(name.rpartition(".")[2], f"test-{name}")

    body = ""
    if endpoint.body is not None:
        body = endpoint.body.fill(ask).text
    elif endpoint.whole_event:
        names = ("postback_id", "hit_id", "trigger", "event", "time", "client", "test", "amount", "currency")
        body = msgspec.json.encode({name: ask(name) for name in names}).decode()
    return msgspec.structs.replace(made, verb=endpoint.verb, url=endpoint.url.fill(ask).text, body=body)
