"""Which triggers an event fires: the stages in one fixed order, each a question with a name.

A stage answers True to let the trigger go on. The first that does not gives the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Final, Protocol

from service.engine.model import Event, Stage
from service.engine.parse import NUMBER
from service.engine.rulebook import Cap, Payout, Rulebook, Trigger
from service.engine.times import iso_time
from service.engine.visitors import State, Visitor

# ISO 4217: currencies whose minor unit is not a hundredth
_BY_PLACES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
CURRENCY_PLACES = {code: places for places, codes in _BY_PLACES.items() for code in codes.split()}
_UNITS = tuple(Decimal((0, (1,), -places)) for places in range(5))

_EXACT = Context(prec=80, rounding=ROUND_HALF_EVEN)  # 18 + 9 digits times a percentage always fit; no ambient context


_OWN: Final = frozenset({"time", "hit_id", "visitor", "affiliate"})


class Asked:
    """What conditions and templates may ask about the event at hand: reserved names, custom and remembered parameters."""

    __slots__ = ()

    event: Event
    fields: dict[str, str]  # of the event
    visitor: Visitor
    affiliate: str
    params: dict[str, str]
    hit_id: str
    seq: int
    time_us: int

    def value(self, name: str) -> str | None:
        """The value of a name, None if it is missing.

        What a request brings can never stand for a name that is ours: `param.NAME` reaches a parameter of such a name.
        """
        value = self.fields.get(name)
        if value is not None:
            return value
        if name in _OWN:
            return self._own(name)
        return self._scoped(name) if "." in name else self.params.get(name)

    def _own(self, name: str) -> str | None:
        if name == "time":
            return iso_time(self.time_us)
        if name == "hit_id":
            return self.hit_id
        if name == "visitor":
            return self.visitor.id
        return self.affiliate or None

    def _scoped(self, name: str) -> str | None:
        scope, _, rest = name.partition(".")
        if scope == "param":
            return self.params.get(rest)
        if scope == "first":
            known = self.visitor.params.get(rest)
            return self.event.params.get(rest) if known is None else known.first
        if scope == "last":
            event, _, field = rest.rpartition(".")
            stat = self.visitor.events.get(event)
            return None if stat is None else stat.fields.get(field)
        return None

    def count(self, event: str) -> int:
        """How many earlier counted events of this name the visitor has."""
        stat = self.visitor.events.get(event)
        return 0 if stat is None else stat.count

    def since_us(self, event: str) -> int | None:
        """Microseconds since the last earlier counted event of this name, None if there is none."""
        stat = self.visitor.events.get(event)
        return None if stat is None else self.time_us - stat.last_us


class Facts(Asked):
    """The same as a value, for who has it from elsewhere than a hit."""

    __slots__ = ("affiliate", "event", "fields", "hit_id", "params", "seq", "time_us", "visitor")

    def __init__(
        self,
        event: Event,
        visitor: Visitor,
        affiliate: str,
        params: dict[str, str],
        hit_id: str,
        seq: int,
        time_us: int,
    ) -> None:
        self.event = event
        self.fields = event.fields
        self.visitor = visitor
        self.affiliate = affiliate
        self.params = params
        self.hit_id = hit_id
        self.seq = seq
        self.time_us = time_us


class Case(Asked):
    """The triggers before one event, in turn: what the stages look at, and what of it has to be written."""

    __slots__ = (
        "affiliate", "caps", "event", "fields", "firing", "hit_id", "not_fired", "once", "params", "prefix", "rulebook",
        "seq", "state", "time_us", "trigger", "visitor",
    )  # fmt: skip

    state: State
    rulebook: Rulebook
    prefix: str
    trigger: Trigger
    firing: list[Trigger]
    not_fired: dict[str, str]
    once: list[str]
    caps: list[str]


def _active(case: Case) -> bool:
    trigger, now_us = case.trigger, case.time_us
    return not trigger.paused and trigger.from_us <= now_us < trigger.until_us


def _has_recipient(case: Case) -> bool:
    return case.affiliate in case.rulebook.affiliates


def _steps_done(case: Case) -> bool:
    trigger = case.trigger
    oldest_us = case.time_us - trigger.within_us if trigger.within_us else None
    return steps_done(case.visitor.history, trigger.after, oldest_us)


def steps_done(history: list[tuple[int, int, str]], steps: tuple[str, ...], oldest_us: int | None) -> bool:
    """Whether the steps occurred in order, each its own event, the first no older than `oldest_us`.

    The greedy match from the oldest admissible event on finds a match whenever there is one.
    """
    wanted = 0
    for _, time_us, name in history:
        if name == steps[wanted] and (wanted or oldest_us is None or time_us >= oldest_us):
            wanted += 1
            if wanted == len(steps):
                return True
    return False


def _condition_holds(case: Case) -> bool:
    condition = case.trigger.when
    return condition is None or condition.predicate(case)


def _sampled(case: Case) -> bool:
    return sample_bucket(case.trigger.name, case.visitor.id) >= case.trigger.sample * 100


def sample_bucket(trigger: str, visitor: str) -> int:
    """A number from 0 to 9999 that depends on the trigger and the visitor only."""
    digest = hashlib.sha256(f"{trigger}\x1f{visitor}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10_000


def _first_time(case: Case) -> bool:
    if case.trigger.name in case.visitor.once:
        return False
    case.once.append(case.trigger.name)
    return True


def _under_cap(case: Case) -> bool:
    cap = case.trigger.cap
    if cap is None:
        return True
    key = cap_key(case.trigger, cap, case, case.prefix)
    case.caps.append(key)
    return case.state.caps.get(key, 0) < cap.count


_PERIOD_LENGTH = {"hour": 13, "day": 10, "month": 7, "total": 0}  # of the ISO time in front


def cap_key(trigger: Trigger, cap: Cap, facts: Asked, prefix: str) -> str:
    """What a cap counts by: trigger, affiliate (if per affiliate) and period in UTC."""
    period = iso_time(facts.time_us)[: _PERIOD_LENGTH[cap.every]]
    return f"{prefix}{trigger.name}\x1f{facts.affiliate if cap.per == 'affiliate' else ''}\x1f{period}"


def past_caps(keys: Iterable[str], time_us: int) -> list[str]:
    """Those of these cap keys whose period is over at this log time, so that no later hit can ask for them."""
    now = iso_time(time_us)
    return [key for key in keys if (period := key.rpartition("\x1f")[2]) < now[: len(period)]]


def drop_past_caps(state: State, time_us: int) -> None:
    """Let the state drop the counters of periods that are over at this log time. Changes no decision, now or in replay."""
    for key in past_caps(state.caps, time_us):
        state.drop_cap(key)


STAGES: tuple[tuple[Stage, Callable[[Case], bool]], ...] = (
    (Stage.INACTIVE, _active),
    # Stage.EVENT: the rulebook's index hands out only the triggers on this event
    (Stage.RECIPIENT, _has_recipient),
    (Stage.STEPS, _steps_done),
    (Stage.CONDITION, _condition_holds),
    (Stage.SAMPLE, _sampled),
    (Stage.ONCE, _first_time),
    (Stage.CAP, _under_cap),
)


_PASSES: Final = {stage.value: passes for stage, passes in STAGES}


def decide(case: Case) -> None:
    """Ask every trigger on this event, in the order of the rulebook. Writes nothing but into the case."""
    case.firing, case.not_fired, case.once, case.caps = [], {}, [], []
    event = case.event
    for trigger, stages in case.rulebook.asked.get((event.client, event.name), ()):
        case.trigger = trigger
        for stage in stages:
            if not _PASSES[stage](case):
                case.not_fired[trigger.name] = stage
                break
        else:
            case.firing.append(trigger)


class Valued(Protocol):
    """What a payout asks: the value of a name, None if it is missing."""

    def value(self, name: str) -> str | None:
        """See `Facts.value`."""


def payout_of(payout: Payout | None, facts: Valued) -> tuple[str, str]:
    """Payout and currency of a firing as texts, rounded half even to the currency's places; ("", "") if there is none."""
    if payout is None:
        return "", ""
    if payout.fixed is not None:
        return quantize(payout.fixed, payout.currency), payout.currency
    base, currency = facts.value(payout.of), facts.value("currency") or payout.currency
    if base is None or not NUMBER.match(base) or not currency:
        return "", ""
    return _share(base, payout.percent, currency), currency


@lru_cache(maxsize=4096)  # amounts come again and again
def _share(base: str, percent: Decimal, currency: str) -> str:
    return quantize(_EXACT.multiply(Decimal(base), percent).scaleb(-2, _EXACT), currency)


@lru_cache(maxsize=1024)  # a fixed sum is the same for every firing of a trigger
def quantize(amount: Decimal, currency: str) -> str:
    """A decimal in the places of its currency, rounded half even."""
    rounded = str(_EXACT.quantize(amount, _UNITS[CURRENCY_PLACES.get(currency, 2)]))
    return rounded if rounded.strip("-0.") else rounded.lstrip("-")  # there is no minus zero in money


def minor_units(amount: str, currency: str) -> int:
    """An amount of `quantize` as an integer in the currency's minor unit: 12.50 EUR is 1250."""
    return int(Decimal(amount).scaleb(CURRENCY_PLACES.get(currency, 2), _EXACT))
