"""A journal that comes back from an older file: the loss is visible, nothing after it is skipped, and what the tables have
and Redis has lost is decided again as it was."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

import lab
from service import epochs, keys
from service.archive import tables
from service.archive.schemas import Attempt, outcome_of
from service.archive.writer import Archiver
from service.counts_command import read_counts, recounted
from service.engine import Hit
from service.engine.partition import partition_of
from service.intake.journal import RedisJournal
from service.rulebooks import current_id, publish
from service.servers import UncheckedError, check_journal
from service.settings import Settings
from service.tracking.counters import verdicts
from tests.service.hits import a_hit, drained
from tests.service.ownserver import OwnServer, own_server
from tests.service.partitions import LATER_RULES, RULES, store, tracker

PARTITIONS = 2
ACME = partition_of("acme", PARTITIONS)


class Stand:
    """A journal that can be set back, with its tables; processes are started as they are needed."""

    def __init__(self, server: OwnServer, settings: Settings) -> None:
        self.server = server
        self.settings = settings
        self.stored = 0
        with check_journal(server.url, PARTITIONS) as connection:
            publish(connection, PARTITIONS, settings.tables_path, RULES, "test")

    def connect(self) -> redis.Redis:
        """A connection as workers have it."""
        return epochs.journal_client(self.settings)

    def store(self, count: int, writer: str = "w") -> list[Hit]:
        """Hits of acme, appended to the journal."""
        words = ("event=click&affiliate=best&sub1=x", "event=registration", "event=sale&amount=20&currency=EUR")
        hits = [a_hit(f"client=acme&uid=u{n % 5}&{words[n % 3]}") for n in range(self.stored, self.stored + count)]
        self.stored += count
        with self.connect() as connection:
            store(connection, ACME, hits, writer)
        return hits

    def track(self) -> None:
        """Decide all there is."""
        with self.connect() as connection:
            for number in range(PARTITIONS):
                tracker(connection, number, self.settings).run()

    def archive(self) -> None:
        """Append all there is to the tables, as a new process does."""
        with self.connect() as connection:
            Archiver(connection, self.settings.tables_path, PARTITIONS, 1_000).round()

    def work(self) -> None:
        self.track()
        self.archive()

    def copy(self) -> Path:
        """The server's file as it is now."""
        copied = self.server.folder.with_name("copy")
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(self.server.folder, copied)
        return copied

    def set_back(self, copied: Path) -> None:
        """Start the server again from an older file."""
        self.server.kill()
        shutil.rmtree(self.server.folder)
        copied.rename(self.server.folder)
        self.server.start()

    def rows(self, name: str) -> list[dict[str, Any]]:
        """All rows of the partition of acme, by number."""
        table = tables.open_table(self.settings.tables_path, name)
        number = "n" if name in ("postbacks", "attempts") else "seq"
        found = table.to_pyarrow_table().to_pylist() if table is not None else []
        return sorted((row for row in found if row["partition"] == ACME), key=lambda row: row[number])

    def ids(self) -> list[str]:
        return [row["hit_id"] for row in self.rows("hits") if row["kind"] == "hit"]

    def assert_whole(self) -> None:
        """The tables say what the engine says, each hit once, nothing missing within an epoch, the counters equal."""
        log = lab.open(self.settings.tables_path)
        assert log.gaps().is_empty()
        assert log.replay().digest == log.digest()
        assert log.cuts["beyond"].sum() == 0
        assert len(self.ids()) == len(set(self.ids())) == len(self.rows("decisions"))
        numbers = [row["n"] for row in self.rows("postbacks")]
        assert numbers == list(range(1, len(numbers) + 1))
        with self.connect() as connection:
            assert read_counts(connection, PARTITIONS) == recounted(self.settings)
            total: Counter[str] = Counter()
            for place in keys.partitions(PARTITIONS):
                kept: Any = connection.hgetall(place.verdicts)
                total.update({name.decode(): int(n) for name, n in kept.items()})
        assert total == verdicts(outcome_of(row) for row in self.rows("decisions"))


@pytest.fixture
def stand(settings: Settings, tmp_path: Path) -> Iterator[Stand]:
    with own_server(tmp_path / "own" / "redis") as server:
        yield Stand(
            server, msgspec.structs.replace(settings, journal_url=server.url, partitions=PARTITIONS, linger_ms=0)
        )


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def test_what_came_after_the_older_file_and_was_archived_is_kept_and_what_comes_next_is_not_skipped(
    stand: Stand,
) -> None:
    # given hits before the older file, hits after it that were archived, and some that were not
    before = stand.store(20)
    stand.work()
    copied = stand.copy()
    archived = stand.store(15)
    stand.work()
    lost = stand.store(7)
    decided = stand.rows("decisions")
    # when Redis comes back from the older file, and more comes
    stand.set_back(copied)
    after = stand.store(12)
    stand.work()
    # then all is there but what nobody had but the lost file
    assert stand.ids() == ids(before + archived + after)
    assert not set(ids(lost)) & set(stand.ids())
    # and what was decided stands, and the rest is what the engine says
    assert stand.rows("decisions")[: len(decided)] == decided
    stand.assert_whole()


def test_the_loss_is_an_entry_of_the_log(stand: Stand) -> None:
    stand.store(5)
    stand.work()
    copied = stand.copy()
    stand.store(10)
    stand.work()
    # when Redis comes back from the older file
    stand.set_back(copied)
    stand.store(1)
    stand.work()
    # then every partition has an entry that says where it came back and what the tables had, at the head of a new epoch
    table = tables.open_table(stand.settings.tables_path, "hits")
    assert table is not None
    losses = [row for row in table.to_pyarrow_table().to_pylist() if row["kind"] == "epoch"]
    assert sorted(row["partition"] for row in losses) == [0, 1]
    (mine,) = [row for row in losses if row["partition"] == ACME]
    assert dict(mine["params"]) == {"came_back": "6", "archived": "16", "remembered": "0"}
    assert (mine["epoch"], mine["seq"]) == (2, 17)
    assert mine["rulebook_id"] == stand.rows("decisions")[-1]["rulebook_id"]
    # and the hit after it belongs to that epoch
    assert [(row["epoch"], row["seq"]) for row in stand.rows("decisions")[-1:]] == [(2, 18)]


def test_a_server_that_comes_back_whole_begins_no_epoch(stand: Stand) -> None:
    # given hits of which some are archived
    stand.store(5)
    stand.work()
    stand.store(5)
    # when the server is killed and started again on its own file
    stand.server.kill()
    stand.server.start()
    stand.store(5)
    stand.work()
    # then the numbers go on
    assert {row["epoch"] for row in stand.rows("hits")} == {1}
    assert len(stand.ids()) == 15
    stand.assert_whole()


def test_a_server_without_any_data_is_filled_from_the_tables(stand: Stand) -> None:
    # given hits, triggers with steps, once and caps, all in the tables
    hits = stand.store(60)
    stand.work()
    with stand.connect() as connection:
        book, counts = current_id(connection), read_counts(connection, PARTITIONS)
    # when the server comes back empty, as version and partitions have been set
    stand.server.kill()
    shutil.rmtree(stand.server.folder)
    stand.server.start()
    check_journal(stand.server.url, PARTITIONS).close()
    stand.work()
    # then visitors, counters and the rulebook in force are what they were
    with stand.connect() as connection:
        assert current_id(connection) == book and read_counts(connection, PARTITIONS) == counts
    # and the next hits find their visitors
    after = stand.store(9)
    stand.work()
    assert stand.ids() == ids(hits + after)
    assert not any(row["new_visitor"] for row in stand.rows("decisions")[-9:])
    stand.assert_whole()


def test_redis_can_lose_its_end_again_and_again(stand: Stand) -> None:
    kept: list[Hit] = []
    oldest = stand.copy().rename(stand.server.folder.with_name("oldest"))
    for _ in range(3):
        kept += stand.store(8)
        stand.work()
        copied = stand.copy()
        kept += stand.store(8)
        stand.work()
        stand.store(3)
        # when it comes back from an older file each time
        stand.set_back(copied)
    kept += stand.store(4)
    stand.work()
    # and once from the very first, before all of these epochs
    stand.set_back(oldest)
    kept += stand.store(4)
    stand.work()
    # then nothing that was archived is lost, and the epochs follow each other
    assert stand.ids() == ids(kept)
    assert sorted({row["epoch"] for row in stand.rows("hits")}) == [1, 2, 3, 4, 5]
    stand.assert_whole()


def test_a_rulebook_that_was_published_after_the_older_file_is_in_force_again(stand: Stand) -> None:
    stand.store(6)
    stand.work()
    copied = stand.copy()
    with stand.connect() as connection:
        later, _ = publish(connection, PARTITIONS, stand.settings.tables_path, LATER_RULES, "test")
    stand.store(6)
    stand.work()
    # when Redis comes back without it
    stand.set_back(copied)
    stand.store(6)
    stand.work()
    # then it is in force, for tracking and for whoever asks
    with stand.connect() as connection:
        assert current_id(connection) == later
    assert {row["rulebook_id"] for row in stand.rows("decisions")[-6:]} == {later}
    stand.assert_whole()


def attempt(stand: Stand, postback_id: str, state: str, number: int = 1, next_due_us: int = 0) -> None:
    """An attempt as the delivery records it."""
    place = keys.Partition(ACME)
    with stand.connect() as connection:
        n = int(connection.hincrby(place.head, "attempts", 1))
        when_us = 1_772_452_800_000_000 + n
        one = Attempt(postback_id, number, when_us, "client:acme", "GET", "http://x", "", {}, "x", 200, "", "", 10, state,
                      next_due_us)  # fmt: skip
        connection.xadd(place.attempts, {"a": msgspec.msgpack.encode(one)}, id=f"1-{n}")


def test_postbacks_whose_delivery_the_tables_know_are_not_sent_again(stand: Stand) -> None:
    # given postbacks that were promised before the older file, and others after it
    stand.store(15)
    stand.work()
    copied = stand.copy()
    early = [row["postback_id"] for row in stand.rows("postbacks") if row["state"] == "due"]
    stand.store(24)
    stand.work()
    late = [row["postback_id"] for row in stand.rows("postbacks") if row["state"] == "due"][len(early) :]
    assert len(early) > 1 and len(late) > 3
    # and of each kind one was delivered, of the late ones one is dead, and one is to be tried again
    attempt(stand, early[0], "delivered")
    attempt(stand, late[0], "delivered")
    attempt(stand, late[1], "dead", 10)
    attempt(stand, late[2], "due", 3, 1_999_999_999_000_000)
    stand.archive()
    # when Redis comes back from the older file
    stand.set_back(copied)
    stand.work()
    # then only what the tables know nothing of is due at once, and the one that waits goes on where it was
    place = keys.Partition(ACME)
    with stand.connect() as connection:
        due: Any = {name.decode(): int(score) for name, score in connection.zrange(place.due, 0, -1, withscores=True)}
        assert set(due) == set(early[1:] + late[2:])
        assert due[late[2]] == 1_999_999_999_000_000 and connection.hget(place.tries, late[2]) == b"3"
        assert connection.zrange(place.dead, 0, -1) == [late[1].encode()]
        # and the next attempt gets a number that no table has
        assert connection.hget(place.head, "attempts") == b"4"
    attempt(stand, early[1], "delivered")
    stand.archive()
    assert [row["n"] for row in stand.rows("attempts")] == [1, 2, 3, 4, 5]


def test_an_archiver_that_still_holds_rows_of_the_lost_run_cannot_append_them(stand: Stand) -> None:
    # given an archiver that has read rows and not appended them when Redis dies
    stand.store(5)
    stand.work()
    copied = stand.copy()
    stand.store(5)
    with stand.connect() as connection:
        slow = Archiver(connection, stand.settings.tables_path, PARTITIONS, 1_000)
        read = tables.append

        def late(*arguments: Any) -> None:
            if not stalled:
                stalled.append(True)
                stand.set_back(copied)
                stand.connect().ping()
            read(*arguments)

        stalled: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "append", late)
            slow.round()
    # when Redis is back, compared, and hits come
    after = stand.store(5)
    stand.work()
    # then they are not skipped
    assert stand.ids()[-5:] == ids(after)
    stand.assert_whole()


# the intake


def journal_of(stand: Stand) -> RedisJournal:
    return RedisJournal(msgspec.structs.replace(stand.settings, journal_timeout_ms=300), lambda _: None)


def test_a_web_process_appends_nothing_before_the_server_was_compared(stand: Stand) -> None:
    # given a web process at work
    async def body() -> list[Hit]:
        journal = journal_of(stand)
        await journal.start()
        first, second, third = (a_hit("client=acme&event=login") for _ in range(3))
        await journal.append(ACME, first)
        await asyncio.to_thread(stand.work)
        copied = stand.copy()
        await journal.append(ACME, second)
        await asyncio.to_thread(stand.work)
        # when Redis is set back and it has not heard of it
        stand.set_back(copied)  # not in a thread: a server ends with the thread that has started it
        await journal.append(ACME, third)
        await drained(journal)
        await journal.stop()
        return [first, second, third]

    hits = asyncio.run(body())
    stand.work()
    # then no hit is lost, and none has a number that was given before
    assert stand.ids() == ids(hits)
    stand.assert_whole()


def test_a_loss_that_no_table_knows_of_is_noticed_by_whoever_remembers_an_answer(stand: Stand) -> None:
    # given a hit that a web process has an answer for, and that no table has
    async def body() -> list[Hit]:
        journal = journal_of(stand)
        await journal.start()
        first, second, third = (a_hit("client=acme&event=login") for _ in range(3))
        await journal.append(ACME, first)
        copied = stand.copy()
        await journal.append(ACME, second)
        # when Redis comes back without it
        stand.set_back(copied)  # not in a thread: a server ends with the thread that has started it
        await journal.append(ACME, third)
        await drained(journal)
        await journal.stop()
        return [first, third]

    hits = asyncio.run(body())
    stand.work()
    # then the log says what was lost
    assert stand.ids() == ids(hits)
    (loss,) = [row for row in stand.rows("hits") if row["kind"] == "epoch"]
    assert dict(loss["params"]) == {"came_back": "2", "archived": "0", "remembered": "3"}
    assert (loss["epoch"], loss["seq"]) == (2, 4)
    stand.assert_whole()


def test_a_batch_whose_answer_was_lost_and_that_the_tables_have_comes_once(stand: Stand) -> None:
    # given a batch that arrived and was archived, of which its writer does not know
    stand.store(4)
    stand.work()
    copied = stand.copy()
    hits = stand.store(3)
    stand.work()
    # when Redis comes back from the older file, which knows no such batch, and the writer sends it again, with another hit
    stand.set_back(copied)
    more = a_hit("client=acme&event=login")
    with stand.connect() as connection:
        store(connection, ACME, [*hits, more])
    stand.work()
    # then what the tables have stays out, and the other one comes
    assert stand.ids()[4:] == ids([*hits, more])
    stand.assert_whole()


def test_without_the_tables_nobody_uses_a_server_that_was_started_anew(stand: Stand, tmp_path: Path) -> None:
    # given a journal that was archived, and a process that does not see the tables
    stand.store(4)
    stand.work()
    elsewhere = msgspec.structs.replace(stand.settings, tables=tmp_path / "elsewhere")
    with epochs.journal_client(elsewhere) as connection:
        assert connection.ping()
    # when the server is started anew
    stand.server.kill()
    stand.server.start()
    # then it waits for one that does
    with epochs.journal_client(elsewhere) as connection, pytest.raises(UncheckedError, match="its tables are not in"):
        connection.ping()
    stand.work()
    with epochs.journal_client(elsewhere) as connection:
        assert connection.ping()
