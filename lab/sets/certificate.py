"""The parity certificate: some of the plain visitors, decided once more by the reference engine and compared.

A difference is an error that shows the visitor with the fewest hits among those that differ.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import msgspec
import polars as pl

from lab.digest import first_difference
from lab.log import LabError
from lab.sets.events import PLACE, Source
from lab.sets.hard import decide, lift_caps
from lab.sets.unite import without_capped
from lab.show import plural
from service.engine import Entry, Outcome

SAMPLE_HITS = 500


class SetDifference(LabError):
    """The two engines differ. The message shows the smallest case: the difference, then the hits of the visitor."""

    status = 1  # nothing that a person gave is wrong: the check failed


class Certificate(msgspec.Struct, frozen=True):
    """What a run by sets has to say about itself.

    hits: of the log. visitors: plain ones that were worked out by sets. hard: hits that went through the reference engine.
    sampled, sampled_visitors: what was decided by both. differences: always 0, since one is an error.
    """

    hits: int
    visitors: int
    hard: int
    sampled: int
    sampled_visitors: int
    differences: int = 0

    def __add__(self, other: Certificate) -> Certificate:
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Certificate(*map(operator.add, mine, theirs))

    def __str__(self) -> str:
        return (
            f"parity: {plural(self.hits, 'hit')}, {plural(self.visitors, 'visitor')} by sets, "
            f"{plural(self.hard, 'hit')} of hard visitors by the reference engine; "
            f"{plural(self.sampled, 'hit')} of {plural(self.sampled_visitors, 'plain visitor')} by both, "
            f"{plural(self.differences, 'difference')}"
        )


def check(
    source: Source, mine: Mapping[int, Outcome], capped: set[tuple[int, int]], hits: int, everything: bool
) -> tuple[int, int]:
    """How many hits and visitors were decided by both engines. Raises SetDifference.

    mine: by ord the outcomes told by sets: all, or (everything is False) those on which something fired.
    """
    members = _sample(source, hits)
    if members.is_empty():
        return 0, 0
    entries = source.entries(members)
    query = "SELECT ord, earlier FROM twice JOIN wanted_places USING (ord) WHERE earlier IS NOT NULL"
    earlier = dict(source.session.rows(query))
    wrong: set[int] = set()
    for place, _, outcome in decide(entries, earlier, lift_caps(source.rulebook)):
        expected = without_capped(outcome, place, capped, source.rulebook)
        if not everything:  # the parser's words about identifiers that were none are not fetched for a few firings
            expected = msgspec.structs.replace(expected, detail="")
        if (everything or expected.fired or place in mine) and mine.get(place) != expected:
            wrong.add(place)
    if wrong:
        raise _smallest(source, members, dict(entries), mine, wrong)
    return members["ord"].n_unique(), members["label"].n_unique()


def _sample(source: Source, hits: int) -> pl.DataFrame:
    """label and ord of whole groups, drawn by a hash, about so many hits."""
    return source.session.frame(
        "WITH sizes AS (SELECT label, count(DISTINCT ord) AS hits FROM views GROUP BY label), "
        "drawn AS (SELECT label, sum(hits) OVER (ORDER BY hash(label) ROWS UNBOUNDED PRECEDING) AS so_far FROM sizes) "
        f"SELECT DISTINCT label, ord FROM views JOIN drawn USING (label) WHERE so_far <= {hits}"
    )


def _smallest(
    source: Source, members: pl.DataFrame, entries: Mapping[int, Entry], mine: Mapping[int, Outcome], wrong: set[int]
) -> SetDifference:
    sizes = members.with_columns(size=pl.len().over("label")).filter(pl.col("ord").is_in(sorted(wrong)))
    label = sizes.sort("size", "label").row(0, named=True)["label"]
    places = members.filter(pl.col("label") == label)["ord"].sort().to_list()
    again = decide([(place, entries[place]) for place in places], {}, lift_caps(source.rulebook))
    theirs = [(place // PLACE, epoch, outcome) for place, epoch, outcome in again if place in wrong]
    ours = [(place // PLACE, epoch, mine[place]) for place, epoch, _ in again if place in wrong and place in mine]
    lines = [f"the set engine differs from the reference engine: {first_difference(ours, theirs)}"]
    for place in places:
        entry = entries[place]
        assert entry.hit is not None
        request = _shown(entry.hit.path, entry.hit.query)
        lines.append(f"  entry {entry.seq} at {entry.time_us}: {entry.hit.method} {request}")
    return SetDifference("\n".join(lines))


def _shown(path: bytes, query: bytes) -> str:
    return (path + b"?" + query if query else path).decode(errors="backslashreplace")[:500]
