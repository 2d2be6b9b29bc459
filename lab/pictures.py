"""Small pictures that stand above the tables of a result: plain SVG in the tones of the page, light or dark, no script.

Text takes the colour of its surroundings; tones are classes that `lab.show` gives a colour: `a` the thing itself, `b` what
it is compared with, `u` good, `d` bad, `q` the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from lab.funnel import Funnel

_LABEL, _BARS, _NUMBER = 190, 330, 240  # widths in pixels
_ROW = 20
_MOST = 12  # rows of a picture; the table below it has more
_BUCKETS = 48  # bars over time
_NODES = 7  # of a road

Part = tuple[str, int, str]  # name, count, tone
Bar = tuple[str, float, str]  # label, value, what is written behind the bar


def bars(title: str, rows: Sequence[Bar], top: float = 0.0, ghost: bool = False, tones: str = "a") -> str:
    """A bar per row. top: the value of the whole width; the highest one if 0. ghost: show what is left up to it, too.
    tones: of the rows, in turn."""
    if not rows:
        return ""
    whole = top or max(value for _, value, _ in rows) or 1.0
    parts = []
    for number, (label, value, text) in enumerate(rows[:_MOST]):
        y = number * _ROW
        width = _BARS * max(0.0, value) / whole
        if ghost:
            parts.append(_rect(_LABEL, y + 3, _BARS, 13, "q"))
        tone = tones[number % len(tones)]
        parts.append(_rect(_LABEL, y + 3, max(width, 1.0 if value else 0.0), 13, tone))
        parts.append(_text(0, y + 14, label, 30) + _text(_LABEL + (_BARS if ghost else width) + 8, y + 14, text))
    left_out = len(rows) - _MOST
    if left_out > 0:
        parts.append(_text(_LABEL, _MOST * _ROW + 14, f"and {left_out:,} more"))
    return _svg(title, min(len(rows), _MOST + 1) * _ROW + 4, parts)


def shares(title: str, parts: Sequence[Part]) -> str:
    """One bar of several parts, with a legend that counts them. Parts of nothing are left out."""
    shown = [part for part in parts if part[1]]
    whole = sum(count for _, count, _ in shown)
    if not whole:
        return ""
    drawn, x, key = [], 0.0, 0.0
    for name, count, tone in shown:
        width = (_LABEL + _BARS) * count / whole
        drawn.append(_rect(x, 2, max(width - 1, 1.0), 14, tone))
        label = f"{name} {count:,}"
        drawn.append(_rect(key, 26, 10, 10, tone) + _text(key + 15, 35, label))
        x, key = x + width, key + 30 + 6.6 * len(label)
    return _svg(title, 42, drawn, max(key, _LABEL + _BARS))


def over_time(title: str, events: pl.LazyFrame) -> str:
    """How many there were when, in bars of an even length. events: time (UTC), good (whether it was accepted)."""
    first, last = (
        events.select(pl.col("time").min().alias("first"), pl.col("time").max().alias("last")).collect().row(0)
    )
    if first is None:
        return ""
    every = _bucket_of(last - first)
    counted = events.group_by(pl.col("time").dt.truncate(every)).agg(
        pl.col("good").sum().alias("good"), (~pl.col("good")).sum().alias("other")
    ).collect()  # fmt: skip
    grid = pl.datetime_range(
        first, last + timedelta(microseconds=1), every, time_unit="us", time_zone="UTC", eager=True
    ).dt.truncate(every).alias("time")  # fmt: skip
    filled = grid.to_frame().unique().join(counted, on="time", how="left").fill_null(0).sort("time")
    return _svg(title, 76, _columns(filled, every))


def road(title: str, nodes: Sequence[tuple[str, str, str]]) -> str:
    """What happened one after the other. nodes: what, a word about it, tone."""
    shown = nodes[:_NODES]
    apart = 128
    parts = [f'<path d="M10 12H{10 + apart * (len(shown) - 1)}" stroke="currentColor" stroke-opacity=".35"/>']
    for number, (what, word, tone) in enumerate(shown):
        x = 10 + apart * number
        parts.append(f'<circle class="{tone}" cx="{x}" cy="12" r="7"/>')
        parts.append(_text(x - 7, 36, what, 18) + _text(x - 7, 52, word, 18))
    return _svg(title, 58, parts, apart * len(shown) + 10)


def funnel_bars(funnel: Funnel) -> str:
    """A bar per step; of a breakdown a bar per value, as long as the share that reached the last step."""
    frame, last = funnel.frame, len(funnel.steps)
    if funnel.by:
        frame = frame.filter(pl.col("step_number") == last)
    rows = [
        (
            str(row[frame.columns[0]] or "(none)") if funnel.by else row["step"],
            row["share_of_first"] or 0.0,
            _reached(row),
        )
        for row in frame.to_dicts()
    ]
    return bars(funnel.title, rows, top=1.0, ghost=True)


def _reached(row: dict[str, Any]) -> str:
    share = row["share_of_first"]
    return f"{row['visitors']:,}" + (f" · {100 * share:.1f} % of first" if share is not None and share < 1 else "")


def segment_bars(frame: pl.DataFrame) -> str:
    """Two bars per step, of the shares of either segment. frame: that of `funnel_beside.Segments`."""
    rows = [
        (f"{step}, {name}", share or 0.0, f"{visitors:,}" + (f" · {100 * share:.1f} %" if share is not None else ""))
        for step, *sides in frame.select(
            "step", "visitors", "share_of_first", "other_visitors", "other_share_of_first"
        ).iter_rows()
        for name, visitors, share in (("one", *sides[:2]), ("other", *sides[2:]))
    ]
    return bars("Shares of the first step, side by side", rows, top=1.0, ghost=True, tones="ab")


def _columns(filled: pl.DataFrame, every: str) -> list[str]:
    most = int((filled["good"] + filled["other"]).max() or 1)  # type: ignore[arg-type]
    width = min(26.0, (_LABEL + _BARS) / filled.height)
    drawn = []
    for number, (_, good, other) in enumerate(filled.iter_rows()):
        x, tall, rest = number * width, 52 * good / most, 52 * other / most
        drawn.append(_rect(x, 54 - tall, width - 1, tall, "a") + _rect(x, 54 - tall - rest, width - 1, rest, "d"))
    start, end = filled["time"][0], filled["time"][-1]
    said = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, in steps of {every}, {most:,} at most"
    key = [("a", "accepted"), ("d", "not accepted")] if filled["other"].sum() else []
    for row, (tone, name) in enumerate(key):
        drawn.append(_rect(_LABEL + _BARS + 20, 4 + 18 * row, 10, 10, tone))
        drawn.append(_text(_LABEL + _BARS + 35, 13 + 18 * row, name))
    return [*drawn, _text(0, 70, said)]


def _bucket_of(span: timedelta) -> str:
    lengths = {"1s": 1, "10s": 10, "1m": 60, "10m": 600, "1h": 3600, "3h": 10_800, "6h": 21_600, "1d": 86_400}
    return next((name for name, seconds in lengths.items() if span.total_seconds() / seconds <= _BUCKETS), "1w")


def _svg(title: str, height: int, parts: Sequence[str], width: float = _LABEL + _BARS + _NUMBER) -> str:
    name = escape(title)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" role="img" aria-label="{name}">'
        f"<title>{name}</title>{''.join(parts)}</svg>"
    )


def _rect(x: float, y: float, width: float, height: float, tone: str) -> str:
    if height <= 0 or width <= 0:
        return ""
    return f'<rect class="{tone}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5"/>'


def _text(x: float, y: float, text: str, most: int = 200) -> str:
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(shown)}</text>'
