"""What every method of delivery has in common: a request, an answer, and the record of a try.

A method prepares a request, calls, and classifies the answer; `attempt_of` makes the record and says what is next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import msgspec

from service.archive.schemas import Attempt
from service.delivery.ladder import DELIVERED, FINAL, RESULTS, next_due_us, retry_after_s
from service.engine.model import Postback
from service.engine.rulebook import Affiliate, Client

MASK = "(masked)"
USERINFO = re.compile(r"(?<=://)[^/?#\s@]*@")
Owner = Client | Affiliate | None


class Request(msgspec.Struct, frozen=True):
    """A request ready to be sent. secrets: what must stand in no record, by the name of the header that carries it."""

    verb: str
    url: str
    headers: dict[str, str]
    body: str
    secrets: dict[str, str] = {}


class Answer(msgspec.Struct, frozen=True):
    """What came of a call: a result class of `ladder.RESULTS`, and the answer if there was one."""

    result: str
    status: int = 0
    head: str = ""
    error: str = ""
    retry_after: str | None = None


class Method(Protocol):
    """One way to deliver. It never raises for what a recipient can do, and knows nothing about queues or Redis."""

    async def deliver(self, postback: Postback, owner: Owner, now_us: int) -> tuple[Request, Answer]:
        """Prepare, call, classify. owner: the recipient in the rulebook in force, None if it is there no more."""

    async def close(self) -> None:
        """Let go of connections."""


def attempt_of(
    postback: Postback, request: Request, answer: Answer, number: int, started_us: int, duration_us: int, base: int = 0
) -> Attempt:
    """The record of a try, with the state of the postback after it. base: tries that count no more for the ladder."""
    state, due_us = state_after(answer, number - base, started_us + duration_us)
    hidden = tuple(request.secrets.values())
    return Attempt(
        postback.id, number, started_us, postback.recipient, request.verb, _without(request.url, hidden),
        request.body, masked(request.headers, request.secrets), answer.result, answer.status,
        _without(answer.head, hidden), _without(answer.error, hidden), duration_us, state, due_us,
    )  # fmt: skip


def state_after(answer: Answer, number: int, now_us: int) -> tuple[str, int]:
    """State of the postback and time of the next try (0: none) after the try `number` of the ladder with this answer."""
    step = RESULTS[answer.result]
    if step == DELIVERED:
        return "delivered", 0
    if step == FINAL:
        return "failed", 0
    due_us = next_due_us(number, now_us, retry_after_s(answer.retry_after, now_us))
    return ("due", due_us) if due_us else ("dead", 0)


def masked(headers: Mapping[str, str], secrets: Mapping[str, str] | None = None) -> dict[str, str]:
    """Headers for the record: what could be used to act for us is not kept."""
    hidden = {"authorization", "proxy-authorization", "cookie", *(secrets or {})}
    return {name: MASK if name in hidden else value for name, value in headers.items()}


def _without(text: str, secrets: tuple[str, ...]) -> str:
    """The text without secrets and without the user and password of an address."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return USERINFO.sub(f"{MASK}@", text) if "@" in text else text
