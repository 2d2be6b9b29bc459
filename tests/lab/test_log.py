"""A log: what opening a folder of tables promises."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

import lab
from lab import LabError
from service.archive import tables
from service.archive.schemas import SCHEMAS, decision_row, hit_row, table
from service.engine import Entry
from tests.lab.conftest import Past, attempt_at

Store = Callable[[Past], Path]


def test_a_log_holds_every_table_in_its_columns(past: Past, tables_of: Store) -> None:
    log = lab.open(tables_of(past))

    for name in SCHEMAS:
        frame: pl.LazyFrame = getattr(log, name)
        assert frame.collect_schema().names() == SCHEMAS[name].names
    assert log.hits.collect().height == len(past.entries)
    assert log.decisions.collect().height == len(past.outcomes)
    assert log.postbacks.collect().height == len(past.postbacks)
    assert log.attempts.collect().height == len(past.attempts)


def test_a_missing_table_is_an_empty_frame_in_its_columns(past: Past, tmp_path: Path) -> None:
    tables.append(tmp_path, "hits", table("hits", [hit_row(entry, {}) for entry in past.entries]))

    log = lab.open(tmp_path)

    assert log.attempts.collect().is_empty()
    assert log.attempts.collect_schema().names() == SCHEMAS["attempts"].names
    assert log.hits.collect().height == len(past.entries)  # without any decision nothing is cut
    assert log.events.collect().is_empty()


def test_a_folder_with_a_space_in_its_name_opens(past: Past, tmp_path: Path) -> None:
    log = lab.open(past.store(tmp_path / "my old tables"))

    assert log.hits.collect().height == len(past.entries)


@pytest.mark.parametrize(("make", "says"), [
    (lambda path: None, "does not exist"),
    (lambda path: path.mkdir(), "holds no tables"),
    (lambda path: path.write_text("x"), "backtrack import"),
])  # fmt: skip
def test_what_is_no_folder_of_tables_is_one_clear_line(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / "there")

    with pytest.raises(LabError, match=says) as caught:
        lab.open(tmp_path / "there")

    assert "\n" not in str(caught.value)
    assert str(tmp_path / "there") in str(caught.value)


def test_a_table_of_another_version_is_refused(past: Past, tables_of: Store) -> None:
    root = tables_of(past)
    DeltaTable(str(root / "postbacks")).alter.set_table_description("backtrack table postbacks, version 99")

    with pytest.raises(LabError, match="version 99"):
        lab.open(root)


def test_a_log_stays_as_it_was_opened_and_refresh_gives_a_newer_one(past: Past, tables_of: Store) -> None:
    root = tables_of(past)
    log = lab.open(root)
    pinned = log.files("hits")

    past.entries, past.outcomes, past.attempts, past.texts = [], [], [], []
    past.hit("client=bolt&event=sale&uid=dora&amount=5&currency=USD&txid=b9")
    past.store(root)

    assert log.files("hits") == pinned
    assert "b9" not in log.events.collect()["txid"].to_list()
    assert "b9" in log.refresh().events.collect()["txid"].to_list()


def test_what_is_not_committed_in_all_tables_is_left_out(past: Past, tables_of: Store) -> None:
    # given decisions that end one hit before the hits, in one partition
    root = tables_of(past)
    late, extra = past.outcomes[-1], past.outcomes[-1][2].seq
    hit = next(entry for entry in past.entries if entry.partition == late[0] and entry.seq == extra)
    more = Entry(late[0], 1, extra + 1, hit.time_us, hit.hit)
    tables.append(root, "hits", table("hits", [hit_row(more, {})]), tables.open_table(root, "hits"))

    log = lab.open(root)

    assert log.hits.collect().height == len(past.entries)
    assert log.cuts.filter(pl.col("partition") == late[0])["seq"].to_list() == [extra]
    assert "and 1 newer hit not yet committed in all tables" in repr(log)


def test_decisions_ahead_of_the_hits_take_their_postbacks_and_attempts_with_them(past: Past, tmp_path: Path) -> None:
    # given a whole past, of which only the hits of one partition are committed
    whole = len(past.postbacks)
    past.entries = [entry for entry in past.entries if entry.partition == 3]

    log = lab.open(past.store(tmp_path / "tables"))

    mine = [postback for partition, postback in past.postbacks if partition == 3]
    assert 0 < len(mine) < whole
    assert log.decisions.select("partition").unique().collect()["partition"].to_list() == [3]
    assert sorted(log.postbacks.collect()["postback_id"]) == sorted(postback.id for postback in mine)
    assert set(log.attempts.collect()["postback_id"]) <= {postback.id for postback in mine}


def test_a_firing_whose_postbacks_are_not_committed_yet_ends_the_log(past: Past, tmp_path: Path) -> None:
    # given postbacks that end before the last two firings of a partition
    fired = [outcome for partition, _, outcome in past.outcomes if partition == 3 and outcome.fired]
    past.lost = {outcome.hit_id for outcome in fired[-2:]}

    log = lab.open(past.store(tmp_path / "tables"))

    assert log.cuts.filter(pl.col("partition") == 3)["seq"].to_list() == [fired[-2].seq - 1]
    assert log.digest() == log.replay().digest


def test_a_rulebook_entry_behind_the_last_decision_is_kept(past: Past, tables_of: Store) -> None:
    past.publish(past.texts[0] + "\n# again\n")

    log = lab.open(tables_of(past))

    assert log.hits.collect().height == len(past.entries)


def test_as_of_leaves_out_later_hits_and_keeps_what_became_of_earlier_ones(past: Past, tables_of: Store) -> None:
    root = tables_of(past)
    registration = next(outcome for _, _, outcome in past.outcomes if outcome.event == "registration")

    log = lab.open(root, as_of="2026-03-02T00:02:00")

    assert log.decisions.collect()["hit_id"].max() == registration.hit_id
    assert log.attempts.collect().height == len(registration.postbacks)
    assert lab.open(root, as_of="2026-03-02").hits.collect().height == len(past.entries)
    assert lab.open(root, as_of="2026-03-01").hits.collect().is_empty()
    with pytest.raises(LabError, match="'tomorrow' is no moment"):
        lab.open(root, as_of="tomorrow")


def test_contiguous_entries_have_no_gaps(past: Past, tables_of: Store) -> None:
    assert lab.open(tables_of(past)).gaps().is_empty()


def test_a_gap_names_the_missing_entries(past: Past, tables_of: Store) -> None:
    past.entries = [entry for entry in past.entries if (entry.partition, entry.seq) not in {(3, 4), (3, 5)}]

    gaps = lab.open(tables_of(past)).gaps()

    assert gaps.rows() == [(3, 1, 4, 5)]
    assert gaps.columns == ["partition", "epoch", "missing_from", "missing_to"]


def test_a_new_epoch_may_go_on_at_a_later_number(past: Past, tmp_path: Path) -> None:
    entries = [Entry(0, 1, 1, 0), Entry(0, 1, 2, 0), Entry(0, 2, 9, 0), Entry(0, 2, 10, 0)]
    tables.append(tmp_path, "hits", table("hits", [hit_row(entry, {}) for entry in entries]))

    assert lab.open(tmp_path).gaps().is_empty()


def test_an_attempt_without_any_promise_is_kept(past: Past, tables_of: Store) -> None:
    partition, postback = past.postbacks[0]
    past.attempts.append((partition, attempt_at(postback, past.now_us, postback_id="f" * 32)))

    assert "f" * 32 in lab.open(tables_of(past)).attempts.collect()["postback_id"]


def test_events_are_the_accepted_ones_without_tests(past: Past, tables_of: Store) -> None:
    events = lab.open(tables_of(past)).events.collect()

    assert events.columns == [
        "client", "visitor", "time", "partition", "seq", "event", "affiliate", "hit_id", "txid", "amount", "currency",
        "params",
    ]  # fmt: skip
    sale = events.filter(pl.col("txid") == "t1").row(0, named=True)
    assert (sale["affiliate"], sale["amount"], sale["currency"]) == ("best", Decimal("50.00"), "EUR")
    assert sale["params"] == {"country": "DE", "sub1": "a b"}
    assert events["txid"].drop_nulls().to_list().count("t1") == 1  # the duplicate counts for nothing
    assert "b2" not in events["txid"]  # a test


def test_a_log_describes_itself_in_one_line_and_a_small_table(past: Past, tables_of: Store) -> None:
    log = lab.open(tables_of(past))

    assert "11 hits of 2 clients in 2 partitions, 2026-03-02 00:01 to 2026-03-02 00:11 UTC" in repr(log)
    assert "\n" not in repr(log)
    assert "<td>acme</td>" in log._repr_html_()
    summary = log.summary()
    assert summary.filter(pl.col("client") == "acme")["firings"].to_list() == [3]
    assert summary["hits"].sum() == 11


def test_an_empty_folder_of_tables_can_be_looked_at(tmp_path: Path) -> None:
    for name in SCHEMAS:
        tables.create(tmp_path, name)

    log = lab.open(tmp_path)

    assert "0 hits" in repr(log)
    assert log.summary().is_empty()
    assert log.gaps().is_empty()
    assert log.replay().hits == 0


def test_a_stored_decision_of_no_hit_is_left_out(past: Past, tables_of: Store) -> None:
    root = tables_of(past)
    partition, epoch, outcome = past.outcomes[-1]
    ghost = decision_row(partition, epoch, outcome) | {"seq": 1_000}
    tables.append(root, "decisions", table("decisions", [ghost]), tables.open_table(root, "decisions"))

    assert lab.open(root).decisions.collect().height == len(past.outcomes)
