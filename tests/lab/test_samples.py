"""The sample tables: made anew they hold the same rows, and the README says what is in them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from lab.answers import Week
from lab.journal import Published, Rows, rows_of, write
from lab.samples import DATASETS, rows_digest, sample_week, stale
from lab.traffic import generate
from service.archive.schemas import SCHEMAS
from service.engine import load

RULES = (DATASETS / "rules.toml").read_text(encoding="utf-8")
README = (DATASETS / "README.md").read_text(encoding="utf-8")
DAYS = [f"2026-03-{day:02}" for day in range(2, 9)]


@pytest.fixture(scope="module")
def week() -> Week:
    return sample_week()


@pytest.fixture(scope="module")
def rows(week: Week) -> Rows:
    return week.rows


def test_what_is_committed_is_what_is_built_anew(week: Week) -> None:
    # given a fresh build from the rulebooks and the seed, then every row and every text is the same; if an engine change
    # was meant, run python -m lab.samples
    assert stale(week) == []


def test_the_digest_sees_a_changed_row(tmp_path: Path) -> None:
    requests = generate(RULES, hits=50)
    for name, source in (("a", "rules.toml"), ("b", "elsewhere.toml")):
        write(tmp_path / name, rows_of(requests, [Published(0, RULES, source)], seed=7))
    a, b = rows_digest(tmp_path / "a"), rows_digest(tmp_path / "b")
    assert [name for name in SCHEMAS if a[name] != b[name]] == ["rulebooks"]


def test_the_sample_is_small_enough_for_the_checkout() -> None:
    size = sum(path.stat().st_size for path in DATASETS.rglob("*") if path.is_file())
    assert size < 4_000_000
    for name in set(SCHEMAS) - {"rulebooks"}:  # one file per day: nothing was appended by accident
        assert [path.name for path in sorted((DATASETS / "tables" / name).glob("day=*"))] == [f"day={d}" for d in DAYS]
        assert len(list((DATASETS / "tables" / name).rglob("*.parquet"))) == len(DAYS)


def test_the_tables_do_not_say_where_they_were_made() -> None:
    for path in (DATASETS / "tables").glob("*/_delta_log/*"):
        assert b"file:" not in path.read_bytes() and str(DATASETS.parent).encode() not in path.read_bytes(), path


def test_every_partition_starts_with_the_rulebook_gets_the_next_one_and_has_no_gap(week: Week) -> None:
    before, after = (load(published.text).id for published in week.published)
    for partition in range(16):
        entries = [row for row in week.rows["hits"] if row["partition"] == partition]
        assert entries[0]["kind"] == "rulebook"
        published = [(row["rulebook_id"], f"{row['time']:%a %H}") for row in entries if row["kind"] == "rulebook"]
        assert published == [(before, "Mon 00"), (after, "Thu 12")]
        assert [row["seq"] for row in entries] == list(range(1, len(entries) + 1))
        assert all(a["time"] <= b["time"] for a, b in pairwise(entries))
        for name in ("postbacks", "attempts"):
            numbers = [row["n"] for row in week.rows[name] if row["partition"] == partition]
            assert numbers == list(range(1, len(numbers) + 1))


def test_everything_due_was_delivered_and_some_of_it_at_a_later_try(rows: Rows) -> None:
    due = {row["postback_id"] for row in rows["postbacks"] if row["state"] == "due"}
    delivered = [row["postback_id"] for row in rows["attempts"] if row["state"] == "delivered"]
    assert sorted(delivered) == sorted(due)
    assert {row["number"] for row in rows["attempts"]} >= {1, 2, 3, 4}


def test_the_readme_lists_every_column_of_every_table() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", README, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(SCHEMAS)
    for name, text in sections.items():
        listed = [
            column for cell in re.findall(r"^\| ([a-z_, ]+) \|", text, re.MULTILINE) for column in cell.split(", ")
        ]
        assert sorted(listed) == sorted(["column", *SCHEMAS[name].names]), name
