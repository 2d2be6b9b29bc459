"""Compaction and vacuum: few files, the same rows, whoever reads and writes meanwhile."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

import lab
from service.archive import compaction, retention, tables
from service.archive.compaction import LEVELS, Compaction
from service.archive.schemas import SCHEMAS
from service.archive.upkeep import Upkeep, sweep, work
from service.archive.writer import Archiver, app_id
from service.rulebooks import publish
from service.servers import check_journal
from service.settings import Settings
from tests.service.hits import a_hit
from tests.service.partitions import RULES, store_all, track_all
from tests.waiting import until

ENOUGH = LEVELS[0][1]
NAMES = ("hits", "decisions", "postbacks")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, partitions=2)


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, settings.partitions)
    publish(opened, settings.partitions, settings.tables_path, RULES, "rules.toml")
    yield opened
    opened.close()


def traffic_round(connection: redis.Redis, settings: Settings, archiver: Archiver, hits: int = 6) -> None:
    """A second of traffic, from the journal into the tables."""
    found = [a_hit(f"client=acme&event=sale&uid=u{n}&amount=5&affiliate=best&sub1={n}") for n in range(hits)]
    store_all(connection, found, partitions=settings.partitions)
    track_all(connection, settings)
    archiver.round()


def a_log(connection: redis.Redis, settings: Settings, rounds: int) -> Archiver:
    archiver = Archiver(connection, settings.tables_path, settings.partitions, 20_000)
    for _ in range(rounds):
        traffic_round(connection, settings, archiver)
    return archiver


def compact(settings: Settings) -> None:
    """Every step that is due."""
    made = Compaction(settings.tables_path)
    for name in tables.TABLES:
        while made.step(name):
            pass


def files(settings: Settings, name: str) -> list[str]:
    return tables.files(settings.tables_path, name)


def content(settings: Settings) -> dict[str, pl.DataFrame]:
    log = lab.open(settings.tables_path)
    return {name: log._scan(name).collect().sort("partition", "n" if name == "postbacks" else "seq") for name in NAMES}


def test_what_is_compacted_holds_the_same_rows_in_few_files_and_the_archive_goes_on(
    connection: redis.Redis, settings: Settings
) -> None:
    # given tables of many small files
    archiver = a_log(connection, settings, ENOUGH + 6)
    before, digest = content(settings), lab.open(settings.tables_path).replay().digest
    reached = {name: transactions(settings, name) for name in NAMES}
    assert all(len(files(settings, name)) > ENOUGH for name in ("hits", "decisions"))
    # when they are compacted
    compact(settings)
    # then the files are few, and rows, digest and the progress of each partition are what they were
    assert all(len(files(settings, name)) == 1 for name in ("hits", "decisions"))
    for name, frame in content(settings).items():
        assert frame.rows() == before[name].rows(), name
    log = lab.open(settings.tables_path)
    assert log.replay().digest == log.digest() == digest
    assert {name: transactions(settings, name) for name in NAMES} == reached
    # and both the archiver that knew the tables before and a new one go on without a gap or a repetition
    traffic_round(connection, settings, archiver)
    traffic_round(connection, settings, Archiver(connection, settings.tables_path, settings.partitions, 20_000))
    assert lab.open(settings.tables_path).gaps().is_empty()
    assert content(settings)["decisions"].height == before["decisions"].height + 12
    assert not content(settings)["decisions"].select("partition", "seq").is_duplicated().any()


def transactions(settings: Settings, name: str) -> list[int | None]:
    table = tables.open_table(settings.tables_path, name)
    assert table is not None
    return [table.transaction_version(app_id(name, part)) for part in range(settings.partitions)]


def test_below_the_bound_nothing_is_rewritten(connection: redis.Redis, settings: Settings) -> None:
    a_log(connection, settings, 3)
    before = files(settings, "hits")
    compact(settings)
    assert files(settings, "hits") == before


def test_a_day_that_is_over_is_merged_into_one_file(connection: redis.Redis, settings: Settings) -> None:
    # given three files of a past day, and one of today
    a_log(connection, settings, 3)
    table = tables.open_table(settings.tables_path, "hits")
    assert table is not None
    today = table.to_pyarrow_table()
    position = today.schema.get_field_index("day")
    past = today.set_column(position, "day", [["2026-01-01"] * len(today)])
    for piece in (past.slice(0, 5), past.slice(5, 5), past.slice(10)):
        tables.append(settings.tables_path, "hits", piece)
    # when what is due is done
    compact(settings)
    # then that day is one file and today is left alone
    by_day = [Path(path).parent.name for path in files(settings, "hits")]
    assert by_day.count("day=2026-01-01") == 1
    assert len(by_day) == 4


def test_what_a_merge_wrote_is_merged_again_by_size(settings: Settings) -> None:
    # sizes of files of the current day -> up to which size they are merged
    small, middle, large = 10_000, 3 * compaction.MEGABYTE, compaction.LARGE_BYTES
    assert compaction._target([small] * (ENOUGH - 1) + [middle] * 11 + [large] * 90, over=False) == 0
    assert compaction._target([small] * ENOUGH, over=False) == LEVELS[0][0]
    assert compaction._target([middle] * 12, over=False) == LEVELS[1][0]
    # a day that is over is merged as long as two of its files fit into one
    assert compaction._target([small, middle, large], over=True) == LEVELS[1][0]
    assert compaction._target([small, large], over=True) == compaction._target([small], over=True) == 0
    assert compaction._target([large - 1, large - 1], over=True) == 0


def test_a_row_group_holds_a_narrow_span_of_entries(connection: redis.Redis, settings: Settings) -> None:
    # given a compacted table
    a_log(connection, settings, ENOUGH)
    compact(settings)
    # then each partition's entries stand in runs, each in the order of the log
    (path,) = files(settings, "hits")
    rows = pq.read_table(path, columns=["partition", "seq"], partitioning=None)
    found = [seq for part, seq in zip(*rows.to_pydict().values(), strict=True) if part == 1]
    breaks = sum(after != before + 1 for before, after in itertools.pairwise(found))
    assert sorted(found) == list(range(min(found), max(found) + 1))
    assert breaks < ENOUGH  # only where one append ended


def test_two_that_merge_at_the_same_time_merge_once(connection: redis.Redis, settings: Settings) -> None:
    # given two that have the same merge in mind
    a_log(connection, settings, ENOUGH)
    before = content(settings)
    # when both do it, again and again
    with ThreadPoolExecutor(2) as pool:
        merged = list(pool.map(lambda _: Compaction(settings.tables_path).step("hits"), range(6)))
    # then one of them has, once, and the rows are there once
    assert sorted(merged) == [0] * 5 + [ENOUGH]
    assert content(settings)["hits"].equals(before["hits"])


def test_one_that_sleeps_in_a_merge_is_waited_for(connection: redis.Redis, settings: Settings) -> None:
    # given a process that claimed the tables and does not go on
    a_log(connection, settings, ENOUGH)
    with tables.claim(settings.tables_path) as mine:
        assert mine
        # then nobody else merges, drops or erases
        with tables.claim(settings.tables_path) as other:
            assert not other
        assert Compaction(settings.tables_path).step("hits") == 0
    # and when it is over, they do
    assert Compaction(settings.tables_path).step("hits") == ENOUGH


def test_duckdb_and_polars_read_while_it_is_written_compacted_and_swept(
    connection: redis.Redis, settings: Settings
) -> None:
    # given readers that look all the time, each with the names of files that it asked for
    a_log(connection, settings, 2)
    ended, errors, looks = threading.Event(), [], []

    def keep_reading(count: Callable[[list[str]], tuple[int, int]]) -> None:
        seen = 0
        while not ended.is_set():
            rows, distinct = count(files(settings, "hits"))
            if rows != distinct or rows < seen:
                errors.append((rows, distinct, seen))
            seen = rows
            looks.append(rows)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(keep_reading, count) for count in (by_duckdb, by_polars)]
        # when it is written, compacted and swept
        archiver = Archiver(connection, settings.tables_path, settings.partitions, 20_000)
        for _ in range(ENOUGH + 10):
            traffic_round(connection, settings, archiver, 2)
            work(settings)
        sweep(settings, time.time_ns() // 1000)
        ended.set()
        for reader in readers:
            reader.result()
    # then they saw every row once at any time, more and more of them, and the files stayed few
    assert not errors
    assert len(looks) > 20 and max(looks) > min(looks)
    assert len(files(settings, "hits")) < ENOUGH


def by_duckdb(names: list[str]) -> tuple[int, int]:
    with duckdb.connect() as db:
        sql = "SELECT count(*), count(DISTINCT (partition, seq)) FROM read_parquet($1)"
        found = db.execute(sql, [names]).fetchall()
    return int(found[0][0]), int(found[0][1])


def by_polars(names: list[str]) -> tuple[int, int]:
    frame = pl.scan_parquet(names, glob=False).select("partition", "seq").collect()
    return frame.height, frame.n_unique()


def test_what_a_merge_takes_is_not_taken_by_the_archive(settings: Settings) -> None:
    # given enough files of a day, each of so many rows that a merge is felt
    texts = pa.array([f"{n * 7919:x}" for n in range(50_000)])
    rows = pa.table(
        {"day": ["2026-11-23"] * len(texts), "partition": [1] * len(texts), "seq": range(len(texts)), "hit_id": texts}
    )
    empty = SCHEMAS["hits"].empty_table()
    for _ in range(ENOUGH):
        tables.append(settings.tables_path, "hits", pa.concat_tables([empty, rows], promote_options="permissive"))
    # when the archive looks for something to merge
    before_mb = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    upkeep = Upkeep(settings)
    upkeep.look(0)
    until(lambda: not upkeep.is_at_work(), "the merge")
    # then it has held nothing of it
    assert len(files(settings, "hits")) < ENOUGH
    assert memory_mb("VmHWM") - before_mb < 8


def memory_mb(what: str) -> float:
    """A figure of this process as the system tells it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1000


def test_an_archive_that_ends_leaves_no_upkeep_behind(connection: redis.Redis, settings: Settings) -> None:
    # given an archive that has just begun to look after its tables
    a_log(connection, settings, ENOUGH)
    upkeep = Upkeep(settings)
    upkeep.look(0)
    # when it ends
    upkeep.stop()
    # then nobody else is at work, whatever was reached, and the rows are there once
    with tables.claim(settings.tables_path) as mine:
        assert mine
    assert not content(settings)["hits"].select("partition", "seq").is_duplicated().any()
    # and who comes next does the rest
    work(settings)
    assert len(files(settings, "hits")) == 1


def test_the_upkeep_is_asked_for_when_there_may_be_something_to_do(settings: Settings) -> None:
    # given an archive that has looked once, for what others may have left
    upkeep = Upkeep(settings, every_s=0.0)
    upkeep.look(0)
    assert upkeep.started == 1
    until(lambda: not upkeep.is_at_work(), "its end")
    # then nothing is started while nothing is appended, nor before a table may have enough files
    for rows in [0] * 5 + [10] * (ENOUGH - 1):
        upkeep.look(rows)
    assert upkeep.started == 1
    # and a backlog that comes in many appends has them sooner
    upkeep.look(10)
    until(lambda: not upkeep.is_at_work(), "its end")
    upkeep.look(ENOUGH * settings.archive_rows)
    assert upkeep.started == 3
    upkeep.stop()


def test_files_that_a_reader_may_hold_stay_for_the_hours_of_the_setting(
    connection: redis.Redis, settings: Settings
) -> None:
    # given a log that was opened before a compaction
    a_log(connection, settings, ENOUGH)
    log = lab.open(settings.tables_path)
    before = log.digest()
    # when it is compacted and swept
    compact(settings)
    sweep(settings, time.time_ns() // 1000)
    # then the open log reads on
    assert log.digest() == before
    # and once the hours are over the old files are gone
    held = len(list((settings.tables_path / "hits").rglob("*.parquet")))
    table = tables.open_table(settings.tables_path, "hits")
    assert table is not None
    assert len(table.vacuum(0, dry_run=False, enforce_retention_duration=False)) == held - 1 == ENOUGH


def test_what_is_merged_late_stays_as_long_as_what_is_merged_soon(connection: redis.Redis, settings: Settings) -> None:
    # given files that were written days ago
    a_log(connection, settings, ENOUGH)
    before = files(settings, "hits")
    for path in before:
        os.utime(path, (time.time() - 3 * 86_400,) * 2)
    # when they are merged, Delta's log has forgotten them, and it is swept
    compact(settings)
    forget_what_was_removed(settings, "hits")
    sweep(settings, time.time_ns() // 1000)
    # then readers that hold their names have them still
    assert len(files(settings, "hits")) == 1
    assert all(Path(path).exists() for path in before)


def test_a_day_that_was_dropped_stays_for_those_hours_too(connection: redis.Redis, settings: Settings) -> None:
    # given a day of long ago
    a_log(connection, settings, 2)
    before = files(settings, "hits")
    for path in before:
        os.utime(path, (time.time() - 3 * 86_400,) * 2)
    # when it is dropped, Delta's log has forgotten it, and it is swept
    retention.drop(settings.tables_path, "2999-01-01")
    forget_what_was_removed(settings, "hits")
    sweep(settings, time.time_ns() // 1000)
    # then readers that hold its files have them still
    assert not files(settings, "hits")
    assert all(Path(path).exists() for path in before)


def forget_what_was_removed(settings: Settings, name: str) -> None:
    """What happens an hour later: a checkpoint that names no file that was removed."""
    table = tables.open_table(settings.tables_path, name)
    assert table is not None
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    table.create_checkpoint()
    (newest,) = sorted((settings.tables_path / name / "_delta_log").glob("*.checkpoint.parquet"))[-1:]
    assert pq.read_table(newest)["remove"].null_count == pq.read_metadata(newest).num_rows


def test_statistics_repeat_no_values_of_persons(connection: redis.Redis, settings: Settings) -> None:
    a_log(connection, settings, 1)
    log_text = "".join(path.read_text() for path in settings.tables_path.rglob("_delta_log/*.json"))
    stats = [line for line in log_text.splitlines() if "minValues" in line]
    assert stats
    assert not any("uid=u1" in line or "affiliate" in line or '\\"address\\"' in line for line in stats)
