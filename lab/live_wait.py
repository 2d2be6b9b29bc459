"""What is still to be done for some hits, and what became of their postbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from lab.log import Log
from lab.receipts import read_receipts
from lab.show import plural

OWN_TIME = ("javascript", "pixel")  # these wait for a browser, as long as it takes


def open_work(log: Log, ids: set[str]) -> str:
    """What is missing of these hits in the tables, in words; "" if nothing is."""
    decided = log.decisions.filter(pl.col("hit_id").is_in(list(ids))).select("hit_id", "fired").collect()
    if decided.height < len(ids):
        return f"{plural(len(ids) - decided.height, 'hit')} to be decided or archived"
    postbacks = log.postbacks.select("postback_id", "hit_id", "state", "method").collect()
    fired = decided.filter(pl.col("fired").list.len() > 0)
    unpromised = fired.join(postbacks, on="hit_id", how="anti").height
    if unpromised:
        return f"postbacks of {plural(unpromised, 'firing')} to be archived"
    due = postbacks.filter(pl.col("state") == "due", ~pl.col("method").is_in(OWN_TIME))
    tried = log.attempts.select("postback_id").collect()
    untried = due.join(tried, on="postback_id", how="anti").height
    return f"{plural(untried, 'postback')} to be tried" if untried else ""


def promised(log: Log) -> pl.DataFrame:
    """Columns: see `Live.postbacks`."""
    tries = log.attempts.group_by("postback_id").agg(
        pl.len().alias("tries"), pl.col("state").sort_by("number").last().alias("after")
    )
    return (
        log.postbacks.join(tries, on="postback_id", how="left")
        .sort("time", "trigger", "recipient", descending=[False, False, True])
        .select(
            "time", "trigger", "recipient", pl.coalesce("after", "state").alias("state"), pl.col("tries").fill_null(0),
            "verb", "url", "body", "missing", "payout", "currency", "hit_id", "postback_id",
        )
        .collect()
    )  # fmt: skip


def received(log: Log, record: Path) -> pl.DataFrame:
    """Columns: see `Live.received`."""
    schema: Any = {
        "time": pl.Datetime("us", "UTC"), "verb": pl.String, "path": pl.String, "query": pl.String, "body": pl.String,
        "status": pl.Int64, "postback_id": pl.String,
    }  # fmt: skip
    rows = [
        (one.time_us, one.method, unquote(one.path), one.query, one.body, one.status, one.headers.get("webhook-id"))
        for one in (read_receipts(record) if record.exists() else ())
    ]
    found = pl.DataFrame(rows, schema=schema, orient="row")
    known = log.postbacks.select("postback_id", "trigger", "recipient").collect()
    return found.join(known, on="postback_id", how="left", maintain_order="left").select(
        "time", "trigger", "recipient", "verb", "path", "query", "body", "status", "postback_id"
    )
