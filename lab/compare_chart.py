"""The picture of a comparison: money before and after per trigger, or postbacks where no money is paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from lab.charts import BAR, INK, Chart
from lab.show import text_of

if TYPE_CHECKING:
    from lab.compare import Comparison

_BEFORE = "#8b929c"


def comparison_chart(comparison: Comparison) -> Chart:
    """Two bars per client, trigger and currency. frame: what, side, value, label."""
    paid = comparison.money_by("client", "trigger")
    frame = _money(paid) if not paid.is_empty() else _postbacks(comparison)
    spec = _bars(frame).properties(background="transparent", padding=10, title=_title(comparison))
    return Chart(frame, spec.configure_view(strokeWidth=0, fill=None), "what the new rules change")


def _money(paid: pl.DataFrame) -> pl.DataFrame:
    rows = [
        (f"{client} {trigger}, {currency}", side, float(amount), f"{text_of(amount)} {currency}")
        for client, trigger, currency, before, after in paid.select(
            "client", "trigger", "currency", "before", "after"
        ).iter_rows()
        for side, amount in (("before", before), ("after", after))
    ]
    return _frame(rows)


def _postbacks(comparison: Comparison) -> pl.DataFrame:
    rows = [
        (f"{row['client']} {row['trigger']}", kind, float(row[kind]), f"{row[kind]:,} {kind}")
        for row in comparison.by_trigger.iter_rows(named=True)
        for kind in ("gained", "lost", "changed")
    ]
    return _frame(rows)


def _frame(rows: list[tuple[str, str, float, str]]) -> pl.DataFrame:
    schema = {"what": pl.String, "side": pl.String, "value": pl.Float64, "label": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _bars(frame: pl.DataFrame) -> Any:
    sides = frame["side"].unique(maintain_order=True).to_list()
    colours = [_BEFORE, BAR] if len(sides) == 2 else ["#2e9d6a", "#c9564c", BAR]
    axis = alt.Axis(labelColor=INK, labelLimit=260, labelFontSize=12, domain=False, ticks=False, labelPadding=8)
    base = alt.Chart(alt.Data(values=frame.to_dicts())).encode(
        y=alt.Y("what:N", sort=None, title=None, axis=axis),
        yOffset=alt.YOffset("side:N", sort=sides),
    )
    scale = alt.Scale(domain=sides, range=colours)
    legend = alt.Legend(title=None, orient="top", labelColor=INK)
    value = alt.X("value:Q", title=None, axis=None)
    bars = base.mark_bar(cornerRadius=2).encode(x=value, color=alt.Color("side:N", scale=scale, legend=legend))
    labels = base.mark_text(align="left", dx=6, color=INK, fontSize=11).encode(x=value, text="label:N")
    return alt.layer(bars, labels).properties(width=380, height=alt.Step(17))


def _title(comparison: Comparison) -> Any:
    return alt.TitleParams(
        "What the new rules change", subtitle=comparison.sentence, anchor="start", color=INK, subtitleColor=INK,
        fontSize=14, fontWeight=600, subtitleFontSize=12, subtitlePadding=4, offset=14,
    )  # fmt: skip
