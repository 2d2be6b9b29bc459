"""A fitted crowd: visitors drawn from a profile. They go ways that somebody went, at other times, with other values."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec

from lab.profile import WEEK_HOURS, Money, Orders, Profile, Step, Values, Way, quantile
from lab.world import AGENTS, BOT_AGENT, Dice, Draft, World, encode_pairs

T = TypeVar("T")

_HOUR_US = 3_600_000_000
_WEEK_US = WEEK_HOURS * _HOUR_US
_MONDAY_US = 4 * 24 * _HOUR_US  # 1970-01-05
_GAP_S = 60.0  # between two events that were never seen one after the other

Pairs = list[tuple[str, str]]


class Urn(Generic[T]):
    """Things with weights, drawn by them."""

    def __init__(self, things: Sequence[T], weights: Iterable[float]) -> None:
        self._things, self._sums = things, list(accumulate(weights))

    def draw(self, dice: Dice) -> T:
        """One of them."""
        point = dice.share() * self._sums[-1]
        return self._things[min(bisect_left(self._sums, point), len(self._things) - 1)]


class Fitted:
    """The crowd of a profile. Nobody in it is a test; the share of broken requests is that of the log's rejected hits."""

    tests = 0.0

    def __init__(self, profile: Profile) -> None:
        self.broken = profile.rejected
        self._arrivals = profile.arrivals
        self._ways = [way for way in profile.ways for _ in range(way.visitors)]
        self._dealt: list[Way] = []
        self.waits = {(wait.client, wait.before, wait.event): wait.seconds for wait in profile.waits}
        self.money: dict[tuple[str, str], list[Money]] = {}
        for money in profile.money:
            self.money.setdefault((money.client, money.event), []).append(money)
        self.orders = {(order.client, order.event): order for order in profile.orders}
        self.values: dict[tuple[str, str], list[tuple[Values, Urn[str]]]] = {}
        for values in profile.values:
            urn = Urn([*values.known, ""], [*values.known.values(), values.other])
            self.values.setdefault((values.client, values.event), []).append((values, urn))

    def arrival_us(self, dice: Dice, start_us: int, days: int) -> int:
        """An hour of these days by the weight of that hour of the week, any moment of it."""
        first = (start_us - _MONDAY_US) % _WEEK_US // _HOUR_US
        hours = range(24 * days)
        weights = [self._arrivals[(first + hour) % WEEK_HOURS] for hour in hours]
        hour = Urn(hours, weights if any(weights) else [1.0] * len(hours)).draw(dice)
        return hour * _HOUR_US + dice.between(0, _HOUR_US - 1)

    def visit(self, world: World, at_us: int) -> None:
        """Somebody goes one of the ways."""
        way = self._deal(world.dice)
        walk = _Walk(self, world, way, at_us)
        for wait_us, step in zip(self._waits_us(world.dice, way), way.steps, strict=True):
            walk.go(wait_us, step)

    def _deal(self, dice: Dice) -> Way:
        """The next way of a shuffled deck of all visitors: as many of each kind as there were, before any comes again."""
        if not self._dealt:
            self._dealt = list(self._ways)
            for last in range(len(self._dealt) - 1, 0, -1):
                other = dice.between(0, last)
                self._dealt[last], self._dealt[other] = self._dealt[other], self._dealt[last]
        return self._dealt.pop()

    def _waits_us(self, dice: Dice, way: Way) -> list[int]:
        """The time before each step."""
        own = {(wait.before, wait.event): wait.seconds for wait in way.waits}
        waits_us = [0]
        for before, step in pairwise(way.steps):
            key = (before.event, step.event)
            seen = own.get(key) or self.waits.get((way.client, *key))
            waits_us.append(round(1e6 * (quantile(seen, dice.share()) if seen else _GAP_S)))
        return waits_us


class _Walk:
    """One visitor on the way."""

    def __init__(self, crowd: Fitted, world: World, way: Way, at_us: int) -> None:
        self.crowd, self.world, self.client, self.now_us, self.dice = crowd, world, way.client, at_us, world.dice
        world.people += 1
        self.visitor = world.people
        self.ids = {"u": f"u{self.visitor}", "t": self.dice.hexadecimal(16), "c": f"k{self.visitor}"}
        self.headers = world.headers((BOT_AGENT,) if way.bot else AGENTS)
        self.last: dict[str, str] = {}

    def go(self, wait_us: int, step: Step) -> None:
        """The next event of the way, a while after the one before."""
        self.now_us += wait_us
        pairs = self._values(step)
        if step.route == "c":
            path = f"/c/{quote(self.client, safe='')}/{quote(step.affiliate, safe='')}"
            self.ids["c"] = self._add(path.encode(), pairs, "click")
            return
        known = [("client", self.client), ("event", step.event)]
        known += [(name, self.ids[short]) for name, short in _IDS if short in step.ids]
        known += [("affiliate", step.affiliate)] if step.affiliate else []
        self._add(b"/e.gif" if step.route == "e.gif" else b"/e", [*known, *self._order(step), *pairs], _note(step))
        self._send_again(self.crowd.orders.get((self.client, step.event)))

    def _add(self, path: bytes, pairs: Pairs, note: str) -> str:
        target = path + (b"?" + encode_pairs(pairs) if pairs else b"")
        return self.world.add(
            Draft(self.now_us, "GET", target, note, self.visitor, self.headers, client=self.client)
        )  # fmt: skip

    def _values(self, step: Step) -> Pairs:
        pairs = []
        for values, urn in self.crowd.values.get((self.client, step.event), ()):
            if (values.name == "click_id" and step.route != "c") or not self.dice.chance(values.share):
                continue
            kept = self.last.get(values.name)
            if kept is None or not self.dice.chance(values.steady):
                kept = urn.draw(self.dice) or f"x{self.dice.hexadecimal(8)}"  # a rare one is made up
            self.last[values.name] = kept
            pairs.append((values.name, kept))
        return pairs

    def _order(self, step: Step) -> Pairs:
        pairs = []
        order = self.crowd.orders.get((self.client, step.event))
        if order is not None and self.dice.chance(order.share):
            self.world.orders += 1
            pairs.append(("txid", f"T-{500_000 + self.world.orders}"))
        point = self.dice.share()
        for money in self.crowd.money.get((self.client, step.event), ()):
            point -= money.share
            if point < 0:
                amount = f"{quantile(money.amounts, self.dice.share()):.{money.places}f}"
                return [*pairs, ("amount", amount), *([("currency", money.currency)] if money.currency else [])]
        return pairs

    def _send_again(self, order: Orders | None) -> None:
        """The same request again, as often and as soon as it was seen."""
        sent = self.world.drafts[-1]
        if order is None or b"txid=" not in sent.target or not self.dice.chance(order.again):
            return
        at_us = self.now_us
        for _ in range(round(quantile(order.copies, self.dice.share()))):
            at_us += round(1e6 * quantile(order.waits_s, self.dice.share()))
            self.world.add(msgspec.structs.replace(sent, offset_us=at_us, note="duplicate"))


_IDS = (("uid", "u"), ("tag_id", "t"), ("click_id", "c"))
_NOTES = frozenset(("click", "registration", "login", "sale", "pageview"))


def _note(step: Step) -> str:
    if step.route == "e.gif" and step.event == "pageview":
        return "image"
    return step.event if step.event in _NOTES else "step"
