"""Hits whose person was erased: what a replay says about them, so that it never differs from the log in silence.

In the tables the decision about such a hit keeps its verdict, firings and money, which the counters are proved by. A replay
has nothing left to decide from: the hit is rejected as `erased`. Here both come together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from lab.show import plural
from service.engine.model import Reason, Verdict

if TYPE_CHECKING:
    from lab.log import Log

ERASED = Reason.ERASED.value
_DETAIL = "refused by the intake"  # what the engine says of every refusal that it finds in the log
_KEPT = ("client", "event", "affiliate")


def as_replayed(decisions: pl.LazyFrame) -> pl.LazyFrame:
    """Decisions in which the erased ones are what a replay gives."""
    erased = pl.col("detail") == ERASED
    schema = decisions.collect_schema()
    empty: dict[str, list[str]] = {"fired": [], "not_fired": [], "absorbed": [], "conflicts": []}
    return decisions.with_columns(
        pl.when(erased).then(pl.lit(Verdict.REJECTED.value)).otherwise("verdict").alias("verdict"),
        pl.when(erased).then(pl.lit(ERASED)).otherwise("reason").alias("reason"),
        pl.when(erased).then(pl.lit(_DETAIL)).otherwise("detail").alias("detail"),
        pl.when(erased).then(pl.lit(False)).otherwise("test").alias("test"),
        *(pl.when(erased).then(pl.lit("")).otherwise(name).alias(name) for name in _KEPT),
        *(
            pl.when(erased).then(pl.lit(value, schema[name])).otherwise(name).alias(name)
            for name, value in empty.items()
        ),
    )


def note(log: Log) -> list[str]:
    """What makes a run over such a log less than the truth, as one sentence; nothing for a log without."""
    if not log.erased:
        return []
    return [
        f"{plural(log.erased, 'hit')} of erased persons: decided as rejected ({ERASED}), their firings left out; the caps "
        "that they used up are free again, so later hits of others may be decided otherwise"
    ]
