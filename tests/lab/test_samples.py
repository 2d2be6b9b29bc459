"""The sample tables: made anew they hold the same rows, and the README says what is in them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from lab.samples import DATASETS, MARKS, Rows, build, counts, main, rows_digest, sample_rows
from service.archive.schemas import SCHEMAS
from service.archive.tables import files
from service.engine import load

RULES = (DATASETS / "rules.toml").read_text(encoding="utf-8")
README = (DATASETS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows() -> Rows:
    return sample_rows(load(RULES))


def test_the_committed_tables_hold_what_is_built_anew(tmp_path: Path) -> None:
    # given a fresh build from the rulebook and the seed
    build(tmp_path, RULES)
    # then every row is the same; if an engine change was meant, run python -m lab.samples
    assert rows_digest(tmp_path) == rows_digest(DATASETS / "tables")


def test_the_digest_sees_a_changed_row(tmp_path: Path) -> None:
    build(tmp_path / "a", RULES, hits=50)
    build(tmp_path / "b", RULES, hits=50, source="elsewhere.toml")
    a, b = rows_digest(tmp_path / "a"), rows_digest(tmp_path / "b")
    assert [name for name in SCHEMAS if a[name] != b[name]] == ["rulebooks"]


def test_making_the_samples_again_changes_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    # given the committed files
    before = {path: path.stat().st_mtime_ns for path in (DATASETS / "tables").rglob("*")}
    # when the samples are made again
    status = main()
    # then they are as before
    assert (status, capsys.readouterr().out.endswith("unchanged\n")) == (0, True)
    assert before == {path: path.stat().st_mtime_ns for path in (DATASETS / "tables").rglob("*")}
    assert (DATASETS / "README.md").read_text(encoding="utf-8") == README


def test_the_sample_is_small_enough_for_the_checkout() -> None:
    size = sum(path.stat().st_size for path in (DATASETS / "tables").rglob("*") if path.is_file())
    assert size < 2_000_000
    assert all(len(files(DATASETS / "tables", name)) == 1 for name in SCHEMAS)


def test_the_tables_do_not_say_where_they_were_made() -> None:
    for path in (DATASETS / "tables").glob("*/_delta_log/*"):
        assert b"file:" not in path.read_bytes() and str(DATASETS.parent).encode() not in path.read_bytes(), path


def test_every_partition_starts_with_the_rulebook_and_has_no_gap(rows: Rows) -> None:
    for partition in range(16):
        entries = [row for row in rows["hits"] if row["partition"] == partition]
        assert entries[0]["kind"] == "rulebook" and entries[0]["rulebook_id"] == load(RULES).id
        assert [row["seq"] for row in entries] == list(range(1, len(entries) + 1))
        assert all(a["time"] <= b["time"] for a, b in pairwise(entries))
        for name in ("postbacks", "attempts"):
            numbers = [row["n"] for row in rows[name] if row["partition"] == partition]
            assert numbers == list(range(1, len(numbers) + 1))


def test_everything_due_was_delivered_and_some_of_it_at_the_second_try(rows: Rows) -> None:
    due = {row["postback_id"] for row in rows["postbacks"] if row["state"] == "due"}
    delivered = [row["postback_id"] for row in rows["attempts"] if row["state"] == "delivered"]
    assert sorted(delivered) == sorted(due)
    assert {row["number"] for row in rows["attempts"]} == {1, 2}


def test_the_readme_lists_every_column_of_every_table() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", README, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(SCHEMAS)
    for name, text in sections.items():
        listed = [
            column for cell in re.findall(r"^\| ([a-z_, ]+) \|", text, re.MULTILINE) for column in cell.split(", ")
        ]
        assert sorted(listed) == sorted(["column", *SCHEMAS[name].names]), name


def test_the_readme_counts_what_the_day_holds(rows: Rows) -> None:
    assert f"{MARKS[0]}\n{counts(rows)}\n{MARKS[1]}" in README
