"""The picture of a comparison: money before and after per trigger, or postbacks where no money is paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from lab.charts import BAR, INK, Chart, dressed
from lab.show import text_of

if TYPE_CHECKING:
    from lab.compare import Comparison

_BEFORE = "#8b929c"


def comparison_chart(comparison: Comparison) -> Chart:
    """Two bars per client, trigger and currency, each currency on a scale of its own. frame: what, side, value, label."""
    paid = comparison.money_by("client", "trigger")
    frame = _money(paid) if not paid.is_empty() else _postbacks(comparison)
    spec = dressed(_bars(frame), "What the new rules change", comparison.sentence)
    return Chart(frame.drop("length"), spec, "what the new rules change")


def _money(paid: pl.DataFrame) -> pl.DataFrame:
    rows = [
        (f"{client} {trigger}, {currency}", side, float(amount), f"{text_of(amount)} {currency}", currency)
        for client, trigger, currency, before, after in paid.select(
            "client", "trigger", "currency", "before", "after"
        ).iter_rows()
        for side, amount in (("before", before), ("after", after))
    ]
    return _frame(rows)


def _postbacks(comparison: Comparison) -> pl.DataFrame:
    rows = [
        (f"{row['client']} {row['trigger']}", kind, float(row[kind]), f"{row[kind]:,} {kind}", "")
        for row in comparison.by_trigger.iter_rows(named=True)
        for kind in ("gained", "lost", "changed")
    ]
    return _frame(rows)


def _frame(rows: list[tuple[str, str, float, str, str]]) -> pl.DataFrame:
    """With the length of each bar: its value over the highest of its unit, since a thousand yen are less than ten euros."""
    schema = {"what": pl.String, "side": pl.String, "value": pl.Float64, "label": pl.String, "unit": pl.String}
    highest = pl.col("value").abs().max().over("unit")
    length = pl.when(highest > 0).then(pl.col("value") / highest).otherwise(0.0)
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(length=length).drop("unit")


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
    value = alt.X("length:Q", title=None, axis=None)
    bars = base.mark_bar(cornerRadius=2).encode(x=value, color=alt.Color("side:N", scale=scale, legend=legend))
    labels = base.mark_text(align="left", dx=6, color=INK, fontSize=11).encode(x=value, text="label:N")
    return alt.layer(bars, labels).properties(width=380, height=alt.Step(17))
