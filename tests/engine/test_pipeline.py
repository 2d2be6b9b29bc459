"""The road of one hit: the steps, the verdicts, what is written when, and that it is the same every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import service.engine
from service.engine import EMPTY, STEPS, Entry, Outcome, Rulebook, State, load, parse, process, replay
from service.engine.conditions import Condition
from service.engine.rulebook import Trigger, index_triggers
from tests.engine.traffic import RULEBOOK, log
from tests.engine.world import DAY_S, SIMPLE, START_US, World, book, entry, hit

ROOT = Path(__file__).parents[2]


def dump(state: State) -> bytes:
    """All of a state, so that two can be compared byte by byte."""
    return msgspec.msgpack.encode([state.owners, state.visitors, state.txids, state.caps], order="deterministic")


def digest(outcomes: Sequence[Outcome]) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(outcomes)).hexdigest()


def run(entries: Sequence[Entry], state: State | None = None, rulebook: Rulebook = RULEBOOK) -> list[Outcome]:
    held = State() if state is None else state
    return [process(item, held, rulebook) for item in entries]


# the steps


def test_the_steps_are_one_list_in_the_order_of_the_road() -> None:
    assert [step.__name__ for step in STEPS] == [
        "read", "enter_space", "recognise_visitor", "attribute_affiliate", "recall", "drop_duplicate", "decide_triggers",
        "render",
    ]  # fmt: skip


def test_an_outcome_says_everything_about_its_hit() -> None:
    world = World(book('to = ["client"]\nwhen = "amount > 5"', 'to = ["client"]'))
    click = world.click("bestodds", "sub1=x&subid=theirs")
    outcome = world.send(f"sale click_id={click.hit_id} uid=null amount=5 currency=eur")
    assert outcome.hit_id == f"{2:032x}"
    assert (outcome.seq, outcome.time_us) == (2, START_US + 2_000_000)
    assert (outcome.verdict, outcome.reason, outcome.detail) == ("accepted", "", "no identifier: uid 'null'")
    assert (outcome.client, outcome.event, outcome.affiliate) == ("acme", "sale", "bestodds")
    assert (outcome.visitor, outcome.new_visitor, outcome.test) == (click.visitor, False, False)
    assert outcome.fields == {
        "amount": "5", "click_id": click.hit_id, "client": "acme", "currency": "EUR", "event": "sale",
    }  # fmt: skip
    assert outcome.params == {"affiliate_click_id": "theirs", "sub1": "x", "subid": "theirs"}
    assert list(outcome.fields) == sorted(outcome.fields)
    assert list(outcome.params) == sorted(outcome.params)
    assert [firing.trigger for firing in outcome.fired] == ["t2"]
    assert outcome.not_fired == {"t1": "condition"}
    assert [postback.trigger for postback in outcome.postbacks] == ["t2"]
    assert outcome.rulebook_id == world.rulebook.id


def test_a_rejected_hit_writes_nothing() -> None:
    world = World()
    world.send("sale uid=u txid=1")
    before = dump(world.state)
    outcome = world.send("sale uid=u tag_id=t txid=2 amount=x country=DE")
    assert (outcome.verdict, outcome.reason, outcome.client, outcome.event) == (
        "rejected",
        "invalid_amount",
        "acme",
        "sale",
    )
    assert outcome.params["country"] == "DE"
    assert dump(world.state) == before


def test_an_anonymous_hit_leaves_only_its_transaction_and_its_caps() -> None:
    world = World(book("cap = { count = 5 }"))
    world.send("sale txid=1 country=DE")
    assert (world.state.visitors, world.state.owners) == ({}, {})
    assert (len(world.state.txids), list(world.state.caps.values())) == (1, [1])


def test_a_hit_that_was_parsed_before_is_decided_alike() -> None:
    whole, parsed = State(), State()
    for item in log(3, 100):
        assert item.hit is not None
        assert process(item, whole, RULEBOOK) == process(item, parsed, RULEBOOK, parse(item.hit, RULEBOOK))
    assert dump(whole) == dump(parsed)


# duplicates


@pytest.mark.parametrize(
    ("age_s", "verdict"), [(90 * DAY_S - 1, "duplicate"), (90 * DAY_S, "duplicate"), (90 * DAY_S + 1, "accepted")]
)
def test_a_transaction_is_kept_as_long_as_a_visitor(age_s: int, verdict: str) -> None:
    world = World()
    world.send("sale uid=u txid=1", at_s=0)
    world.send("login uid=u", at_s=60 * DAY_S)
    assert world.send("sale uid=u txid=1", at_s=age_s).verdict == verdict


def test_a_duplicate_does_not_prolong_the_span_of_its_transaction() -> None:
    world = World()
    world.send("sale uid=u txid=1", at_s=0)
    assert world.send("sale uid=u txid=1", at_s=60 * DAY_S).verdict == "duplicate"
    assert world.send("sale uid=u txid=1", at_s=91 * DAY_S).verdict == "accepted"
    assert world.send("sale uid=u txid=1", at_s=180 * DAY_S).verdict == "duplicate"


def test_a_transaction_is_one_of_client_event_and_txid() -> None:
    world = World(load(SIMPLE + "[client.bolt]\n"))
    first = world.run(hit("client=acme&event=sale&txid=1", number=1))
    others = [
        world.run(hit(query, number=number))
        for number, query in enumerate(
            ["client=bolt&event=sale&txid=1", "client=acme&event=refund&txid=1", "client=acme&event=sale&txid=2"], 2
        )
    ]
    assert {outcome.verdict for outcome in (first, *others)} == {"accepted"}
    assert world.run(hit("client=acme&event=sale&txid=1&uid=other", number=9)).verdict == "duplicate"


def test_a_rejected_hit_does_not_take_its_transaction_from_the_valid_one() -> None:
    world = World()
    world.send("sale txid=1 amount=x")
    assert world.send("sale txid=1 amount=5").verdict == "accepted"


# the engine's own bugs


def broken_rulebook(bug: Exception) -> Rulebook:
    """A rulebook whose second trigger has a condition that raises, as no condition of the language does."""

    def fail(facts: object) -> bool:
        raise bug

    condition = Condition("broken", fail, frozenset(), frozenset())
    good = Trigger("good", "acme", "sale", once="visitor")
    bad = Trigger("bad", "acme", "sale", when=condition)
    simple = load(SIMPLE)
    triggers = (good, bad)
    return Rulebook("broken", "", simple.clients, simple.affiliates, triggers, index_triggers(triggers))


def test_a_bug_is_a_verdict_and_the_state_is_as_if_the_hit_never_came() -> None:
    # given a state that recognition, absorption, once, caps and transactions would all change
    world = World()
    world.send_all(["click tag_id=t affiliate=bestodds country=DE", "login uid=u"])
    before = dump(world.state)
    # when a hit runs into a bug
    world.rulebook = broken_rulebook(RuntimeError(f"no such thing: {object()!r}"))
    outcome = world.send("sale uid=u tag_id=t click_id=c txid=1 country=AT")
    # then it is said, without an address that would differ next time, and nothing is left of it
    assert (outcome.verdict, outcome.client, outcome.event) == ("engine_error", "acme", "sale")
    assert outcome.detail == "RuntimeError: no such thing: <object object at 0x>"
    assert dump(world.state) == before
    # and the next hit finds a working engine
    world.rulebook = load(SIMPLE)
    assert world.send("sale uid=u tag_id=t txid=1").absorbed


def test_a_bug_never_reads_longer_than_its_bound() -> None:
    world = World(broken_rulebook(RuntimeError("x" * 10_000)))
    assert len(world.send("sale uid=u").detail) == 300


def test_a_rulebook_entry_has_no_outcome() -> None:
    with pytest.raises(ValueError, match="switch the rulebook"):
        process(Entry(0, 1, 1, START_US, None, "id"), State(), EMPTY)


# replay


def test_replay_switches_the_rulebook_where_the_log_says_so() -> None:
    first, second = book('name = "a"'), book('name = "b"')
    books = {first.id: first, second.id: second}
    entries = [
        entry(1, hit("client=acme&event=sale", number=1)),
        Entry(0, 1, 2, START_US, None, first.id),
        entry(3, hit("client=acme&event=sale", number=3)),
        Entry(0, 1, 4, START_US, None, second.id),
        entry(5, hit("client=acme&event=sale", number=5)),
    ]
    logged = list(replay(entries, State(), books.__getitem__, None))
    assert [outcome.reason for outcome in logged] == ["unknown_client", "", ""]
    assert [[firing.trigger for firing in outcome.fired] for outcome in logged] == [[], ["a"], ["b"]]
    assert [outcome.rulebook_id for outcome in logged] == [EMPTY.id, first.id, second.id]
    pinned = list(replay(entries, State(), books.__getitem__, first, pinned=True))
    assert [[firing.trigger for firing in outcome.fired] for outcome in pinned] == [["a"], ["a"], ["a"]]


# the same every time


def test_the_generated_log_holds_what_matters() -> None:
    outcomes = run(list(log(7, 1500)))
    assert {outcome.verdict for outcome in outcomes} == {"accepted", "rejected", "duplicate"}
    assert {"not_utf8", "invalid_event", "missing_event", "invalid_currency"} <= {
        outcome.reason for outcome in outcomes
    }
    stages = {stage for outcome in outcomes for stage in outcome.not_fired.values()}
    assert stages == {"recipient", "steps", "condition", "sample", "once", "cap"}
    assert {postback.state for outcome in outcomes for postback in outcome.postbacks} == {"due", "withheld", "recorded"}
    assert any(outcome.absorbed for outcome in outcomes)
    assert any(outcome.conflicts for outcome in outcomes)
    assert any(outcome.test for outcome in outcomes)
    assert {firing.trigger for outcome in outcomes for firing in outcome.fired} == {"lead", "sale", "back"}


def test_an_outcome_never_changes_after_it_is_made() -> None:
    # given a log whose outcomes are written down the moment they are made
    state, outcomes, written = State(), [], []
    for item in log(7, 1500):
        outcome = process(item, state, RULEBOOK)
        outcomes.append(outcome)
        written.append(msgspec.msgpack.encode(outcome))
    # then, after all the later hits, each is still what it was
    assert [msgspec.msgpack.encode(outcome) for outcome in outcomes] == written


def test_changing_an_outcome_does_not_reach_the_state() -> None:
    plain, tampered = State(), State()
    for item in log(7, 400):
        expected = process(item, plain, RULEBOOK)
        outcome = process(item, tampered, RULEBOOK)
        assert outcome == expected
        outcome.params["tampered"] = "x"
        outcome.fields["amount"] = "x"
        outcome.not_fired["tampered"] = "x"
    assert dump(plain) == dump(tampered)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 60), max_size=6))
def test_splitting_a_log_and_storing_the_state_between_the_batches_changes_nothing(seed: int, cuts: list[int]) -> None:
    entries = list(log(seed, 200))
    whole_state, state = State(), State()
    whole = run(entries, whole_state)
    parts: list[Outcome] = []
    for cut in [*cuts, len(entries)]:
        batch, entries = entries[:cut], entries[cut:]
        parts += run(batch, state)
        state = stored_and_loaded(state)
    assert digest(parts) == digest(whole)
    assert dump(state) == dump(whole_state)


def stored_and_loaded(state: State) -> State:
    """What a store does: everything through bytes and back."""
    loaded = State()
    decoded: Any = msgspec.msgpack.decode(
        dump(state), type=tuple[dict[str, str], dict[str, service.engine.Visitor], dict[str, int], dict[str, int]]
    )
    loaded.owners, loaded.visitors, loaded.txids, loaded.caps = decoded
    return loaded


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_the_same_log_gives_the_same_outcomes_and_the_same_state(seed: int) -> None:
    entries = list(log(seed, 150))
    one, two = State(), State()
    assert digest(run(entries, one)) == digest(run(entries, two))
    assert dump(one) == dump(two)


PRINT_DIGEST = """
import hashlib, msgspec
from service.engine import State, load, process
from tests.engine.traffic import RULES, log
state, rulebook = State(), load(RULES)
outcomes = [process(item, state, rulebook) for item in log(7, 1500)]
print(hashlib.sha256(msgspec.msgpack.encode(outcomes)).hexdigest())
"""


def test_fresh_processes_with_other_hash_seeds_locales_and_time_zones_agree_byte_for_byte() -> None:
    worlds = [
        {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"},
        {"PYTHONHASHSEED": "1", "LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Chatham"},
        {"PYTHONHASHSEED": "4242", "LC_ALL": "de_DE.UTF-8", "TZ": "America/St_Johns", "PYTHONOPTIMIZE": "1"},
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT_DIGEST], cwd=ROOT, env=os.environ | world, stdout=subprocess.PIPE, text=True
        )
        for world in worlds
    ]
    answers = {process.communicate()[0].strip() for process in running}
    assert answers == {digest(run(list(log(7, 1500))))}
