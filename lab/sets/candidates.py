"""Whom a trigger could concern at all: most visitors can be left out before anything about them is worked out.

A group matters if it holds a trigger's event while the trigger is active, and every event that must have come before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from lab.sets.conditions import needed_events
from lab.sets.people import People
from service.engine.conditions import syntax
from service.engine.rulebook import Rulebook, Trigger


def chosen_rows(
    events: pl.DataFrame, people: People, names: dict[str, int], rulebook: Rulebook, triggers: Sequence[Trigger],
    doubtful: pl.Series,
) -> pl.DataFrame:  # fmt: skip
    """label and row of all valid hits of the groups that matter, sorted: those with a candidate or a doubtful row."""
    cids = {name: cid for cid, name in enumerate(rulebook.clients)}
    having = _Having(events, people)
    labels = [people.labels.gather(doubtful)]
    for client, event, needed in kinds(triggers):
        found = having.labels(cids[client], names[event])
        for other in needed:
            found = found.filter(found.is_in(having.labels(cids[client], names[other]).implode()))
        labels.append(found)
    mask = pl.repeat(False, events.height, eager=True)
    wanted = pl.concat(labels)
    mask = mask.scatter(wanted, True) if wanted.len() else mask
    return all_rows(events, people, mask.gather(people.labels))


def all_rows(events: pl.DataFrame, people: People, mask: pl.Series | None = None) -> pl.DataFrame:
    """label and row of all valid hits that are no tests, sorted. mask: by row, only these."""
    rows = pl.DataFrame(
        {"label": people.labels, "mask": pl.repeat(True, events.height, eager=True) if mask is None else mask}
    )
    valid = events["reason"].is_null() & ~events["test"]
    return (
        rows.with_row_index("row")
        .filter(valid & rows["mask"])
        .select("label", "row")
        .sort("label", maintain_order=True)
    )


class _Having:
    """Which groups have an event."""

    def __init__(self, events: pl.DataFrame, people: People) -> None:
        self._events = events.select("cid", "ev", valid=pl.col("reason").is_null() & ~pl.col("test"))
        self._people = people
        self._known: dict[tuple[int, int], pl.Series] = {}

    def labels(self, cid: int, event: int) -> pl.Series:
        """Labels of the groups, each once."""
        if (cid, event) not in self._known:
            rows = self._events.select((pl.col("cid") == cid) & (pl.col("ev") == event) & pl.col("valid")).to_series()
            self._known[cid, event] = self._people.labels.gather(rows.fill_null(False).arg_true()).unique()
        return self._known[cid, event]


def kinds(triggers: Iterable[Trigger]) -> set[tuple[str, str, frozenset[str]]]:
    """Client, event and needed events of the triggers that are not paused: thousands of triggers are of few kinds."""
    return {(trigger.client, trigger.on, _needed(trigger)) for trigger in triggers if not trigger.paused}


def _needed(trigger: Trigger) -> frozenset[str]:
    return frozenset(trigger.after) | (needed_events(syntax(trigger.when.text)) if trigger.when else frozenset())
