"""The studio without a browser: what it answers is what a replay of the rulebook would do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

import lab
from lab import LabError, Studio
from lab.bulk import generate
from lab.log import Log
from lab.replay import replay
from lab.studio_answer import Answer, Asking
from lab.studio_check import check
from lab.studio_draft import Draft, read_draft
from lab.studio_ground import Ground
from lab.studio_text import drafts_in, put
from service.engine import Rulebook, load
from tests.lab.conftest import RULES, Past
from tests.lab.pairs import pairs
from tests.waiting import until

SAMPLE_RULES = (Path(__file__).parents[2] / "datasets" / "rules.toml").read_text(encoding="utf-8")
Firing = tuple[int, int, str, str, str]


def by_replay(log: Log, rulebook: Rulebook, trigger: str) -> list[Firing]:
    """Partition, seq, affiliate, payout and currency of a trigger's firings, by the reference engine."""
    return [
        (partition, outcome.seq, outcome.affiliate, firing.payout, firing.currency)
        for partition, _, outcome in replay(log, rulebook).outcomes
        for firing in outcome.fired
        if firing.trigger == trigger and not outcome.test
    ]


def by_studio(answer: Answer) -> list[Firing]:
    rows = answer.firings.select("partition", "seq", "affiliate", "payout", "currency").iter_rows()
    return [(partition, seq, affiliate or "", payout, currency) for partition, seq, affiliate, payout, currency in rows]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "draft_seed" in metafunc.fixturenames:
        metafunc.parametrize("draft_seed", range(200 if metafunc.config.getoption("--soak") else 2))


def test_every_draft_of_a_random_rulebook_fires_where_the_reference_engine_says(
    tmp_path: Path, draft_seed: int
) -> None:
    # given a log of twelve clients with everything odd in it, and all the triggers that somebody wrote for them
    log, rulebook = pairs(tmp_path, 7_000 + draft_seed, 12)
    asking = Asking(Ground(log, rulebook))
    expected: dict[str, list[Firing]] = {}
    for partition, _, outcome in replay(log, rulebook).outcomes:
        for firing in outcome.fired if not outcome.test else ():
            fired = (partition, outcome.seq, outcome.affiliate, firing.payout, firing.currency)
            expected.setdefault(firing.trigger, []).append(fired)
    for draft in drafts_in(rulebook.text).values():
        # when each of them is a draft
        checked = check(draft, rulebook.text)
        assert checked.trigger is not None, checked.troubles
        assert checked.rulebook is not None
        answer = asking.answer(draft, checked.trigger, checked.rulebook)
        # then it fires on the same events, for the same money
        assert answer is not None
        assert by_studio(answer) == expected.get(draft.name, []), draft.toml
    asking.ground.close()


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Log:
    folder = tmp_path_factory.mktemp("week")
    generate(folder, 12_000)
    return lab.open(folder)


@pytest.fixture(scope="module")
def studio(week: Log) -> Iterator[Studio]:
    opened = Studio(week, SAMPLE_RULES, "first-deposit")
    yield opened
    opened.close()


def test_what_is_typed_is_counted_as_a_replay_of_the_rulebook_would(studio: Studio, week: Log) -> None:
    # given a trigger of the rulebook
    studio.open("first-deposit")
    before = studio.result.fired
    # when a person types another condition
    studio.condition.value = 'amount >= 100 and country != "FR"'
    # then the answer is that of a replay, and the headline says so
    assert by_studio(studio.result) == by_replay(week, studio.rulebook(), "first-deposit")
    assert 0 < studio.result.fired < before
    assert f"<b>{studio.result.fired:,}</b>" in studio.count.value
    assert "exact" in studio.count.value


def test_an_error_is_shown_below_the_condition_with_a_caret_and_nothing_is_raised(studio: Studio) -> None:
    # when somebody has typed half of a condition
    studio.open("first-deposit")
    studio.condition.value = "amount >= 20 and"
    # then the words and the place are there, and the headline of the last whole draft stays
    (trouble,) = studio.troubles
    assert (trouble.field, trouble.says, trouble.column) == ("when", "the condition ends too early", 17)
    assert trouble.caret(studio.draft.when) == "amount >= 20 and\n                ^"
    assert "<pre>amount &gt;= 20 and\n                ^</pre>" in studio.form.says["when"].value
    with pytest.raises(LabError, match="when: the condition ends too early"):
        _ = studio.result


def test_a_studio_that_opens_with_a_mistake_says_what_it_waits_for(week: Log) -> None:
    # given a trigger whose condition is half of one
    half = {"name": "half", "client": "acme", "on": "sale", "when": "amount >= 20 and"}
    # when the studio has read the log
    studio = lab.Studio(week, SAMPLE_RULES, half)
    until(lambda: "Preparing" not in studio.count.value, "the log to be read")
    # then it says so instead of preparing for ever, and counts when it can
    assert "as soon as what is marked is put right" in studio.count.value
    assert studio.set(when="amount >= 20").result.fired > 0
    assert "firings" in studio.count.value
    studio.close()


def test_a_misspelt_name_is_found_where_it_stands_and_not_inside_of_a_text(studio: Studio) -> None:
    studio.open("first-deposit").set(when='sub1 == "amuont" and amuont > 1')
    (trouble,) = studio.troubles
    assert "did you mean 'amount'?" in trouble.says
    assert trouble.column == 22


def test_a_misspelt_macro_is_said_at_the_address_of_its_affiliate(studio: Studio) -> None:
    # when the address of one affiliate asks for what nobody knows
    studio.open("first-deposit").set(templates={"topten": "https://t.example/pb?c={conutry}"})
    # then it is said there
    (trouble,) = studio.troubles
    assert trouble.field == "template topten"
    assert "{conutry}, did you mean 'country'?" in trouble.says


def test_the_draft_goes_round_from_widgets_to_toml_to_python_and_back(studio: Studio) -> None:
    # given what somebody has put together with widgets
    studio.open("first-deposit")
    form = studio.form
    form.on.value, form.after.value, form.within.value = "login", ["click"], "7d"
    form.condition.value, form.once.value = 'country == "DE" and not exists(sub2)', False
    form.cap_count.value, form.cap_per.value, form.cap_every.value = 3, "affiliate", "month"
    form.payout_kind.value, form.payout_sum.value, form.payout_currency.value = "fixed", "1.50", "EUR"
    form.to_client.value = False
    form.affiliate.value = "topten"
    form.template.value = "https://t.example/pb?c={country}&s={payout}"
    # then the engine's trigger says the same
    trigger = studio.trigger
    assert (trigger.on, trigger.after, trigger.once, trigger.to) == ("login", ("click",), "always", ("affiliate",))
    assert trigger.cap is not None
    assert (trigger.cap.per, trigger.cap.every, trigger.cap.count) == ("affiliate", "month", 3)
    assert trigger.payout is not None
    assert str(trigger.payout.fixed) == "1.50"
    # and what is pasted into another studio's TOML is the same draft, with the same answer
    text, draft, result = studio.toml, studio.draft, studio.result
    studio.open("signup")
    form.toml.value = text
    assert studio.draft == draft
    assert by_studio(studio.result) == by_studio(result)
    # and the rulebook has it in place of the trigger of that name, with everything else as it was
    assert drafts_in(studio.rulebook().text)["first-deposit"] == draft
    others = [name for name in drafts_in(SAMPLE_RULES) if name != "first-deposit"]
    assert all(drafts_in(studio.rulebook().text)[name] == drafts_in(SAMPLE_RULES)[name] for name in others)
    assert studio.rulebook().text.startswith(SAMPLE_RULES[:400])


def test_a_new_trigger_is_added_behind_the_others_and_counts(week: Log, studio: Studio) -> None:
    # given a trigger that the rulebook does not have, on an event that only the log names
    studio.set(name="looked", client="cozy", on="pageview", after=None, within=None, when='count("pageview") == 2',
               once=None, cap=None, payout=None, to=["client"], templates=None)  # fmt: skip
    # then it fires as a replay says, and stands behind the others
    assert by_studio(studio.result) == by_replay(week, studio.rulebook(), "looked")
    assert studio.result.fired > 0
    assert list(drafts_in(studio.rulebook().text)) == [*drafts_in(SAMPLE_RULES), "looked"]


def test_examples_show_what_would_be_sent_and_the_nearest_misses_say_why(studio: Studio, week: Log) -> None:
    # when
    studio.open("first-deposit").set(cap={"count": 2, "every": "day"}, when="amount >= 60")
    cases = studio.cases
    # then the firings have the postbacks of the engine, and the misses its words, those that came furthest first
    assert [case.stage for case in cases] == ["fired"] * 3 + ["cap"] * 3 + ["once"] * 2
    assert all(case.postbacks and "worth" in case.says for case in cases[:3])
    assert "its cap of 2 firings was reached" in cases[3].says
    # and of those that the condition stops, the nearest is the first
    studio.set(cap=None, once=None)
    near = next(case for case in studio.cases if case.stage == "condition")
    stopped = [
        float(outcome.fields["amount"])
        for _, _, outcome in replay(week, studio.rulebook()).outcomes
        if outcome.not_fired.get("first-deposit") == "condition"
    ]
    assert float(near.event["amount"]) == max(stopped)
    assert near.says.startswith("its condition does not hold: amount >= 60 is false (amount is 5")


def answers(asking: Asking, draft: Draft) -> tuple[Answer, Answer]:
    """Of a sample, and exact."""
    checked = check(draft, SAMPLE_RULES)
    assert checked.trigger is not None
    assert checked.rulebook is not None
    about = asking.answer(draft, checked.trigger, checked.rulebook, exact=False)
    exactly = asking.answer(draft, checked.trigger, checked.rulebook)
    assert about is not None
    assert exactly is not None
    return about, exactly


def test_a_sample_says_so_is_as_near_as_it_claims_and_minds_the_cap(week: Log) -> None:
    # given a log so long that one visitor in sixteen is asked while somebody types
    asking = Asking(Ground(week, load(SAMPLE_RULES), small=1_000))
    for draft in drafts_in(SAMPLE_RULES).values():
        # when
        about, exactly = answers(asking, draft)
        # then
        assert about.certainty == f"sampled 1 in 16, ± {about.margin:,}"
        assert exactly.certainty == "exact"
        assert abs(about.fired - exactly.fired) <= 2 * about.margin
    # and a cap is not multiplied: forty a day are about forty a day, not sixteen times as many
    views = Draft(name="views", client="acme", on="pageview", cap={"count": 40, "every": "day"})
    about, exactly = answers(asking, views)
    assert exactly.fired > 200
    assert abs(about.fired - exactly.fired) <= 40
    asking.ground.close()


def test_the_newest_of_many_drafts_wins(studio: Studio) -> None:
    # when somebody types on and on
    studio.open("first-deposit")
    for amount in range(1, 40):
        studio.condition.value = f"amount >= {amount}"
    # then the answer is that of the last one
    assert studio.result.draft.when == "amount >= 39"


def test_the_next_word_is_offered_and_can_be_clicked(studio: Studio) -> None:
    studio.open("first-deposit")
    assert "amount " in studio.completions("am")
    assert 'count("sale")' in studio.completions('count("sa')
    assert 'since("login")' in studio.completions("since(")
    assert "amount >= " in studio.completions("amount")
    assert studio.completions("amount >= 20 ") == ("amount >= 20 and ", "amount >= 20 or ")
    assert studio.completions('country == "D') == ()
    assert 'country == "DE" and coun' not in studio.completions('country == "DE" and coun')
    # when the offer for what was typed is clicked
    studio.condition.value = "cou"
    studio.form.chips.children[0].click()
    # then it stands in the condition
    assert studio.condition.value == "country "


def test_unknown_triggers_keys_and_texts_are_named_in_one_line(studio: Studio, week: Log) -> None:
    with pytest.raises(LabError, match=r"no trigger 'first'; its triggers are signup, first-deposit"):
        studio.open("first")
    with pytest.raises(LabError, match=r"'wen' is no key of a trigger, did you mean 'when'\?"):
        studio.set(wen="x")
    with pytest.raises(LabError, match="this is no TOML"):
        studio.toml = "[[trigger"
    with pytest.raises(LabError, match="after is 3; write a list of names"):
        studio.toml = "[[trigger]]\nafter = 3"
    with pytest.raises(LabError, match="names no rulebook; give one with rules"):
        Studio(week)


def test_without_rules_the_newest_rulebook_of_the_log_is_edited(tmp_path: Path, past: Past) -> None:
    # given a log that switched to a second rulebook
    past.publish(RULES.replace("amount >= 20", "amount >= 90"))
    studio = Studio(lab.open(past.store(tmp_path / "tables")), trigger="deposit")
    # then its trigger is there, and its answer on the whole log is that of a replay
    assert studio.draft.when == 'amount >= 90 and country == "DE"'
    assert by_studio(studio.result) == by_replay(studio.log, studio.rulebook(), "deposit")
    studio.close()


def test_a_studio_that_was_closed_says_so_and_a_third_one_closes_the_first(tmp_path: Path, past: Past) -> None:
    # given two that are open
    log = lab.open(past.store(tmp_path / "tables"))
    first, second = Studio(log), Studio(log, trigger="order")
    assert first.result.exact
    # when a third one is opened
    third = Studio(log)
    # then the first is closed and the others are not
    with pytest.raises(LabError, match="this studio is closed; open another one"):
        _ = first.result
    assert "this studio is closed" in first.count.value
    assert by_studio(second.result) == by_replay(log, second.rulebook(), "order")
    second.close()
    third.close()


def test_a_trigger_keeps_its_place_and_the_comments_around_it() -> None:
    # given a rulebook with comments, a cap in a table of its own, and texts that look like headers
    text = '''# ours
[client.acme]
webhook = "https://a.example/in"
params = [
  "country",
]

# the first
[[trigger]]
name = "one"
client = "acme"
on = "sale"
[trigger.cap]
count = 3

# the second
[[trigger]]  # keep
name = "two"
client = "acme"
on = "sale"
when = """
country == "[[trigger]]"
"""
'''
    # when
    made = put(text, drafts_in(text)["one"].changed(on="login"))
    # then only its own lines are others
    assert made == text.replace('on = "sale"\n[trigger.cap]\ncount = 3', 'on = "login"\ncap = { count = 3 }')


def test_every_draft_is_read_back_from_its_own_toml() -> None:
    for draft in drafts_in(SAMPLE_RULES).values():
        assert read_draft(draft.toml) == draft
    odd = Draft(name="x", client="a", on="sale", when="a == \"it's \\\\ \" and b == 'q\"'", until=date(2026, 3, 4))
    assert read_draft(odd.toml) == odd
