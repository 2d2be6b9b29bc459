"""The world that traffic happens in: shares, qualities of affiliates, values, and the dice that draw everything."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar
from urllib.parse import quote, quote_plus

import msgspec

from service.engine.rulebook import Client, Rulebook

T = TypeVar("T")

# how often things happen: a share of what stands behind it
SHARES = {
    "broken": 0.03,  # of hits
    "test": 0.005,  # of hits
    "alias": 0.35,  # of events: named with the client's own names
    "form": 0.15,  # of events between servers: a POST form
    "json": 0.25,  # of events between servers: a POST with JSON
    "repeated": 0.04,  # of events: a parameter twice, the last one counts
    "unicode": 0.06,  # of custom values
    "macro": 0.02,  # of tracker links: the affiliate forgot to fill a macro
    "guest": 0.3,  # of buyers: never register
    "duplicate": 0.08,  # of sales: sent again with the same txid
    "returning": 0.15,  # of registered visitors: come back through another affiliate's link
    "second_person": 0.02,  # of registered visitors: somebody else registers on the same device
}


class Quality(msgspec.Struct, frozen=True):
    """What an affiliate's visitors are worth.

    arrivals: weight among the affiliates. registers, buys: shares of the visitors. bots: share of arrivals that only
    click. linked: uses the tracker link; without it, the page's own tag tells of the click.
    """

    arrivals: int
    registers: float
    buys: float
    bots: float = 0.0
    linked: bool = True


# dealt to the rulebook's affiliates in the order of the document
QUALITIES = (
    Quality(30, 0.40, 0.50, bots=0.02),  # solid
    Quality(36, 0.15, 0.25, bots=0.30),  # much traffic, a third of it bots
    Quality(12, 0.35, 0.40, linked=False),  # no tracker link
    Quality(16, 0.50, 0.60),  # few visitors, good ones
    Quality(6, 0.25, 0.30),  # hardly anybody
)
CLIENT_WEIGHTS = (5, 3, 2)

VALUES = {
    "country": ("DE", "DE", "DE", "AT", "CH", "GB", "FR", "US"),
    "device": ("mobile", "mobile", "desktop", "tablet"),
    "sub1": ("banner-a", "banner-b", "review", "top-list", "mail 12"),
    "sub2": ("left", "right", "footer"),
    "category": ("shoes", "garden", "books & maps", "toys"),
    "coupon": ("", "", "WELCOME10", "SPRING", "STAFF-7"),
    "destination": ("Rome", "Lisbon", "Kyoto", "Oslo"),
}
UNICODE = ("größe", "Łódź", "привет", "東京", "naïve café", "🎯 ziel", "مرحبا")
CURRENCIES = (("EUR", 86), ("USD", 7), ("GBP", 4), ("JPY", 2), ("eur", 1))
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Mobile Safari/537.36",
)
BOT_AGENT = "Mozilla/5.0 (compatible; LinkTaster/2.1; +http://linktaster.example/bot)"


class Dice:
    """Chance out of one seed. Built on `random()` alone, the only method Python keeps the same between versions."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed).random

    def share(self) -> float:
        """A number from 0 to below 1."""
        return self._random()

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return self._random() < share

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self._random() * (high - low + 1))

    def lag_us(self, low_s: int, high_s: int) -> int:
        """A waiting time: mostly near the lower end, with a long tail to the upper one."""
        share = self._random()
        return int((low_s + share * share * share * (high_s - low_s)) * 1_000_000)

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[self.between(0, len(values) - 1)]

    def weighted(self, values: Sequence[T], weights: Sequence[int]) -> T:
        """One of the values by its weight."""
        point = self.between(1, sum(weights))
        for value, weight in zip(values, weights, strict=True):
            point -= weight
            if point <= 0:
                return value
        raise AssertionError("the point lies within the sum")

    def hexadecimal(self, digits: int) -> str:
        """So many hex digits."""
        return "".join("0123456789abcdef"[self.between(0, 15)] for _ in range(digits))


class Draft(msgspec.Struct, gc=False):
    """A request before all are put in order: as `traffic.Request`, with `{id:N}` for the draft made as number N.

    client: whose visitor sends it, "" where it is broken. stories: those that touched it.
    """

    offset_us: int
    method: str
    target: bytes
    note: str
    visitor: int
    headers: dict[str, str]
    body: bytes = b""
    content_type: str = ""
    client: str = ""
    stories: tuple[str, ...] = ()


def qualities_of(rulebook: Rulebook) -> dict[str, Quality]:
    """What the visitors of each affiliate are worth; without affiliates those who come by themselves, as ""."""
    if not rulebook.affiliates:
        return {"": msgspec.structs.replace(QUALITIES[0], linked=False)}
    return {name: QUALITIES[position % len(QUALITIES)] for position, name in enumerate(rulebook.affiliates)}


def linked_affiliates(rulebook: Rulebook) -> list[str]:
    """The affiliates that use the tracker link."""
    return [name for name, quality in qualities_of(rulebook).items() if name and quality.linked]


class World:
    """The rulebook's clients and affiliates, the dice, and the drafts made so far."""

    def __init__(self, rulebook: Rulebook, dice: Dice, start_us: int) -> None:
        self.rulebook = rulebook
        self.dice = dice
        self.start_us = start_us
        self.clients = tuple(rulebook.clients.values())
        self.affiliates = tuple(rulebook.affiliates) or ("",)
        self.qualities = qualities_of(rulebook)
        self.linked = linked_affiliates(rulebook)
        self.drafts: list[Draft] = []
        self.people = 0
        self.orders = 0
        self.broken = 0

    def client(self) -> Client:
        """A client by its weight."""
        weights = [CLIENT_WEIGHTS[min(i, len(CLIENT_WEIGHTS) - 1)] for i in range(len(self.clients))]
        return self.dice.weighted(self.clients, weights)

    def affiliate(self) -> str:
        """An affiliate by its arrivals."""
        return self.dice.weighted(self.affiliates, [self.qualities[name].arrivals for name in self.affiliates])

    def add(self, draft: Draft) -> str:
        """Keep a draft; answers with the placeholder of its hit id."""
        self.drafts.append(draft)
        return f"{{id:{len(self.drafts) - 1}}}"

    def headers(self, agents: Sequence[str] = AGENTS, referrer: str = "") -> dict[str, str]:
        """The headers of a person: address (from the ranges kept for documents), browser, where from."""
        dice = self.dice
        address = f"{dice.pick(('192.0.2', '198.51.100', '203.0.113'))}.{dice.between(1, 254)}"
        headers = {"user-agent": dice.pick(agents), "x-forwarded-for": address}
        return headers | ({"referer": referrer} if referrer else {})

    def values(self, client: Client, names: Iterable[str]) -> list[tuple[str, str]]:
        """Custom parameters with values, those that are left empty now and then left out."""
        pairs = []
        for name in names:
            value = self.dice.pick(VALUES.get(name, ("one", "two", "three")))
            if value and name != "country" and self.dice.chance(SHARES["unicode"]):
                value = self.dice.pick(UNICODE)
            pairs.append((name, value))
        return [pair for pair in pairs if pair[1]]


def encode_pairs(pairs: Iterable[tuple[str, str]], form: bool = False) -> bytes:
    """Names and values percent-encoded; a placeholder stays as it is."""
    escape = quote_plus if form else quote

    def written(value: str) -> str:
        return value if value.startswith("{id:") else escape(value, safe="")

    return "&".join(f"{escape(name, safe='')}={written(value)}" for name, value in pairs).encode()
