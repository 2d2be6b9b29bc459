"""A rulebook for a service in a notebook: every webhook leads to the partner on this machine, no real secret is used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from lab.log import LabError
from service.engine import Rulebook, load

SECRET_NAME = "LAB_LIVE_SECRET"
SECRET = "whsec_bm9ib2R5cyBzZWNyZXQsIGZvciBub3RlYm9va3M="  # signs what never leaves this machine
LOOPBACK = ("127.0.0.1", "localhost")
_ENVIRONMENT = re.compile(r"\benv:[A-Za-z_][A-Za-z0-9_]*")

EXAMPLE = """
[client.acme]
params = ["country", "sub1"]
webhook = "https://acme.example/events"

[affiliate.bestodds]
params = ["sub1"]
webhook = "https://bestodds.example/pb?cid={sub1}&event={event}&sum={payout}&cur={payout_currency}"

[[trigger]]
name = "signup"
client = "acme"
on = "registration"
after = ["click"]
once = "visitor"
payout = { fixed = "2.00", currency = "EUR" }
to = ["client", "affiliate"]
"""


def pointed_at(rulebook: Rulebook, partner: str) -> Rulebook:
    """The same rulebook with other addresses and secrets, so that trying it calls nobody.

    partner: such as `http://127.0.0.1:4711`. `https://acme.example/et?x={y}` becomes `<partner>/acme.example/et?x={y}`; an
    address of this machine keeps its path as it is. Raises LabError for an address that cannot be replaced.
    """
    text = _ENVIRONMENT.sub(f"env:{SECRET_NAME}", rulebook.text)
    for address in sorted(set(_addresses(rulebook))):
        parts = urlsplit(address)
        host = "" if parts.hostname in LOOPBACK else f"/{parts.netloc.rpartition('@')[2]}"
        there = partner + host + address.partition("://")[2].removeprefix(parts.netloc)
        for quote in "\"'":
            text = text.replace(f"{quote}{address}{quote}", f"{quote}{there}{quote}")
    pointed = load(text)
    for address in _addresses(pointed):
        if not address.startswith(f"{partner}/"):
            raise LabError(
                f"the webhook {address!r} cannot be led to the partner of this notebook; write it as one plain string, "
                "with a / behind its host"
            )
    return pointed


def _addresses(rulebook: Rulebook) -> Iterator[str]:
    """Every address that the service itself would call."""
    affiliates = rulebook.affiliates.values()
    hooks = [hook for client in rulebook.clients.values() for hook in (client.webhook, client.test_webhook)]
    hooks += [hook for affiliate in affiliates for hook in (affiliate.webhook, affiliate.test_webhook)]
    hooks += [own.webhook for affiliate in affiliates for own in affiliate.overrides.values()]
    for hook in hooks:
        if hook is not None:
            yield hook.url.source
