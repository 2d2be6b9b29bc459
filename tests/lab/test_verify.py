"""Verify: nothing to say about a clean day, and one named line for each defect planted in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import lab
from lab import LabError
from lab.check import KINDS
from lab.parameters import compare, request_to
from lab.verify import COLUMNS
from service.engine import Postback
from tests.lab.conftest import RULES, Past, attempt_at, receipt_of

Store = Callable[[Past], Path]
Record = Callable[[list[dict[str, object]]], Path]
Receipts = list[dict[str, object]]


def due(past: Past) -> list[tuple[int, Postback]]:
    return [(partition, postback) for partition, postback in past.postbacks if postback.state == "due"]


def receipts(past: Past) -> Receipts:
    return [receipt_of(postback) for _, postback in due(past)]


def to(past: Past, recipient: str, trigger: str) -> tuple[int, int, Postback]:
    """Index among the due ones, partition and postback of the first with this recipient and trigger."""
    for index, (partition, postback) in enumerate(due(past)):
        if (postback.recipient, postback.trigger) == (recipient, trigger):
            return index, partition, postback
    raise AssertionError("the past holds no such postback")


def replace(past: Past, old: Postback, new: Postback | None) -> None:
    """Change or remove one stored promise; the replay does not know."""
    for index, (partition, epoch, outcome) in enumerate(past.outcomes):
        if old in outcome.postbacks:
            kept = tuple(new if postback == old else postback for postback in outcome.postbacks)
            changed = msgspec.structs.replace(outcome, postbacks=tuple(p for p in kept if p is not None))
            past.outcomes[index] = (partition, epoch, changed)


def found(verification: lab.verify.Verification) -> list[tuple[str, str, str | None, str | None, str]]:
    """kind, parameter, expected, found and place of each difference."""
    return verification.differences.select("kind", "parameter", "expected", "found", "place").rows()


def test_a_clean_day_has_no_difference(past: Past, tables_of: Store, record: Record) -> None:
    verification = lab.open(tables_of(past)).verify(record(receipts(past)))

    assert verification.ok
    assert verification.differences.columns == list(COLUMNS)
    assert verification.counts() == {
        "expected": 8, "due": 6, "withheld": 1, "recorded": 1, "sent": 6, "attempts": 6, "delivered": 6, "received": 6,
        "repeated": 0, "other": 0, "verified_equal": 6, "differences": 0,
    }  # fmt: skip
    assert verification.basis == "replay as logged"
    assert repr(verification).startswith(
        "All 6 due postbacks were sent, delivered and received as expected, equal in every parameter; 2 were rightly"
    )


def test_without_the_partners_record_the_attempts_are_compared(past: Past, tables_of: Store) -> None:
    verification = lab.open(tables_of(past)).verify()

    assert verification.ok
    assert verification.received is None
    assert "sent and delivered as expected" in verification.sentence


def test_the_same_id_again_is_repeated_and_allowed(past: Past, tables_of: Store, record: Record) -> None:
    mine = receipts(past)

    verification = lab.open(tables_of(past)).verify(record([*mine, mine[0], mine[0]]))

    assert verification.ok
    assert (verification.received, verification.repeated) == (8, 2)


def test_a_request_that_is_no_postback_is_only_counted(past: Past, tables_of: Store, record: Record) -> None:
    landing: dict[str, object] = {"method": "GET", "path": "/welcome", "query": "cid=1", "headers": {}}

    verification = lab.open(tables_of(past)).verify(record([landing, *receipts(past)]))

    assert verification.ok
    assert verification.other == 1


def test_a_lost_message_is_missing(past: Past, tables_of: Store, record: Record) -> None:
    index, _, postback = to(past, "affiliate:best", "deposit")
    mine = receipts(past)
    del mine[index]

    verification = lab.open(tables_of(past)).verify(record(mine))

    assert verification.differences.drop("defect").rows() == [
        (postback.id, "affiliate:best", "deposit", "missing", "", postback.url, None, "received")
    ]
    assert verification.verified_equal == 5


def test_a_lost_promise_is_missing(past: Past, tables_of: Store) -> None:
    index, _, postback = to(past, "affiliate:best", "deposit")
    replace(past, postback, None)
    del past.attempts[index]

    verification = lab.open(tables_of(past)).verify()

    assert [row[0] for row in found(verification)] == ["missing", "not_delivered"]


def test_a_promise_with_another_payout_differs_and_is_named_once(past: Past, tables_of: Store, record: Record) -> None:
    # given a promise that was rendered wrongly, and so sent and received
    index, partition, postback = to(past, "affiliate:best", "deposit")
    wrong = msgspec.structs.replace(postback, url=postback.url.replace("sum=12.50", "sum=12.5"))
    replace(past, postback, wrong)
    past.attempts[index] = (partition, attempt_at(wrong, past.now_us))
    mine = receipts(past)
    mine[index] = receipt_of(wrong)

    verification = lab.open(tables_of(past)).verify(record(mine))

    assert found(verification) == [("different", "sum", "12.50", "12.5", "stored")]


@pytest.mark.parametrize(("old", "new", "parameter", "expected", "seen"), [
    ("a%20b", "%7Bsub1%7D", "cid", "a b", "{sub1}"),  # a literal macro
    ("a%20b", "a", "cid", "a b", "a"),  # truncated
    ("a%20b", "a%2520b", "cid", "a b", "a%20b"),  # encoded twice
    ("sum=12.50", "sum=12.5", "sum", "12.50", "12.5"),
    ("&cur=EUR", "", "cur", "EUR", None),
    ("&cur=EUR", "&cur=EUR&x=1", "x", None, "1"),
    ("&cur=EUR", "&cur=EUR&cur=USD", "cur#2", None, "USD"),
])  # fmt: skip
def test_a_changed_query_names_the_parameter(
    past: Past, tables_of: Store, record: Record, old: str, new: str, parameter: str, expected: str, seen: str
) -> None:
    index, _, postback = to(past, "affiliate:best", "deposit")
    mine = receipts(past)
    mine[index] = receipt_of(postback, query=str(mine[index]["query"]).replace(old, new))

    verification = lab.open(tables_of(past)).verify(record(mine))

    assert found(verification) == [("different", parameter, expected, seen, "received")]
    assert verification.verified_equal == 5


def test_another_writing_of_the_same_query_is_equal(past: Past, tables_of: Store, record: Record) -> None:
    index, _, postback = to(past, "affiliate:best", "deposit")
    mine = receipts(past)
    mine[index] = receipt_of(postback, query="cur=EUR&sum=12%2E50&cid=a+b")

    assert lab.open(tables_of(past)).verify(record(mine)).ok


@pytest.mark.parametrize(("change", "parameter", "expected", "seen"), [
    (lambda body: body["params"].update(country="AT"), "params.country", "DE", "AT"),
    (lambda body: body.update(amount=50.0), "amount", "50.00", "50.0 (a number)"),
    (lambda body: body["params"].pop("sub1"), "params.sub1", "a b", None),
    (lambda body: body.update(extra=[1, {"x": None}]), "extra[0]", None, "1 (a number)"),
])  # fmt: skip
def test_a_changed_json_body_names_the_leaf(
    past: Past,
    tables_of: Store,
    record: Record,
    change: Callable[[dict[str, object]], object],
    parameter: str,
    expected: str,
    seen: str,
) -> None:
    index, _, postback = to(past, "client:acme", "deposit")
    body = json.loads(postback.body)
    change(body)
    mine = receipts(past)
    mine[index] = receipt_of(postback, body=json.dumps(body))

    verification = lab.open(tables_of(past)).verify(record(mine))

    assert found(verification)[0] == ("different", parameter, expected, seen, "received")


def test_a_body_that_is_no_json_any_more_is_named_whole(past: Past, tables_of: Store, record: Record) -> None:
    index, _, postback = to(past, "client:acme", "deposit")
    mine = receipts(past)
    mine[index] = receipt_of(postback, body=postback.body[:40], method="PUT")

    verification = lab.open(tables_of(past)).verify(record(mine))

    assert ("different", "verb", "POST", "PUT", "received") in found(verification)
    assert ("different", "body", None, postback.body[:40], "received") in found(verification)


def test_a_message_at_the_address_of_another_recipient_is_wrong_recipient(
    past: Past, tables_of: Store, record: Record
) -> None:
    index, _, postback = to(past, "affiliate:best", "deposit")
    mine = receipts(past)
    mine[index] = receipt_of(postback, path="/hook")

    verification = lab.open(tables_of(past)).verify(record(mine))

    assert found(verification) == [("wrong_recipient", "path", "/pb", "/hook", "received")]


def test_swapped_ids_are_two_wrong_recipients(past: Past, tables_of: Store, record: Record) -> None:
    mine = receipts(past)
    first, second = to(past, "client:acme", "deposit")[0], to(past, "affiliate:best", "deposit")[0]
    mine[first]["headers"], mine[second]["headers"] = mine[second]["headers"], mine[first]["headers"]

    verification = lab.open(tables_of(past)).verify(record(mine))

    assert [row[0] for row in found(verification)].count("wrong_recipient") == 2
    assert verification.verified_equal == 4


def test_an_attempt_to_another_recipient_is_wrong_recipient(past: Past, tables_of: Store) -> None:
    index, partition, postback = to(past, "affiliate:best", "deposit")
    past.attempts[index] = (partition, attempt_at(postback, past.now_us, recipient="affiliate:silent"))

    verification = lab.open(tables_of(past)).verify()

    assert found(verification) == [("wrong_recipient", "recipient", "affiliate:best", "affiliate:silent", "sent")]


def test_a_second_id_for_the_same_message_is_doubled(past: Past, tables_of: Store, record: Record) -> None:
    _, _, webhook = to(past, "client:acme", "deposit")
    _, _, template = to(past, "affiliate:best", "signup")
    again = {"headers": {"webhook-id": "e" * 32}}
    mine = [
        *receipts(past),
        receipt_of(webhook, body=webhook.body.replace(webhook.id, "d" * 32), headers={"webhook-id": "d" * 32}),
        receipt_of(template, **again),
    ]

    verification = lab.open(tables_of(past)).verify(record(mine))

    assert verification.differences.drop("defect").rows() == [
        ("d" * 32, "client:acme", "deposit", "doubled", "postback_id", webhook.id, "d" * 32, "received"),
        ("e" * 32, "affiliate:best", "signup", "doubled", "postback_id", template.id, "e" * 32, "received"),
    ]


def test_a_second_promise_for_the_same_message_is_doubled_once(past: Past, tables_of: Store, record: Record) -> None:
    # given a promise stored, sent and received under a second id
    place, partition, postback = to(past, "affiliate:best", "deposit")
    second = msgspec.structs.replace(postback, id="d" * 32)
    index = next(i for i, placed in enumerate(past.outcomes) if postback in placed[2].postbacks)
    _, epoch, outcome = past.outcomes[index]
    both = msgspec.structs.replace(outcome, postbacks=(*outcome.postbacks, second))
    past.outcomes[index] = (partition, epoch, both)
    past.attempts.append((partition, attempt_at(second, past.now_us)))

    verification = lab.open(tables_of(past)).verify(record(receipts(past)))

    assert found(verification) == [("doubled", "postback_id", postback.id, "d" * 32, "stored")]
    assert place >= 0


def test_a_message_that_nobody_expects_is_unexpected(past: Past, tables_of: Store, record: Record) -> None:
    stranger: dict[str, object] = {
        "method": "GET", "path": "/hook", "query": "order=999", "headers": {"webhook-id": "f" * 32},
    }  # fmt: skip

    verification = lab.open(tables_of(past)).verify(record([*receipts(past), stranger]))

    assert verification.differences.drop("defect").rows() == [
        ("f" * 32, "client:bolt", "", "unexpected", "", None, "f" * 32, "received")
    ]


def test_a_postback_that_was_kept_back_must_not_be_sent(past: Past, tables_of: Store, record: Record) -> None:
    partition, recorded = next(pair for pair in past.postbacks if pair[1].state == "recorded")
    sent = msgspec.structs.replace(recorded, verb="GET", url="http://bolt.example/hook?order=b2")
    past.attempts.append((partition, attempt_at(sent, past.now_us)))

    verification = lab.open(tables_of(past)).verify(record([*receipts(past), receipt_of(sent)]))

    assert [row[:4] for row in found(verification)] == [
        ("unexpected", "state", "recorded", "sent"),
        ("unexpected", "state", "recorded", "received"),
    ]
    assert verification.verified_equal == 6


@pytest.mark.parametrize(("state", "status", "says"), [
    ("due", 503, "due after attempt 1, status 503"),
    ("dead", 0, "dead after attempt 1"),
])  # fmt: skip
def test_a_postback_whose_attempts_fail_is_not_delivered(
    past: Past, tables_of: Store, state: str, status: int, says: str
) -> None:
    index, partition, postback = to(past, "affiliate:best", "deposit")
    past.attempts[index] = (partition, attempt_at(postback, past.now_us, state=state, status=status, result="x"))

    verification = lab.open(tables_of(past)).verify()

    assert found(verification) == [("not_delivered", "", "delivered", says, "sent")]
    assert (verification.sent, verification.delivered) == (6, 5)


def test_a_postback_nobody_tried_is_not_delivered(past: Past, tables_of: Store) -> None:
    past.attempts.pop(0)

    assert found(lab.open(tables_of(past)).verify()) == [
        ("not_delivered", "", "delivered", "no attempt", "sent")
    ]  # fmt: skip


def test_a_retry_that_succeeds_is_no_difference(past: Past, tables_of: Store) -> None:
    partition, postback = due(past)[0]
    failed = attempt_at(postback, past.now_us, state="due", status=500, result="server_error")
    past.attempts[0] = (partition, attempt_at(postback, past.now_us, number=2))
    past.attempts.insert(0, (partition, failed))

    verification = lab.open(tables_of(past)).verify()

    assert verification.ok
    assert (verification.attempts, verification.delivered) == (7, 6)


def test_other_rules_show_what_would_have_been_sent_differently(past: Past, tables_of: Store) -> None:
    verification = lab.open(tables_of(past)).verify(rules=RULES.replace('percent = "25"', 'percent = "20"'))

    assert ("different", "payout", "10.00", "12.50", "stored") in found(verification)
    assert verification.basis.startswith("replay with ")


def test_a_log_that_begins_in_mid_stream_is_checked_against_its_stored_promises(past: Past, tables_of: Store) -> None:
    past.entries = [entry for entry in past.entries if entry.partition != 3 or entry.seq > 2]

    verification = lab.open(tables_of(past)).verify()

    assert verification.ok
    assert verification.basis == "stored promises"
    assert "mid-stream" in verification.warnings[0]


@pytest.mark.parametrize("line", ["not json", "{}", '{"method": "GET"}', "[1]"])
def test_a_record_that_cannot_be_read_is_named_with_its_line(
    past: Past, tables_of: Store, tmp_path: Path, line: str
) -> None:
    path = tmp_path / "received.jsonl"
    path.write_text(json.dumps(receipt_of(due(past)[0][1])) + "\n" + line + "\n", encoding="utf-8")

    with pytest.raises(LabError, match=r"received\.jsonl line 2 is no request"):
        lab.open(tables_of(past)).verify(path)


def test_a_missing_record_is_one_clear_line(past: Past, tables_of: Store, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"nothing\.jsonl cannot be read: No such file"):
        lab.open(tables_of(past)).verify(tmp_path / "nothing.jsonl")


def test_the_verdict_with_differences_counts_them_by_kind(past: Past, tables_of: Store) -> None:
    past.attempts = past.attempts[2:]

    verification = lab.open(tables_of(past)).verify()

    assert verification.sentence == "2 differences over 8 expected postbacks: 2 not delivered."
    assert "not_delivered" in repr(verification)
    assert "<td>not_delivered</td>" in verification._repr_html_()


def test_the_address_is_compared_by_host_only_where_both_are_known() -> None:
    here, there = request_to("GET", "http://a.example/x?y=1", ""), request_to("GET", "http://b.example/x?y=1", "")

    assert compare(here, there) == [("host", "a.example", "b.example")]
    assert compare(here, msgspec.structs.replace(there, host="")) == []


def test_every_kind_is_explained() -> None:
    readme = Path(lab.__file__).with_name("README.md").read_text(encoding="utf-8")

    assert [kind for kind in KINDS if f"`{kind}`" not in readme] == []
