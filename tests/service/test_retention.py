"""Days that are not kept: whole days go, what is left can be replayed, verified and counted, and says where it begins."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from click.testing import CliRunner

import lab
from service import keys
from service.archive import retention, tables
from service.archive.schemas import Attempt, day_of
from service.archive.upkeep import sweep
from service.archive.writer import Archiver
from service.counts_command import counts_command
from service.rulebooks import publish
from service.settings import Settings
from tests.service.hits import a_hit
from tests.service.partitions import DAY_US, LATER_RULES, RULES, a_past, promised, store_all, track_all, traffic


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, partitions=4)


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    """Three days and today, tried and archived."""
    opened = a_past(settings, traffic(300))
    publish(opened, settings.partitions, settings.tables_path, LATER_RULES, "rules.toml")
    store_all(opened, [a_hit(f"client=acme&event=sale&uid=new{n}&amount=9") for n in range(5)], partitions=4)
    track_all(opened, settings)
    for place in keys.partitions(settings.partitions):
        for postback in promised(opened, place.number):
            if postback.state == "due":
                n = int(opened.hincrby(place.head, "attempts", 1))
                now_us = time.time_ns() // 1000
                old = day_of(postback.time_us) < day_of(now_us - DAY_US)  # tried late, after its promise was dropped
                one = Attempt(
                    postback.id, 1, now_us if old else postback.time_us + 1, postback.recipient, postback.verb,
                    postback.url, postback.body, {}, "delivered", 200, "", "", 5, "delivered",
                )  # fmt: skip
                opened.xadd(place.attempts, {"a": msgspec.msgpack.encode(one)}, id=f"1-{n}")
    Archiver(opened, settings.tables_path, settings.partitions, 20_000).round()
    yield opened
    opened.close()


def days(settings: Settings, name: str) -> set[str]:
    return {path.split("day=")[1].split("/")[0] for path in tables.files(settings.tables_path, name)}


def test_without_the_setting_all_days_stay(connection: redis.Redis, settings: Settings) -> None:
    before = {name: tables.files(settings.tables_path, name) for name in tables.TABLES}
    sweep(settings, time.time_ns() // 1000 + 400 * DAY_US)
    assert {name: tables.files(settings.tables_path, name) for name in tables.TABLES} == before


def test_days_that_are_not_kept_go_and_what_is_left_says_where_it_begins(
    connection: redis.Redis, settings: Settings
) -> None:
    # given a log of several days
    now_us = time.time_ns() // 1000
    kept = msgspec.structs.replace(settings, keep_days=2)
    assert len(days(settings, "hits")) >= 3
    visitors = connection.hlen(keys.Partition(0).visitors)
    # when two days are kept
    sweep(kept, now_us)
    # then each table has those days and no other, and rulebooks and the live state are untouched
    wanted = {day_of(now_us), day_of(now_us - DAY_US)}
    assert all(days(settings, name) <= wanted for name in retention.DROPPED)
    assert days(settings, "hits") == wanted
    log = lab.open(settings.tables_path)
    assert log.rulebooks.collect().height >= 1 and log.gaps().is_empty()
    assert connection.hlen(keys.Partition(0).visitors) == visitors
    # and a replay says that it begins in mid-stream, and verify takes the promises as they are stored
    assert any("begins in mid-stream, at entry" in warning for warning in log.replay(RULES).warnings)
    assert log.attempts.collect().height > log.postbacks.collect().height
    checked = log.verify()
    assert checked.ok, checked
    assert checked.basis == "stored promises"
    # and the archive goes on where it was
    one_more(connection, settings)
    assert lab.open(settings.tables_path).gaps().is_empty()


def test_the_counters_are_proved_from_the_first_day_that_is_kept(connection: redis.Redis, settings: Settings) -> None:
    # given counters of days that the tables no longer hold
    kept = msgspec.structs.replace(settings, keep_days=2)
    sweep(kept, time.time_ns() // 1000)

    def recount(environment: dict[str, str]) -> tuple[int, dict[str, object]]:
        done = CliRunner().invoke(counts_command, ["--recount", "--json"], env=environment, catch_exceptions=False)
        return done.exit_code, json.loads(done.stdout)

    # then they are proved from there on, and without the setting the older ones differ
    status, document = recount(kept.environment())
    assert (status, document["differences"], document["since"]) == (0, [], day_of(time.time_ns() // 1000 - DAY_US))
    assert recount(settings.environment())[0] == 1


def test_an_open_log_reads_on_when_its_files_are_gone(connection: redis.Redis, settings: Settings) -> None:
    # given a log that was opened before its files were merged and deleted
    one_more(connection, settings)
    log = lab.open(settings.tables_path)
    before, pinned = log.digest(), log.files("hits")
    for name in ("hits", "decisions", "postbacks", "attempts"):
        table = tables.open_table(settings.tables_path, name)
        assert table is not None
        table.optimize.compact()
        table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    one_more(connection, settings)
    # then it finds the same rows under other names, and nothing that came later
    assert not all(Path(path).exists() for path in pinned)
    assert log.digest() == before
    assert log.refresh().digest() != before


def one_more(connection: redis.Redis, settings: Settings) -> None:
    store_all(connection, [a_hit("client=acme&event=sale&uid=u&amount=5")], partitions=4)
    track_all(connection, settings)
    Archiver(connection, settings.tables_path, settings.partitions, 20_000).round()
