"""Replay: the same log and the same rulebooks give the same outcomes, and the digest proves it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

import lab
from lab import LabError
from lab.digest import digest, first_difference
from lab.traffic import generate, to_hit
from service.archive.schemas import SCHEMAS
from service.engine import EMPTY, Firing, Outcome, Postback, RulebookError, load
from tests.lab.conftest import RULES, Past, live_through

Store = Callable[[Past], Path]
CHEAPER = RULES.replace('percent = "25"', 'percent = "20"')


def test_a_replay_as_logged_says_what_the_service_stored(past: Past, tables_of: Store) -> None:
    log = lab.open(tables_of(past))

    run = log.replay()

    assert run.outcomes == past.outcomes_in_order()
    assert run.digest == log.digest()
    assert run.warnings == ()


def test_the_published_text_gives_the_same_digest_as_the_stored_decisions(
    past: Past, tables_of: Store, tmp_path: Path
) -> None:
    log = lab.open(tables_of(past))
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES, encoding="utf-8")

    digests = {log.replay(given).digest for given in (rules, str(rules), RULES, load(RULES))}

    assert digests == {log.digest()}


def test_a_rulebook_entry_in_the_log_switches_the_rulebook(tables_of: Store) -> None:
    # given a day on which the payout was lowered
    past = Past()
    past.publish(RULES)
    live_through(past)
    past.publish(CHEAPER)
    past.hit("client=acme&event=sale&uid=anna&amount=100&currency=EUR&txid=t9")
    log = lab.open(tables_of(past))

    as_logged, pinned = log.replay(), log.replay(RULES)

    assert as_logged.outcomes[-3:] != pinned.outcomes[-3:]
    assert as_logged.digest == log.digest() != pinned.digest
    assert len(as_logged.rulebooks) == 2
    payouts = {outcome.fields.get("txid"): outcome.fired for _, _, outcome in as_logged.outcomes if outcome.fired}
    assert payouts["t1"] == (Firing("deposit", "12.50", "EUR"),)
    assert payouts["t9"] == (Firing("deposit", "20.00", "EUR"),)


def test_counts_are_per_client_affiliate_trigger_and_exact(past: Past, tables_of: Store) -> None:
    counts = lab.open(tables_of(past)).replay().counts

    assert counts.columns == ["client", "affiliate", "trigger", "currency", "firings", "postbacks", "payout"]
    assert counts.rows() == [
        ("acme", "best", "deposit", "EUR", 1, 2, Decimal("12.500")),
        ("acme", "best", "signup", "EUR", 1, 2, Decimal("2.000")),
        ("acme", "silent", "deposit", "EUR", 1, 2, Decimal("20.000")),
        ("bolt", "", "order", "USD", 1, 1, Decimal("10.000")),  # 9.995 half to even; the test does not count
    ]


def test_a_firing_without_payout_has_none(past: Past, tables_of: Store) -> None:
    free = RULES.replace('payout = { fixed = "2.00", currency = "EUR" }\n', "")

    counts = lab.open(tables_of(past)).replay(free).counts

    assert counts.filter(pl.col("trigger") == "signup").rows() == [("acme", "best", "signup", "", 1, 2, None)]


def test_verdicts_reasons_and_stages_say_what_happened_to_hits_and_triggers(past: Past, tables_of: Store) -> None:
    run = lab.open(tables_of(past)).replay()

    assert dict(run.verdicts.iter_rows()) == {"accepted": 8, "rejected": 2, "duplicate": 1}
    assert dict(run.reasons.iter_rows()) == {"unknown_client": 1, "invalid_amount": 1}
    assert run.stages.rows() == [("acme", "deposit", "condition", 1)]


def test_frames_have_the_columns_of_the_tables(past: Past, tables_of: Store) -> None:
    log = lab.open(tables_of(past))

    run = log.replay()

    for name, frame, stored in (
        ("decisions", run.decisions, log.decisions),
        ("postbacks", run.postbacks, log.postbacks),
    ):
        assert frame.columns == SCHEMAS[name].names
        key = ["partition", "seq"] if name == "decisions" else ["postback_id"]
        drop = [] if name == "decisions" else ["n"]
        assert frame.drop(drop).sort(key).equals(stored.drop(drop).sort(key).collect())


def test_the_digest_does_not_depend_on_the_process_or_its_hash_seed(past: Past, tables_of: Store) -> None:
    root = tables_of(past)
    program = "import sys, lab; log = lab.open(sys.argv[1]); print(log.replay().digest, log.digest())"

    said = [
        subprocess.run(
            [sys.executable, "-c", program, str(root)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "4711")
    ]

    assert {one for pair in said for one in pair} == {lab.open(root).digest()}


def test_the_digest_does_not_depend_on_the_batch_size(past: Past, tables_of: Store) -> None:
    log = lab.open(tables_of(past))
    expected = log.digest()

    log.batch_rows = 3

    assert log.replay().digest == log.digest() == expected


def test_the_digest_does_not_depend_on_the_order_of_postbacks_and_of_mappings(past: Past) -> None:
    outcomes = past.outcomes_in_order()

    turned = [
        (partition, epoch, msgspec.structs.replace(
            outcome, postbacks=outcome.postbacks[::-1], params=dict(reversed(outcome.params.items()))
        ))
        for partition, epoch, outcome in outcomes
    ]  # fmt: skip

    assert digest(turned) == digest(outcomes)


OTHER: dict[type, Callable[[Any], Any]] = {
    str: lambda value: value + "x",
    int: lambda value: value + 1,
    bool: lambda value: not value,
    dict: lambda value: {**value, "another": "x"},
    tuple: lambda value: (*value, "x"),
}


@pytest.mark.parametrize("name", [name for name in Outcome.__struct_fields__ if name not in ("fired", "postbacks")])
def test_the_digest_changes_with_any_field_of_an_outcome(past: Past, name: str) -> None:
    outcomes = past.outcomes_in_order()
    partition, epoch, outcome = outcomes[2]
    value = getattr(outcome, name)

    changed = msgspec.structs.replace(outcome, **{name: OTHER[type(value)](value)})

    assert digest([*outcomes[:2], (partition, epoch, changed), *outcomes[3:]]) != digest(outcomes)


@pytest.mark.parametrize("name", Postback.__struct_fields__)
def test_the_digest_changes_with_any_field_of_a_postback(past: Past, name: str) -> None:
    outcomes = past.outcomes_in_order()
    index = next(index for index, placed in enumerate(outcomes) if placed[2].postbacks)
    partition, epoch, outcome = outcomes[index]
    first = outcome.postbacks[0]
    value = getattr(first, name)
    other = msgspec.structs.replace(first, **{name: OTHER[type(value)](value)})

    changed = msgspec.structs.replace(outcome, postbacks=(other, *outcome.postbacks[1:]))

    assert digest([*outcomes[:index], (partition, epoch, changed), *outcomes[index + 1 :]]) != digest(outcomes)


def test_the_digest_changes_with_a_firing_a_place_or_a_lost_outcome(past: Past) -> None:
    outcomes = past.outcomes_in_order()
    partition, epoch, outcome = next(placed for placed in outcomes if placed[2].fired)
    poorer = msgspec.structs.replace(outcome, fired=(msgspec.structs.replace(outcome.fired[0], payout="1.00"),))

    digests = {digest([one]) for one in (
        (partition, epoch, outcome), (partition, epoch, poorer), (partition + 1, epoch, outcome), (partition, 2, outcome),
    )}  # fmt: skip

    assert len(digests) == 4
    assert digest(outcomes[:-1]) != digest(outcomes)


def test_the_stored_digest_sees_a_lost_postback_and_a_changed_decision(past: Past, tmp_path: Path) -> None:
    whole = lab.open(past.store(tmp_path / "whole"))
    place = next(index for index, placed in enumerate(past.outcomes) if placed[2].postbacks)
    partition, epoch, outcome = past.outcomes[place]

    past.outcomes[place] = (partition, epoch, msgspec.structs.replace(outcome, postbacks=outcome.postbacks[1:]))
    robbed = lab.open(past.store(tmp_path / "robbed"))
    past.outcomes[place] = (partition, epoch, msgspec.structs.replace(outcome, visitor="somebody else"))
    changed = lab.open(past.store(tmp_path / "changed"))

    assert len({whole.digest(), robbed.digest(), changed.digest()}) == 3
    assert whole.replay().digest == robbed.replay().digest == changed.replay().digest == whole.digest()


def test_the_first_difference_names_the_hit_and_the_field(past: Past) -> None:
    outcomes = past.outcomes_in_order()
    partition, epoch, outcome = outcomes[1]
    changed = (partition, epoch, msgspec.structs.replace(outcome, affiliate="other"))

    said = first_difference(outcomes, [outcomes[0], changed, *outcomes[2:]])

    assert said == f"hit {outcome.hit_id} (partition 3, entry 3): affiliate is 'best', stored is 'other'"
    assert first_difference(outcomes, outcomes) is None
    assert "is decided but not stored" in (first_difference(outcomes, outcomes[:-1]) or "")
    assert "is stored but not decided" in (first_difference(outcomes[1:], outcomes) or "")


def test_a_generated_day_replays_to_what_was_stored(tables_of: Store) -> None:
    past = Past()
    past.publish(RULES)
    ids: dict[int, str] = {}
    for index, request in enumerate(generate(RULES, hits=400, seed=7)):
        hit = to_hit(request, f"{index:032x}", 0, ids)
        ids[index] = past.take(hit).hit_id

    log = lab.open(tables_of(past))
    run = log.replay()

    assert run.hits == 400
    assert run.counts["firings"].sum() > 0
    assert run.digest == log.digest()


def test_a_log_that_starts_in_mid_stream_says_so_and_takes_the_rulebook_of_its_first_decision(
    past: Past, tables_of: Store
) -> None:
    past.entries = [entry for entry in past.entries if entry.partition != 3 or entry.seq > 4]

    run = lab.open(tables_of(past)).replay()

    assert [warning for warning in run.warnings if "mid-stream" in warning] == [
        "partition 3: begins in mid-stream, at entry 5: what visitors did before is unknown"
    ]
    assert EMPTY.id not in run.rulebooks


def test_missing_and_repeated_entries_are_warnings(past: Past, tables_of: Store) -> None:
    past.entries = [entry for entry in past.entries if (entry.partition, entry.seq) != (3, 6)]
    past.entries.append(past.entries[-1])

    run = lab.open(tables_of(past)).replay()

    assert "partition 3: entries 6 to 6 are missing" in run.warnings
    assert any("is stored twice" in warning for warning in run.warnings)
    assert run.hits == len(past.outcomes) - 1


def test_a_log_that_names_no_rulebook_asks_for_one(past: Past, tables_of: Store) -> None:
    past.entries = [entry for entry in past.entries if entry.hit is not None]
    past.outcomes = []

    log = lab.open(tables_of(past))

    assert any("give one with rules" in warning for warning in log.replay().warnings)
    assert not any("give one with rules" in warning for warning in log.replay(RULES).warnings)


def test_a_rulebook_whose_text_was_never_stored_is_named(past: Past, tables_of: Store) -> None:
    past.texts = []

    with pytest.raises(LabError, match=rf"rulebook {load(RULES).id} took effect .* give the rulebook itself"):
        lab.open(tables_of(past)).replay()


def test_a_broken_rulebook_names_file_line_and_key(past: Past, tables_of: Store, tmp_path: Path) -> None:
    rules = tmp_path / "broken.toml"
    rules.write_text(RULES.replace("on = ", "om = "), encoding="utf-8")

    with pytest.raises(RulebookError, match=r"broken\.toml: line \d+: trigger.*om"):
        lab.open(tables_of(past)).replay(rules)


def test_a_rulebook_that_is_not_there_is_one_clear_line(past: Past, tables_of: Store, tmp_path: Path) -> None:
    log = lab.open(tables_of(past))
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'name = "\xe9"\n')

    with pytest.raises(LabError, match=r"no\.toml does not exist"):
        log.replay(tmp_path / "no.toml")
    with pytest.raises(LabError, match="no UTF-8"):
        log.replay(latin)
    with pytest.raises(LabError, match="cannot be read"):
        log.replay(tmp_path)


def test_progress_is_told_up_to_the_last_hit(past: Past, tables_of: Store) -> None:
    told: list[tuple[int, int]] = []

    lab.open(tables_of(past)).replay(progress=lambda done, total: told.append((done, total)))

    assert told[-1] == (11, 11)


def test_a_run_describes_itself(past: Past, tables_of: Store) -> None:
    run = lab.open(tables_of(past)).replay()

    assert "Run as logged: 11 hits, 8 accepted, 5 firings, 8 postbacks, digest" in repr(run)
    assert "<td>signup</td>" in run._repr_html_()
