"""Charts of any frame: columns and lines over time, for the questions that no result of the lab answers by itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import altair as alt
import polars as pl

from lab.charts import BAR, INK, Chart, dressed
from lab.funnel_charts import LINES, quiet_axis
from lab.log import LabError
from service.engine.document import nearest

_WIDTH, _HEIGHT = 560, 200
_ROWS = 5_000  # a drawing of more points says no more and takes long


def columns(frame: pl.DataFrame, x: str, y: str, by: str = "", title: str = "", subtitle: str = "") -> Chart:
    """A column per value of x (a time in UTC, or anything in the order of the frame); stacked by the values of `by`.

    Raises LabError for a column that the frame has not, ValueError for a frame of more than 5,000 rows.

        columns(log.hits.group_by_dynamic("time", every="1h").agg(pl.len().alias("hits")).collect(), "time", "hits")
    """
    _check_columns(frame, x, y, by)
    wide = _width(frame, x)
    base = alt.Chart(_data(frame)).mark_bar(color=BAR, binSpacing=1, **wide)
    return _chart(frame, base, x, y, by, title, subtitle, padding=8 + wide.get("width", 0.0) / 2)


def lines(frame: pl.DataFrame, x: str, y: str, by: str = "", title: str = "", subtitle: str = "") -> Chart:
    """A line over x (a time in UTC, or anything in the order of the frame), one per value of `by`; else as `columns`."""
    _check_columns(frame, x, y, by)
    base = alt.Chart(_data(frame)).mark_line(color=BAR, point=alt.OverlayMarkDef(size=28), strokeWidth=2)
    return _chart(frame, base, x, y, by, title, subtitle)


def _check_columns(frame: pl.DataFrame, *names: str) -> None:
    for name in names:
        if name and name not in frame.columns:
            raise LabError(f"the frame has no column {name!r}{nearest(name, frame.columns)}")


def _chart(
    frame: pl.DataFrame, base: Any, x: str, y: str, by: str, title: str, subtitle: str, padding: float = 8.0
) -> Chart:
    encoded = base.encode(
        x=_across(frame, x, padding), y=alt.Y(f"{y}:Q", axis=quiet_axis(title=_said(y), **_numbers(frame[y])))
    )
    if by:
        names = frame[by].unique(maintain_order=True).to_list()
        scale = alt.Scale(domain=names, range=[LINES[n % len(LINES)] for n in range(len(names))])
        legend = alt.Legend(title=None, labelColor=INK, labelFontSize=12, labelLimit=300)
        encoded = encoded.encode(color=alt.Color(f"{by}:N", scale=scale, legend=legend))
    title = title or f"{_said(y)} by {_said(x)}"
    return Chart(frame, dressed(encoded.properties(width=_WIDTH, height=_HEIGHT), title, subtitle), title)


def _numbers(values: pl.Series) -> dict[str, Any]:
    """How the numbers of an axis are written: whole ones as such, shares in percent."""
    if values.dtype.is_integer():
        return {"format": ",d", "tickMinStep": 1}
    highest = values.max()
    return {"format": ".0%" if highest is not None and float(highest) <= 1 else ",~f"}  # type: ignore[arg-type]


def _across(frame: pl.DataFrame, x: str, padding: float) -> Any:
    if not frame.schema[x].is_temporal():
        return alt.X(f"{x}:N", sort=None, axis=quiet_axis(title=_said(x), labelAngle=0, grid=False))
    seconds = frame[x].cast(pl.Datetime("us")).dt.epoch("s")
    long = frame.height > 0 and seconds.max() - seconds.min() > 2 * 86_400  # type: ignore[operator]
    axis = quiet_axis(
        format="%a %-d %b" if long else "%a %H:%M", tickCount="day" if long else 8, title=f"{_said(x)} (UTC)",
        labelAngle=0, grid=False, labelOverlap=True,
    )  # fmt: skip
    return alt.X(f"{x}:T", scale=alt.Scale(type="utc", nice=False, padding=padding), axis=axis)


def _width(frame: pl.DataFrame, x: str) -> dict[str, float]:
    """Columns as wide as the smallest step in time allows."""
    if not frame.schema[x].is_temporal() or frame[x].n_unique() < 2:
        return {}
    seconds = frame[x].cast(pl.Datetime("us")).dt.epoch("s").unique().sort().to_list()
    step = min(later - earlier for earlier, later in pairwise(seconds))
    return {"width": max(1.0, 0.85 * _WIDTH * step / (seconds[-1] - seconds[0] + step))}


def _data(frame: pl.DataFrame) -> Any:
    if frame.height > _ROWS:
        raise ValueError(f"the frame has {frame.height:,} rows; draw at most {_ROWS:,}: group them first")
    temporal = [pl.col(name).cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
                for name, dtype in frame.schema.items() if dtype.is_temporal()]  # fmt: skip
    return alt.Data(values=frame.with_columns(temporal).to_dicts())


def _said(name: str) -> str:
    return name.replace("_", " ")
