"""One digest over all outcomes: equal if, and only if, everything that the engine said is equal.

SHA-256 over the canonical MessagePack of each (partition, epoch, outcome) in the order of (partition, seq), with the
postbacks of an outcome sorted by id and mappings by key. The same whether the outcomes come from a run or from the tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec

from service.archive.schemas import outcome_of, postback_of
from service.engine import Outcome, Postback

if TYPE_CHECKING:
    from lab.log import Log

Placed = tuple[int, int, Outcome]  # partition, epoch, outcome

_FORMAT = b"backtrack outcomes 1\n"
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def digest(outcomes: Iterable[Placed]) -> str:
    """64 hex digits. outcomes: (partition, epoch, outcome), ordered by partition and seq."""
    total = hashlib.sha256(_FORMAT)
    for placed in outcomes:
        total.update(_encoder.encode(_canonical(placed)))
    return total.hexdigest()


def stored_digest(log: Log) -> str:
    """The digest of what the tables say."""
    return digest(stored_outcomes(log))


def stored_outcomes(log: Log) -> Iterator[Placed]:
    """The decisions of the tables, joined with their postbacks, ordered by partition and seq."""
    for partition in log.cuts["partition"]:
        postbacks = log.rows("postbacks", partition)
        row = next(postbacks, None)
        for decision in log.rows("decisions", partition):
            mine: list[Postback] = []
            while row is not None and row["seq"] <= decision["seq"]:
                mine.append(postback_of(row))  # one of no decision goes to the next: it must not pass unseen
                row = next(postbacks, None)
            yield partition, decision["epoch"], outcome_of(decision, tuple(mine))


def first_difference(run: Iterable[Placed], stored: Iterable[Placed]) -> str | None:
    """The first outcome that differs, as one line: which hit, which field, what was decided and what is stored."""
    for mine, theirs in zip_longest(map(_canonical, run), map(_canonical, stored)):
        if mine != theirs:
            return _describe(mine, theirs)
    return None


def _canonical(placed: Placed) -> Placed:
    partition, epoch, outcome = placed
    if len(outcome.postbacks) > 1:
        ordered = tuple(sorted(outcome.postbacks, key=lambda postback: postback.id))
        outcome = msgspec.structs.replace(outcome, postbacks=ordered)
    return partition, epoch, outcome


def _describe(mine: Placed | None, theirs: Placed | None) -> str:
    if mine is None or theirs is None or mine[0] != theirs[0] or mine[2].seq != theirs[2].seq:
        place = (
            mine
            if theirs is None or (mine is not None and (mine[0], mine[2].seq) < (theirs[0], theirs[2].seq))
            else theirs
        )
        assert place is not None
        verb = "is decided but not stored" if place is mine else "is stored but not decided"
        return f"hit {place[2].hit_id} (partition {place[0]}, entry {place[2].seq}) {verb}"
    where = f"hit {mine[2].hit_id} (partition {mine[0]}, entry {mine[2].seq})"
    if mine[1] != theirs[1]:
        return f"{where}: epoch is {mine[1]}, stored is {theirs[1]}"
    name, value, other = next(_unequal_fields(mine[2], theirs[2]))
    return f"{where}: {name} is {_brief(value)}, stored is {_brief(other)}"


def _unequal_fields(mine: Outcome, theirs: Outcome) -> Iterator[tuple[str, Any, Any]]:
    for name in Outcome.__struct_fields__:
        value, other = getattr(mine, name), getattr(theirs, name)
        if value != other:
            yield name, value, other


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
