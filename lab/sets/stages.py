"""The stages by sets: for each trigger and each event it is asked about, where it stops; then `once`, then the caps.

`asked`: number (of the trigger in the rulebook), ord, view, label, grp, t, affiliate, stage (null where it got through).
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from lab.sets.conditions import condition_sql
from lab.sets.facts import Asked
from lab.sets.session import Session, text, texts
from service.engine.conditions import syntax
from service.engine.rulebook import Rulebook, Trigger

_PER_ASKED = ("number", "ord", "view", "label", "grp", "t", "affiliate", "stage")
_LENGTH_US = {"hour": 3_600_000_000, "day": 86_400_000_000}
REACHED = {
    "number": pl.Int32, "ord": pl.Int64, "grp": pl.Int64, "test": pl.Boolean, "t": pl.Int64, "affiliate": pl.String,
}  # fmt: skip


def ask(session: Session, asked: Asked, triggers: Sequence[tuple[int, Trigger]]) -> pl.DataFrame:
    """`asked` as a frame, in the columns named above, with `once` judged."""
    if not triggers:
        return pl.DataFrame(
            schema={name: pl.String if name in ("affiliate", "stage") else pl.Int64 for name in _PER_ASKED}
        )
    session.make("asked", " UNION ALL ".join(_ask(asked, number, trigger) for number, trigger in triggers))
    once = ", ".join(str(number) for number, trigger in triggers if trigger.once == "visitor") or "-1"
    # a side is decided among its own hits, and what it used up is used up for the visitor that absorbs it
    first = (
        "CASE WHEN view = label THEN min(ord) OVER (PARTITION BY number, label) "
        "ELSE min(ord) OVER (PARTITION BY number, view) END"
    )
    judged = (
        f"SELECT * REPLACE (CASE WHEN number IN ({once}) AND ord <> {first} THEN 'once' END AS stage) "
        "FROM asked WHERE stage IS NULL"
    )
    stopped = "SELECT * FROM asked WHERE stage IS NOT NULL"
    return session.frame(f"SELECT {', '.join(_PER_ASKED)} FROM ({judged} UNION ALL {stopped}) ORDER BY ord, number")


def _ask(asked: Asked, number: int, trigger: Trigger) -> str:
    cid = list(asked.rulebook.clients).index(trigger.client)
    condition = "true" if trigger.when is None else condition_sql(syntax(trigger.when.text), asked)
    stages = (
        ("inactive", _inactive(trigger)),
        ("recipient", f"NOT coalesce({_affiliates(asked.rulebook)}, false)" if "affiliate" in trigger.to else "false"),
        ("steps", f"NOT {asked.done(trigger)}"),
        ("condition", f"NOT {condition}"),
        ("sample", f"{_bucket(trigger, asked)} < {trigger.sample * 100}" if trigger.sample else "false"),
    )
    cases = " ".join(f"WHEN {stops} THEN '{stage}'" for stage, stops in stages if stops != "false")
    stage = f"CASE {cases} END" if cases else "CAST(NULL AS VARCHAR)"
    return (
        f"SELECT {number} AS number, ord, view, label, grp, t, coalesce(affiliate, '') AS affiliate, {stage} AS stage "
        f"FROM facts WHERE counted AND cid = {cid} AND event = {text(trigger.on)}"
    )


def _inactive(trigger: Trigger) -> str:
    return "true" if trigger.paused else f"NOT (t >= {trigger.from_us} AND t < {trigger.until_us})"


def _affiliates(rulebook: Rulebook) -> str:
    return f"affiliate IN ({texts(sorted(rulebook.affiliates))})"


def _bucket(trigger: Trigger, asked: Asked) -> str:
    """`triggers.sample_bucket`: the first 8 bytes of the hash as a number."""
    return f"CAST('0x' || left(sha256({text(trigger.name)} || chr(31) || {asked.visitor()}), 16) AS UBIGINT) % 10000"


def over_cap(reached: pl.DataFrame, triggers: Sequence[Trigger]) -> pl.DataFrame:
    """(number, ord) of those that reach a cap after it is used up.

    reached: number, ord, grp, test, t, affiliate of all that reach the cap, plain and hard: one order for all.
    """
    lost = []
    for (number,), mine in reached.group_by("number"):
        cap = triggers[int(number)].cap
        if cap is None:
            continue
        keys = [pl.col("grp"), pl.col("test"), _period(cap.every)]
        if cap.per == "affiliate":
            keys.append(pl.col("affiliate"))
        place = pl.int_range(pl.len()).over(keys)
        lost.append(mine.sort("ord").filter(place >= cap.count).select("number", "ord"))
    return pl.concat(lost) if lost else reached.select("number", "ord").clear()


def _period(every: str) -> pl.Expr:
    if every in _LENGTH_US:
        return (pl.col("t") // _LENGTH_US[every]).alias("period")
    if every == "month":
        return pl.from_epoch("t", time_unit="us").dt.strftime("%Y-%m").alias("period")
    return pl.lit("").alias("period")
