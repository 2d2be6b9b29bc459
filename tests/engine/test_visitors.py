"""Recognition, absorption, forgetting, remembered parameters, attribution, test space."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import Outcome, State, Visitor, load
from service.engine.triggers import drop_past_caps
from service.engine.visitors import HISTORY, MAX_REMEMBERED, space, wanted_keys
from tests.engine.world import AFFILIATES, CLIENT, DAY_S, SIMPLE, START_US, World, book, hit, read


def visitors(outcomes: Sequence[Outcome]) -> list[int]:
    """Visitor ids as the numbers of the hits that made them."""
    return [int(outcome.visitor, 16) for outcome in outcomes]


# whose hit


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # the owner of any identifier
        (["login uid=u", "login uid=u"], [1, 1]),
        (["login tag_id=t", "login tag_id=t click_id=c", "login click_id=c"], [1, 1, 1]),
        # without identifier a visitor by itself
        (["login", "login"], [1, 2]),
        # the uid is stronger than the tag id, the tag id than the click id
        (["login uid=u", "login tag_id=t uid=v", "login uid=u tag_id=t"], [1, 2, 1]),
        (["login tag_id=t uid=u", "login click_id=c uid=v", "login tag_id=t click_id=c"], [1, 2, 1]),
        # an unknown uid takes the first owner without a uid
        (["login tag_id=t", "login uid=u tag_id=t", "login uid=u"], [1, 1, 1]),
        (["login tag_id=t uid=v", "login click_id=c", "login uid=u tag_id=t click_id=c", "login uid=u"], [1, 2, 2, 2]),
        # two uids never become one person
        (["login tag_id=t uid=u", "login tag_id=t uid=v", "login tag_id=t", "login uid=v"], [1, 2, 1, 2]),
        # kinds do not mix
        (["login uid=x", "login tag_id=x", "login click_id=x"], [1, 2, 3]),
    ],
)
def test_whose_hit_it_is(lines: list[str], expected: list[int]) -> None:
    assert visitors(World().send_all(lines)) == expected


def test_the_same_identifier_of_another_client_is_another_visitor() -> None:
    world = World(load(SIMPLE + "[client.bolt]\n"))
    first = world.send("login uid=u")
    second = world.run(hit("client=bolt&event=login&uid=u", number=2))
    assert second.visitor != first.visitor


def test_only_the_first_hit_of_a_visitor_is_a_new_visitor() -> None:
    outcomes = World().send_all(["login uid=u", "login uid=u", "login"])
    assert [outcome.new_visitor for outcome in outcomes] == [True, False, True]


# absorption and conflicts


def test_every_other_owner_without_a_uid_is_absorbed_with_all_that_it_is() -> None:
    # given two visitors without and one with a uid
    world = World()
    world.send("click tag_id=t affiliate=clickhub country=DE sub1=one")
    world.send("click click_id=c affiliate=bestodds sub1=two")
    world.send("login uid=u country=AT")
    # when one hit names them all
    outcome = world.send("sale uid=u tag_id=t click_id=c amount=5")
    # then the one with the uid has become all of them, in log order
    assert int(outcome.visitor, 16) == 3
    assert [int(absorbed, 16) for absorbed in outcome.absorbed] == [1, 2]
    assert outcome.params == {"country": "AT", "sub1": "two"}
    assert outcome.affiliate == "bestodds"
    visitor = world.state.visitors[outcome.visitor]
    assert [(seq, event) for seq, _, event in visitor.history] == [
        (1, "click"),
        (2, "click"),
        (3, "login"),
        (4, "sale"),
    ]
    assert visitor.events["click"].count == 2
    assert visitor.params["country"].first == "DE"
    assert list(world.state.visitors) == [outcome.visitor]
    # and each of its identifiers finds it from now on
    assert visitors(world.send_all(["login tag_id=t", "login click_id=c", "login uid=u"])) == [3, 3, 3]


def test_what_the_absorbed_fired_once_is_used_up() -> None:
    world = World(book('on = "login"\nonce = "visitor"'))
    assert world.send("login tag_id=t").fired
    merged = world.send("login uid=u click_id=c")
    assert merged.fired
    outcome = world.send("login uid=u tag_id=t")
    assert outcome.absorbed
    assert outcome.not_fired == {"t1": "once"}


def test_absorption_keeps_the_last_counted_events_and_exact_counts() -> None:
    world = World()
    for number in range(HISTORY):
        world.send(f"login {'tag_id=t' if number % 2 else 'click_id=c'}")
    world.send_all(["sale click_id=c", "sale tag_id=t"])
    outcome = world.send("login tag_id=t click_id=c")
    visitor = world.state.visitors[outcome.visitor]
    assert len(visitor.history) == HISTORY
    assert [seq for seq, _, _ in visitor.history] == list(range(4, HISTORY + 4))
    assert visitor.events["login"].count == HISTORY + 1
    assert visitor.events["sale"].last_seq == HISTORY + 2


def test_an_owner_with_another_uid_stays_itself_is_recorded_and_lends_nothing() -> None:
    world = World()
    world.send("click tag_id=t uid=u affiliate=bestodds country=DE")
    outcome = world.send("sale tag_id=t uid=v")
    assert [int(other, 16) for other in outcome.conflicts] == [1]
    assert outcome.absorbed == ()
    assert outcome.params == {}
    assert outcome.affiliate == ""
    assert len(world.state.visitors) == 2


def test_an_identifier_that_has_an_owner_is_not_taken_from_it() -> None:
    world = World()
    world.send_all(["login tag_id=t uid=u", "login tag_id=t uid=v click_id=c"])
    assert visitors(world.send_all(["login tag_id=t", "login click_id=c"])) == [1, 2]


def test_a_rejected_hit_links_nothing_and_a_duplicate_does() -> None:
    world = World()
    world.send("sale uid=u txid=1")
    assert world.send("sale uid=u tag_id=rejected amount=x").verdict == "rejected"
    assert world.send("sale uid=u tag_id=linked txid=1").verdict == "duplicate"
    assert visitors(world.send_all(["login tag_id=linked", "login tag_id=rejected"])) == [1, 5]


def test_a_duplicate_leaves_nothing_but_its_identity() -> None:
    world = World()
    world.send("sale uid=u txid=1 country=DE affiliate=bestodds")
    duplicate = world.send("sale uid=u txid=1 country=AT")
    assert duplicate.params == {"country": "AT"}
    visitor = world.state.visitors[duplicate.visitor]
    assert visitor.events["sale"].count == 1
    assert visitor.params["country"].last == "DE"


# forgetting


@pytest.mark.parametrize(("age_s", "kept"), [(90 * DAY_S - 1, True), (90 * DAY_S, True), (90 * DAY_S + 1, False)])
def test_a_visitor_is_forgotten_when_it_was_away_for_longer_than_remember(age_s: int, kept: bool) -> None:
    world = World()
    first = world.send("login uid=u tag_id=t country=DE", at_s=0)
    later = world.send("login tag_id=t", at_s=age_s)
    assert (later.visitor == first.visitor) is kept
    assert later.params == ({"country": "DE"} if kept else {})
    assert later.new_visitor is not kept


def test_any_accepted_or_duplicate_hit_keeps_a_visitor_and_a_rejected_one_does_not() -> None:
    world = World()
    world.send("sale uid=u txid=1", at_s=0)
    world.send("sale uid=u txid=1", at_s=80 * DAY_S)
    world.send("sale uid=u amount=x", at_s=100 * DAY_S)
    assert not world.send("login uid=u", at_s=170 * DAY_S).new_visitor
    world.send("sale uid=u amount=x", at_s=260 * DAY_S)
    assert world.send("login uid=u", at_s=260 * DAY_S + 1).new_visitor


def test_an_identifier_of_the_forgotten_belongs_to_the_new_visitor() -> None:
    world = World()
    world.send("login uid=u tag_id=t", at_s=0)
    world.send("login tag_id=t", at_s=91 * DAY_S)
    assert visitors([world.send("login uid=v tag_id=t")]) == [2]


def test_with_the_forgotten_all_its_identifiers_go_even_those_the_hit_does_not_bring() -> None:
    world = World()
    world.send("click uid=u tag_id=t click_id=c", at_s=0)
    later = world.send("login tag_id=t", at_s=91 * DAY_S)
    assert list(world.state.owners.values()) == [later.visitor]
    assert [key.rpartition("\x1f")[2] for key in world.state.owners] == ["t"]
    assert list(world.state.visitors) == [later.visitor]


def test_the_forgotten_is_neither_absorbed_nor_in_conflict() -> None:
    world = World()
    world.send("login uid=u tag_id=t", at_s=0)
    world.send("login click_id=c", at_s=1)
    outcome = world.send("login uid=v tag_id=t click_id=c", at_s=91 * DAY_S)
    assert (outcome.absorbed, outcome.conflicts, outcome.new_visitor) == ((), (), True)


# remembered parameters


def test_a_parameter_is_remembered_with_its_last_and_first_value_and_their_hits() -> None:
    world = World()
    world.send_all(["login uid=u country=DE", "login uid=u", "login uid=u country=AT"])
    outcome = world.send("sale uid=u extra=1 amount=5")
    assert outcome.params == {"country": "AT", "extra": "1"}
    remembered = world.state.visitors[outcome.visitor].params["country"]
    assert (remembered.first, remembered.first_seq, remembered.last, remembered.last_seq) == ("DE", 1, "AT", 3)


def test_the_events_own_value_wins_and_reserved_names_are_not_remembered() -> None:
    world = World()
    world.send("login uid=u country=DE amount=5 currency=EUR")
    outcome = world.send("sale uid=u country=AT")
    assert outcome.params == {"country": "AT"}
    assert "amount" not in outcome.fields


def test_the_oldest_names_are_dropped_past_the_bound_and_counted() -> None:
    world = World()
    for number in range(MAX_REMEMBERED // 50):
        world.send("login uid=u " + " ".join(f"n{number}-{k}=1" for k in range(50)))
    world.send("login uid=u n0-0=2")
    outcome = world.send("login uid=u a=1 b=1")
    visitor = world.state.visitors[outcome.visitor]
    assert len(visitor.params) == MAX_REMEMBERED
    assert visitor.dropped == 2
    assert "n0-0" in visitor.params
    assert [name for name in ("n0-1", "n0-10") if name in visitor.params] == []
    assert len(outcome.params) == MAX_REMEMBERED + 2


# attribution


@pytest.mark.parametrize(
    ("attribution", "age_s", "affiliate"),
    [
        ("last_click", 30 * DAY_S, "clickhub"),
        ("last_click", 30 * DAY_S + 1, ""),
        ("first_click", 30 * DAY_S - 100, "bestodds"),
        ("first_click", 30 * DAY_S - 99, "clickhub"),
        ("first_click", 30 * DAY_S, "clickhub"),
        ("first_click", 30 * DAY_S + 1, ""),
    ],
)
def test_a_click_counts_for_as_long_as_the_window(attribution: str, age_s: int, affiliate: str) -> None:
    # given one click at second 0, another at second 100, and the age of the second one at the event
    world = World(load(f'{CLIENT}attribution = "{attribution}"\n{AFFILIATES}'))
    world.send("click uid=u affiliate=bestodds", at_s=0)
    world.send("click uid=u affiliate=clickhub", at_s=100)
    world.send("click uid=u", at_s=200)
    world.send("login uid=u affiliate=other", at_s=300)
    assert world.send("sale uid=u", at_s=100 + age_s).affiliate == affiliate


def test_the_events_own_affiliate_comes_first_even_if_nobody_knows_it() -> None:
    world = World()
    world.click("bestodds", "uid=u")
    assert world.send("sale uid=u affiliate=nobody").affiliate == "nobody"
    assert world.send("sale uid=u affiliate=").affiliate == "bestodds"


def test_a_remembered_parameter_never_becomes_the_affiliate() -> None:
    rulebook = load(CLIENT.replace("aliases = {", 'aliases = { pid = "affiliate",') + AFFILIATES)
    world = World(rulebook)
    world.send("login uid=u pid=bestodds")
    outcome = world.send("sale uid=u")
    assert outcome.params == {"pid": "bestodds"}
    assert outcome.affiliate == ""


def test_a_returning_user_through_another_link_keeps_one_history_and_the_new_parameters_count() -> None:
    world = World()
    first = world.click("bestodds", "sub1=old&country=DE")
    world.send(f"registration uid=u click_id={first.hit_id}")
    second = world.click("clickhub", "sub1=new")
    outcome = world.send(f"login uid=u click_id={second.hit_id}")
    assert outcome.affiliate == "clickhub"
    assert outcome.params == {"country": "DE", "sub1": "new"}
    assert int(outcome.visitor, 16) == 1
    assert [int(other, 16) for other in outcome.absorbed] == [3]


# tests


def test_a_hit_is_a_test_if_it_says_so_or_comes_with_a_click_id_that_a_test_click_minted() -> None:
    world = World()
    click = world.click("bestodds", "test=1")
    assert click.test
    assert world.send(f"sale click_id={click.hit_id}").test
    assert world.send("sale uid=u test=1").test
    assert not world.send("sale uid=u test=0").test
    assert not world.send("sale uid=u test=true").test


def test_a_test_with_a_real_click_id_does_not_turn_the_real_visitor_into_a_test() -> None:
    world = World()
    click = world.click("bestodds")
    assert world.send(f"sale click_id={click.hit_id} test=1").test
    real = world.send(f"sale click_id={click.hit_id}")
    assert not real.test
    assert real.visitor == click.visitor


@pytest.mark.parametrize(("age_s", "test"), [(90 * DAY_S, True), (90 * DAY_S + 1, False)])
def test_a_test_click_is_forgotten_like_any_other(age_s: int, test: bool) -> None:
    world = World()
    click = world.click(
        "bestodds",
        "test=1",
    )
    assert world.send(f"sale click_id={click.hit_id}", at_s=1 + age_s).test is test


def test_a_test_shares_no_identity_history_txid_once_or_cap_with_real_traffic() -> None:
    world = World(book('once = "visitor"\ncap = { every = "total", count = 1 }'))
    real = world.send("sale uid=u txid=1 country=DE")
    test = world.send("sale uid=u txid=1 test=1")
    assert real.fired
    assert test.fired
    assert test.verdict == "accepted"
    assert test.visitor != real.visitor
    assert test.params == {}


def test_a_visitor_of_a_test_click_that_was_absorbed_is_still_a_test() -> None:
    world = World()
    click = world.click("bestodds", "test=1")
    world.send("login uid=u test=1")
    merged = world.send(f"login uid=u click_id={click.hit_id} test=1")
    assert merged.absorbed
    assert world.send(f"sale click_id={click.hit_id}").visitor == merged.visitor


# what a store has to fetch

NAMES = ("uid", "tag_id", "click_id")
LINES = st.builds(
    lambda event, ids, extra: " ".join([event, *(f"{name}={value}" for name, value in ids.items()), *extra]),
    st.sampled_from(["click", "login", "sale"]),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["a", "b", f"{1:032x}", "null"]), max_size=3),
    st.lists(st.sampled_from(["txid=1", "test=1", "country=DE", "affiliate=bestodds"]), max_size=2),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(LINES, max_size=12), LINES)
def test_the_wanted_keys_are_all_that_a_decision_reads(lines: list[str], last: str) -> None:
    # given the same history in two worlds, one of which then loses every key that is not wanted
    whole, thin = World(book('once = "visitor"\nafter = ["click"]')), World(book('once = "visitor"\nafter = ["click"]'))
    for world in (whole, thin):
        world.click("bestodds", "test=1")
        world.send_all(lines)
    event = read(last.partition(" ")[2].replace(" ", "&"))
    owners, txids = wanted_keys(event)
    thin.state.owners = {key: owner for key, owner in thin.state.owners.items() if key in owners}
    kept = set(thin.state.owners.values())
    thin.state.visitors = {name: visitor for name, visitor in thin.state.visitors.items() if name in kept}
    thin.state.txids = {key: time_us for key, time_us in thin.state.txids.items() if "sale" in key and key in txids}
    # then nothing is decided differently
    line = "sale " + last.partition(" ")[2]
    assert whole.send(line) == thin.send(line)


class Store(State):
    """A state that lives in somebody else's tables: they hear of nothing but the writes."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, dict[str, object]] = {"owners": {}, "visitors": {}, "txids": {}, "caps": {}}

    def put_owner(self, key: str, visitor_id: str) -> None:
        super().put_owner(key, visitor_id)
        self.tables["owners"][key] = visitor_id

    def drop_owner(self, key: str) -> None:
        super().drop_owner(key)
        del self.tables["owners"][key]

    def put_visitor(self, visitor: Visitor) -> None:
        super().put_visitor(visitor)
        self.tables["visitors"][visitor.id] = visitor

    def drop_visitor(self, visitor_id: str) -> None:
        super().drop_visitor(visitor_id)
        del self.tables["visitors"][visitor_id]

    def put_txid(self, key: str, time_us: int) -> None:
        super().put_txid(key, time_us)
        self.tables["txids"][key] = time_us

    def put_cap(self, key: str, count: int) -> None:
        super().put_cap(key, count)
        self.tables["caps"][key] = count

    def drop_cap(self, key: str) -> None:
        super().drop_cap(key)
        del self.tables["caps"][key]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(LINES, st.sampled_from([1, 1, 3600, 30 * DAY_S, 91 * DAY_S])), max_size=20))
def test_a_store_that_follows_every_put_and_drop_holds_what_the_state_holds(sent: list[tuple[str, int]]) -> None:
    # given visitors that come back, are absorbed and forgotten, and caps whose hours go by
    world = World(book('cap = { every = "hour", count = 2 }'))
    world.state = store = Store()
    for line, later_s in sent:
        world.send(line, at_s=world.now_s + later_s)
        drop_past_caps(store, START_US + world.now_s * 1_000_000)
    # then nothing is left in the tables that the state has forgotten, and nothing is lacking
    state = {"owners": store.owners, "visitors": store.visitors, "txids": store.txids, "caps": store.caps}
    assert store.tables == state
    assert set(store.owners.values()) <= set(store.visitors)
    assert len(store.caps) <= 2  # of real traffic and of tests


@settings(deadline=None, max_examples=80)
@given(st.lists(LINES, max_size=25))
def test_identifiers_visitors_and_uids_stay_consistent(lines: list[str]) -> None:
    world = World()
    outcomes = world.send_all(lines)
    for key, owner in world.state.owners.items():
        assert key in world.state.visitors[owner].identifiers
    for visitor in world.state.visitors.values():
        assert all(world.state.owners[key] == visitor.id for key in visitor.identifiers)
        uids = [key for key in visitor.identifiers if key.split("\x1f")[2] == "uid"]
        assert len(uids) == bool(visitor.uid)
        assert visitor.history == sorted(visitor.history)
    counted = sum(stat.count for visitor in world.state.visitors.values() for stat in visitor.events.values())
    anonymous = sum(not set(NAMES) & set(outcome.fields) for outcome in outcomes if outcome.verdict == "accepted")
    assert counted == sum(outcome.verdict == "accepted" for outcome in outcomes) - anonymous


def test_a_space_is_of_one_client_and_of_tests_or_not() -> None:
    assert len({space("a", False), space("a", True), space("at", False), space("b", False)}) == 4
