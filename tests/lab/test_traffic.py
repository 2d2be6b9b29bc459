"""Generated traffic: the same for a seed, exactly as much as asked for, and each request what its note says."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from lab.stories import DAY_US
from lab.traffic import SAMPLE_START_US, Request, TrafficError, fill, generate, to_hit
from lab.trouble import BROKEN
from service.engine import Entry, Outcome, Rejection, State, load, parse, process

RULES = Path("datasets/rules.toml").read_text(encoding="utf-8")
BOOK = load(RULES)


@pytest.fixture(scope="module")
def traffic() -> list[Request]:
    return generate(BOOK, hits=4_000, seed=11)


def decide(requests: list[Request]) -> list[Outcome]:
    """The engine's word on each request, in one partition."""
    state, ids = State(), [f"{index:032x}" for index in range(len(requests))]
    outcomes = []
    for index, request in enumerate(requests):
        time_us = SAMPLE_START_US + request.offset_us
        hit = to_hit(request, ids[index], time_us, ids)
        outcomes.append(process(Entry(0, 1, index + 1, time_us, hit), state, BOOK))
    return outcomes


@pytest.fixture(scope="module")
def outcomes(traffic: list[Request]) -> list[Outcome]:
    return decide(traffic)


@pytest.mark.parametrize("hits", [1, 2, 33, 500])
def test_there_are_exactly_as_many_requests_as_asked_for(hits: int) -> None:
    assert len(generate(BOOK, hits=hits)) == hits


def test_a_seed_gives_the_same_requests_in_every_process() -> None:
    # given a program that prints a digest of its traffic
    program = (
        "import hashlib, pathlib; from lab.traffic import generate;"
        "text = pathlib.Path('datasets/rules.toml').read_text(encoding='utf-8');"
        "print(hashlib.sha256(repr(generate(text, 400, 5)).encode()).hexdigest())"
    )
    # when it runs with different seeds of the hash function
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    # then both agree with this process
    assert digests == {hashlib.sha256(repr(generate(RULES, 400, 5)).encode()).hexdigest()}


def test_another_seed_gives_other_requests() -> None:
    assert generate(BOOK, 300, 1) != generate(BOOK, 300, 2)


def test_requests_come_in_the_order_of_their_time_and_within_the_days() -> None:
    requests = generate(BOOK, hits=2_000, days=3)
    offsets = [request.offset_us for request in requests]
    assert offsets == sorted(offsets)
    assert offsets[0] >= 0
    assert 2 * DAY_US < offsets[-1] < 3 * DAY_US


def test_a_placeholder_refers_to_an_earlier_click_of_the_same_visitor(traffic: list[Request]) -> None:
    referring = [(request, index) for request in traffic for index in request.refers_to]
    assert len(referring) > 100
    for request, index in referring:
        assert traffic[index].offset_us <= request.offset_us
        assert traffic[index].visitor == request.visitor
        assert traffic[index].target.startswith(b"/c/")


def test_filling_puts_the_hit_id_in_place_of_the_placeholder() -> None:
    request = Request(0, "POST", b"/e?click_id={id:1}", b'{"click_id":"{id:12}"}')
    assert fill(request, {1: "aa", 12: "bb"}) == (b"/e?click_id=aa", b'{"click_id":"bb"}')


def test_every_request_is_one_that_the_http_server_lets_through(traffic: list[Request]) -> None:
    plain = re.compile(rb"/[A-Za-z0-9._~/%=&?+-]*\Z")
    ids = ["0" * 32] * len(traffic)
    for request in traffic:
        target, _ = fill(request, ids)
        assert plain.match(target), target
        assert len(target) < 60_000
        assert (request.method == "POST") == bool(request.body) == bool(request.content_type)
        assert all(name.islower() and value.isascii() for name, value in request.headers.items())


def test_each_broken_request_is_rejected_for_the_reason_in_its_note(
    traffic: list[Request], outcomes: list[Outcome]
) -> None:
    found = [
        (request.note.removeprefix("broken:"), outcome.verdict, outcome.reason)
        for request, outcome in zip(traffic, outcomes, strict=True)
        if request.note.startswith("broken:")
    ]
    assert {note for note, _, _ in found} == set(BROKEN)
    assert all(verdict == "rejected" and reason == note for note, verdict, reason in found), found


def test_what_is_not_broken_is_accepted_and_duplicates_are_duplicates(
    traffic: list[Request], outcomes: list[Outcome]
) -> None:
    verdicts = Counter(
        (request.note == "duplicate", outcome.verdict)
        for request, outcome in zip(traffic, outcomes, strict=True)
        if not request.note.startswith("broken:")
    )
    assert set(verdicts) == {(False, "accepted"), (True, "duplicate")}


def test_tests_are_tests_and_nothing_else_is(traffic: list[Request], outcomes: list[Outcome]) -> None:
    tests = [outcome.test for request, outcome in zip(traffic, outcomes, strict=True) if request.note == "test"]
    assert tests and all(tests)
    assert sum(outcome.test for outcome in outcomes) == len(tests)


def test_every_trigger_fires_and_both_kinds_of_recipients_get_postbacks(outcomes: list[Outcome]) -> None:
    fired = {firing.trigger for outcome in outcomes for firing in outcome.fired}
    recipients = {postback.recipient for outcome in outcomes for postback in outcome.postbacks}
    assert fired == {trigger.name for trigger in BOOK.triggers}
    assert recipients >= {f"client:{name}" for name in BOOK.clients}
    assert recipients >= {f"affiliate:{name}" for name in BOOK.affiliates}


def test_visitors_come_back_another_way_and_keep_their_history(outcomes: list[Outcome]) -> None:
    affiliates: dict[str, set[str]] = {}
    for outcome in outcomes:
        if outcome.event == "login":
            affiliates.setdefault(outcome.visitor, set()).add(outcome.affiliate)
    assert any(len(names) > 1 for names in affiliates.values())
    assert any(outcome.absorbed for outcome in outcomes)
    assert any(outcome.conflicts for outcome in outcomes)


def test_the_traffic_holds_every_way_of_saying_things(traffic: list[Request]) -> None:
    targets = [unquote(request.target.decode(), errors="replace") for request in traffic]
    said = targets + [request.body.decode() for request in traffic if not request.note.startswith("broken:")]
    types = Counter(request.content_type for request in traffic)
    assert types["application/json"] > 20 and types["application/x-www-form-urlencoded"] > 20
    assert any("東京" in text for text in said)
    assert any("=overwritten&" in text for text in said)
    assert any("{click_id}" in text for text in targets)
    for alias in ("subid", "order_id", "clickid", "transaction_id", "revenue"):
        assert any(f"{alias}=" in text or f'"{alias}":' in text for text in said), alias
    assert {request.note for request in traffic} >= {
        "click", "registration", "login", "sale", "pageview", "image", "step", "duplicate", "test",
    }  # fmt: skip


def test_affiliates_differ_in_quality(traffic: list[Request], outcomes: list[Outcome]) -> None:
    clicks = Counter(o.affiliate for r, o in zip(traffic, outcomes, strict=True) if r.note == "click")
    sales = Counter(o.affiliate for o in outcomes if o.event == "sale")
    bots = Counter(
        o.affiliate for r, o in zip(traffic, outcomes, strict=True) if "LinkTaster" in r.headers["user-agent"]
    )
    assert clicks["clickhub"] > clicks["topten"]
    assert sales["clickhub"] / clicks["clickhub"] < sales["topten"] / clicks["topten"]
    assert bots["clickhub"] > clicks["clickhub"] / 5 > 5 * bots["topten"]
    assert not any(b"/dealwise" in request.target for request in traffic)


@pytest.mark.parametrize(
    "rules",
    [
        '[client.solo]\nname = "Solo"\n',
        '[client.solo]\nbrowser_events = ["sale"]\naliases = { e = "event", aff = "affiliate" }\n[affiliate.one]\n',
    ],
)
def test_any_rulebook_with_a_client_gets_traffic_of_its_own(rules: str) -> None:
    # given a rulebook without the names of the sample
    book, requests = load(rules), generate(rules, hits=600)
    # when its hits are read
    ids = [f"{index:032x}" for index in range(len(requests))]
    parsed = [parse(to_hit(request, ids[i], 0, ids), book) for i, request in enumerate(requests)]
    # then they are broken where they say so, and nowhere else
    reasons = [event.reason if isinstance(event, Rejection) else "" for event in parsed]
    assert reasons == [request.note.partition("broken:")[2] for request in requests]


@pytest.mark.parametrize(
    ("rules", "hits", "days", "words"),
    [(RULES, 0, 1, "hits=0"), (RULES, 5, 0, "days=0"), ('[affiliate.one]\nname = "One"\n', 5, 1, "no client")],
)
def test_traffic_that_cannot_be_made_is_refused_in_words(rules: str, hits: int, days: int, words: str) -> None:
    with pytest.raises(TrafficError, match=words):
        generate(rules, hits=hits, days=days)
