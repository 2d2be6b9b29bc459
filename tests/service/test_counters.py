"""The counters: integers per client, affiliate, trigger, event and hour, the same however the outcomes are grouped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.engine import Firing, Outcome
from service.tracking.counters import FIELDS, MAX_PAYOUT, SEPARATOR, increments, verdicts

NOON_US = 1_772_452_800_000_000  # 2026-03-02T12:00:00Z
HOUR = "2026-03-02T12"


def outcome(verdict: str = "accepted", **fields: object) -> Outcome:
    """An outcome of acme in the hour of noon."""
    given = {"client": "acme", "event": "sale", "affiliate": "best", **fields}
    return Outcome("id", 1, NOON_US, verdict, **given)  # type: ignore[arg-type]


def counted(*outcomes: Outcome) -> dict[tuple[str, ...], int]:
    """The counters by their parts, without the hour."""
    found = {tuple(field.split(SEPARATOR)): n for field, n in increments(outcomes).items()}
    assert all(len(parts) == len(FIELDS) and parts[0] == HOUR for parts in found)
    return {parts[1:]: n for parts, n in found.items()}


def test_an_accepted_event_and_its_firings_are_counted() -> None:
    # given an event that fired one trigger and was stopped at another
    one = outcome(fired=(Firing("deposit", "12.50", "EUR"),), not_fired={"vip": "condition"})
    # when two of them are counted
    assert counted(one, one) == {
        ("acme", "best", "", "sale", "accepted"): 2,
        ("acme", "best", "deposit", "sale", "fired"): 2,
        ("acme", "best", "deposit", "sale", "payout:EUR"): 2500,  # then in cents
        ("acme", "best", "vip", "sale", "stopped:condition"): 2,
    }


def test_rejections_are_counted_by_reason_and_not_by_what_a_stranger_wrote() -> None:
    # given rejected hits that name any event and affiliate
    rejected = [outcome("rejected", reason="invalid_amount", event=f"e{n}", affiliate=f"a{n}") for n in range(5)]
    # when they are counted, then in one counter
    assert counted(*rejected) == {("acme", "", "", "", "rejected:invalid_amount"): 5}


def test_tests_are_not_counted() -> None:
    # given a test, when it is counted, then it is not
    assert increments([outcome(test=True, fired=(Firing("deposit", "1.00", "EUR"),))]) == {}


def test_verdicts_are_counted_with_their_reason_and_tests_apart() -> None:
    # given outcomes of several kinds, when their verdicts are counted
    outcomes = [outcome(), outcome(), outcome(test=True), outcome("rejected", reason="bot"), outcome("engine_error")]
    # then each says what it is
    assert verdicts(outcomes) == {
        "accepted  live": 2, "accepted  test": 1, "rejected bot live": 1, "engine_error  live": 1,
    }  # fmt: skip


def test_duplicates_and_errors_are_counted_as_such() -> None:
    # given a duplicate and an error of the engine
    assert counted(outcome("duplicate"), outcome("engine_error", affiliate="")) == {
        ("acme", "best", "", "sale", "duplicate"): 1,
        ("acme", "", "", "sale", "engine_error"): 1,
    }


def test_money_is_counted_in_the_minor_unit_of_its_currency() -> None:
    # given payouts in currencies with two, none and three places
    fired = (Firing("a", "12.50", "EUR"), Firing("b", "1250", "JPY"), Firing("c", "1.250", "KWD"), Firing("d"))
    # then each is an integer, and a firing without money has no sum
    sums = {parts[4]: n for parts, n in counted(outcome(fired=fired)).items() if "payout" in parts[4]}
    assert sums == {"payout:EUR": 1250, "payout:JPY": 1250, "payout:KWD": 1250}


def test_sums_that_are_no_money_are_counted_apart() -> None:
    # given the largest sum that is money, and the next one, also below zero
    largest, beyond = f"{MAX_PAYOUT // 100}.00", f"{MAX_PAYOUT // 100}.01"
    fired = tuple(Firing("t", text, "EUR") for text in (largest, beyond, "-" + beyond))
    # then the others are counted by their number
    found = counted(outcome(fired=fired))
    assert found["acme", "best", "t", "sale", "payout:EUR"] == MAX_PAYOUT
    assert found["acme", "best", "t", "sale", "payout_over:EUR"] == 2


@given(affiliate=st.text(max_size=8), event=st.text("ab_.:/-", min_size=1, max_size=4))
def test_no_value_can_break_a_counter_into_other_parts(affiliate: str, event: str) -> None:
    # given an affiliate of any characters, the separator among them
    found = counted(outcome(affiliate=affiliate + SEPARATOR, event=event, fired=(Firing("t"),)))
    # then every counter has its parts
    assert {parts[3] for parts in found} == {event}


@given(st.lists(st.sampled_from(["accepted", "duplicate", "rejected"]), max_size=20), st.integers(0, 20))
def test_the_order_of_batches_does_not_matter(verdicts: list[str], cut: int) -> None:
    # given outcomes, cut into two batches
    outcomes = [outcome(verdict, fired=(Firing("t", "1.00", "EUR"),)) for verdict in verdicts]
    first, second = increments(outcomes[:cut]), increments(outcomes[cut:])
    # then the sum of both is the whole
    summed = {field: first.get(field, 0) + second.get(field, 0) for field in first.keys() | second.keys()}
    assert summed == increments(outcomes)
