"""Both halves before the caps: who reaches one, plain or hard, in one order; and outcomes without what a cap stops."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import polars as pl

from lab.sets.hard import Decided
from lab.sets.letters import FIRINGS, LETTERS, row_of
from lab.sets.scan import GROUP
from lab.sets.spans import PLACE
from lab.sets.stages import REACHED
from service.engine import Outcome, Rulebook


def reached_whole(whole: Iterable[Decided], rulebook: Rulebook) -> pl.DataFrame:
    """Hard hits that reach a cap, in the columns of `REACHED`: with caps lifted, what reaches a cap fires."""
    cids = {name: cid for cid, name in enumerate(rulebook.clients)}
    numbers = {trigger.name: number for number, trigger in enumerate(rulebook.triggers)}
    rows = [
        (numbers[firing.trigger], place, place // PLACE * GROUP + cids[o.client], o.test, o.time_us, o.affiliate)
        for place, _, o in whole
        for firing in o.fired
    ]
    return pl.DataFrame(rows, REACHED, orient="row")


def letters_of(whole: Iterable[Decided]) -> pl.DataFrame:
    """The postbacks of outcomes, in the columns of `LETTERS`; their triggers have no number."""
    rows = [
        row_of(place, -1, number, postback)
        for place, _, outcome in whole
        for number, postback in enumerate(outcome.postbacks)
    ]
    return pl.DataFrame(rows, LETTERS, orient="row")


def firings_of(whole: Iterable[Decided]) -> pl.DataFrame:
    """The firings of outcomes that are no tests, in the columns of `FIRINGS`; their triggers have no number."""
    rows = [
        (
            place, -1, o.client, o.affiliate, f.trigger, f.currency, f.payout,
            sum(postback.trigger == f.trigger for postback in o.postbacks),
        )
        for place, _, o in whole
        if not o.test
        for f in o.fired
    ]  # fmt: skip
    return pl.DataFrame(rows, FIRINGS, orient="row")


def stop_capped(asked: pl.DataFrame, lost: pl.DataFrame) -> pl.DataFrame:
    """Those that a cap stops have a stage now. lost: number, row."""
    joined = asked.join(lost.with_columns(capped=pl.lit("cap")), on=["number", "row"], how="left")
    return joined.with_columns(pl.coalesce("stage", "capped").alias("stage")).drop("capped")


def without_capped(outcome: Outcome, place: int, capped: set[tuple[int, int]], rulebook: Rulebook) -> Outcome:
    """An outcome of the reference engine without the firings that a cap stops."""
    fired = {firing.trigger for firing in outcome.fired}
    numbered = enumerate(rulebook.triggers) if fired else ()
    names = {trigger.name for number, trigger in numbered if trigger.name in fired and (number, place) in capped}
    if not names:
        return outcome
    stopped = outcome.not_fired | dict.fromkeys(names, "cap")
    return msgspec.structs.replace(
        outcome,
        fired=tuple(firing for firing in outcome.fired if firing.trigger not in names),
        postbacks=tuple(postback for postback in outcome.postbacks if postback.trigger not in names),
        not_fired={trigger.name: stopped[trigger.name] for trigger in rulebook.triggers if trigger.name in stopped},
    )
