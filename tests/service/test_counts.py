"""`backtrack counts`: the live counters, and their proof from the decisions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from click.testing import CliRunner, Result

from service import keys
from service.archive.writer import Archiver
from service.counts_command import counts_command, read_counts, recounted
from service.engine.partition import partition_of
from service.rulebooks import Shelf, publish
from service.scripts import Script
from service.settings import Settings
from service.tracking.counters import SEPARATOR
from service.tracking.tracker import Tracker
from tests.service.hits import a_hit

RULES = Path("datasets/rules.toml")
QUERIES = (
    "client=acme&event=click&affiliate=bestodds&tag_id=t1&country=DE",
    "client=acme&event=registration&tag_id=t1&uid=u1",
    "client=acme&event=sale&uid=u1&amount=50.00&currency=EUR&txid=1",
    "client=acme&event=sale&uid=u1&amount=50.00&currency=EUR&txid=1",
    "client=acme&event=sale&uid=u1&amount=nonsense",
    "client=acme&event=sale&uid=u1&amount=70&currency=EUR&test=1",
    "client=bolt&event=click&affiliate=clickhub&tag_id=t2",
    "client=bolt&event=sale&tag_id=t2&amount=19.99&currency=USD",
    "client=cozy&event=sale&uid=x&amount=10",
    "client=nobody&event=click",
    "event=click",
)


def arrive(journal: redis.Redis, settings: Settings, first: int = 1) -> None:
    """Log the hits and decide them, as intake and tracking do."""
    places = keys.partitions(settings.partitions)
    append = Script(journal, "intake/append")
    for number, query in enumerate(QUERIES, first):
        hit, client = a_hit(query), query.partition("client=")[2].partition("&")[0]
        place = places[partition_of(client, settings.partitions) if client in ("acme", "bolt", "cozy") else 0]
        names = [place.journal, place.head, place.writers, place.wake]
        append(names, ["test", number, hit.received_at_us, msgspec.msgpack.encode(hit)])
    for place in places:
        Tracker(journal, place, settings, Shelf(journal)).run()


def archive(journal: redis.Redis, settings: Settings) -> None:
    Archiver(journal, settings.tables_path, settings.partitions, 1_000).round()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The settings of the tests with few partitions and no waiting for more."""
    return msgspec.structs.replace(settings, partitions=4, linger_ms=0)


@pytest.fixture
def counted(journal: redis.Redis, settings: Settings) -> Settings:
    """A day's hits, decided and in the tables."""
    publish(journal, settings.partitions, settings.tables_path, RULES.read_text(encoding="utf-8"), str(RULES))
    arrive(journal, settings)
    archive(journal, settings)
    return settings


def counts(settings: Settings, *options: str) -> Result:
    return CliRunner().invoke(counts_command, options, env=settings.environment(), catch_exceptions=False)


def by_measure(settings: Settings) -> dict[tuple[str, str, str], int]:
    """Client, trigger, measure -> number."""
    rows = json.loads(counts(settings, "--json").stdout)["counts"]
    found: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = row["client"], row["trigger"], row["measure"]
        found[key] = found.get(key, 0) + row["n"]
    return found


def test_the_counters_say_what_came_of_the_hits(counted: Settings) -> None:
    # when the counters are read
    found = by_measure(counted)
    # then hits, reasons, firings and money are there, and the test hit is not
    assert found["acme", "", "accepted"] == 3 and found["acme", "", "duplicate"] == 1
    assert found["acme", "", "rejected:invalid_amount"] == 1 and found["", "", "rejected:missing_client"] == 1
    assert found["acme", "signup", "fired"] == 1 and found["acme", "signup", "payout:EUR"] == 200
    assert found["acme", "first-deposit", "payout:EUR"] == 1250
    assert found["bolt", "order", "fired"] == 1
    assert found["cozy", "booking", "stopped:recipient"] == 1


def test_the_decisions_in_the_tables_give_the_same(counted: Settings) -> None:
    plain, as_json = counts(counted, "--recount"), counts(counted, "--recount", "--json")
    assert (plain.exit_code, as_json.exit_code) == (0, 0)
    assert "the decisions in the tables give the same counters" in plain.stdout
    document = json.loads(as_json.stdout)
    assert (document["recounted"], document["differences"], document["behind"]) == (True, [], 0)
    assert len(document["counts"]) > 10 and plain.stderr == as_json.stderr == ""


def test_a_counter_that_was_tampered_with_is_found_and_named(counted: Settings, journal: redis.Redis) -> None:
    # given a counter that somebody raised by one, and one that somebody removed
    place = keys.partitions(counted.partitions)[partition_of("acme", counted.partitions)]
    fields: Any = journal.hkeys(place.counts)
    fired = next(f for f in fields if b"\x1fsignup\x1f" in f and f.endswith(b"\x1ffired"))
    paid = next(f for f in fields if b"\x1ffirst-deposit\x1f" in f and f.endswith(b"payout:EUR"))
    journal.hincrby(place.counts, fired.decode(), 1)
    journal.hdel(place.counts, paid.decode())
    # when the counters are proved
    plain, as_json = counts(counted, "--recount"), counts(counted, "--recount", "--json")
    # then both are named with both values, and the status tells a script
    assert (plain.exit_code, as_json.exit_code) == (1, 1)
    assert "2 counters differ from the decisions in the tables" in plain.stdout
    assert "acme / bestodds / signup / registration / fired: live 2, recounted 1" in plain.stdout
    found = {
        (d["trigger"], d["measure"]): (d["live"], d["recounted"]) for d in json.loads(as_json.stdout)["differences"]
    }
    assert found == {("signup", "fired"): (2, 1), ("first-deposit", "payout:EUR"): (0, 1250)}
    # and without a proof nothing is claimed
    assert counts(counted).exit_code == 0


def test_tables_that_are_behind_are_said_to_be(counted: Settings, journal: redis.Redis) -> None:
    # given hits that are decided and not yet in the tables
    arrive(journal, counted, first=100)
    # then the difference comes with its likely cause
    plain = counts(counted, "--recount")
    assert plain.exit_code == 1
    assert "rows behind; when they have caught up, run it again" in plain.stdout
    assert json.loads(counts(counted, "--recount", "--json").stdout)["behind"] > len(QUERIES)
    # and it is gone when they have caught up
    archive(journal, counted)
    assert counts(counted, "--recount").exit_code == 0
    assert read_counts(journal, counted.partitions) == recounted(counted)


def test_before_the_first_hit_there_is_nothing_to_differ(settings: Settings) -> None:
    assert counts(settings).stdout == "nothing is counted yet\n"
    assert counts(settings, "--recount").exit_code == 0
    assert json.loads(counts(settings, "--recount", "--json").stdout)["counts"] == []


def test_a_pipe_gets_every_counter_whole(counted: Settings) -> None:
    shown = counts(counted).stdout
    assert "…" not in shown
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d +acme ", shown)


def test_every_field_has_its_six_parts(counted: Settings, journal: redis.Redis) -> None:
    assert {field.count(SEPARATOR) for field in read_counts(journal, counted.partitions)} == {5}
