"""The stages, in their order, at their edges; payouts."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import Stage
from service.engine.triggers import (
    CURRENCY_PLACES,
    STAGES,
    drop_past_caps,
    past_caps,
    quantize,
    sample_bucket,
    steps_done,
)
from tests.engine.world import DAY_S, START_US, World, book, fired, hit


def stopped(words: str, *triggers: str) -> dict[str, str]:
    return World(book(*triggers)).send(words).not_fired


def test_the_stages_stand_in_the_order_of_the_closed_set() -> None:
    order = [stage for stage in Stage if stage is not Stage.EVENT]
    assert [stage for stage, _ in STAGES] == order


def test_a_trigger_that_would_stop_at_every_stage_stops_at_the_first() -> None:
    # given a trigger that all stages stop, and the same one with one cause after the other taken away
    world = World()
    causes = {
        "inactive": "paused = true", "recipient": 'to = ["affiliate"]', "steps": 'after = ["click"]',
        "condition": 'when = "amount > 5"', "sample": "sample = 100",
    }  # fmt: skip
    body = list(causes.values())
    seen: list[str] = []
    for _ in causes:
        world.rulebook = book("\n".join(body))
        seen += world.send("sale uid=u amount=1").not_fired.values()
        body.pop(0)
    assert seen == list(causes)


def test_triggers_are_asked_in_the_order_of_the_rulebook_and_only_those_on_the_event() -> None:
    world = World(book('name = "b"', 'name = "a"', 'name = "c"\non = "login"', 'name = "d"\npaused = true'))
    outcome = world.send("sale uid=u")
    assert fired(outcome) == ["b", "a"]
    assert outcome.not_fired == {"d": "inactive"}


# inactive

NOVEMBER_15_S = 1_700_006_400 - START_US // 1_000_000


@pytest.mark.parametrize(
    ("at_s", "active"),
    [
        (NOVEMBER_15_S - 1, False),
        (NOVEMBER_15_S, True),
        (NOVEMBER_15_S + DAY_S - 1, True),
        (NOVEMBER_15_S + DAY_S, False),
    ],
)
def test_a_trigger_is_active_from_its_first_moment_until_before_its_last(at_s: int, active: bool) -> None:
    world = World(book("from = 2023-11-15\nuntil = 2023-11-16T01:00:00+01:00"))
    assert bool(world.send("sale uid=u", at_s=at_s).fired) is active


# recipient


@pytest.mark.parametrize("affiliate", ["", "nobody"])
def test_without_a_known_affiliate_nothing_goes_to_anybody_who_shares_the_trigger(affiliate: str) -> None:
    assert stopped(f"sale uid=u affiliate={affiliate}", 'to = ["client", "affiliate"]') == {"t1": "recipient"}


def test_an_unknown_affiliate_of_the_last_click_is_never_replaced_by_an_earlier_known_one() -> None:
    world = World(book('to = ["affiliate"]'))
    world.send_all(["click uid=u affiliate=bestodds", "click uid=u affiliate=nobody"])
    outcome = world.send("sale uid=u")
    assert (outcome.affiliate, outcome.not_fired) == ("nobody", {"t1": "recipient"})


def test_a_trigger_to_the_client_alone_needs_no_affiliate() -> None:
    assert fired(World(book('to = ["client"]')).send("sale affiliate=nobody")) == ["t1"]


# steps


@pytest.mark.parametrize(
    ("earlier", "fires"),
    [
        (["click", "registration"], True),
        (["registration", "click"], False),
        (["click"], False),
        (["click", "login", "login", "registration", "login"], True),
        (["registration", "click", "registration"], True),
        ([], False),
    ],
)
def test_steps_came_before_in_their_order(earlier: list[str], fires: bool) -> None:
    world = World(book('after = ["click", "registration"]'))
    world.send_all([f"{event} uid=u" for event in earlier])
    assert bool(world.send("sale uid=u").fired) is fires


def test_each_step_is_a_hit_of_its_own_and_never_the_event_itself() -> None:
    world = World(book('after = ["sale", "sale"]'))
    assert [bool(outcome.fired) for outcome in world.send_all(["sale uid=u"] * 3)] == [False, False, True]


def test_a_duplicate_and_a_rejected_hit_are_no_steps() -> None:
    world = World(book('after = ["login", "login"]'))
    world.send_all(["login uid=u txid=1", "login uid=u txid=1", "login uid=u amount=x"])
    assert not world.send("sale uid=u").fired


@pytest.mark.parametrize(("age_s", "fires"), [(3600, True), (3601, False)])
def test_the_first_step_may_be_as_old_as_within(age_s: int, fires: bool) -> None:
    world = World(book('after = ["click", "login"]\nwithin = "1h"'))
    world.send("click uid=u", at_s=0)
    world.send("login uid=u", at_s=0)
    assert bool(world.send("sale uid=u", at_s=age_s).fired) is fires


def test_a_younger_first_step_makes_up_for_one_that_is_too_old() -> None:
    world = World(book('after = ["click", "login"]\nwithin = "1h"'))
    world.send("click uid=u", at_s=0)
    world.send("login uid=u", at_s=1)
    world.send("click uid=u", at_s=2)
    assert not world.send("sale uid=u", at_s=3602).fired
    world.send("login uid=u", at_s=3602)
    assert world.send("sale uid=u", at_s=3602).fired


def test_a_step_is_seen_only_among_the_last_256_counted_events() -> None:
    world = World(book('after = ["click"]\nwithin = "100d"'))
    world.send("click uid=u")
    world.send_all(["login uid=u"] * 255)
    assert world.send("sale uid=u").fired
    assert world.send("sale uid=u").not_fired == {"t1": "steps"}


EVENTS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab")), max_size=7)


@given(EVENTS, st.lists(st.sampled_from("ab"), min_size=1, max_size=3), st.none() | st.integers(0, 5))
def test_steps_are_found_if_and_only_if_some_choice_of_events_is_in_order(
    events: list[tuple[int, str]], steps: list[str], oldest: int | None
) -> None:
    history = [(seq, time_us, name) for seq, (time_us, name) in enumerate(events)]
    chosen = combinations(history, len(steps))
    exists = any(
        [name for _, _, name in choice] == steps and (oldest is None or choice[0][1] >= oldest) for choice in chosen
    )
    assert steps_done(history, tuple(steps), oldest) is exists


# condition


def test_count_and_since_see_earlier_counted_events_only() -> None:
    world = World(book('when = \'count("sale") == 1 and since("sale") == 5s\''))
    world.send("sale uid=u txid=1", at_s=0)
    world.send("sale uid=u txid=1", at_s=3)
    assert world.send("sale uid=u", at_s=5).fired
    assert not world.send("sale uid=u", at_s=10).fired


@pytest.mark.parametrize(
    "condition",
    [
        'time == "2023-11-14T22:13:21.000000Z"',
        'visitor matches "^0{31}1$"',
        'hit_id matches "^0{31}1$"',
        'affiliate == "bestodds"',
        'param.time == "sent"',
        "exists(param.visitor)",
        "not exists(first.sub1)",
    ],
)
def test_what_a_request_brings_never_stands_for_a_name_of_ours(condition: str) -> None:
    world = World(book(f"when = '{condition}'"))
    sent = "client=acme&event=sale&uid=u&affiliate=bestodds&time=sent&visitor=sent&hit_id=sent&first.sub1=sent"
    assert fired(world.run(hit(sent))) == ["t1"]


# sample


def test_a_hold_back_keeps_about_its_share_and_always_the_same_visitors() -> None:
    rules = book("sample = 30")
    outcomes = World(rules).send_all([f"sale uid=u{number}" for number in range(400)])
    held = [outcome.not_fired == {"t1": "sample"} for outcome in outcomes]
    assert 90 < sum(held) < 150
    again = World(rules).send_all([f"sale uid=u{number}" for number in range(400)])
    assert [outcome.not_fired == {"t1": "sample"} for outcome in again] == held


def test_the_bucket_of_a_visitor_is_what_it_always_was() -> None:
    assert sample_bucket("first-deposit", "0" * 32) == 580


def test_a_hold_back_of_nothing_and_of_all() -> None:
    assert fired(World(book("sample = 0")).send("sale uid=u")) == ["t1"]
    assert stopped("sale uid=u", "sample = 100") == {"t1": "sample"}


# once and cap


def test_once_is_used_up_by_the_hit_that_reaches_it_even_if_the_cap_refuses() -> None:
    world = World(book('once = "visitor"\ncap = { every = "total", count = 1 }'))
    outcomes = world.send_all(["sale uid=a", "sale uid=b", "sale uid=b", "sale uid=a"])
    assert [outcome.not_fired.get("t1", "fired") for outcome in outcomes] == ["fired", "cap", "once", "once"]


def test_a_hit_that_stops_before_once_uses_nothing_up() -> None:
    world = World(book('once = "visitor"\nwhen = "amount > 5"\ncap = { every = "total", count = 1 }'))
    outcomes = world.send_all(["sale uid=a amount=1", "sale uid=a amount=9"])
    assert [bool(outcome.fired) for outcome in outcomes] == [False, True]


def test_a_cap_is_the_first_n_that_reach_it() -> None:
    world = World(book("cap = { count = 2 }"))
    outcomes = world.send_all([f"sale uid=u{number}" for number in range(4)])
    assert [bool(outcome.fired) for outcome in outcomes] == [True, True, False, False]


@pytest.mark.parametrize(
    ("every", "last_s", "next_s"),
    [
        ("hour", 2799, 2800),  # the world begins at 2023-11-14T22:13:20Z
        ("day", NOVEMBER_15_S - 1, NOVEMBER_15_S),
        ("month", NOVEMBER_15_S + 16 * DAY_S - 1, NOVEMBER_15_S + 16 * DAY_S),
    ],
)
def test_a_cap_starts_anew_with_its_period_in_utc(every: str, last_s: int, next_s: int) -> None:
    world = World(book(f'cap = {{ every = "{every}", count = 1 }}'))
    seen = [world.send("sale uid=u", at_s=at_s) for at_s in (0, last_s, next_s)]
    assert [bool(outcome.fired) for outcome in seen] == [True, False, True]


def test_a_total_cap_never_starts_anew() -> None:
    world = World(book('cap = { every = "total", count = 1 }'))
    assert [bool(world.send("sale uid=u", at_s=at_s).fired) for at_s in (0, 80 * DAY_S)] == [True, False]


@pytest.mark.parametrize(("every", "length_s"), [("hour", 3600), ("day", DAY_S), ("month", 30 * DAY_S)])
def test_a_cap_is_past_with_its_period_and_not_a_moment_before(every: str, length_s: int) -> None:
    # given a cap that was reached in the first second of a period, November 2023
    begin_s = 1_698_796_800 - START_US // 1_000_000
    world = World(book(f'cap = {{ count = 1, every = "{every}" }}', "cap = { count = 1, every = 'total' }"))
    world.send("sale uid=u", at_s=begin_s)
    periodic, total = world.state.caps
    # then it is past with the first microsecond of the next, and the total never
    end_us = START_US + (begin_s + length_s) * 1_000_000
    assert past_caps(world.state.caps, end_us - 1) == []
    assert past_caps(world.state.caps, end_us) == [periodic]
    assert past_caps([total], end_us * 10) == []
    # and a state told the time drops that one only
    drop_past_caps(world.state, end_us)
    assert list(world.state.caps) == [total]


def test_a_cap_per_affiliate_counts_each_affiliate_by_itself() -> None:
    world = World(book('cap = { per = "affiliate", count = 1 }'))
    outcomes = world.send_all(
        ["sale affiliate=a", "sale affiliate=b", "sale affiliate=a", "sale", "sale"],
    )
    assert [bool(outcome.fired) for outcome in outcomes] == [True, True, False, True, False]


def test_caps_of_two_triggers_do_not_count_for_each_other() -> None:
    world = World(book("cap = { count = 1 }", "cap = { count = 2 }"))
    outcomes = world.send_all(["sale", "sale", "sale"])
    assert [fired(outcome) for outcome in outcomes] == [["t1", "t2"], ["t2"], []]


def test_a_duplicate_reaches_no_trigger_and_uses_nothing_up() -> None:
    world = World(book("cap = { count = 2 }"))
    outcomes = world.send_all(["sale txid=1", "sale txid=1", "sale txid=2"])
    assert [fired(outcome) for outcome in outcomes] == [["t1"], [], ["t1"]]
    assert outcomes[1].not_fired == {}


# payout


@pytest.mark.parametrize(
    ("payout", "words", "expected"),
    [
        ('{ fixed = "10", currency = "EUR" }', "amount=5", ("10.00", "EUR")),
        ('{ fixed = "10.5", currency = "JPY" }', "amount=5", ("10", "JPY")),
        ('{ fixed = 3, currency = "EUR" }', "amount=5 currency=USD", ("3.00", "EUR")),
        ('{ percent = "25" }', "amount=10.10 currency=EUR", ("2.52", "EUR")),
        ('{ percent = "25" }', "amount=10.30 currency=EUR", ("2.58", "EUR")),
        ('{ percent = "50" }', "amount=0.01 currency=EUR", ("0.00", "EUR")),
        ('{ percent = "50" }', "amount=0.03 currency=EUR", ("0.02", "EUR")),
        ('{ percent = "50" }', "amount=5 currency=JPY", ("2", "JPY")),
        ('{ percent = "50" }', "amount=7 currency=JPY", ("4", "JPY")),
        ('{ percent = "10" }', "amount=1.2345 currency=BHD", ("0.123", "BHD")),
        ('{ percent = "10" }', "amount=1.2345 currency=CLF", ("0.1234", "CLF")),
        ('{ percent = "25" }', "amount=-8 currency=EUR", ("-2.00", "EUR")),
        ('{ percent = "25" }', "amount=-0.01 currency=EUR", ("0.00", "EUR")),
        ('{ percent = "7.5" }', "amount=999999999999999999.999999999 currency=EUR", ("75000000000000000.00", "EUR")),
        ('{ percent = "25", of = "sub1" }', "sub1=8 currency=EUR", ("2.00", "EUR")),
        ('{ percent = "25", of = "last.login.amount" }', "currency=EUR", ("1.00", "EUR")),
        ('{ percent = "25", currency = "EUR" }', "amount=8", ("2.00", "EUR")),
        ('{ percent = "25", currency = "EUR" }', "amount=8 currency=usd", ("2.00", "USD")),
        ('{ percent = "25" }', "amount=8", ("", "")),
        ('{ percent = "25" }', "currency=EUR", ("", "")),
        ('{ percent = "25", of = "sub1" }', "sub1=much currency=EUR", ("", "")),
    ],
)
def test_the_table_of_payouts(payout: str, words: str, expected: tuple[str, str]) -> None:
    world = World(book(f"payout = {payout}"))
    world.send("login uid=u amount=4")
    (firing,) = world.send(f"sale uid=u {words}").fired
    assert (firing.payout, firing.currency) == expected


@given(st.decimals(-(10**18), 10**18, places=4), st.sampled_from(["EUR", "JPY", "BHD", "CLF", "XXX"]))
def test_money_is_rounded_half_even_to_the_places_of_its_currency_whatever_the_context(
    amount: Decimal, currency: str
) -> None:
    places = CURRENCY_PLACES.get(currency, 2)
    scaled = amount.scaleb(places).to_integral_value(ROUND_HALF_EVEN)
    with localcontext() as ambient:
        ambient.prec = 3
        text = quantize(amount, currency)
    assert Decimal(text) == scaled.scaleb(-places)
    assert len(text.partition(".")[2]) == places
    assert not text.startswith("-0") or Decimal(text)
