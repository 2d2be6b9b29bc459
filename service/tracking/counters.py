"""Counters per client, affiliate, trigger, event and hour. Integers only; money in the minor unit of its currency.

Field: hour, client, affiliate, trigger, event, measure, joined by the unit separator. Measures: `accepted`,
`rejected:REASON`, `duplicate`, `engine_error` (trigger ""), `fired`, `stopped:STAGE`, `payout:CURRENCY` (of a trigger);
`payout_over:CURRENCY` counts the payouts beyond MAX_PAYOUT, which are no money and would overflow the sum.
Tests are not counted here. The counters can be recomputed from the decisions at any time, which is how they are proved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from service.engine.model import Outcome, Verdict
from service.engine.templates import iso_time
from service.engine.triggers import minor_units

SEPARATOR = "\x1f"
MAX_PAYOUT = 10**12  # minor units; 9 million of them fit into a counter
FIELDS = ("hour", "client", "affiliate", "trigger", "event", "measure")


def increments(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """What these outcomes add to the counters."""
    added: dict[str, int] = {}
    for outcome in outcomes:
        for field, amount in _of(outcome):
            added[field] = added.get(field, 0) + amount
    return added


def verdicts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many were decided how, tests too: `VERDICT REASON live` or `... test`, the reason empty where there is none."""
    return Counter(f"{one.verdict} {one.reason} {'test' if one.test else 'live'}" for one in outcomes)


def _of(outcome: Outcome) -> Iterable[tuple[str, int]]:
    if outcome.test:
        return
    hour = iso_time(outcome.time_us)[:13]
    rejected = outcome.verdict == Verdict.REJECTED.value
    verdict = f"rejected:{outcome.reason}" if rejected else outcome.verdict
    # a rejected hit may name any event it likes: counting by it would let strangers fill the memory
    event = "" if rejected else outcome.event
    affiliate = "" if rejected else outcome.affiliate.replace(SEPARATOR, " ")
    yield SEPARATOR.join((hour, outcome.client, affiliate, "", event, verdict)), 1
    for firing in outcome.fired:
        place = (hour, outcome.client, affiliate, firing.trigger, event)
        yield SEPARATOR.join((*place, "fired")), 1
        if firing.payout:
            measure, amount = _payout(minor_units(firing.payout, firing.currency), firing.currency)
            yield SEPARATOR.join((*place, measure)), amount
    for trigger, stage in outcome.not_fired.items():
        yield SEPARATOR.join((hour, outcome.client, affiliate, trigger, event, f"stopped:{stage}")), 1


def _payout(amount: int, currency: str) -> tuple[str, int]:
    return (f"payout:{currency}", amount) if abs(amount) <= MAX_PAYOUT else (f"payout_over:{currency}", 1)
