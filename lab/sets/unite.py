"""Both halves before the caps: who reaches one, plain or hard, in one order; and outcomes without what a cap stops."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import polars as pl

from lab.sets.events import GROUP, PLACE
from lab.sets.hard import Decided
from lab.sets.stages import REACHED
from service.engine import Outcome, Rulebook


def reached_by_sets(asked: pl.DataFrame) -> pl.DataFrame:
    """Plain events that reach the cap."""
    through = asked.filter(pl.col("stage").is_null()).with_columns(test=pl.lit(False))
    return through.select(pl.col(name).cast(kind) for name, kind in REACHED.items())


def reached_whole(whole: Iterable[Decided], rulebook: Rulebook) -> pl.DataFrame:
    """The same of hard ones: with caps lifted, what reaches a cap fires."""
    cids = {name: cid for cid, name in enumerate(rulebook.clients)}
    numbers = {trigger.name: number for number, trigger in enumerate(rulebook.triggers)}
    rows = [
        (numbers[firing.trigger], place, place // PLACE * GROUP + cids[o.client], o.test, o.time_us, o.affiliate)
        for place, _, o in whole
        for firing in o.fired
    ]
    return pl.DataFrame(rows, REACHED, orient="row")


def stop_capped(asked: pl.DataFrame, lost: pl.DataFrame) -> pl.DataFrame:
    """Those that a cap stops have a stage now."""
    lost = lost.select(pl.col("number").cast(asked.schema["number"]), "ord", pl.lit("cap").alias("capped"))
    joined = asked.join(lost, on=["number", "ord"], how="left")
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
