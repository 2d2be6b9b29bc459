"""Sample cases of a comparison, each with its why: what the engine says about the hit by either rulebook."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from lab.compare_runs import Side
from lab.parameters import compare as compare_requests
from lab.parameters import request_to
from lab.replay import Stream
from service.archive.schemas import microseconds
from service.engine import Entry, Rulebook, process
from service.engine.explain import Story, explain
from service.engine.trail import Place, Trail

if TYPE_CHECKING:
    from lab.log import Log

Row = dict[str, Any]
Difference = tuple[str, str | None, str | None]  # parameter, before, after

EACH = 3  # cases per kind and trigger
MOST = 60  # cases in all


class Case(msgspec.Struct, frozen=True):
    """One postback that is gained, lost or changed.

    client, affiliate, trigger, recipient, hit_id: whose and which. payout_before, payout_after: decimals as texts, ""
    without one, in `currency`. before, after: why the trigger fired or did not, by either rulebook, in words; "" if the
    log is too long to tell. differences: (parameter, before, after) of a changed one. time: of the hit, UTC.

    >>> sorted({case.kind for case in what.cases})
    ['changed']
    """

    kind: str
    client: str
    affiliate: str
    trigger: str
    recipient: str
    hit_id: str
    time: str
    payout_before: str
    payout_after: str
    currency: str
    before: str = ""
    after: str = ""
    differences: tuple[Difference, ...] = ()


def sample(kinds: dict[str, pl.DataFrame]) -> list[tuple[str, Row]]:
    """(kind, row) of up to three postbacks per kind and trigger, the first of the log, one per hit."""
    found = []
    for kind, frame in kinds.items():
        first = frame.unique(["hit_id", "trigger"], keep="first", maintain_order=True)
        chosen = first.filter(pl.int_range(pl.len()).over("client", "trigger") < EACH)
        found += [(kind, row) for row in chosen.iter_rows(named=True)]
    return found[:MOST]


def whole_case(kind: str, row: Row, before: str = "", after: str = "") -> Case:
    """A case out of a row of gained, lost or changed."""
    payouts = (row["payout_before"], row["payout_after"]) if kind == "changed" else (
        ("", row["payout"]) if kind == "gained" else (row["payout"], "")
    )  # fmt: skip
    differences = tuple(differences_of(row)) if kind == "changed" else ()
    mine, theirs = (f"{value:f}" if value not in (None, "") else "" for value in payouts)
    return Case(
        kind, row["client"], row["affiliate"], row["trigger"], row["recipient"], row["hit_id"],
        f"{row['time']:%Y-%m-%d %H:%M:%S}", mine, theirs, row["currency"], before, after, differences,
    )  # fmt: skip


PLAIN = ("state", "method", "affiliate", "payout", "currency", "test")  # what is compared beside the request


def differences_of(row: Row) -> Iterator[Difference]:
    """What is different in a changed postback: its request parameter by parameter, then the rest of the promise."""
    sides = [request_to(row[f"verb_{side}"], row[f"url_{side}"], row[f"body_{side}"]) for side in ("before", "after")]
    seen = set()
    for parameter, mine, theirs in compare_requests(*sides):
        seen.add(parameter)
        yield parameter, mine, theirs
    for name in PLAIN:
        mine, theirs = row[f"{name}_before"], row[f"{name}_after"]
        if mine != theirs and name not in seen:
            yield name, None if mine is None else str(mine), None if theirs is None else str(theirs)


def explain_cases(
    log: Log, before: Rulebook | None, after: Rulebook | None, chosen: list[tuple[str, Row]]
) -> list[Case]:
    """The cases with their why. The partitions they stand in are decided again by both rulebooks up to the last case."""
    wanted: dict[int, dict[int, None]] = {}
    for _, row in chosen:
        wanted.setdefault(row["partition"], {})[row["seq"]] = None
    told: dict[tuple[int, int], tuple[tuple[Story, Rulebook], ...]] = {}
    for partition, seqs in wanted.items():
        told.update(_tell(log, partition, set(seqs), before, after))
    cases = []
    for kind, row in chosen:
        sides = told.get((row["partition"], row["seq"]), ())
        cases.append(whole_case(kind, row, *(why(story, row["trigger"], book) for story, book in sides)))
    return cases


def _tell(
    log: Log, partition: int, seqs: set[int], before: Rulebook | None, after: Rulebook | None
) -> Iterator[tuple[tuple[int, int], tuple[tuple[Story, Rulebook], ...]]]:
    """The stories of some hits of a partition, by either side, each told before the hit is decided."""
    sides = [Side(log, before), Side(log, after)]
    place = lru_cache(maxsize=None)(lambda seq: _place(log, partition, seq))
    trails = [Trail(place), Trail(place)]
    for side in sides:
        side.begin(partition)
    last = max(seqs)
    for entry in Stream(log, partition).entries():
        if entry.seq > last:
            break
        if entry.hit is None:
            for side in sides:
                side.switch(entry.rulebook_id)
        elif entry.seq in seqs:
            yield (partition, entry.seq), tuple(_stories(entry, sides, trails))
        else:
            for side, trail in zip(sides, trails, strict=True):
                trail.note(process(entry, side.state, side.rulebook))


def _stories(entry: Entry, sides: list[Side], trails: list[Trail]) -> Iterator[tuple[Story, Rulebook]]:
    for side, trail in zip(sides, trails, strict=True):
        yield explain(entry, side.state, side.rulebook, trail), side.rulebook
        trail.note(process(entry, side.state, side.rulebook))


def _place(log: Log, partition: int, seq: int) -> Place | None:
    here = (pl.col("partition") == partition) & (pl.col("seq") == seq)
    rows = log.hits.filter(here).select("hit_id", "time").head(1).collect().rows()
    return (rows[0][0], microseconds(rows[0][1])) if rows else None


def why(story: Story, trigger: str, rulebook: Rulebook) -> str:
    """Why this trigger fired or did not, in one or two sentences."""
    if story.verdict != "accepted":
        return " ".join(story.says[:2])
    for one in story.triggers:
        if one.name == trigger:
            if one.stage == "fired":
                return f"It {one.says}"
            return f"It did not fire ({one.stage}): {one.says}."
    return f"Rulebook {rulebook.id} has no trigger {trigger}."
