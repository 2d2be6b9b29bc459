"""When the next try is and what an answer means: the ladder, `Retry-After`, and the table of the README."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from service.delivery.ladder import (
    JITTER,
    LADDER_S,
    RESULTS,
    RETRY_AFTER_MAX_S,
    classify,
    next_due_us,
    retry_after_s,
)

README = Path(__file__).parents[2] / "service" / "delivery" / "README.md"
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1_000_000)


def test_the_ladder_is_that_of_standard_webhooks() -> None:
    minutes, hours = 60, 3600
    rungs = (0, 5, 5 * minutes, 30 * minutes, 2 * hours, 5 * hours, 10 * hours, 14 * hours, 20 * hours, 24 * hours)
    assert rungs == LADDER_S


@pytest.mark.parametrize("tries", range(1, len(LADDER_S)))
def test_every_rung_lies_within_the_jitter(tries: int) -> None:
    # given many waits after the same number of tries
    waits = [(next_due_us(tries, NOW_US) - NOW_US) / 1e6 for _ in range(300)]
    # then all lie around the rung, on both sides of it and not all at one time
    rung = LADDER_S[tries]
    assert rung * (1 - JITTER) <= min(waits) < rung < max(waits) <= rung * (1 + JITTER)


def test_after_the_last_rung_there_is_no_further_try() -> None:
    assert next_due_us(len(LADDER_S), NOW_US) == 0
    assert next_due_us(len(LADDER_S) + 1, NOW_US) == 0
    assert next_due_us(len(LADDER_S), NOW_US, retry_after_s=5) == 0


@pytest.mark.parametrize(
    ("tries", "asked_s", "least_s", "most_s"),
    [
        (1, 120, 120, 120),  # later than the rung: as asked
        (1, 0, 4, 6),  # sooner than the rung: the rung
        (3, 60, 1440, 2160),
        (1, 10 * RETRY_AFTER_MAX_S, RETRY_AFTER_MAX_S, RETRY_AFTER_MAX_S),  # bounded
    ],
)
def test_a_recipient_may_ask_for_later_but_not_for_ever(tries: int, asked_s: int, least_s: int, most_s: int) -> None:
    wait_s = (next_due_us(tries, NOW_US, asked_s) - NOW_US) / 1e6
    assert least_s <= wait_s <= most_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120),
        ("0", 0),
        ("999999999999999999999", 999_999_999),
        (format_datetime(NOW + timedelta(minutes=5), usegmt=True), 300),
        ("Mon, 02 Mar 2026 12:05:00 GMT", 300),
        ("Mon, 02 Mar 2026 13:05:00 +0100", 300),
        ("Mon, 02 Mar 2026 12:05:00", 300),
        ("Mon, 02 Mar 2026 11:00:00 GMT", 0),  # past: at once
        ("-5", None),
        ("1.5", None),
        ("٣", None),  # a digit, but none of RFC 9110
        ("soon", None),
        ("Mon, 99 Foo 2026 12:05:00 GMT", None),
        ("Mon, 02 Mar 99999 12:05:00 GMT", None),
        ("Mon, 02 Mar 2026 12:05:00 +9999999999", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 251_629_934_339),  # past the last day that there is
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: int | None) -> None:
    assert retry_after_s(value, NOW_US) == seconds


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, "delivered"), (201, "delivered"), (204, "delivered"), (299, "delivered"),
        (300, "redirect"), (301, "redirect"), (302, "redirect"), (304, "redirect"), (307, "redirect"), (308, "redirect"),
        (400, "refused"), (401, "refused"), (403, "refused"), (404, "refused"), (409, "refused"), (422, "refused"),
        (499, "refused"), (410, "gone"), (408, "busy"), (425, "busy"), (429, "busy"),
        (500, "server_error"), (502, "server_error"), (503, "server_error"), (504, "server_error"), (599, "server_error"),
        (600, "server_error"), (999, "server_error"), (100, "server_error"), (199, "server_error"),
    ],
)  # fmt: skip
def test_every_status_has_its_class(status: int, result: str) -> None:
    assert classify(status) == result


def test_the_readme_lists_exactly_the_classes_that_there_are_with_their_next_step() -> None:
    # given the table of the README: class, meaning, next step
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (\w+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    # then it says what the code does, in the same order, and every class has a meaning of its own
    assert [(result, step) for result, _, step in rows] == list(RESULTS.items())
    assert len({meaning for _, meaning, _ in rows}) == len(rows)


def test_the_readme_says_the_ladder() -> None:
    found = re.search(r"^Tries: (.+)\.$", README.read_text(encoding="utf-8"), re.MULTILINE)
    units = {"s": 1, "min": 60, "h": 3600}
    assert found is not None
    said = [0 if part == "at once" else int(part.split()[0]) * units[part.split()[1]] for part in found[1].split(", ")]
    assert tuple(said) == LADDER_S
