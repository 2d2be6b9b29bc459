"""Erasing one person: nothing that leads to the person is left, everything else is as it was, and the log says so."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
import redis
from click.testing import CliRunner, Result
from deltalake.exceptions import CommitFailedError

import lab
from lab.digest import first_difference, stored_outcomes
from service import keys
from service.archive import tables
from service.archive.schemas import Attempt
from service.archive.writer import Archiver
from service.counts_command import read_counts, recounted
from service.engine.partition import partition_of
from service.erase_command import erase_command
from service.rulebooks import publish
from service.servers import check_journal
from service.settings import Settings
from service.tracking.tracker import FencedError
from tests.service.hits import a_hit
from tests.service.partitions import RULES, promised, store, store_all, track_all
from tests.service.test_compaction import files, forget_what_was_removed
from tests.waiting import until

SECRETS = (b"zoe@home", b"zoetag", b"zoeclick", b"DE-zoe", b"zoe-order", b"192.0.2.77", b"ZoeBrowser")
ZOE = (
    "client=acme&event=click&affiliate=best&tag_id=zoetag&click_id=zoeclick&sub1=DE-zoe",
    "client=acme&event=registration&tag_id=zoetag&uid=zoe@home&country=DE-zoe",
    "client=acme&event=sale&uid=zoe@home&amount=40&currency=EUR&txid=zoe-order",
    "client=acme&event=sale&uid=zoe@home&amount=40&currency=EUR&txid=zoe-order",
    "client=acme&event=sale&subid=zoeclick&amount=nonsense",
)
OTHERS = (
    "client=acme&event=click&affiliate=best&tag_id=bobtag&sub1=b",
    "client=acme&event=registration&tag_id=bobtag&uid=bob",
    "client=acme&event=sale&uid=bob&amount=10&currency=EUR&txid=bob-order",
    "client=acme&event=pageview&uid=bob&tag_id=zoetag",
    "client=bolt&event=sale&uid=ann&amount=5&txid=1",
)
ACME = partition_of("acme", 4)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, partitions=4)


@pytest.fixture
def connection(settings: Settings) -> Iterator[redis.Redis]:
    opened = check_journal(settings.journal_url, settings.partitions)
    publish(opened, settings.partitions, settings.tables_path, RULES, "rules.toml")
    yield opened
    opened.close()


def arrive(connection: redis.Redis, settings: Settings, *queries: str) -> None:
    hits = [msgspec.structs.replace(a_hit(q), address="192.0.2.77", user_agent="ZoeBrowser") for q in queries]
    store_all(connection, hits, partitions=settings.partitions)
    track_all(connection, settings)


def try_all(connection: redis.Redis, state: str) -> None:
    """A try of each postback, as delivery records it."""
    for place, postback in [(p, one) for p in keys.partitions(4) for one in promised(connection, p.number)]:
        n = int(connection.hincrby(place.head, "attempts", 1))
        one = Attempt(
            postback.id, 1, postback.time_us + 1, postback.recipient, postback.verb, postback.url, postback.body,
            {"webhook-id": postback.id}, state, 200, f"thanks for {postback.body}", "", 5, state,
        )  # fmt: skip
        connection.xadd(place.attempts, {"a": msgspec.msgpack.encode(one)}, id=f"1-{n}")
        if state == "delivered":
            connection.hdel(place.promises, postback.id)
            connection.zrem(place.due, postback.id)


def archive(connection: redis.Redis, settings: Settings) -> None:
    Archiver(connection, settings.tables_path, settings.partitions, 20_000).round()


def erase(settings: Settings, *options: str) -> Result:
    return CliRunner().invoke(erase_command, options, env=settings.environment(), catch_exceptions=False)


def erased(settings: Settings, *options: str) -> Any:
    result = erase(settings, "--client", "acme", *options, "--yes", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def left(settings: Settings, connection: redis.Redis) -> list[bytes]:
    """Which of the person's values are anywhere in the tables or in Redis."""
    log = lab.open(settings.tables_path)
    frames = [log._scan(name).collect() for name in ("hits", "decisions", "postbacks", "attempts")]
    text = "".join(str(frame.rows()) for frame in frames).encode()
    raw = b"".join(path.read_bytes() for path in settings.tables_path.rglob("_delta_log/*.json"))
    live = b"".join(_dump(connection, key) for key in connection.scan_iter(count=1000))
    return [secret for secret in SECRETS if secret in text + raw + live]


def _dump(connection: redis.Redis, key: bytes) -> bytes:
    kind: Any = connection.type(key)
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": connection.hgetall, b"stream": connection.xrange, b"zset": lambda k: connection.zrange(k, 0, -1),
        b"string": connection.get, b"set": connection.smembers,
    }  # fmt: skip
    return key + str(readers[kind](key)).encode()


def test_nothing_leads_to_an_erased_person_and_all_else_stays(connection: redis.Redis, settings: Settings) -> None:
    # given two persons that share a device, everything delivered and archived
    arrive(connection, settings, *ZOE, *[q for q in OTHERS if "zoe" not in q])
    try_all(connection, "delivered")
    archive(connection, settings)
    before = lab.open(settings.tables_path)
    entries, counts = before.hits.collect().height, read_counts(connection, settings.partitions)
    assert before.replay().digest == before.digest()
    assert left(settings, connection)
    bob = before.decisions.filter(pl.col("fields").map.get("uid") == "bob").collect().rows()
    # when one is erased
    document = erased(settings, "--uid", "zoe@home")
    # then it says what went, and nothing is left
    assert document["rows"] == {"hits": 5, "decisions": 5, "postbacks": 3, "attempts": 3}
    assert (document["visitors"], document["identifiers"], document["postbacks_not_sent"]) == (1, 3, 0)
    assert [s for s in left(settings, connection) if s not in (b"192.0.2.77", b"ZoeBrowser")] == []
    # and no entry is missing, the other person's decisions and all counters with their money are what they were
    log = lab.open(settings.tables_path)
    assert log.hits.collect().height == entries and log.gaps().is_empty()
    assert log.decisions.filter(pl.col("fields").map.get("uid") == "bob").collect().rows() == bob
    assert recounted(settings) == read_counts(connection, settings.partitions) == counts
    # and both engines decide the log again as it stands, and say what is erased
    for engine in ("reference", "set"):
        run = log.replay(engine=engine)
        assert run.digest == log.digest(), first_difference(run.outcomes, stored_outcomes(log))
        assert dict(run.reasons.iter_rows())["erased"] == 5
        assert any("5 hits of erased persons" in warning for warning in run.warnings)
    assert log.verify().ok


def test_files_that_were_merged_before_go_too(connection: redis.Redis, settings: Settings) -> None:
    # given files with the person's hits that were merged two hours ago, so that Delta's log names them no more
    for _ in range(2):
        arrive(connection, settings, *ZOE)
        archive(connection, settings)
    before = files(settings, "hits")
    table = tables.open_table(settings.tables_path, "hits")
    assert table is not None and table.optimize.compact()["numFilesRemoved"] == len(before)
    forget_what_was_removed(settings, "hits")
    for path in before:
        os.utime(path, (time.time() - 7_200,) * 2)
    # when the person is erased
    erased(settings, "--uid", "zoe@home")
    # then they are gone
    assert not [path for path in before if Path(path).exists()]


def test_an_address_goes_with_its_hit(connection: redis.Redis, settings: Settings) -> None:
    arrive(connection, settings, *ZOE)
    archive(connection, settings)
    erased(settings, "--uid", "zoe@home")
    assert left(settings, connection) == []


def test_a_log_without_any_rejected_hit_can_forget_somebody_too(connection: redis.Redis, settings: Settings) -> None:
    arrive(connection, settings, *OTHERS)
    archive(connection, settings)
    assert erased(settings, "--uid", "bob")["rows"]["hits"] == 4
    assert erase(settings, "--client", "acme", "--uid", "nobody", "--yes").exit_code == 1


def test_the_erased_person_is_a_stranger_afterwards(connection: redis.Redis, settings: Settings) -> None:
    # given an erased person
    arrive(connection, settings, *ZOE)
    archive(connection, settings)
    erased(settings, "--click-id", "zoeclick")
    # when the same identifiers come back
    arrive(connection, settings, *ZOE)
    archive(connection, settings)
    # then it is somebody new, live as in a replay, who can be erased again
    log = lab.open(settings.tables_path)
    assert log.decisions.filter(pl.col("new_visitor")).collect().height == 1
    assert log.replay().digest == log.digest()
    assert log.gaps().is_empty()
    again = erased(settings, "--tag-id", "zoetag")
    assert again["rows"]["hits"] == 5
    assert lab.open(settings.tables_path).erased == 10
    assert left(settings, connection) == []


def test_what_waits_to_be_sent_is_not_sent_and_a_conflict_is_forgotten(
    connection: redis.Redis, settings: Settings
) -> None:
    # given postbacks that are due, and another person who came by the same device
    arrive(connection, settings, *ZOE, *OTHERS)
    archive(connection, settings)
    place = keys.Partition(ACME)
    due = int(connection.zcard(place.due))
    decisions = lab.open(settings.tables_path).decisions
    assert decisions.filter(pl.col("conflicts").list.len() > 0).collect().height == 1
    # when the person is erased
    document = erased(settings, "--uid", "zoe@home")
    # then they are not sent, and nobody else's are touched
    assert document["postbacks_not_sent"] == 3
    assert connection.zcard(place.due) == connection.hlen(place.promises) == due - 3
    # and no decision names the visitor any more; the shared device's id belongs to the other one's own request
    log = lab.open(settings.tables_path)
    assert log.decisions.filter(pl.col("conflicts").list.len() > 0).collect().is_empty()
    assert left(settings, connection) == [b"zoetag", b"192.0.2.77", b"ZoeBrowser"]
    assert log.verify().numbers.startswith("expected ")


def test_without_yes_nothing_is_touched_and_what_would_go_is_said(connection: redis.Redis, settings: Settings) -> None:
    arrive(connection, settings, *ZOE)
    archive(connection, settings)
    before = left(settings, connection)
    shown = erase(settings, "--client", "acme", "--uid", "zoe@home")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        "uid zoe@home of acme: 5 hits, 5 decisions, 3 postbacks, 0 attempts would be blanked, 1 visitors forgotten",
        "nothing was erased; it cannot be undone. Add --yes to do it",
    ]
    assert left(settings, connection) == before == list(SECRETS)
    # and a person that nobody knows is no success
    unknown = erase(settings, "--client", "acme", "--uid", "nobody", "--yes")
    assert unknown.exit_code == 1 and "nobody is known by that" in unknown.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--client", "acme"), "name the person by one of --uid, --tag-id, --click-id and --visitor"),
        (("--client", "acme", "--uid", "a", "--visitor", "b"), "name the person by one of"),
        (("--client", "acmee", "--uid", "a"), "--client 'acmee': no rulebook has this client; known are acme, bolt"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    connection: redis.Redis, settings: Settings, options: tuple[str, ...], words: str
) -> None:
    result = erase(settings, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith(words) and result.stderr.count("\n") == 1


def test_it_is_safe_beside_tracking_and_archive_at_work(connection: redis.Redis, settings: Settings) -> None:
    # given hits of both persons that come in all the time, decided and archived meanwhile
    arrive(connection, settings, *ZOE, *OTHERS)
    archive(connection, settings)
    ended, rounds = threading.Event(), list[int]()

    def keep_coming() -> None:
        with check_journal(settings.journal_url, settings.partitions) as mine:
            archiver, number = Archiver(mine, settings.tables_path, settings.partitions, 20_000), 0
            while not ended.is_set():
                number += 1
                rounds.append(number)
                queries = (f"client=acme&event=pageview&uid=zoe@home&n={number}", "client=acme&event=pageview&uid=bob")
                store(mine, ACME, [a_hit(query) for query in queries])
                place = keys.Partition(ACME)
                mine.delete(place.lease)  # as the reconciler finds it, without its wait
                with suppress(FencedError):  # an erasure raises the fence; what is left is decided in the next round
                    track_all(mine, settings)
                with suppress(CommitFailedError):  # an erasure's commits may win each time; the actor too goes on later
                    archiver.round()

    coming = threading.Thread(target=keep_coming)
    coming.start()
    # when one of them is erased, twice
    try:
        until(lambda: len(rounds) > 3, "some traffic")
        first = erased(settings, "--uid", "zoe@home")
        so_far = len(rounds)
        until(lambda: len(rounds) > so_far + 2, "the person to come back")
        second = erased(settings, "--uid", "zoe@home")
    finally:
        ended.set()
        coming.join()
    # then every hit stands in the tables once, and what was decided afterwards is what a replay decides
    assert first["rows"]["hits"] >= 5 and second["visitors"] <= 1
    archive(connection, settings)
    log = lab.open(settings.tables_path)
    assert log.gaps().is_empty()
    assert not log.hits.select("partition", "seq").collect().is_duplicated().any()
    run = log.replay()
    assert run.digest == log.digest(), first_difference(run.outcomes, stored_outcomes(log))
    assert recounted(settings) == read_counts(connection, settings.partitions)
