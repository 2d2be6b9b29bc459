"""Which names a condition and a template may use, and the tables of clients and affiliates that declare them."""

from __future__ import annotations

from service.engine.model import RESERVED
from service.engine.postbacks import POSTBACK_NAMES
from service.engine.rulebook import Affiliate, Client
from service.engine.values import Values

OF_THE_HIT = frozenset({"time", "hit_id", "visitor"})  # known wherever an event is asked
MADE_PARAMS = frozenset({"affiliate_click_id"})  # a custom parameter that every client has: /c makes it
DERIVED = OF_THE_HIT | MADE_PARAMS | POSTBACK_NAMES
NOT_REMEMBERED = DERIVED - MADE_PARAMS | frozenset(RESERVED)


class Declared(Values):
    """What the clients and affiliates read so far declare."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: dict[str, Client] = {}
        self.affiliates: dict[str, Affiliate] = {}

    def _known_names(self, client: str, extra: tuple[str, ...]) -> frozenset[str]:
        known = self.clients.get(client)
        declared = known.params | known.private if known else frozenset()
        return frozenset(RESERVED) | DERIVED | declared | frozenset(extra)


def last_field(name: str) -> str:
    return name.rpartition(".")[2] if name.startswith("last.") else ""


def is_known(name: str, known: frozenset[str]) -> bool:
    if name in known:
        return True
    scope, _, rest = name.partition(".")
    if scope == "param":
        return bool(rest) and rest not in RESERVED
    if scope == "first":
        return rest in known and rest not in NOT_REMEMBERED
    return scope == "last" and rest.rpartition(".")[2] in RESERVED and bool(rest.rpartition(".")[0])
