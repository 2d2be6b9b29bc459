"""One look at the journal's Redis: postbacks that wait, what stands still, how old the oldest of everything is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import redis
import redis.asyncio as aioredis

from service import keys
from service.admin.exposition import GAUGE, Metric, Sample, exposition
from service.admin.figures import look
from service.admin.metrics import METRICS
from service.intake.tally import Tally
from service.scripts import Script
from service.settings import Settings
from service.tracking import poison
from tests.service.hits import a_hit
from tests.service.partitions import store
from tests.service.scraped import Page
from tests.service.test_due import NOW_US, PLACE, promise

A, B = "affiliate:a", "affiliate:b"


def page(settings: Settings) -> Page:
    """What a look finds."""

    async def looked() -> list[Sample]:
        async with aioredis.Redis.from_url(settings.journal_url) as connection:
            return await look(connection, settings.partitions)

    return Page(exposition(METRICS, asyncio.run(looked())).decode())


def ago(seconds: int) -> int:
    return time.time_ns() // 1000 - seconds * 1_000_000


def test_an_empty_journal_has_nothing_behind(settings: Settings, journal: redis.Redis) -> None:
    # given a server without any state
    found = page(settings)
    # then all is told, and all is nothing
    assert (
        found("entries_logged_total")
        == found("visitors")
        == found("postbacks_waiting")
        == found("unreadable_keys")
        == 0
    )
    assert found("rulebook_info", id="") == 1 and found("journal_epoch") == 1
    assert not [name for name, _ in found.values if name.endswith("behind_seconds") and found.values[name, _]]


def test_postbacks_wait_at_one_place_each(settings: Settings, journal: redis.Redis) -> None:
    # given seven postbacks: two due since years, two later, two in the room of somebody busy, one of somebody paused
    ids = [one.id for one in promise(journal, *["http://127.0.0.1:9/x"] * 7)]
    journal.zadd(PLACE.due, {one: ago(-3_600) for one in ids[2:4]})
    journal.zrem(PLACE.due, *ids[4:])
    journal.zadd(keys.room(A), {f"{PLACE.number}/{ids[4]}": ago(60), f"{PLACE.number}/{ids[5]}": ago(30)})
    journal.zadd(keys.room(B), {f"{PLACE.number}/{ids[6]}": ago(600)})
    journal.sadd(keys.ROOMS, A, B)
    journal.hset(keys.PAUSED, B, "{}")
    journal.hset(keys.FAILING, mapping={A: 1, B: 20})
    # and two that were given up, and notices to the operator
    journal.zadd(PLACE.dead, {"x": 1, "y": 2})
    journal.zadd(keys.room(keys.OPERATOR_NAME), {"-1/n": 1})
    journal.zadd(keys.OPERATOR.due, {"m": 1})
    journal.sadd(keys.ROOMS, keys.OPERATOR_NAME)
    # then each is counted where it is
    found = page(settings)
    waiting = {state: found("postbacks_waiting", state=state) for state in ("due", "later", "busy", "paused")}
    assert waiting == {"due": 2, "later": 2, "busy": 2, "paused": 1}
    assert found("postbacks_total") == 7 and found("postbacks_given_up") == 2
    assert found("recipients", state="paused") == 1 and found("recipients", state="failing") == 2
    # and the ages are those of the oldest
    assert abs(found("delivery_behind_seconds") - (time.time() - NOW_US / 1e6)) < 30
    assert 60 <= found("room_oldest_seconds", state="busy") < 90
    assert 600 <= found("room_oldest_seconds", state="paused") < 630


def test_a_partition_is_as_far_behind_as_its_oldest_entry(settings: Settings, journal: redis.Redis) -> None:
    # given entries of ten minutes and of one minute ago, the first of them decided and archived
    hits = [a_hit(received_at_us=ago(seconds)) for seconds in (600, 60, 1)]
    store(journal, 5, hits)
    place = keys.Partition(5)
    journal.hset(place.tracked, "seq", 1)
    journal.hset(keys.ARCHIVED, "hits/5", 1)
    # then it is a minute behind, and the others are not
    found = page(settings)
    assert found("tracking_behind_entries", partition="5") == found("tracking_behind_entries") == 2
    assert 60 <= found("tracking_behind_seconds", partition="5") < 90
    assert found("archive_behind_rows", table="hits") == 2
    assert 60 <= found("archive_behind_seconds", table="hits") < 90
    assert found("partitions_left") == 1 and found("partitions_held") == 0
    # and when a worker takes it, it is not left
    Script(journal, "tracking/acquire")([place.lease, place.fence, place.wake], [60_000])
    found = page(settings)
    assert found("partitions_left") == 0 and found("partitions_held") == 1


def test_numbers_that_go_on_in_a_later_epoch_are_found(settings: Settings, journal: redis.Redis) -> None:
    # given a journal of three epochs, of which the tables have all but the last two entries
    place = keys.Partition(2)
    for item, seconds in (("1-1", 900), ("3-2", 800), ("3-3", 700), ("4-4", 300), ("4-5", 100)):
        journal.xadd(place.journal, {"t": str(ago(seconds)), "r": "x"}, id=item)
    journal.hset(place.head, mapping={"epoch": 4, "seq": 5})
    journal.hset(place.tracked, mapping={"epoch": 4, "seq": 4})
    journal.hset(keys.ARCHIVED, "hits/2", 3)
    # then the oldest that each of them lacks is the right one
    found = page(settings)
    assert 300 <= found("archive_behind_seconds", table="hits") < 330
    assert 100 <= found("tracking_behind_seconds", partition="2") < 130
    assert found("journal_epoch") == 4


def test_what_was_set_aside_is_counted(settings: Settings, journal: redis.Redis) -> None:
    # given entries of two partitions that could not be decided
    for number in (1, 2, 2):
        seq = int(journal.hincrby("n", "n", 1))
        poison.note(journal, keys.Partition(number), 1, seq, poison.UNDECIDABLE, "KeyError: 'x'")
    # then they are counted
    assert page(settings)("set_aside_entries") == 3


@pytest.mark.parametrize(
    "name", ["head", "tracked", "journal", "decisions", "due", "dead", "poison", "visitors", "verdicts"]
)
def test_a_key_of_the_wrong_type_hides_nothing_else(settings: Settings, journal: redis.Redis, name: str) -> None:
    # given an entry to decide, and another partition of which a key is of the wrong type
    store(journal, 5, [a_hit()])
    store(journal, 6, [a_hit()])
    journal.delete(getattr(keys.Partition(6), name))
    journal.set(getattr(keys.Partition(6), name), "what")
    # then it says so, and the rest is told
    found = page(settings)
    assert found("unreadable_keys") == 1
    assert found("tracking_behind_entries", partition="5") == 1


def test_text_where_a_number_should_be_hides_nothing_else(settings: Settings, journal: redis.Redis) -> None:
    # given an entry to decide, and another partition whose numbers are none
    store(journal, 5, [a_hit()])
    place = keys.Partition(6)
    journal.hset(place.head, mapping=dict.fromkeys(("seq", "postbacks", "attempts", "epoch"), "many"))
    journal.hset(place.tracked, "seq", "few")
    journal.hset(place.verdicts, "accepted  live", "some")
    journal.hset(keys.ARCHIVED, "hits/6", "all")
    # then the rest is told
    found = page(settings)
    assert (
        found("tracking_behind_entries", partition="5") == found("entries_logged_total") == found("journal_epoch") == 1
    )


def test_a_server_that_tells_nothing_about_itself_is_no_reason_to_tell_nothing(
    settings: Settings, journal: redis.Redis
) -> None:
    # given a user of the server who may not ask for that
    journal.acl_setuser("dumb", enabled=True, nopass=True, commands=["+@all", "-info"], keys=["*"])
    try:
        found = page(Settings(journal_url=settings.journal_url.replace("//", "//dumb:x@"), var=settings.var))
    finally:
        journal.acl_deluser("dumb")
    # then all else is there
    assert found("visitors") == 0 and not [name for name in found.kinds if "_redis_" in name]


def test_two_processes_count_together(tmp_path: Path) -> None:
    # given two that count
    one, other = Tally(tmp_path / "answered"), Tally(tmp_path / "answered")

    async def count() -> None:
        for _ in range(3):
            one.count(True)
            other.count(False)
        # when each is asked, then it knows what the other one has saved, and nothing counts twice
        assert await one.total() == (0, 3)
        assert await other.total() == (3, 3)
        assert await one.total() == await one.total() == (3, 3)

    asyncio.run(count())
    # and it stays when they are gone
    assert asyncio.run(Tally(tmp_path / "answered").total()) == (3, 3)


def test_what_cannot_be_written_is_counted_later(tmp_path: Path) -> None:
    # given a place that cannot be written
    (tmp_path / "folder").write_text("a file")
    tally = Tally(tmp_path / "folder" / "answered")

    async def count() -> None:
        tally.count(True)
        assert await tally.total() is None
        # when it can
        (tmp_path / "folder").unlink()
        tally.count(True)
        # then nothing was forgotten
        assert await tally.total() == (0, 2)

    asyncio.run(count())


def test_labels_hold_any_text_and_are_those_of_the_metric() -> None:
    # given a metric whose label and meaning hold what the format gives a meaning
    odd = Metric("backtrack_odd", GAUGE, "back\\slash and\nline.", ("what",))
    # then it can be read back
    text = 'quo"te \\n back\\slash\nline, {x} = é'
    found = Page(exposition([odd], [Sample("backtrack_odd", -1.5, what=text)]).decode())
    assert found("odd", what=text) == -1.5
    # and a sample with other labels is a bug
    with pytest.raises(ValueError, match="has the labels"):
        exposition([odd], [Sample("backtrack_odd", 1)])
