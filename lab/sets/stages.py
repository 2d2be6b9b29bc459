"""The stages by sets: for each trigger and each event it is asked about, where it stops; then `once`, then the caps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from lab.sets.conditions import condition_sql
from lab.sets.facts import Asked
from lab.sets.session import Session, text
from service.engine.conditions import syntax
from service.engine.rulebook import Rulebook, Trigger

# number: of the trigger in the rulebook. stage: null where it got through all but the cap
ASKED: dict[str, Any] = {
    "number": pl.Int32, "row": pl.UInt32, "view": pl.UInt32, "label": pl.UInt32, "t": pl.Int64, "cid": pl.Int32,
    "affiliate": pl.String, "stage": pl.String,
}  # fmt: skip
# of all that reach a cap, plain and hard. grp: partition and client
REACHED: dict[str, Any] = {
    "number": pl.Int32, "ord": pl.Int64, "grp": pl.Int64, "test": pl.Boolean, "t": pl.Int64, "affiliate": pl.String,
}  # fmt: skip
_LENGTH_US = {"hour": 3_600_000_000, "day": 86_400_000_000}


def ask(
    session: Session, facts: pl.DataFrame, asked: Asked, rulebook: Rulebook, triggers: Sequence[tuple[int, Trigger]],
    codes: dict[str, int],
) -> pl.DataFrame:  # fmt: skip
    """The columns of `ASKED`, sorted by row and number, with `once` judged. facts: see `find_facts`."""
    if not triggers or facts.is_empty():
        return pl.DataFrame(schema=ASKED)
    known = pl.Series(sorted(rulebook.affiliates), dtype=pl.String)
    session.put("facts", facts.with_columns(known=pl.col("affiliate").is_in(known.implode())))
    cids = {name: cid for cid, name in enumerate(rulebook.clients)}
    queries = [_ask(asked, number, trigger, cids[trigger.client], codes[trigger.on]) for number, trigger in triggers]
    session.make("asked", " UNION ALL ".join(queries))
    once = ", ".join(str(number) for number, trigger in triggers if trigger.once == "visitor") or "-1"
    # a side is decided among its own hits, and what it used up is used up for the visitor that absorbs it
    first = (
        'CASE WHEN "view" = label THEN min("row") OVER (PARTITION BY number, label) '
        'ELSE min("row") OVER (PARTITION BY number, "view") END'
    )
    judged = (
        f"SELECT * REPLACE (CASE WHEN \"row\" <> {first} THEN 'once' END AS stage) "
        f"FROM asked WHERE stage IS NULL AND number IN ({once})"
    )
    others = f"SELECT * FROM asked WHERE stage IS NOT NULL OR number NOT IN ({once})"
    return session.frame(f'SELECT * FROM ({judged} UNION ALL {others}) ORDER BY "row", number').cast(ASKED)  # type: ignore[arg-type]


def _ask(asked: Asked, number: int, trigger: Trigger, cid: int, event: int) -> str:
    condition = "true" if trigger.when is None else condition_sql(syntax(trigger.when.text), asked)
    stages = (
        ("inactive", _inactive(trigger)),
        ("recipient", "NOT coalesce(known, false)" if "affiliate" in trigger.to else "false"),
        ("steps", f"NOT {asked.done(trigger)}"),
        ("condition", f"NOT {condition}"),
        ("sample", f"{_bucket(trigger)} < {trigger.sample * 100}" if trigger.sample else "false"),
    )
    cases = " ".join(f"WHEN {stops} THEN '{stage}'" for stage, stops in stages if stops != "false")
    stage = f"CASE {cases} END" if cases else "CAST(NULL AS VARCHAR)"
    return (
        f'SELECT {number} AS number, "row", "view", label, t, cid, affiliate, {stage} AS stage '
        f"FROM facts WHERE cid = {cid} AND ev = {event}"
    )


def _inactive(trigger: Trigger) -> str:
    return "true" if trigger.paused else f"NOT (t >= {trigger.from_us} AND t < {trigger.until_us})"


def _bucket(trigger: Trigger) -> str:
    """`triggers.sample_bucket`: the first 8 bytes of the hash as a number."""
    return f"CAST('0x' || left(sha256({text(trigger.name)} || chr(31) || visitor), 16) AS UBIGINT) % 10000"


def over_cap(reached: pl.DataFrame, triggers: Sequence[Trigger]) -> pl.DataFrame:
    """(number, ord) of those that reach a cap after it is used up. reached: in the columns of `REACHED`."""
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
