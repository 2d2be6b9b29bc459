"""Sends a log to a staging service over HTTP, in the rhythm of the log, and tells how its answers differ.

Every request is marked as a test and names its run, so nothing that it fires reaches anybody but a test endpoint. The
production address is refused (`send_target`); what is sent and when is a plan (`send_plan`); the sender is that of `load`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import polars as pl

from lab.load import REAL, Clock, LoadReport, Progress, send_all
from lab.log import LabError, Log
from lab.send_plan import Plan, Planned, plan
from lab.send_target import checked, somebody_listens
from lab.show import html_block, html_table, plural
from service.engine import load

CONNECTIONS = 16
_RUN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class SendReport:
    """What was sent and answered. `frame` has one row: sent, acknowledged (answered with a hit id), rejected, errors (not
    answered, or 5xx), kept_back, rewritten (addresses that a client has to write in other bytes), p50_ms, p95_ms, p99_ms.

    run: value of the parameter `test_run`. dry: nothing was sent. seconds: planned, from the first request to the last.

    >>> sent = log.send(to="http://127.0.0.1:8700", limit=20, dry_run=True)
    >>> sent.seconds > 0
    True
    """

    def __init__(self, to: str, run: str, planned: Plan, answered: LoadReport | None) -> None:
        self.to, self.run, self.plan = to, run, planned
        self.seconds, self.kept_back, self.dry = planned.seconds, planned.kept_back, answered is None
        receipts = answered.ledger if answered is not None else ()
        self.ledger = pl.DataFrame(
            [
                (one.hit_id, receipt.hit_id, receipt.status, receipt.reason, one.expected, receipt.latency_us / 1000)
                for one, receipt in zip(planned.requests, receipts, strict=False)
            ],
            schema={"logged_id": pl.String, "hit_id": pl.String, "status": pl.Int64, "reason": pl.String,
                    "logged_reason": pl.String, "ms": pl.Float64},
            orient="row",
        )  # fmt: skip

    @property
    def frame(self) -> pl.DataFrame:
        """One row: see the class.

        >>> sent.frame.columns[:4]
        ['sent', 'acknowledged', 'rejected', 'errors']
        """
        ledger, answered = self.ledger, pl.col("status") > 0
        errors = (pl.col("status") == 0) | (pl.col("status") >= 500)
        counts = ledger.select(
            sent=pl.len(), acknowledged=(pl.col("hit_id") != "").sum(), rejected=(pl.col("reason") != "").sum(),
            errors=errors.sum(),
        )  # fmt: skip
        times = ledger.filter(answered).select(
            pl.col("ms").quantile(share / 100, "nearest").alias(f"p{share}_ms") for share in (50, 95, 99)
        )
        kept = pl.DataFrame({
            "kept_back": [sum(self.kept_back.values())], "rewritten": [sum(one.rewritten for one in self.plan.requests)],
        })  # fmt: skip
        return pl.concat([counts, kept, times], how="horizontal")

    @property
    def answers(self) -> pl.DataFrame:
        """status (0: none), reason ("" for none) and how often.

        >>> sent.answers.columns
        ['status', 'reason', 'count']
        """
        return self.ledger.group_by("status", "reason").len("count").sort("count", "status", "reason", descending=True)

    @property
    def differences(self) -> pl.DataFrame:
        """logged_reason and reason where they differ ("" is not rejected, status tells an error), how often, and the first
        logged hit. What only tracking can find, such as a duplicate, is no rejection by the intake and not compared.

        >>> sent.differences.height
        0
        """
        found = self.ledger.filter(pl.col("logged_reason").is_not_null()).filter(
            (pl.col("logged_reason") != pl.col("reason")) | (pl.col("status") == 0) | (pl.col("status") >= 500)
        )
        groups = found.group_by("logged_reason", "reason", "status", maintain_order=True)
        return groups.agg(count=pl.len(), example=pl.col("logged_id").first()).sort("count", descending=True)

    def __repr__(self) -> str:
        kept = "".join(f", {count:,} kept back ({reason})" for reason, count in sorted(self.kept_back.items()))
        if self.dry:
            would = f"{plural(len(self.plan.requests), 'request')} in {self.seconds:,.1f} s"
            return f"Nothing was sent to {self.to}: it would be {would}{kept}"
        row = self.frame.row(0, named=True)
        return (
            f"Sent {plural(row['sent'], 'request')} to {self.to} as run {self.run}: {row['acknowledged']:,} acknowledged, "
            f"{row['rejected']:,} rejected, {plural(row['errors'], 'error')}, "
            f"{plural(int(self.differences['count'].sum()), 'answer')} unlike the log{kept}"
        )

    def _repr_html_(self) -> str:
        tables = (
            html_table(self.frame),
            html_table(self.answers, "Answers"),
            html_table(self.differences, "Unlike the log"),
        )
        return html_block(repr(self), *(() if self.dry else tables))


def send(
    log: Log, to: str, speed: float = 10.0, gap_cap_s: float = 5.0, limit: int | None = None, dry_run: bool = False,
    run: str | None = None, production: str | None = None, progress: Progress | None = None, clock: Clock = REAL,
) -> SendReport:  # fmt: skip
    """Send the requests of a log to a staging service.

    to: scheme, host and port. speed: the gaps are divided by it; gap_cap_s: and none is longer. limit: only the first so
    many hits. run: value of the parameter `test_run`, by default the time. production: what to refuse, by default
    BACKTRACK_PUBLIC_URL. progress: called with answered and all. Raises LabError before anything is sent.
    """
    wrong = next((one for one in (speed, gap_cap_s, limit or 0) if not isinstance(one, int | float)), None)
    if wrong is not None:
        raise LabError(f"{wrong!r} is no number; speed, gap_cap_s and limit are")
    if speed <= 0 or gap_cap_s < 0 or (limit is not None and limit < 1):
        raise LabError(f"speed={speed:g}, gap_cap_s={gap_cap_s:g}, limit={limit}: speed and limit must be above 0")
    run = run if run is not None else f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    if not run or len(run) > 64 or not _RUN_CHARACTERS.issuperset(run):
        raise LabError(f"run={run!r}: use up to 64 letters, digits and - _ . only")
    texts = log.rulebooks.select("text").unique().collect()["text"]
    base = checked(to, production, [load(text) for text in texts])
    planned = plan(log, run, speed, gap_cap_s, limit)
    if dry_run or not planned.requests:
        return SendReport(base, run, planned, None)
    somebody_listens(base)
    return SendReport(base, run, planned, _sent(base, planned.requests, progress, clock))


def _sent(base: str, requests: tuple[Planned, ...], progress: Progress | None, clock: Clock) -> LoadReport:
    """Each request is sent once: a further try could make one hit two."""
    sending = send_all(base, [one.request for one in requests], CONNECTIONS, progress, 1.0, (), clock)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(sending)
    from concurrent.futures import ThreadPoolExecutor  # a notebook has a loop at work in this thread

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, sending).result()
