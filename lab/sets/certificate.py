"""The parity certificate: some of the plain visitors, decided once more by the reference engine and compared.

A difference is an error that shows the visitor with the fewest hits among those that differ.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

import msgspec
import polars as pl

from lab.digest import first_difference
from lab.log import LabError
from lab.sets.events import Source
from lab.sets.hard import Decided, decide, lift_caps
from lab.sets.spans import PLACE
from lab.sets.stored import Known
from lab.sets.unite import without_capped
from lab.show import plural
from service.engine import Outcome, Postback, parse

SAMPLE_HITS = 500


class SetDifference(LabError):
    """The two engines differ. The message shows the smallest case: the difference, then the hits of the visitor."""

    status = 1  # nothing that a person gave is wrong: the check failed


class Certificate(msgspec.Struct, frozen=True):
    """What a run by sets has to say about itself.

    hits: of the log. visitors: plain ones that were worked out by sets. hard: hits that went through the reference engine.
    sampled, sampled_visitors: what was decided by both. differences: always 0, since one is an error.

    >>> by_sets.certificate.hits == log.replay().hits
    True
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


class Check:
    """A sample of the plain visitors through both engines. hits, visitors: how many were decided by both."""

    def __init__(self, source: Source, events: pl.DataFrame, views: pl.DataFrame, hits: int) -> None:
        self._source = source
        drawn = _sample(views, hits)
        self._members = drawn.with_columns(events[name].gather(drawn["row"]).alias(name) for name in ("ord", "at"))
        self.rows = drawn["row"].unique()
        self.hits = self.rows.len()
        self.visitors = self._members["label"].n_unique()

    def sample(self, known: Iterable[Known]) -> list[Known]:
        """The sample; on the page with most of its hits the requests themselves are read once more. known: its hits."""
        found = {hit[0]: hit for hit in known}
        hits = self._members.select("ord", "at").unique().sort("at")
        pages = [mine for _, mine in self._source.pages.sought(hits)]
        for place, entry in self._source.entries(max(pages, key=len)) if pages else ():
            assert entry.hit is not None
            found[place] = place, entry, parse(entry.hit, self._source.rulebook)
        return [found[place] for place in sorted(found)]

    def compare(
        self, sample: list[Known], outcomes: Iterable[Decided] | None, letters: pl.DataFrame, lost: pl.DataFrame,
        earlier: dict[int, int],
    ) -> None:  # fmt: skip
        """Raises SetDifference. outcomes: all by sets, or None: then the letters count.

        lost: number and ord of what a cap stops. earlier: see `lab.sets.hard`.
        """
        if not self.hits:
            return
        source, capped = self._source, set(lost.iter_rows())
        decided = decide(sample, earlier, lift_caps(source.rulebook))
        theirs = {place: without_capped(outcome, place, capped, source.rulebook) for place, _, outcome in decided}
        mine = _outcomes(outcomes, letters, theirs)
        wrong = {place for place in theirs if mine[place] != theirs[place]}
        if wrong:
            raise _smallest(source, self._members, mine, theirs, wrong)


def _outcomes(
    outcomes: Iterable[Decided] | None, letters: pl.DataFrame, theirs: Mapping[int, Outcome]
) -> dict[int, Outcome | None]:
    """What sets say about the sample. Without outcomes it is theirs with our postbacks."""
    if outcomes is not None:
        told: dict[int, Outcome | None] = {place: outcome for place, _, outcome in outcomes if place in theirs}
        return {place: told.get(place) for place in theirs}
    posted: dict[int, list[Postback]] = {}
    for row in letters.filter(pl.col("ord").is_in(list(theirs))).sort("ord", "place").iter_rows(named=True):
        place = row.pop("ord")
        del row["number"], row["place"]
        made = Postback(time_us=row.pop("t"), seq=place % PLACE, missing=tuple(row.pop("missing")), **row)
        posted.setdefault(place, []).append(made)
    return {
        place: msgspec.structs.replace(outcome, postbacks=tuple(posted.get(place, ())))
        for place, outcome in theirs.items()
    }


def _sample(views: pl.DataFrame, hits: int) -> pl.DataFrame:
    """label and row of whole groups, drawn by a hash, about so many hits."""
    share = hits / max(1, views.height)
    drawn = views.select("label", "row").filter(pl.col("label").hash(7) < min(share, 1.0) * 2.0**64)
    return drawn.unique()


def _smallest(
    source: Source, members: pl.DataFrame, mine: Mapping[int, Outcome | None], theirs: Mapping[int, Outcome],
    wrong: set[int],
) -> SetDifference:  # fmt: skip
    sizes = members.with_columns(size=pl.len().over("label")).filter(pl.col("ord").is_in(sorted(wrong)))
    label = sizes.sort("size", "label").row(0, named=True)["label"]
    entries = dict(source.entries(members.filter(pl.col("label") == label)))
    places = sorted(entries)
    reference = [(place // PLACE, entries[place].epoch, theirs[place]) for place in places if place in wrong]
    found = [(place, mine[place]) for place in places if place in wrong]
    ours = [(place // PLACE, entries[place].epoch, outcome) for place, outcome in found if outcome is not None]
    lines = [f"the set engine differs from the reference engine: {first_difference(ours, reference)}"]
    for place in places:
        entry = entries[place]
        assert entry.hit is not None
        request = _shown(entry.hit.path, entry.hit.query)
        lines.append(f"  entry {entry.seq} at {entry.time_us}: {entry.hit.method} {request}")
    return SetDifference("\n".join(lines))


def _shown(path: bytes, query: bytes) -> str:
    return (path + b"?" + query if query else path).decode(errors="backslashreplace")[:500]
