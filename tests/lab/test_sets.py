"""Two evaluators, one meaning: the set engine against the reference engine."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import polars as pl
import pytest
from click.testing import CliRunner

import lab
from lab.bulk import generate
from lab.commands import replay_command
from lab.digest import first_difference
from lab.log import LabError, Log
from lab.replay import replay as replay_by_reference
from lab.sets import SetDifference, SetRun
from lab.sets import replay as replay_by_sets
from lab.sets.run import replay_both
from service.engine import Rulebook, load
from service.engine.conditions import Condition, compile_condition
from service.engine.rulebook import Trigger, index_triggers
from tests.lab.conftest import PARTITIONS, RULES, Past
from tests.lab.pairs import pairs

PAIRS_PER_RUN = 15


def _compare(log: Log, rulebook: Rulebook) -> None:
    reference = replay_by_reference(log, rulebook)
    whole = replay_by_sets(log, rulebook)
    assert first_difference(whole.outcomes, reference.outcomes) is None
    assert whole.digest == reference.digest
    lean = replay_by_sets(log, rulebook, full=False)
    assert lean.postbacks.equals(reference.postbacks)
    assert lean.counts.equals(reference.counts)
    assert (lean.verdicts.equals(reference.verdicts), lean.reasons.equals(reference.reasons)) == (True, True)


def test_fifteen_pairs_of_rulebook_and_log_give_the_same_outcomes_by_both_engines(
    tmp_path: Path, pair_seed: int
) -> None:
    log, rulebook = pairs(tmp_path, pair_seed, PAIRS_PER_RUN)
    _compare(log, rulebook)


def test_a_generated_week_is_decided_the_same_and_hardly_anybody_is_hard(tmp_path: Path) -> None:
    # given many hits of the sample rulebook: returning users, duplicates, tests, shared devices
    generate(tmp_path, 20_000)
    log, rules = lab.open(tmp_path), Path(__file__).parents[2] / "datasets" / "rules.toml"
    # when
    lean, reference = replay_by_sets(log, rules, full=False), replay_by_reference(log, rules)
    # then
    assert lean.postbacks.equals(reference.postbacks)
    assert lean.verdicts.equals(reference.verdicts)
    assert 0 < lean.certificate.hard < 0.02 * lean.hits


@pytest.mark.parametrize("seed", [3, 4])
def test_two_rulebooks_on_one_ground_decide_as_each_does_alone(tmp_path: Path, seed: int) -> None:
    # given a rulebook, and one that reads hits the same and has other triggers
    log, rulebook = pairs(tmp_path, seed, PAIRS_PER_RUN)
    changed = tuple(
        msgspec.structs.replace(trigger, after=(), when=None, once="always") if number % 2 else trigger
        for number, trigger in enumerate(rulebook.triggers[1:])
    )
    other = Rulebook(
        rulebook.id, rulebook.text, rulebook.clients, rulebook.affiliates, changed, index_triggers(changed)
    )
    # when both stand on one ground
    together = replay_both(log, rulebook, other)
    # then each says what it says by itself
    for run, book in zip(together, (rulebook, other), strict=True):
        alone = replay_by_sets(log, book, full=False)
        assert run.postbacks.equals(alone.postbacks)
        assert run.counts.equals(alone.counts)
        assert run.verdicts.equals(alone.verdicts) and run.reasons.equals(alone.reasons)


def _with_condition(rulebook: Rulebook, name: str, condition: Condition) -> Rulebook:
    triggers = tuple(
        msgspec.structs.replace(trigger, when=condition) if trigger.name == name else trigger
        for trigger in rulebook.triggers
    )
    return Rulebook(
        rulebook.id, rulebook.text, rulebook.clients, rulebook.affiliates, triggers, index_triggers(triggers)
    )


def _deposit(rulebook: Rulebook) -> Trigger:
    return next(trigger for trigger in rulebook.triggers if trigger.name == "deposit")


@pytest.fixture
def day(tmp_path: Path, past: Past) -> Log:
    return lab.open(past.store(tmp_path / "tables"))


def test_a_log_opened_as_of_a_moment_ends_there_for_both_engines(past: Past, tmp_path: Path) -> None:
    # given a log whose later hits are left out
    log = lab.open(past.store(tmp_path / "tables"), as_of="2026-03-02T00:05:30")
    # when both decide it by one rulebook, then neither sees the later ones
    by_sets, by_reference = replay_by_sets(log, load(RULES)), replay_by_reference(log, load(RULES))
    assert by_sets.hits == by_reference.hits == 5
    assert by_sets.digest == by_reference.digest


def test_a_fault_in_the_reference_engine_is_caught_and_the_smallest_case_is_shown(day: Log) -> None:
    # given a condition whose text both compile, and whose predicate the reference engine has got wrong
    rulebook = load(RULES)
    right = _deposit(rulebook).when
    assert right is not None
    wrong = compile_condition('amount > 50 and country == "DE"')
    faulty = _with_condition(rulebook, "deposit", Condition(right.text, wrong.predicate, right.names, right.events))
    # when the log is replayed by sets, then the certificate is refused
    with pytest.raises(SetDifference) as found:
        replay_by_sets(day, faulty)
    assert "the set engine differs from the reference engine" in str(found.value)
    assert "event=sale" in str(found.value)


def test_a_fault_in_the_set_engine_is_caught(day: Log) -> None:
    # given a condition of which the set engine compiles another text than the reference engine's predicate has
    rulebook = load(RULES)
    right = _deposit(rulebook).when
    assert right is not None
    text = 'amount > 50 and country == "DE"'
    faulty = _with_condition(rulebook, "deposit", Condition(text, right.predicate, right.names, right.events))
    # when, then
    with pytest.raises(SetDifference):
        replay_by_sets(day, faulty)
    with pytest.raises(SetDifference):
        replay_by_sets(day, faulty, full=False)


def test_as_logged_is_the_same_by_both_engines(day: Log) -> None:
    assert day.replay(engine="set").digest == day.replay().digest == day.digest()


def test_a_log_that_switches_its_rulebook_is_decided_as_logged(tmp_path: Path, past: Past) -> None:
    # given a rulebook that is replaced in mid-stream
    past.publish(RULES.replace("amount >= 20", "amount >= 90"))
    past.hit("client=acme&event=sale&uid=anna&amount=80&country=DE&currency=EUR&txid=late")
    log = lab.open(past.store(tmp_path / "switched"))
    # when
    run = log.replay(engine="set")
    # then the whole partition went through the reference engine, and the one test of the other partition
    switched = log.hits.filter(pl.col("partition") == PARTITIONS["acme"], pl.col("kind") == "hit").collect().height
    assert run.digest == log.digest()
    assert isinstance(run, SetRun)
    assert run.certificate.hard == switched + 1


def test_the_certificate_says_what_was_compared(day: Log) -> None:
    run = replay_by_sets(day, RULES)
    assert run.certificate.hits == run.hits
    assert run.certificate.sampled > 0
    assert "0 differences" in str(run.certificate)


def test_a_lean_run_has_no_decisions_and_says_how_to_get_them(day: Log) -> None:
    run = day.replay(RULES, engine="set", full=False)
    with pytest.raises(LabError, match="full=True"):
        _ = run.decisions


def test_an_unknown_engine_is_named(day: Log) -> None:
    with pytest.raises(LabError, match="'sets'; the engines are reference and set"):
        day.replay(engine="sets")


def test_the_replay_command_takes_the_set_engine_and_prints_its_certificate(day: Log) -> None:
    found = CliRunner().invoke(replay_command, [str(day.path), "--engine", "set", "--json", "--fail-on", "difference"])
    assert found.exit_code == 0, found.output
    document = json.loads(found.output)
    assert document["equal"] is True
    assert "0 differences" in document["certificate"]
