"""A partner's record without ids against our postbacks: by postback id, as the very same request, by txid, by click id.

Each request of the record belongs to one postback at most, the more certain way first.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from statistics import median_low

from lab.check import Check
from lab.defects import number_of
from lab.log import LabError
from lab.parameters import Parameters, Request, parameters
from lab.partner_record import Received, meaning_of

_QUARTER_US = 900_000_000
_ID = 32  # hex digits of a postback id


def reconcile(
    check: Check, record: list[Received], hits: Mapping[str, Mapping[str, str]], recipient: str, beyond: frozenset[str]
) -> tuple[str, ...]:
    """Match, compare and report to the check; returns notes for the reader.

    hits: reserved fields of the hits by hit id. recipient: whose record it is, "" to tell by the addresses in it.
    beyond: ids past the end of the log, not judged.
    """
    ours = _Ours(check, _recipients(check, record, recipient), hits)
    matched: list[tuple[Received, str]] = []
    left = []
    for received in record:
        identity = ours.by_id(received) or ours.by_request(received)
        if identity:
            matched.append((received, identity))
        elif not beyond.intersection(received.values.values()):
            left.append(received)
    for meaning in ("txid", "click_id"):
        left = _by_key(ours, meaning, left, matched)
    seen: set[str] = set()
    shift_us = _shift_us(check, matched)
    for received, identity in matched:
        time_us = received.time_us - shift_us if received.time_us else 0
        check.received_as(identity, received.request, time_us, identity not in seen)
        seen.add(identity)
        if received.request is None:
            _compare_row(check, identity, received, ours.values[identity])
    for received in left:
        _stranger(check, ours, received)
    for identity in ours.delivered:
        if identity not in seen:
            check.never_received(identity)
    hours = shift_us / 3_600_000_000
    return (f"the times of the partner's record are {hours:+g} h from ours and were read so",) if shift_us else ()


def _by_key(ours: _Ours, meaning: str, left: list[Received], matched: list[tuple[Received, str]]) -> list[Received]:
    still = []
    for received in left:
        identity = ours.by_key(meaning, received)
        if identity:
            matched.append((received, identity))
        else:
            still.append(received)
    return still


def _stranger(check: Check, ours: _Ours, received: Received) -> None:
    request = received.request
    if request is not None and not check.homes.get(request.address, set()) & ours.recipients:
        check.other += 1
        return
    said = "&".join(f"{name}={value}" for name, value in received.values.items() if value)
    owners = sorted(ours.recipients)
    check.stranger(received.where, owners[0] if len(owners) == 1 else "", said)


def _recipients(check: Check, record: list[Received], recipient: str) -> set[str]:
    """Whose record it is. Raises LabError where that cannot be told."""
    known = {postback.recipient for postback in check.expected.values()}
    if recipient:
        if recipient not in known:
            raise LabError(f"there is no postback to {recipient!r}; the recipients are {', '.join(sorted(known))}")
        return {recipient}
    addresses = {received.request.address for received in record if received.request is not None}
    found = {owner for address in addresses for owner in check.homes.get(address, ())}
    if not found and len(known) > 1:
        raise LabError(f"whose record is it? give the recipient, one of {', '.join(sorted(known))}")
    return found or known


class _Ours:
    """The expected postbacks of some recipients, by everything that a record may name them by."""

    def __init__(self, check: Check, recipients: set[str], hits: Mapping[str, Mapping[str, str]]) -> None:
        self.check, self.recipients = check, recipients
        mine = [postback for postback in check.expected.values() if postback.recipient in recipients]
        self.delivered = [postback.id for postback in mine if postback.id in check.delivered]
        self.values: dict[str, Parameters] = {}
        self._open: dict[tuple[object, ...], deque[str]] = defaultdict(deque)
        self._keys: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._taken: set[str] = set()
        for postback in sorted(mine, key=lambda p: (p.time_us, p.seq)):
            request = check.requests[postback.id]
            said = parameters(request)
            self._open[_same(request, said)].append(postback.id)
            fields = hits.get(postback.hit_id, {})
            known = {
                "postback_id": postback.id, "payout": postback.payout, "currency": postback.currency,
                "event": postback.event,
                **{name: fields[name] for name in ("txid", "click_id", "amount") if name in fields},
            }  # fmt: skip
            self.values[postback.id] = said | {f"={name}": value for name, value in known.items() if value}
            for meaning in ("txid", "click_id"):
                named = {value for name, value in said.items() if meaning_of(name.split(".")[-1]) == meaning}
                for value in sorted({known.get(meaning, ""), *named} - {""}):
                    self._keys[meaning, value].append(postback.id)

    def by_id(self, received: Received) -> str:
        """The postback whose id stands in the request, wherever."""
        for value in received.values.values():
            if len(value) == _ID and value in self.values:
                self._taken.add(value)
                return value
        return ""

    def by_request(self, received: Received) -> str:
        """The postback that is this very request; a repeat of it belongs to the last one."""
        if received.request is None:
            return ""
        key = _same(received.request, received.values)
        waiting = self._open.get(key)
        if not waiting:
            return ""
        identity = waiting[0]
        while waiting and waiting[0] in self._taken:
            waiting.popleft()
        if waiting:
            identity = waiting.popleft()
            self._taken.add(identity)
            if not waiting:
                waiting.append(identity)
        else:
            waiting.append(identity)
        return identity

    def by_key(self, meaning: str, received: Received) -> str:
        """The postback with this txid or click id that is not found yet and says most of the same."""
        candidates = [i for i in self._keys.get((meaning, received.meant(meaning)), ()) if i not in self._taken]
        if not candidates:
            return ""
        best = max(candidates, key=lambda identity: _alike(received, self.values[identity]))
        self._taken.add(best)
        return best


def _same(request: Request, said: Parameters) -> tuple[object, ...]:
    return (request.verb, request.address, tuple(sorted(said.items())))


def _alike(received: Received, ours: Parameters) -> int:
    same = 0
    for name, value in received.values.items():
        meant = ours.get(name, ours.get(f"={received.meanings.get(name, '')}"))
        same += meant is not None and (meant == value or number_of(meant) == number_of(value) is not None)
    return same


def _compare_row(check: Check, identity: str, received: Received, ours: Parameters) -> None:
    """A row of an export, value by value. Its numbers are compared as numbers: an export is no request."""
    for name, value in received.values.items():
        expected = ours.get(name, ours.get(f"={received.meanings[name]}"))
        if expected is None or expected == value:
            continue
        mine = number_of(expected)
        if mine is None or mine != number_of(value):
            check.value(identity, name, expected, value or None)


def _shift_us(check: Check, matched: Iterable[tuple[Received, str]]) -> int:
    """How far the record's clock is from ours, if by whole quarters of an hour: it was written in another time zone."""
    apart = [r.time_us - check.expected[identity].time_us for r, identity in matched if r.time_us]
    if len(apart) < 3:
        return 0
    middle_us = median_low(apart)
    shift_us = round(middle_us / _QUARTER_US) * _QUARTER_US
    return shift_us if abs(middle_us - shift_us) < _QUARTER_US // 3 else 0
