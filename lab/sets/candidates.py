"""Whom a trigger could concern at all: most visitors can be left out before anything about them is worked out.

A hit is a candidate if it is the trigger's event, the trigger is active, and what its own amount alone decides is in order;
a group, if it holds a candidate and every event that must have come before.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from lab.sets.conditions import condition_sql, conjuncts, names_of, needed_events
from lab.sets.people import People
from lab.sets.session import Session, text
from service.engine.conditions import syntax
from service.engine.rulebook import Rulebook, Trigger


class _OwnAmount:
    """The only column of `events` that conditions ask for."""

    def value(self, name: str) -> str:
        return "amount"

    def count(self, event: str) -> str:
        raise AssertionError("not asked of a hit alone")

    since_us = count


def chosen_rows(
    session: Session, people: People, rulebook: Rulebook, triggers: Sequence[Trigger], everything: bool
) -> pl.DataFrame:
    """row and label of all hits of the groups that matter: those with a candidate or with a hit of unsure space."""
    if everything:
        rows = session.frame("SELECT rowid AS row FROM events WHERE reason IS NULL AND NOT test")
        return rows.with_columns(label=people.labels.gather(rows["row"]))
    cids = {name: cid for cid, name in enumerate(rulebook.clients)}
    having: dict[tuple[int, str], pl.Series] = {}
    labels = [_doubtful(session, people)]
    for trigger in triggers:
        found = people.labels.gather(_candidates(session, trigger, cids[trigger.client]))
        for event in _needed(trigger):
            key = cids[trigger.client], event
            if key not in having:
                having[key] = _groups_with(session, people, *key)
            found = found.filter(having[key].gather(found))
        labels.append(found)
    wanted = _mask(people, pl.concat(labels))
    rows = wanted.gather(people.labels).arg_true().cast(pl.Int64).rename("row").to_frame()
    session.put("near", rows)
    valid = session.frame(
        "SELECT row FROM near JOIN events ON events.rowid = near.row WHERE reason IS NULL AND NOT test"
    )
    return valid.with_columns(label=people.labels.gather(valid["row"]))


def _candidates(session: Session, trigger: Trigger, cid: int) -> pl.Series:
    tests = [f"cid = {cid}", f"event = {text(trigger.on)}", f"t >= {trigger.from_us}", f"t < {trigger.until_us}"]
    if trigger.paused:
        tests.append("false")
    if trigger.when is not None:
        alone = [part for part in conjuncts(syntax(trigger.when.text)) if names_of(part) <= {"amount"}]
        tests += [condition_sql(part, _OwnAmount()) for part in alone]
    query = f"SELECT rowid AS row FROM events WHERE reason IS NULL AND NOT test AND {' AND '.join(tests)}"
    return session.frame(query).to_series()


def _needed(trigger: Trigger) -> frozenset[str]:
    return frozenset(trigger.after) | (needed_events(syntax(trigger.when.text)) if trigger.when else frozenset())


def _groups_with(session: Session, people: People, cid: int, event: str) -> pl.Series:
    query = f"SELECT rowid FROM events WHERE reason IS NULL AND NOT test AND cid = {cid} AND event = {text(event)}"
    return _mask(people, people.labels.gather(session.frame(query).to_series()))


def _doubtful(session: Session, people: People) -> pl.Series:
    query = (
        "SELECT rowid FROM events WHERE ord IN (SELECT ord FROM unsure UNION ALL SELECT ord FROM twice WHERE unsure)"
    )
    return people.labels.gather(session.frame(query).to_series())


def _mask(people: People, labels: pl.Series) -> pl.Series:
    """For every row whether it is among the labels."""
    mask = pl.repeat(False, people.labels.len(), eager=True)
    return mask.scatter(labels, True) if labels.len() else mask
