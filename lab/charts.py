"""Charts are data: each has the frame it draws, and draws itself offline, without a browser, a CDN or a network.

Colours are mid-tones on a transparent background, so that one drawing reads well on light and on dark pages.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl
import vl_convert

from lab.log import LabError
from lab.show import html_block, html_table

if TYPE_CHECKING:
    from lab.funnel import Funnel

MAX_PANELS = 9  # values of a breakdown that are drawn; the frame holds all

INK = "#7b7f86"  # text: contrast above 4 on white and on near black
BAR = "#2a91a2"
LOST = "#8a8f9826"  # where the bar would end if nobody left
_FONT = "system-ui, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', sans-serif"
_PANELS_PER_ROW = 3
_FORMATS = (".svg", ".png", ".html")


class Chart:
    """A drawing and its data. frame: what is drawn, a Polars frame. spec: the Altair chart. title: one line.

    >>> chart = funnel.chart()
    >>> chart.title
    'click → registration → sale within 12h'
    """

    def __init__(self, frame: pl.DataFrame, spec: Any, title: str) -> None:
        self.frame = frame
        self.spec = spec
        self.title = title

    @property
    def svg(self) -> str:
        """The drawing as an SVG document with a transparent background.

        >>> chart.svg[:4]
        '<svg'
        """
        drawn: str = vl_convert.vegalite_to_svg(self.spec.to_dict(), allowed_base_urls=[])
        return drawn

    def png(self, scale: float = 2.0) -> bytes:
        """The drawing as PNG with a transparent background; scale: pixels per unit.

        >>> chart.png(scale=1.0)[1:4]
        b'PNG'
        """
        drawn: bytes = vl_convert.vegalite_to_png(self.spec.to_dict(), scale=scale, allowed_base_urls=[])
        return drawn

    @property
    def html(self) -> str:
        """A page of its own with the drawing and its numbers as a table; light or dark as the reader's system is.

        >>> chart.html[:15]
        '<!doctype html>'
        """
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{escape(self.title)}</title><style>{_PAGE}</style></head>\n"
            f"<body><figure>{self.svg}</figure>\n{html_block(self.title, html_table(self.frame, limit=200))}"
            "</body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the chart as .svg, .png or .html, by the ending of the path. Raises LabError for another one.

        >>> chart.save(folder / "funnel.svg").name
        'funnel.svg'
        """
        target = Path(path)
        ending = target.suffix.lower()
        if ending not in _FORMATS:
            raise LabError(f"{target} has no known ending; charts are written as {', '.join(_FORMATS)}")
        content = self.png() if ending == ".png" else (self.svg if ending == ".svg" else self.html).encode()
        try:
            target.write_bytes(content)
        except OSError as error:
            raise LabError(f"{target} cannot be written: {error.strerror}") from None
        return target

    def __repr__(self) -> str:
        return f"Chart of {self.title}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "image/svg+xml": self.svg}


_PAGE = (
    ":root{color-scheme:light dark}body{margin:2rem auto;max-width:60rem;padding:0 1rem;"
    "background:light-dark(#fff,#14161a);color:light-dark(#1c1f24,#e6e8eb)}figure{margin:0 0 1.5rem}"
    "svg{max-width:100%;height:auto}"
)


def funnel_chart(funnel: Funnel) -> Chart:
    """A bar per step, as wide as the share of the first step that reached it, with visitors and shares as labels.

    With a breakdown one panel per value, most visitors first, at most `MAX_PANELS`.
    """
    shown = _drawn(funnel)
    spec = _panels(shown, funnel) if funnel.by else _bars(shown, 380, 32)
    left_out = funnel.frame.height // len(funnel.steps) - shown["panel"].n_unique()
    return Chart(funnel.frame, _dressed(spec, funnel, left_out), funnel.title)


def _drawn(funnel: Funnel) -> pl.DataFrame:
    """What the bars need: panel, order, step (its label), share, label."""
    from lab.funnel import NONE

    panel = pl.col(funnel.frame.columns[0]).replace("", NONE) if funnel.by else pl.lit("")
    share = pl.col("share_of_first").fill_null(0.0)
    frame = funnel.frame.select(
        panel.alias("panel"),
        pl.col("step_number").alias("order"),
        "step",
        share.alias("share"),
        _label(bool(funnel.by)).alias("label"),
    )
    return frame.head(MAX_PANELS * len(funnel.steps))


def _label(short: bool) -> pl.Expr:
    def text(row: dict[str, Any]) -> str:
        visitors, first, previous = row["visitors"], row["share_of_first"], row["share_of_previous"]
        parts = [f"{visitors:,}"]
        if row["step_number"] > 1 and first is not None:
            parts.append(f"{100 * first:.1f} %" if short else f"{100 * first:.1f} % of first")
        if row["step_number"] > 2 and previous is not None and not short:
            parts.append(f"{100 * previous:.1f} % of previous")
        return " · ".join(parts)

    return pl.struct("step_number", "visitors", "share_of_first", "share_of_previous").map_elements(text, pl.String)


def _bars(shown: pl.DataFrame, width: int, height: int) -> Any:
    """The bars of one panel: what was lost, what stayed, and the labels to the right."""
    order = alt.EncodingSortField("order", order="ascending")
    base = alt.Chart(alt.Data(values=shown.to_dicts())).encode(
        y=alt.Y("order:O", sort=order, title=None, axis=_step_axis(shown), scale=alt.Scale(paddingInner=0.3))
    )
    scale = alt.Scale(domain=[0, 1])
    lost = base.transform_calculate(full="1").mark_bar(color=LOST, cornerRadius=2).encode(
        x=alt.X("full:Q", scale=scale, title=None, axis=None)
    )  # fmt: skip
    stayed = base.mark_bar(color=BAR, cornerRadius=2).encode(x=alt.X("share:Q", scale=scale, title=None, axis=None))
    label = (
        base.transform_calculate(full="1")
        .mark_text(align="left", baseline="middle", dx=10, color=INK, fontSize=12)
        .encode(x=alt.X("full:Q", scale=scale), text="label:N")
    )  # in a column of its own: it never runs into anything
    return alt.layer(lost, stayed, label).properties(width=width, height=alt.Step(height))


def _step_axis(shown: pl.DataFrame) -> Any:
    """Steps by name; the axis runs over their numbers, because a step may come twice."""
    return alt.Axis(
        labelExpr=f"{dict(shown.select(pl.col('order').cast(pl.String), 'step').unique().iter_rows())!r}[datum.value]",
        domain=False, ticks=False, labelPadding=10, labelFontSize=12, labelColor=INK, labelLimit=240,
    )  # fmt: skip


def _panels(shown: pl.DataFrame, funnel: Funnel) -> Any:
    names = shown["panel"].unique(maintain_order=True).to_list()
    header = alt.Header(
        title=None, labelColor=INK, labelFontSize=12, labelFontWeight=600, labelAnchor="start", labelPadding=6
    )
    return _bars(shown, 130, 22).facet(
        facet=alt.Facet("panel:N", sort=names, header=header, title=None),
        columns=min(_PANELS_PER_ROW, len(names)), spacing={"row": 22, "column": 36},
    )  # fmt: skip


def _dressed(spec: Any, funnel: Funnel, left_out: int) -> Any:
    more = f" {left_out} more in the frame." if left_out else ""
    return dressed(spec, funnel.title, f"{funnel.sentence}.{more}")


def dressed(spec: Any, title: str, subtitle: str) -> Any:
    """A drawing with its title, its subtitle and the quiet look."""
    heading = alt.TitleParams(
        title, subtitle=subtitle, anchor="start", color=INK, subtitleColor=INK, fontSize=14,
        fontWeight=600, subtitleFontSize=12, subtitlePadding=4, offset=14,
    )  # fmt: skip
    return (
        spec.properties(title=heading, background="transparent", padding=10)
        .configure(font=_FONT)
        .configure_view(strokeWidth=0, fill=None)
    )
