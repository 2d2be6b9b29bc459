"""Pictures of a funnel's times, of its trend, and of two segments side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from lab.charts import BAR, INK, Chart, dressed
from lab.funnel import duration_text

if TYPE_CHECKING:
    from lab.funnel import Funnel
    from lab.funnel_beside import Segments

OTHER = "#c2703d"  # the second segment: as far from the background as the bars are
LINES = (BAR, OTHER, "#8a6fc4", "#5c9a4a", "#b0568a", "#8d8436")
_POINTS = 101  # of a line of times: one per percent
_MARKS_S = [
    *(1, 10, 60, 600, 3600, 6 * 3600),
    *(days * 86_400 for days in (1, 2, 3, 7, 14, 30, 90, 365)),
]


def times_chart(found: Funnel) -> Chart:
    """Of those who came to a step, the share (0 to 1) that had come after so many seconds from the first step."""
    frame = _waited(found)
    marks = {str(seconds): duration_text(seconds) for seconds in _MARKS_S}
    axis = quiet_axis(
        values=_MARKS_S, labelExpr=f"{marks!r}[datum.value]", title="time from the first step", labelOverlap=True
    )
    spec = alt.Chart(alt.Data(values=frame.to_dicts())).mark_line(strokeWidth=2).encode(
        x=alt.X("seconds:Q", scale=alt.Scale(type="symlog", constant=1), axis=axis),
        y=alt.Y("share:Q", scale=alt.Scale(domain=[0, 1]), axis=quiet_axis(format=".0%", title="had come")),
        color=_colours("label", _labels(found)[1:]), order="share:Q",
    ).properties(width=460, height=240)  # fmt: skip
    return Chart(frame, dressed(spec, found.title, "how long those took who came"), found.title)


def trend_chart(found: Funnel) -> Chart:
    """The share (0 to 1) of those who started on a day that reached each step; of a breakdown the sum over its values."""
    days = found.trend.group_by("day", "step_number").agg(pl.col("visitors").sum()).sort("day", "step_number")
    first = pl.col("visitors").first().over("day")
    frame = days.with_columns(share=pl.when(first > 0).then(pl.col("visitors") / first), label=_named(found))
    shown = frame.filter(pl.col("step_number") > 1).with_columns(pl.col("day").cast(pl.String))
    spec = alt.Chart(alt.Data(values=shown.to_dicts())).mark_line(point=True, strokeWidth=2).encode(
        x=alt.X("day:O", axis=quiet_axis(
            labelAngle=0, labelExpr="utcFormat(toDate(datum.value), '%a %-d %b')", labelOverlap=True,
            title="day of the first step (UTC)",
        )),
        y=alt.Y("share:Q", axis=quiet_axis(format=".0%", title="came so far")),
        color=_colours("label", _labels(found)[1:]),
    ).properties(width=460, height=240)  # fmt: skip
    return Chart(frame, dressed(spec, found.title, "by day, as share of those who started then"), found.title)


def segments_chart(both: Segments) -> Chart:
    """Two bars per step, as wide as the share of the first step."""
    names = [both.one.where or "one", both.other.where or "all"]
    if names[0] == names[1]:
        names = ["one", "other"]
    steps = _labels(both.one)
    rows = [
        {"label": steps[row["step_number"] - 1], "segment": name, "share": row[f"{side}share_of_first"] or 0.0,
         "text": f"{row[f'{side}visitors']:,} · {100 * (row[f'{side}share_of_first'] or 0.0):.1f} %"}
        for row in both.frame.iter_rows(named=True)
        for name, side in zip(names, ("", "other_"), strict=True)
    ]  # fmt: skip
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("label:N", sort=steps, title=None, axis=quiet_axis(labelFontSize=12, labelLimit=240)),
        yOffset=alt.YOffset("segment:N", sort=names),
        x=alt.X("share:Q", scale=alt.Scale(domain=[0, 1.25]), axis=None),
    )
    bars = base.mark_bar(cornerRadius=2).encode(color=_colours("segment", names))
    spec = alt.layer(bars, base.mark_text(align="left", dx=6, color=INK, fontSize=11).encode(text="text:N"))
    title = both.one.title if both.one.title == both.other.title else f"{both.one.title} | {both.other.title}"
    sized = spec.properties(width=460, height=alt.Step(22))
    return Chart(both.frame, dressed(sized, title, "two segments, as share of the first step"), title)


def _waited(found: Funnel) -> pl.DataFrame:
    """step_number, label, share, seconds: the quantiles of the waits, one per percent."""
    rows = []
    for number, label in enumerate(_labels(found)[1:], 2):
        seconds = found.waits.filter(pl.col("step_number") == number)["seconds"]
        if len(seconds):
            shares = [percent / (_POINTS - 1) for percent in range(_POINTS)]
            rows += [(number, label, share, seconds.quantile(share, "linear")) for share in shares]
    schema = {"step_number": pl.Int64, "label": pl.String, "share": pl.Float64, "seconds": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _labels(found: Funnel) -> list[str]:
    """The steps, told apart where one comes twice."""
    steps = list(found.steps)
    return [f"{n} {step}" if steps.count(step) > 1 else step for n, step in enumerate(steps, 1)]


def _named(found: Funnel) -> pl.Expr:
    labels = dict(enumerate(_labels(found), 1))
    return pl.col("step_number").map_elements(labels.__getitem__, pl.String)


def _colours(field: str, names: list[str]) -> Any:
    scale = alt.Scale(domain=names, range=[LINES[n % len(LINES)] for n in range(len(names))])
    return alt.Color(
        f"{field}:N", scale=scale, legend=alt.Legend(title=None, labelColor=INK, labelFontSize=12, labelLimit=300)
    )


def quiet_axis(**more: Any) -> Any:
    """An axis in the ink of the page, without lines of its own; more: what else it is to be."""
    quiet = {"labelColor": INK, "titleColor": INK, "gridColor": "#8a8f9840", "domain": False, "ticks": False}
    return alt.Axis(**(quiet | {"titleFontWeight": "normal", "labelPadding": 6} | more))
