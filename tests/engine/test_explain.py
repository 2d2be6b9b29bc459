"""The fact that each sentence of a story gives; the whole stories are read in tests/lab/explained."""

from __future__ import annotations

import copy
import re

import msgspec
import pytest

from service.engine import EMPTY, Entry, Hit, Outcome, Reason, Rulebook, Stage, State, Verdict, process
from service.engine.explain import Story, explain
from service.engine.explain_request import REMEDIES
from service.engine.explain_triggers import STOPS
from service.engine.trail import Trail
from tests.engine import traffic
from tests.engine.world import CLIENT, DAY_S, SECOND_US, START_US, World, book, entry, hit


class Told(World):
    """A world that tells the story of every hit before it is decided."""

    def __init__(self, rulebook: Rulebook = EMPTY) -> None:
        super().__init__(rulebook)
        self.trail = Trail()
        self.story: Story | None = None

    def run(self, sent: Hit, *, at_s: int | None = None) -> Outcome:
        """Process any hit."""
        self.seq += 1
        self.now_s = self.now_s + 1 if at_s is None else at_s
        now = entry(self.seq, sent, START_US + self.now_s * SECOND_US)
        self.story = explain(now, self.state, self.rulebook, self.trail)
        outcome = process(now, self.state, self.rulebook)
        self.trail.note(outcome)
        return outcome

    def text(self) -> str:
        """The last story."""
        assert self.story is not None
        return "\n".join(self.story.lines)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("paused = true", "(inactive): it is paused in the rulebook"),
        ("from = 2023-11-15", "(inactive): it begins at 2023-11-15 00:00:00 UTC, 1 hour 46 minutes after this hit"),
        (
            "until = 2023-11-14T22:00:00",
            "(inactive): it ended at 2023-11-14 22:00:00 UTC, 13 minutes 21 seconds before",
        ),
        ('on = "login"', "Not concerned: t1 (waits for login)"),
        ('to = ["affiliate"]', "(recipient): it posts to the affiliate, and this event has none"),
        ('after = ["click"]', "(steps): it wants click before the sale, and this visitor did nothing before"),
        ("when = 'amount > 5 and not exists(country)'", "amount > 5 is false (amount is 5)"),
        ("when = 'not amount < 9'", "amount < 9 is true (amount is 5)"),
        ("when = 'since(\"sale\") < 7d'", 'since("sale") < 7d is false (there was no earlier sale)'),
        ("when = 'exists(country)'", "exists(country) is false (country is missing)"),
        ("sample = 100", "(sample): it holds back 100 % of the visitors, and this one is among them"),
    ],
)
def test_a_stage_that_stops_says_the_fact(body: str, words: str) -> None:
    world = Told(book(body))
    world.send("sale uid=anna amount=5")
    assert words in world.text()


def test_once_names_the_hit_that_used_it_even_after_absorption() -> None:
    world = Told(book('once = "visitor"'))
    world.send("sale tag_id=phone")
    world.send("login uid=anna")
    world.send("sale uid=anna tag_id=phone")
    assert "(once): it fires once per visitor, and the sale of 2023-11-14 22:13:21 UTC has used it" in world.text()


def test_steps_name_the_missing_one_and_what_came_too_early() -> None:
    world = Told(book('after = ["click", "registration"]'))
    world.send("registration uid=anna")
    world.send("click uid=anna")
    world.send("sale uid=anna")
    assert (
        "there is no registration after the click of 2023-11-14 22:13:22 UTC; the only one came too early: "
        "the registration of 2023-11-14 22:13:21 UTC"
    ) in world.text()


def test_steps_in_time_say_by_how_much_the_window_was_missed() -> None:
    world = Told(book('after = ["click"]\nwithin = "1h"'))
    world.send("click uid=anna", at_s=0)
    world.send("sale uid=anna", at_s=3601)
    assert "was 1 hour 1 second before, 1 second over the 1 hour allowed" in world.text()


def test_two_uids_stay_apart_and_the_story_says_so() -> None:
    world = Told()
    world.send("login uid=anna tag_id=shared")
    world.send("login uid=ben tag_id=shared")
    assert 'tag_id "shared" belongs to another person' in world.text()
    assert 'who has the uid "anna"' in world.text()


def test_a_forgotten_visitor_is_named_with_the_span() -> None:
    world = Told()
    world.send("login tag_id=t", at_s=0)
    world.send("login tag_id=t", at_s=91 * DAY_S)
    assert "not seen for 91 days: forgotten, since client acme remembers for 90 days" in world.text()


def test_a_stranger_has_no_past() -> None:
    world = Told()
    world.send("sale")
    assert "Visitor: a stranger." in world.text()


def test_a_withheld_postback_names_what_it_must_have() -> None:
    client = CLIENT.replace('"https://acme.example/et"', '"https://acme.example/et?c={country!}"')
    world = Told(book("", client=client))
    world.send("sale uid=anna")
    assert "not sent, since country must have a value and has none; withheld" in world.text()


def test_a_default_is_named_as_such() -> None:
    client = CLIENT.replace(
        '"https://acme.example/et"', '"https://acme.example/et?c={country|default:xx}&l={last.login.ts}"'
    )
    world = Told(book("", client=client))
    world.send("login uid=anna ts=77")
    world.send("sale uid=anna")
    assert 'nobody ever brought it, "xx" was sent instead: country' in world.text()
    assert "remembered from the login of 2023-11-14 22:13:21 UTC: last.login.ts = 77" in world.text()


def test_a_refusal_by_the_intake_was_told_to_the_sender() -> None:
    world = Told()
    world.run(hit("client=acme&event=sale", refusal="unknown_client"))
    assert "The sender was told so in the answer: X-Reason: unknown_client." in world.text()


def test_a_payout_that_cannot_be_worked_out_says_why() -> None:
    world = Told(book('payout = { percent = "10" }'))
    world.send("sale uid=anna amount=5")
    assert "worth nothing that can be said: there is no currency" in world.text()
    world.send("sale uid=anna currency=EUR")
    assert "worth nothing that can be said: amount is missing" in world.text()


def test_a_bug_of_the_engine_is_told_as_one() -> None:
    # given a state that no store should ever have written
    world = Told()
    world.send("login uid=anna")
    next(iter(world.state.visitors.values())).params = None  # type: ignore[assignment]
    # when a hit falls over it
    world.send("sale uid=anna")
    # then the story says whose fault it is
    assert world.story is not None
    assert world.story.verdict == Verdict.ENGINE_ERROR
    assert "Nothing is wrong with the request." in world.text()


def test_an_entry_without_a_hit_has_no_story() -> None:
    with pytest.raises(ValueError, match="has no story"):
        explain(Entry(0, 1, 1, START_US), State(), EMPTY)


def test_every_reason_has_a_remedy_and_every_stage_its_words() -> None:
    assert set(REMEDIES) == {reason.value for reason in Reason}
    assert set(STOPS) == set(Stage)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_story_agrees_with_the_outcome_and_leaves_the_state_alone(seed: int) -> None:
    # given a log with absorption, conflicts, tests, duplicates and broken hits
    state, trail = State(), Trail()
    for now in traffic.log(seed, 400):
        before = copy.deepcopy((state.owners, state.visitors, state.txids, state.caps)) if now.seq % 40 == 0 else None
        # when each hit is explained before it is decided
        story = explain(now, state, traffic.RULEBOOK, trail)
        if before is not None:
            assert before == (state.owners, state.visitors, state.txids, state.caps)
        outcome = process(now, state, traffic.RULEBOOK)
        trail.note(outcome)
        # then both say the same
        assert (story.verdict, story.reason) == (outcome.verdict, outcome.reason)
        stages = {trigger.name: trigger.stage for trigger in story.triggers}
        assert {name for name, stage in stages.items() if stage == "fired"} == {f.trigger for f in outcome.fired}
        stopped = {name: stage for name, stage in stages.items() if stage not in ("fired", "event")}
        assert stopped == dict(outcome.not_fired)
        assert [(p.id, p.state) for p in story.postbacks] == [(p.id, p.state) for p in outcome.postbacks]
        for line in story.lines:
            assert "None" not in line, line


# for an affiliate

GUARDED = CLIENT.replace('private = ["email"]', 'private = ["email", "txid", "amount"]')


def told_to_affiliate(lines: list[str]) -> tuple[list[str], list[str]]:
    """The stories of the same hits as told to the client, and to an affiliate, as their JSON."""
    rule = (
        'to = ["client", "affiliate"]\nwhen = \'email != "boss@secret.example" and amount > 30\'\n'
        'payout = { percent = "10", of = "amount", currency = "EUR" }\nonce = "visitor"'
    )
    rulebook = book(
        rule, client=GUARDED.replace("/et", "/et?m={email}&h={first.email|sha256}&t={last.sale.txid}&u={uid}")
    )
    world = World(rulebook)
    told: tuple[list[str], list[str]] = [], []
    trail = Trail()
    for line in lines:
        event, *pairs = line.split(" ")
        sent = hit("&".join([f"client=acme&event={event}", *pairs]), number=world.seq + 1)
        now = entry(
            world.seq + 1, msgspec.structs.replace(sent, address="198.51.100.7"), START_US + world.seq * SECOND_US
        )
        for stories, affiliate in zip(told, (False, True), strict=True):
            story = explain(now, world.state, rulebook, trail, for_affiliate=affiliate)
            stories.append(msgspec.json.encode([msgspec.to_builtins(story), story.lines]).decode())
        trail.note(process(now, world.state, rulebook))
        world.seq += 1
    return told


PRIVATE_LINES = [
    "login tag_id=t uid=anna-7 email=anna@secret.example",
    "sale uid=anna-7 affiliate=bestodds email=boss@secret.example amount=77.25",  # the condition on a private value
    "sale uid=anna-7 affiliate=bestodds e%6Dail=anna%40secret.example amount=77.25 txid=secret-1 sub1=shown",
    "sale uid=anna-7 affiliate=bestodds amount=77.25 txid=secret-1",  # a duplicate
    "sale uid=anna-7 affiliate=bestodds payout=77.25 txid=secret-2",  # once used up, amount under its alias
    "login customer=bert-8 tag_id=t",  # a conflict, the uid under its alias
    "login tag_id=u",
    "login uid=carl-9 tag_id=u",  # an unknown uid becomes the visitor's
    "sale uid=anna-7 amount=77.25secret",
    "sale uid=anna-7 email=%FFsecret.example",
    "sale uid=anna-7&client=nobody email=anna@secret.example",
]


def test_a_story_for_an_affiliate_holds_nothing_that_is_private_to_the_client() -> None:
    whole, masked = told_to_affiliate(PRIVATE_LINES)
    private = ["secret", "anna", "bert", "carl", "boss", "77.25", "198.51.100.7", "acme.example"]
    # given that the client is told all of it
    assert [one for one in private if not any(one in story for story in whole)] == []
    # then no story for an affiliate holds any of it
    assert [(one, story) for story in masked for one in private if one in story] == []


def test_a_story_for_an_affiliate_says_what_happened_all_the_same() -> None:
    _, masked = told_to_affiliate(PRIVATE_LINES)
    assert "a test of a private value is false" in masked[1]
    assert "email (private), sub1 shown" in masked[2]
    assert "https://bestodds.example/pb?s=shown&e=sale" in masked[2]
    assert "To client acme: promised" in masked[2]
    assert "has the same txid (private) and was accepted" in masked[3]
    assert "it fires once per visitor" in masked[4]
    assert "Rejected (invalid_amount)." in masked[8]


@pytest.mark.parametrize("seed", range(4))
def test_no_hit_of_a_log_tells_an_affiliate_a_private_value(seed: int) -> None:
    # given uids and mail addresses that nothing else in the log looks like
    state, trail = State(), Trail()
    for one in traffic.log(seed, 200):
        story = explain(one, state, traffic.RULEBOOK, trail, for_affiliate=True)
        text = msgspec.json.encode([msgspec.to_builtins(story), story.lines]).decode()
        assert not re.search(r"x\.example|uid[ =:\"\\]+u[0-9]", text.replace("clickhub.example", "")), text
        trail.note(process(one, state, traffic.RULEBOOK))
