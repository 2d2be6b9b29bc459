"""How visitors move through steps, and where they leave.

One meaning, also in SQL: the events are those of `log.events` (accepted, no tests) in log order: time, partition, seq. An
attempt starts at any event of the first step; each step is its own hit, none later than `within` after the start (equal
still counts). `ordered`: each next step at its earliest later event. `strict`: each next step is the visitor's very next
event. `any`: the start may be any step, and each other step counts at its earliest event from there on. An excluded event
is no step and ends the attempt. A visitor's longest attempt counts, of equally long ones the first; an absorbed
visitor's events belong to the one that absorbed it, as they do for the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from lab.funnel_steps import Asked, read_question, read_window, value_of
from lab.log import LabError, Log
from lab.pictures import funnel_bars
from lab.show import html_block, html_table, plural, rich_table
from service.engine.document import nearest
from service.engine.model import RESERVED

if TYPE_CHECKING:
    from lab.charts import Chart
    from lab.funnel_beside import Segments

NONE = "(none)"  # shown where the breakdown has no value

_COLUMNS = ("affiliate", "client", "event", "currency")  # what `by` reads beside parameters
_COUNTED = ("step_number", "step", "visitors", "share_of_first", "share_of_previous", "median_seconds_from_previous")


class Funnel:
    """The result of `funnel`. frame: one row per step, per value of the breakdown if there is one (most visitors first).

    Columns: [by], step_number (from 1), step, visitors, share_of_first and share_of_previous (0 to 1, null where nobody
    came so far), median_seconds_from_previous (within the attempts that count, null for the first step).

    >>> funnel = log.funnel("click", "registration", "sale", within="12h")
    >>> funnel.frame.columns
    ['step_number', 'step', 'visitors', 'share_of_first', 'share_of_previous', 'median_seconds_from_previous']
    """

    def __init__(self, frame: pl.DataFrame, asked: Asked, way: Way) -> None:
        self.frame = frame
        self.asked = asked
        self.steps = asked.labels
        self.within = way.within
        self.by = way.by
        self.client = way.client
        self.where = way.where
        self._way = way

    @property
    def visitors(self) -> list[int]:
        """Visitors per step, over all values of the breakdown.

        >>> len(funnel.visitors) == len(funnel.steps)
        True
        """
        counts = self.frame.group_by("step_number").agg(pl.col("visitors").sum())
        found = dict(counts.iter_rows())
        return [found.get(number, 0) for number in range(1, len(self.steps) + 1)]

    @property
    def title(self) -> str:
        """What was asked, in one line.

        >>> funnel.title
        'click → registration → sale within 12h'
        """
        joint = {"ordered": " → ", "strict": " ⇒ ", "any": " + "}[self.asked.mode]
        mode = {"ordered": "", "strict": ", nothing between", "any": ", in any order"}[self.asked.mode]
        without = ", ".join(step.label for step in self.asked.exclude)
        return (
            joint.join(step.label for step in self.asked.steps) + (f" within {self.within}" if self.within else "") + mode
            + (f" without {without}" if without else "") + (f" of {self.client}" if self.client else "")
            + (f" where {self.where}" if self.where else "") + (f", by {self.by}" if self.by else "")
        )  # fmt: skip

    @property
    def sentence(self) -> str:
        """The answer in one line.

        >>> "visitors did click" in funnel.sentence
        True
        """
        first, last = self.visitors[0], self.visitors[-1]
        share = f", {100 * last / first:.1f} %" if first else ""
        return f"{plural(first, 'visitor')} did {self.steps[0]}; {last:,} reached {self.steps[-1]}{share}"

    @cached_property
    def ties(self) -> pl.DataFrame:
        """How far each number depends on the order of hits of the same time.

        Columns: [by], step_number, step, visitors, lowest, highest (visitors, over every order), median_seconds,
        lowest_median, highest_median (seconds from the previous step). Past `funnel_ties.MAX_WAYS` hits to follow for one
        visitor it counts as both: gone after the first step, and there to the end.

        >>> funnel.ties.columns[2:5]
        ['visitors', 'lowest', 'highest']
        """
        from lab.funnel_ranges import ranges

        return ranges(self._way, self.asked, self._column)

    @cached_property
    def times(self) -> pl.DataFrame:
        """Time to convert. Columns: [by], step_number, step, since (`previous` or `first` step), visitors, then seconds:
        p10, p25, p50, p75, p90, p99. From step 2 on; nobody came so far: no row.

        >>> funnel.times.columns
        ['step_number', 'step', 'since', 'visitors', 'p10', 'p25', 'p50', 'p75', 'p90', 'p99']
        """
        from lab.funnel_times import times

        return times(self._way.attempts, self.steps, self._column)

    @cached_property
    def trend(self) -> pl.DataFrame:
        """By day (UTC) of the start. Columns: day (date), [by], step_number, step, visitors, share_of_first (0 to 1).

        >>> funnel.trend.columns
        ['day', 'step_number', 'step', 'visitors', 'share_of_first']
        """
        from lab.funnel_times import trend

        return trend(self._way.attempts, self.steps, self._column)

    def left(self, events: int = 1) -> pl.DataFrame:
        """What those who left did next: so many of their next events, of any name.

        Columns: [by], step_number and step (the last that they did), next (`login → pageview`, `(nothing)`), visitors,
        share (0 to 1, of those who left there). Most visitors first.

        >>> funnel.left().columns
        ['step_number', 'step', 'next', 'visitors', 'share']
        """
        from lab.funnel_left import left

        if not 1 <= events <= 20:
            raise LabError(f"events {events} is out of range; name 1 to 20 of the next events")
        return left(self._way, self.asked, self._column, events)

    def beside(self, other: Funnel) -> Segments:
        """Two funnels of the same steps side by side: see `lab.funnel_beside.Segments`.

        >>> funnel.beside(log.funnel("click", "registration", "sale", client="bolt")).frame.height
        3
        """
        from lab.funnel_beside import Segments

        return Segments(self, other)

    def chart(self) -> Chart:
        """The funnel as a chart; `chart().frame` is what it draws.

        >>> funnel.chart().frame.equals(funnel.frame)
        True
        """
        from lab.charts import funnel_chart

        return funnel_chart(self)

    def times_chart(self) -> Chart:
        """How many of those who came had come after which time, one line per step.

        >>> funnel.times_chart().frame.columns[:2]
        ['step_number', 'label']
        """
        from lab.funnel_charts import times_chart

        return times_chart(self)

    def trend_chart(self) -> Chart:
        """The share that reached each step, by day of the start.

        >>> funnel.trend_chart().frame.columns[:2]
        ['day', 'step_number']
        """
        from lab.funnel_charts import trend_chart

        return trend_chart(self)

    @property
    def waits(self) -> pl.DataFrame:
        """step_number, seconds: the time from the first step to each later one, one row per visitor that came.

        >>> funnel.waits.columns
        ['step_number', 'seconds']
        """
        from lab.funnel_times import waits

        return waits(self._way.attempts, len(self.steps))

    @property
    def _column(self) -> str:
        """How the column of the breakdown is called; "" without one. A parameter may be called like a column."""
        return f"by_{self.by}" if self.by in _COUNTED else self.by

    def readable(self) -> pl.DataFrame:
        """The frame as a person reads it: shares in percent, times in units, and ranges where ties leave one.

        >>> funnel.readable().columns
        ['step', 'visitors', 'of first', 'of previous', 'median time']
        """
        kept = [name for name in self.frame.columns if name not in _COUNTED]
        shown = self.frame.select(
            *(pl.col(name).replace("", NONE) for name in kept),
            "step",
            "visitors",
            _percent("share_of_first").alias("of first"),
            _percent("share_of_previous").alias("of previous"),
            pl.col("median_seconds_from_previous").map_elements(duration_text, pl.String).alias("median time"),
        )
        loose = (self.ties["lowest"] < self.ties["highest"]) | (
            self.ties["lowest_median"] < self.ties["highest_median"]
        )
        return shown.with_columns(self._by_ties()) if loose.any() else shown

    def _by_ties(self) -> list[pl.Series]:
        """The ranges in words, row by row as in the frame."""
        counts = [
            f"{low:,} to {high:,}" if low < high else "" for low, high in self.ties[["lowest", "highest"]].iter_rows()
        ]
        medians = [
            f"{duration_text(low)} to {duration_text(high)}"
            if low is not None and high is not None and low < high
            else ""
            for low, high in self.ties[["lowest_median", "highest_median"]].iter_rows()
        ]
        return [pl.Series("visitors by ties", counts), pl.Series("median by ties", medians)]

    def __repr__(self) -> str:
        return f"Funnel {self.title}: {self.sentence}\n{text_table(self.readable())}"

    def _repr_html_(self) -> str:
        return html_block(self.title, funnel_bars(self), html_table(self.readable(), limit=60), notes=(self.sentence,))


class Way:
    """What a funnel was counted from, for the questions that come later.

    events: what `find_attempts` reads; attempts: what it found; kept: the events that were asked for.
    """

    def __init__(self, log: Log, client: str | None, by: str | None, within: str, where: str | None) -> None:
        self.log = log
        self.client = client or ""
        self.by = by or ""
        self.within = within
        self.where = where or ""
        self.events = pl.DataFrame()
        self.attempts = pl.DataFrame()

    def all_events(self) -> pl.LazyFrame:
        """Accepted events that are no tests, of the client if there is one: the columns of the decisions."""
        found = self.log.decisions.filter(pl.col("verdict") == "accepted", ~pl.col("test"))
        return found.filter(pl.col("client") == self.client) if self.client else found

    def owned(self, events: pl.DataFrame) -> pl.DataFrame:
        """The same events, each with the visitor that it belongs to in the end."""
        owners = _absorbed_into(self.log)
        return events.with_columns(pl.col("visitor").replace(owners)) if owners else events


def funnel(
    log: Log, *steps: str, within: str | timedelta | None = None, by: str | None = None, client: str | None = None,
    mode: str = "ordered", exclude: str | Sequence[str] = (), where: str | None = None,
) -> Funnel:  # fmt: skip
    """Count how many visitors took the steps.

    A step is an event, if need be with a condition: `sale[amount >= 20]`. within: the longest time from the first step,
    such as "30d" (s, m, h, d, w). by: break down by `affiliate`, `client`, `event`, `currency` or any parameter, as it was
    at the start of the attempt that counts. client: only its visitors. mode: `ordered`, `strict` (nothing between) or `any`
    (order). exclude: steps that end an attempt. where: a condition on the hit that starts the attempt.
    Raises LabError for what cannot be read, and for a step, client or parameter that the log does not know.
    """
    from lab.attempts import find_attempts  # late: the command line should not wait for DuckDB
    from lab.sets.session import Session

    within_us, within_text = read_window(within)
    if not isinstance(by, str | None):
        raise LabError(f"by {by!r} is no parameter; give a name, such as affiliate or country")
    asked = read_question(steps, within_us, mode, exclude, where)._replace(by=by is not None)
    way = Way(log, client, by, within_text, where)
    way.events = _events(way, asked)
    with Session() as session:
        session.put("events", way.events)
        way.attempts = session.frame(f"FROM {find_attempts(session, asked, 'events')}")
    found = Funnel(pl.DataFrame(), asked, way)
    frame = count_attempts(way.attempts, asked.labels)
    found.frame = frame.rename({"by_value": found._column}) if by else frame.drop("by_value")
    return found


def _events(way: Way, asked: Asked) -> pl.DataFrame:
    """The events that can matter: visitor, time_us, partition, seq, event, by_value, v0, v1, ... as `marked_sql` says."""
    clients = way.log.events.select(pl.col("client").unique()).collect().to_series().to_list() if way.client else []
    if way.client and way.client not in clients:
        raise LabError(f"no event of this log is of a client {way.client!r}{nearest(way.client, clients)}")
    known = way.log.events.select(pl.col("event").unique()).collect().to_series().to_list()
    wanted = [step.event for step in (*asked.steps, *asked.exclude)]
    for name in wanted:
        if name not in known:
            raise LabError(f"no event of this log is called {name!r}{nearest(name, known)}")
    events = way.all_events()
    if asked.mode != "strict":
        events = events.filter(pl.col("event").is_in(wanted))
    found = events.select(
        "visitor", pl.col("time").dt.epoch("us").alias("time_us"), "partition", "seq", "event",
        _value_of(way.by).fill_null("").alias("by_value"),
        *(value_of(name).alias(f"v{number}") for number, name in enumerate(asked.names)),
    ).collect()  # fmt: skip
    if way.by and way.by not in _COLUMNS and not (found["by_value"] != "").any():
        _check_parameter(way.log, way.by)
    for number, name in enumerate(asked.names):
        if found[f"v{number}"].null_count() == found.height:
            _check_parameter(way.log, name.removeprefix("param."))
    return way.owned(found)


def _value_of(by: str) -> pl.Expr:
    if by == "currency":
        return pl.col("fields").map.get("currency")
    return pl.lit("") if not by else pl.col(by) if by in _COLUMNS else pl.col("params").map.get(by)


def _check_parameter(log: Log, name: str) -> None:
    names = {*_COLUMNS, *RESERVED}
    keys = log.events.select(pl.col("params").map.keys().explode().unique())
    names.update(keys.collect().to_series().drop_nulls().to_list())
    if name not in names:
        raise LabError(f"no event of this log has a parameter {name!r}{nearest(name, sorted(names))}")


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


def count_attempts(best: pl.DataFrame, steps: Sequence[str]) -> pl.DataFrame:
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


def text_table(frame: pl.DataFrame) -> str:
    """A frame as plain text, at most 40 rows."""
    from rich.console import Console

    out = StringIO()
    Console(file=out, width=140, color_system=None, force_jupyter=False).print(rich_table(frame, limit=40))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _percent(name: str) -> pl.Expr:
    return pl.col(name).map_elements(lambda share: f"{100 * share:5.1f}".replace(" ", "\u2007") + " %", pl.String)


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
