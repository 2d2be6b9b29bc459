"""A model of delivery for logs that no service wrote: what arrives at which try, what is late, what a partner has of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from service.archive.schemas import Attempt
from service.engine import Postback, PostbackState

RETRY_SHARE = 0.03  # of the postbacks get a 503 on the first try
WAITS_US = tuple(1_000_000 * seconds for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000))  # as the service's


class Outage(msgspec.Struct, frozen=True):
    """A recipient whose server answers 503 from a time on until another, in microseconds since 1970."""

    recipient: str
    from_us: int
    until_us: int


def deliver(postbacks: Iterable[Postback], outages: Sequence[Outage] = ()) -> list[Attempt]:
    """Everything due arrives, a few at the second try, during an outage at the first try behind it.

    In the order in which the tries ended.
    """
    attempts: list[Attempt] = []
    for postback in postbacks:
        if postback.state == PostbackState.DUE:
            attempts += _tries(postback, [outage for outage in outages if outage.recipient == postback.recipient])
    return sorted(attempts, key=lambda attempt: (attempt.time_us + attempt.duration_us, attempt.postback_id))


def _tries(postback: Postback, outages: Sequence[Outage]) -> Iterator[Attempt]:
    bits = hashlib.sha256(f"delivery {postback.id}".encode()).digest()
    wait_us = 4_000 + int.from_bytes(bits[:2], "big")
    duration_us = 1_500 + int.from_bytes(bits[2:4], "big") // 4
    jitter_us = 10 * int.from_bytes(bits[8:10], "big")
    unlucky = int.from_bytes(bits[4:8], "big") < RETRY_SHARE * 2**32
    time_us = postback.time_us + wait_us
    for number, pause_us in enumerate(WAITS_US, 1):
        down = any(outage.from_us <= time_us < outage.until_us for outage in outages)
        if not down and not (unlucky and number == 1):
            yield _attempt(postback, number, time_us, duration_us)
            return
        due_us = time_us + duration_us + pause_us + jitter_us
        yield msgspec.structs.replace(
            _attempt(postback, number, time_us, duration_us),
            result="server_error", status=503, answer="busy, try again\n", state="due", next_due_us=due_us,
        )  # fmt: skip
        time_us = due_us + wait_us


def _attempt(postback: Postback, number: int, time_us: int, duration_us: int) -> Attempt:
    headers = {"webhook-id": postback.id, "webhook-timestamp": str(time_us // 1_000_000)}
    if postback.body:
        headers["content-type"] = "application/json"
    return Attempt(
        postback.id, number, time_us, postback.recipient, postback.verb, postback.url, postback.body, headers,
        "delivered", 200, "ok\n", "", duration_us, "delivered",
    )  # fmt: skip
