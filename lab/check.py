"""The comparison at work: expected postbacks followed through the table, the attempts and the partner's record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property
from typing import Any

import polars as pl

from lab.defects import defect_of
from lab.parameters import Request, compare, fingerprint, request_to
from lab.receipts import Receipt
from service.archive.schemas import microseconds
from service.engine import Postback, PostbackState
from service.engine.rulebook import BROWSER_METHODS

# postback_id, recipient, trigger, kind, parameter, expected, found, place
Finding = tuple[str, str, str, str, str, "str | None", "str | None", str]
LATE_US = 900_000_000  # 15 minutes: behind the second retry, before the third

KINDS = {
    "missing": "expected, and not there",
    "unexpected": "there, and not expected",
    "wrong_recipient": "gone to another recipient than expected",
    "different": "a parameter, the verb or the address is another",
    "doubled": "a second id for the same hit, trigger and recipient",
    "not_delivered": "promised, and no attempt has succeeded",
    "late": "delivered, or received, later than allowed",
}
_IN_THE_REQUEST = {"id", "verb", "url", "body"}


class Check:
    """The comparison at work: one method per place, each in the order of the road; findings and counts add up."""

    def __init__(self, expected: list[Postback], late_us: int = LATE_US) -> None:
        self.late_us = late_us
        self.expected = {postback.id: postback for postback in expected}
        self.requests = {p.id: request_to(p.verb, p.url, p.body) for p in expected}
        self.states = Counter(postback.state for postback in self.expected.values())
        self.findings: dict[Finding, None] = {}  # an ordered set: one defect is named once
        self.faulty: set[str] = set()  # expected postbacks with a finding
        self.sent: set[str] = set()
        self.delivered: set[str] = set()
        self.attempted = self.received = self.repeated = self.other = 0
        self._judged: dict[str, str] = {}  # ids that nobody expects and that were named already: where
        self._messages = {(p.hit_id, p.trigger, p.recipient): p.id for p in expected}
        self.homes: dict[str, set[str]] = {}  # address -> recipients that live there
        for identity, request in self.requests.items():
            if request.verb:
                self.homes.setdefault(request.address, set()).add(self.expected[identity].recipient)

    @cached_property
    def _twins(self) -> dict[tuple[str, ...], str]:
        return {fingerprint(request, identity): identity for identity, request in self.requests.items()}

    def promises(self, stored: list[Postback]) -> None:
        """The table `postbacks` against the expected ones."""
        times = Counter(postback.id for postback in stored)
        for found in {postback.id: postback for postback in stored}.values():
            wanted = self.expected.get(found.id)
            if wanted is None:
                self._stranger(
                    found.id, found.recipient, found.trigger, "stored", (found.hit_id, found.trigger, found.recipient)
                )
                continue
            if times[found.id] > 1:
                self._find(wanted, "doubled", "rows", "1", str(times[found.id]), "stored")
            if found != wanted:
                self._promise(wanted, found)
        for identity, wanted in self.expected.items():
            if identity not in times:
                self._find(wanted, "missing", "", wanted.url or wanted.state, None, "stored")

    def _promise(self, wanted: Postback, found: Postback) -> None:
        for name in Postback.__struct_fields__:
            mine, theirs = getattr(wanted, name), getattr(found, name)
            if mine != theirs and name not in _IN_THE_REQUEST:
                kind = "wrong_recipient" if name == "recipient" else "different"
                self._find(wanted, kind, name, _text(mine), _text(theirs), "stored")
        self._request(wanted, request_to(found.verb, found.url, found.body), "stored")

    def attempts(self, frame: pl.DataFrame) -> None:
        """The attempts against the expected postbacks."""
        last: dict[str, str] = {}
        for row in frame.select(
            "postback_id", "recipient", "verb", "url", "body", "number", "status", "state", "time"
        ).iter_rows():
            identity, recipient, verb, url, body, number, status, state, time = row
            self.attempted += 1
            request = request_to(verb, url, body)
            wanted = self.expected.get(identity)
            if wanted is None:
                self._unexpected(identity, recipient, request, "sent")
                continue
            self.sent.add(identity)
            last[identity] = f"{state} after attempt {number}" + (f", status {status}" if status else "")
            if state in ("delivered", "handed_out"):
                self.repeated += identity in self.delivered
                if identity not in self.delivered:
                    self._time(wanted, microseconds(time), "sent")
                self.delivered.add(identity)
            if recipient != wanted.recipient:
                self._find(wanted, "wrong_recipient", "recipient", wanted.recipient, recipient, "sent")
            self._message(wanted, request, "sent")
        for identity, wanted in self.expected.items():
            if wanted.state == PostbackState.DUE and identity not in self.delivered:
                self._find(wanted, "not_delivered", "", "delivered", last.get(identity, "no attempt"), "sent")

    def receipts(self, receipts: Iterable[Receipt], beyond: frozenset[str], behind_us: int = 0) -> None:
        """What the partner received against the expected postbacks.

        beyond: ids past the end of the log, not judged. behind_us: how much the partner's clock is behind ours.
        """
        seen: set[str] = set()
        self.repeated = 0  # the partner knows best
        for receipt in receipts:
            identity = receipt.headers.get("webhook-id", "")
            if not identity or identity in beyond:
                self.other += 1
                continue
            self.received += 1
            first = identity not in seen
            self.repeated += not first
            seen.add(identity)
            wanted = self.expected.get(identity)
            if wanted is None:
                recipients = sorted(self.homes.get(receipt.request.address, ()))
                self._unexpected(identity, recipients[0] if len(recipients) == 1 else "", receipt.request, "received")
            else:
                self._message(wanted, receipt.request, "received")
                if receipt.time_us and first:
                    self._time(wanted, receipt.time_us + behind_us, "received")
        by_browsers = {one.id for one in self.expected.values() if one.method in BROWSER_METHODS}  # without our headers
        for identity in sorted(self.delivered - seen - by_browsers):
            self.never_received(identity)

    def received_as(self, identity: str, request: Request | None, time_us: int, first: bool) -> None:
        """One request of a record without ids that was found to belong to an expected postback."""
        self.received += 1
        self.repeated += not first
        wanted = self.expected[identity]
        if request is not None:
            self._message(wanted, request, "received")
        if time_us and first:
            self._time(wanted, time_us, "received")

    def value(self, identity: str, parameter: str, expected: str | None, found: str | None) -> None:
        """One value that the partner has otherwise."""
        self._find(self.expected[identity], "different", parameter, expected, found, "received")

    def never_received(self, identity: str) -> None:
        """Delivered, as far as this side knows, and not in the partner's record."""
        wanted = self.expected[identity]
        self._find(wanted, "missing", "", wanted.url, None, "received")

    def stranger(self, identity: str, recipient: str, what: str) -> None:
        """In the partner's record, and nothing of ours: identity says where it stands."""
        self.received += 1
        self.findings[(identity, recipient, "", "unexpected", "", None, what, "received")] = None

    def _time(self, wanted: Postback, time_us: int, place: str) -> None:
        """When the message got through for the first time."""
        if self.late_us and time_us - wanted.time_us > self.late_us:
            self._find(wanted, "late", "time", _span(self.late_us), _span(time_us - wanted.time_us), place)

    def _message(self, wanted: Postback, request: Request, place: str) -> None:
        """One message that left the house under the id of an expected postback."""
        if wanted.state != PostbackState.DUE:
            self._find(wanted, "unexpected", "state", wanted.state, place, place)
        else:
            self._request(wanted, request, place)

    def _request(self, wanted: Postback, request: Request, place: str) -> None:
        for parameter, mine, theirs in compare(self.requests[wanted.id], request):
            strangers = self.homes.get(request.address, set()) if parameter == "path" else set()
            kind = "wrong_recipient" if strangers and wanted.recipient not in strangers else "different"
            self._find(wanted, kind, parameter, mine, theirs, place)

    def _unexpected(self, identity: str, recipient: str, request: Request, place: str) -> None:
        """A message under an id that nobody expects: the double of an expected one, or a stranger."""
        twin = self._twins.get(fingerprint(request, identity))
        message = None
        if twin is not None:
            wanted = self.expected[twin]
            message = (wanted.hit_id, wanted.trigger, wanted.recipient)
        self._stranger(identity, recipient, "", place, message)

    def _stranger(
        self, identity: str, recipient: str, trigger: str, place: str, message: tuple[str, str, str] | None
    ) -> None:
        if self._judged.setdefault(identity, place) != place:
            return
        own = self._messages.get(message) if message is not None else None
        if own is None:
            self.findings[(identity, recipient, trigger, "unexpected", "", None, identity, place)] = None
            return
        wanted = self.expected[own]
        self.faulty.add(own)
        row = (identity, wanted.recipient, wanted.trigger, "doubled", "postback_id", own, identity, place)
        self.findings[row] = None

    def _find(
        self, wanted: Postback, kind: str, parameter: str, expected: str | None, found: str | None, place: str
    ) -> None:
        self.faulty.add(wanted.id)
        row = (wanted.id, wanted.recipient, wanted.trigger, kind, parameter, expected, found)
        if not any((*row, earlier) in self.findings for earlier in ("stored", "sent", "received")):
            self.findings[(*row, place)] = None


def _span(span_us: int) -> str:
    return f"{timedelta(seconds=span_us // 1_000_000)}"


def defects_of(findings: Iterable[Finding]) -> list[str]:
    """The defect behind each finding, see `lab.defects`; swaps are seen by looking at all of them."""
    rows = list(findings)
    values = {(row[4], row[5], row[6]) for row in rows if row[3] == "different"}
    inside = {(row[0], row[7], row[5], row[6]) for row in rows if row[3] == "different"}
    return [_defect(row, values, inside) for row in rows]


def _defect(row: Finding, values: set[Any], inside: set[Any]) -> str:
    identity, _, _, kind, parameter, expected, found, place = row
    if kind == "missing":
        return "missing_there" if place == "received" else "missing_here"
    if kind != "different":
        return kind
    if (identity, place, found, expected) in inside:
        return "swapped"  # the other half stands in this very message
    named = defect_of(parameter, expected, found)
    if named in ("other_value", "truncated") and (parameter, found, expected) in values:
        return "swapped"  # the other half stands in another message
    return named


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
