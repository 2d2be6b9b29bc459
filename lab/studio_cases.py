"""Examples of a draft: events on which it fires, with the postbacks, and the nearest misses with the engine's own words."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import polars as pl

from lab.sets.conditions import condition_sql, conjuncts
from lab.studio_answer import STAGES, Answer, Asking, only, state_for
from lab.studio_caps import FIRED, before_in_cap
from lab.studio_ground import Asked
from service.engine import Entry, Event, Outcome, Postback, Rulebook, Stage, State, Visitor, process
from service.engine.conditions import syntax
from service.engine.explain import Story, explain
from service.engine.trail import Trail
from service.engine.triggers import Facts, cap_key
from service.engine.visitors import space

FIRINGS = 3
MISSES = 5


class Case(msgspec.Struct, frozen=True):
    """One event. stage: `fired`, or where it stopped; says: why, in the engine's words.

    hit_id, time_us: of the hit. affiliate, visitor: its own. event: its parameters, name to value. postbacks: what
    would be sent. story: all about the hit.

    >>> case = studio.cases[0]
    >>> len(case.postbacks)
    2
    """

    hit_id: str
    time_us: int
    stage: str
    says: str
    affiliate: str
    visitor: str
    event: dict[str, str]
    postbacks: tuple[Postback, ...]
    story: Story


def find_cases(asking: Asking, answer: Answer) -> tuple[Case, ...]:
    """A few firings, then the nearest misses: those that came furthest, and of these those that lack the least."""
    fired = _spread(answer.rows.filter(pl.col("stage") == FIRED), FIRINGS, asking)
    missed = _nearest(asking, answer)
    chosen = [*fired, *missed]
    groups = asking.ground.groups(label for _, label, _ in chosen)
    found = (_case(answer, groups.get(label, []), place, stage) for place, label, stage in chosen)
    return tuple(case for case in found if case is not None)


Chosen = tuple[int, int, str]  # place, label, stage


def _spread(rows: pl.DataFrame, count: int, asking: Asking) -> list[Chosen]:
    """A few rows of different visitors, those at hand first."""
    rows = rows.with_columns(far=~asking.ground.at_hand(rows["label"]))
    rows = rows.sort("far", "place").unique("label", keep="first", maintain_order=True).head(count)
    return list(rows.sort("place").select("place", "label", "stage").iter_rows())


def _nearest(asking: Asking, answer: Answer) -> list[Chosen]:
    found: list[Chosen] = []
    for stage in reversed(STAGES):
        rows = answer.rows.filter(pl.col("stage") == stage)
        wanted = min(MISSES - len(found), 3)
        if rows.is_empty() or wanted <= 0:
            continue
        if stage == Stage.CONDITION:
            rows = _closest(asking, answer, rows)
        found += _spread_near(rows, wanted) if "lacks" in rows.columns else _spread(rows, wanted, asking)
    return found


def _spread_near(rows: pl.DataFrame, count: int) -> list[Chosen]:
    rows = rows.sort("lacks", "off", "place").unique("label", keep="first", maintain_order=True).head(count)
    return list(rows.select("place", "label", "stage").iter_rows())


def _closest(asking: Asking, answer: Answer, rows: pl.DataFrame) -> pl.DataFrame:
    """With `lacks`, how many of the parts that must all hold do not, and `off`, how far the numbers are from enough."""
    trigger = answer.trigger
    assert trigger.when is not None
    hits = asking.hits(trigger, not answer.exact and asking.ground.share > 1)
    asked, facts = hits.facts(trigger, answer.rulebook)
    parts = conjuncts(syntax(trigger.when.text))
    facts = facts.join(rows.select("row").drop_nulls(), on="row", how="semi")
    if facts.is_empty():
        return rows
    session = asking.ground.session
    session.put("misses", facts)
    holds = ", ".join(f"CAST(NOT {condition_sql(part, asked)} AS INTEGER)" for part in parts)
    off = " + ".join(_distance(part, asked) for part in parts)
    scored = session.frame(f'SELECT "row", list_sum([{holds}]) AS lacks, CAST({off} AS DOUBLE) AS off FROM misses')
    return rows.join(scored.unique("row"), on="row", how="inner")


def _distance(part: Any, asked: Any) -> str:
    """How far a comparison with a number is from holding, in terms of that number; 0 if it holds or is none."""
    if part[0] != "compare" or part[3][0] != "number" or part[1][0] not in ("name", "count"):
        return f"CASE WHEN {condition_sql(part, asked)} THEN 0 ELSE 1 END"
    name, limit = part[1], Decimal(part[3][1])
    value = asked.count(name[1]) if name[0] == "count" else f"TRY_CAST({asked.value(name[1])} AS DOUBLE)"
    away = f"abs({value} - {limit}) / {max(abs(limit), Decimal(1))}"
    return f"CASE WHEN {condition_sql(part, asked)} THEN 0 ELSE coalesce({away}, 1000) END"


def _case(answer: Answer, group: list[Asked], place: int, stage: str) -> Case | None:
    """One hit told, after what its visitor did before it."""
    trigger, rulebook = answer.trigger, only(answer.rulebook, answer.trigger)
    states: dict[int, State] = {}
    trail = Trail()
    for hit in group:
        state = state_for(states, hit)
        if hit.place == place:
            if trigger.cap is not None:
                state.caps.clear()  # of this visitor alone; what the others used up is told by the answer
                if stage == Stage.CAP:
                    before = before_in_cap(answer.rows, trigger, place) if answer.exact else trigger.cap.count
                    _use_up(hit.entry, state, rulebook, before)
            return _told(hit.entry, state, rulebook, trail)
        trail.note(process(hit.entry, state, rulebook, hit.parsed))
    return None


def _told(entry: Entry, state: State, rulebook: Rulebook, trail: Trail) -> Case:
    """The story, and the postbacks of what fires."""
    (trigger,) = rulebook.triggers
    story = explain(entry, state, rulebook, trail)
    outcome = process(entry, state, rulebook)
    stage, says = next(
        ((one.stage, one.says) for one in story.triggers if one.name == trigger.name),
        (story.verdict, " ".join(story.says)),
    )
    return Case(
        outcome.hit_id, outcome.time_us, stage, says, outcome.affiliate, outcome.visitor, outcome.fields | outcome.params,
        outcome.postbacks, story,
    )  # fmt: skip


def _use_up(entry: Entry, state: State, rulebook: Rulebook, before: int) -> None:
    """The cap as it stands for a hit that it refuses. before: how many reached it earlier."""
    (trigger,) = rulebook.triggers
    trial = _trial(entry, state, rulebook)
    event = Event(trial.client, trial.event, trial.fields, {})
    facts = Facts(event, Visitor(trial.visitor), trial.affiliate, {}, trial.hit_id, entry.seq, entry.time_us)
    assert trigger.cap is not None
    state.put_cap(cap_key(trigger, trigger.cap, facts, space(trigger.client, False)), before)


def _trial(entry: Entry, state: State, rulebook: Rulebook) -> Outcome:
    """What the hit would be, decided on a copy of what is known."""
    trial = State()
    trial.owners, trial.txids = dict(state.owners), dict(state.txids)
    visitors = msgspec.msgpack.encode(state.visitors)
    trial.visitors = msgspec.msgpack.decode(visitors, type=dict[str, Visitor])
    return process(entry, trial, rulebook)
