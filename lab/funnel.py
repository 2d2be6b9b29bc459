"""How visitors move through ordered steps, and where they leave.

One meaning, also in SQL: the events are those of `log.events` (accepted, no tests) in log order: time, partition, seq. An
attempt starts at any event of the first step and takes each next step at its earliest later event, each step its own
hit, none later than `within` after the start (equal still counts). A visitor's longest attempt counts, of equally long
ones the first; an absorbed visitor's events belong to the one that absorbed it, as they do for the engine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import polars as pl

import lab
from lab.commands import one_line_errors
from lab.log import LabError, Log
from lab.show import HELP, html_block, html_table, plural, rich_table
from service.engine.conditions import UNITS_S
from service.engine.document import nearest

if TYPE_CHECKING:
    from lab.charts import Chart

NONE = "(none)"  # shown where the breakdown has no value

_COLUMNS = ("affiliate", "client", "event", "currency")  # what `by` reads beside parameters
_COUNTED = ("step_number", "step", "visitors", "share_of_first", "share_of_previous", "median_seconds_from_previous")
_WITHIN = re.compile(r"([0-9]{1,9})([smhdw])\Z")


class Funnel:
    """The result of `funnel`. frame: one row per step, per value of the breakdown if there is one (most visitors first).

    Columns: [by], step_number (from 1), step, visitors, share_of_first and share_of_previous (0 to 1, null where nobody
    came so far), median_seconds_from_previous (within the attempts that count, null for the first step).
    """

    def __init__(self, frame: pl.DataFrame, steps: tuple[str, ...], within: str, by: str, client: str) -> None:
        self.frame = frame
        self.steps = steps
        self.within = within
        self.by = by
        self.client = client

    @property
    def visitors(self) -> list[int]:
        """Visitors per step, over all values of the breakdown."""
        counts = self.frame.group_by("step_number").agg(pl.col("visitors").sum())
        found = dict(counts.iter_rows())
        return [found.get(number, 0) for number in range(1, len(self.steps) + 1)]

    @property
    def title(self) -> str:
        """What was asked, in one line."""
        within = f" within {self.within}" if self.within else ""
        by = f", by {self.by}" if self.by else ""
        return f"{' → '.join(self.steps)}{within}{f' of {self.client}' if self.client else ''}{by}"

    @property
    def sentence(self) -> str:
        """The answer in one line."""
        first, last = self.visitors[0], self.visitors[-1]
        share = f", {100 * last / first:.1f} %" if first else ""
        return f"{plural(first, 'visitor')} did {self.steps[0]}; {last:,} reached {self.steps[-1]}{share}"

    def chart(self) -> Chart:
        """The funnel as a chart; `chart().frame` is what it draws."""
        from lab.charts import funnel_chart

        return funnel_chart(self)

    def readable(self) -> pl.DataFrame:
        """The frame as a person reads it: shares in percent, times in units."""
        kept = [name for name in self.frame.columns if name not in _COUNTED]
        return self.frame.select(
            *(pl.col(name).replace("", NONE) for name in kept),
            "step",
            "visitors",
            _percent("share_of_first").alias("of first"),
            _percent("share_of_previous").alias("of previous"),
            pl.col("median_seconds_from_previous").map_elements(duration_text, pl.String).alias("median time"),
        )

    def __repr__(self) -> str:
        from rich.console import Console

        out = Console(file=StringIO(), width=110, color_system=None)
        out.print(f"Funnel {self.title}: {self.sentence}", markup=False, highlight=False, soft_wrap=True)
        out.print(rich_table(self.readable(), limit=40))
        assert isinstance(out.file, StringIO)
        return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())

    def _repr_html_(self) -> str:
        return html_block(self.title, html_table(self.readable(), limit=60), notes=(self.sentence,))


def funnel(
    log: Log, *steps: str, within: str | timedelta | None = None, by: str | None = None, client: str | None = None
) -> Funnel:
    """Count how many visitors took the steps, in their order.

    within: the longest time from the first step, such as "30d" (s, m, h, d, w). by: break down by `affiliate`, `client`,
    `event`, `currency` or any parameter, as it was at the first step of the attempt that counts. client: only its
    visitors. Raises LabError for a step, a client or a parameter that the log does not know, and for a broken `within`.
    """
    from lab.attempts import best_attempts  # late: the command line should not wait for DuckDB

    if not steps:
        raise LabError('a funnel needs steps, such as funnel("click", "registration", "sale")')
    within_us, within_text = _window(within)
    events = _events(log, steps, by, client)
    best = best_attempts(events, steps, within_us)
    frame = _count(best, steps)
    name = f"by_{by}" if by in _COUNTED else by  # a parameter may be called like a column
    frame = frame.drop("by_value") if name is None else frame.rename({"by_value": name})
    return Funnel(frame, tuple(steps), within_text, by or "", client or "")


def _events(log: Log, steps: Sequence[str], by: str | None, client: str | None) -> pl.DataFrame:
    """The events that can matter: visitor, time_us, partition, seq, event, by_value."""
    events = log.events
    if client is not None:
        clients = events.select(pl.col("client").unique()).collect().to_series().to_list()
        if client not in clients:
            raise LabError(f"no event of this log is of a client {client!r}{nearest(client, clients)}")
    known = events.select(pl.col("event").unique()).collect().to_series().to_list()
    for step in steps:
        if step not in known:
            raise LabError(f"no event of this log is called {step!r}{nearest(step, known)}")
    if client is not None:
        events = events.filter(pl.col("client") == client)
    found = events.filter(pl.col("event").is_in(list(steps))).select(
        "visitor", pl.col("time").dt.epoch("us").alias("time_us"), "partition", "seq", "event",
        _value_of(by).fill_null("").alias("by_value"),
    ).collect()  # fmt: skip
    if by is not None and by not in _COLUMNS and not (found["by_value"] != "").any():
        _check_parameter(log, by)
    owners = _absorbed_into(log)
    return found.with_columns(pl.col("visitor").replace(owners)) if owners else found


def _value_of(by: str | None) -> pl.Expr:
    if by is None:
        return pl.lit("")
    return pl.col(by) if by in _COLUMNS else pl.col("params").map.get(by)


def _check_parameter(log: Log, name: str) -> None:
    names = (
        log.events.select(pl.col("params").map.keys().explode().unique()).collect().to_series().drop_nulls().to_list()
    )
    if name not in names:
        raise LabError(f"no event of this log has a parameter {name!r}{nearest(name, [*names, *_COLUMNS])}")


def _absorbed_into(log: Log) -> dict[str, str]:
    """Each visitor that was absorbed, and who its events belong to in the end."""
    rows = (
        log.decisions.filter(pl.col("absorbed").list.len() > 0)
        .select("partition", "seq", "visitor", "absorbed")
        .sort("partition", "seq", descending=True)
        .collect()
    )
    owners: dict[str, str] = {}
    for _, _, visitor, absorbed in rows.iter_rows():
        for other in absorbed:
            owners.setdefault(other, owners.get(visitor, visitor))
    return owners


def _count(best: pl.DataFrame, steps: Sequence[str]) -> pl.DataFrame:
    """Attempts to one row per value and step."""
    if best.is_empty():
        best = best.clear(1).with_columns(by_value=pl.lit(""))  # one row of nobody
    per_step = []
    for number, step in enumerate(steps, 1):
        since = pl.col(f"t{number}") - pl.col(f"t{number - 1}") if number > 1 else pl.lit(None, pl.Int64)
        per_step.append(
            best.group_by("by_value").agg(
                pl.lit(number).alias("step_number"),
                pl.lit(step).alias("step"),
                pl.col(f"t{number}").count().cast(pl.Int64).alias("visitors"),
                pl.col("t1").count().alias("first"),
                pl.col(f"t{max(number - 1, 1)}").count().alias("previous"),
                (since.median() / 1e6).alias("median_seconds_from_previous"),
            )
        )
    counted = pl.concat(per_step).sort(["first", "by_value", "step_number"], descending=[True, False, False])
    share = pl.col("visitors") / pl.col("first")
    return counted.select(
        "by_value", "step_number", "step", "visitors",
        pl.when(pl.col("first") > 0).then(share).alias("share_of_first"),
        pl.when(pl.col("step_number") > 1, pl.col("previous") > 0).then(pl.col("visitors") / pl.col("previous"))
        .alias("share_of_previous"),
        "median_seconds_from_previous",
    )  # fmt: skip


def _window(within: str | timedelta | None) -> tuple[int | None, str]:
    """Microseconds of a window and how it is written; None for no bound."""
    if within is None:
        return None, ""
    if isinstance(within, timedelta):
        return within // timedelta(microseconds=1), str(within)
    found = _WITHIN.match(within)
    if found is None:
        raise LabError(f"within {within!r} is no duration; write a number and s, m, h, d or w, such as 30d")
    return int(found[1]) * UNITS_S[found[2]] * 1_000_000, within


def _percent(name: str) -> pl.Expr:
    return pl.col(name).map_elements(lambda share: f"{100 * share:5.1f} %".replace(" ", "\u2007", 2), pl.String)


def duration_text(seconds: float | None) -> str:
    """Seconds in the two largest units that matter: `2 d 5 h`, `3 min 20 s`, `0.8 s`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for (size, unit), (lower_size, lower) in pairwise(_UNITS):
        if seconds >= size:
            whole, rest = divmod(round(seconds / lower_size), size // lower_size)
            return f"{whole} {unit} {rest} {lower}" if rest else f"{whole} {unit}"
    return f"{seconds:.0f} s"


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@click.command("funnel", context_settings=HELP)
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("steps", nargs=-1, required=True, metavar="STEP...")
@click.option("--within", metavar="30d", help="The longest time from the first step: a number and s, m, h, d or w.")
@click.option("--by", metavar="NAME", help="Break down by affiliate, client, event or any parameter.")
@click.option("--client", metavar="NAME", help="Only the visitors of this client.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw it into FILE.svg, .png or .html.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def funnel_command(
    log: Path, steps: tuple[str, ...], within: str | None, by: str | None, client: str | None, chart: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Count the visitors of LOG (a folder of tables) that did STEP after STEP."""
    found = funnel(lab.open(log), *steps, within=within, by=by, client=client)
    if chart is not None:
        found.chart().save(chart)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(funnel_document(found)), indent=2).decode())
        return
    click.echo(repr(found))
    if chart is not None:
        click.echo(f"chart in {chart}")


def funnel_document(found: Funnel) -> dict[str, Any]:
    """What `backtrack funnel --json` prints."""
    return {
        "steps": list(found.steps), "within": found.within or None, "by": found.by or None,
        "client": found.client or None, "visitors": found.visitors, "rows": found.frame.to_dicts(),
    }  # fmt: skip
