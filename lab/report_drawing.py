"""The pictures of the report: bars as plain SVG in the colours of the page, so that they follow light and dark."""

from __future__ import annotations

from html import escape

import polars as pl

from lab.show import text_of

_LABEL, _BARS, _NUMBER = 210, 470, 150  # widths in pixels
_MOST = 12  # rows of a picture


def money_bars(money: pl.DataFrame) -> str:
    """Money before and after, a pair of bars per trigger and currency, each currency on a scale of its own."""
    rows = money.filter(pl.col("currency") != "").group_by("client", "trigger", "currency").agg(
        pl.col("before").sum(), pl.col("after").sum(), pl.col("difference").sum()
    )  # fmt: skip
    shown = rows.filter((pl.col("before") != 0) | (pl.col("after") != 0)).sort(
        pl.col("difference").abs(), "client", "trigger", "currency", descending=[True, False, False, False]
    )
    if shown.is_empty():
        return ""
    top = {
        row[0]: row[1] for row in shown.group_by("currency").agg(pl.max_horizontal("before", "after").max()).iter_rows()
    }
    parts, y = [_legend((("b", "before"), ("a", "after")))], 28
    for client, trigger, currency, before, after, _ in shown.head(_MOST).iter_rows():
        scale = float(top[currency]) or 1.0
        parts.append(_text(0, y + 18, f"{client} {trigger}"))
        for offset, tone, amount in ((0, "b", before), (14, "a", after)):
            parts.append(_bar(_LABEL, y + offset, _BARS * float(amount) / scale, 11, tone))
            parts.append(
                _text(_LABEL + _BARS * float(amount) / scale + 8, y + offset + 10, f"{text_of(amount)} {currency}", "l")
            )
        y += 38
    return _svg("Money before and after, by trigger and currency", y, parts)


def postback_bars(by_trigger: pl.DataFrame) -> str:
    """Gained, lost and changed postbacks per trigger, one bar of three parts."""
    shown = by_trigger.head(_MOST)
    most = max(int(sum(row)) for row in shown.select("gained", "lost", "changed").rows()) or 1
    parts, y = [_legend((("u", "gained"), ("d", "lost"), ("a", "changed")))], 28
    for client, trigger, gained, lost, changed in shown.iter_rows():
        parts.append(_text(0, y + 14, f"{client} {trigger}"))
        x = float(_LABEL)
        for tone, count in (("u", gained), ("d", lost), ("a", changed)):
            width = _BARS * count / most
            parts.append(_bar(x, y, width, 18, tone))
            x += width
        parts.append(_text(x + 8, y + 14, f"{gained:,} gained, {lost:,} lost, {changed:,} changed", "l"))
        y += 30
    return _svg("Postbacks gained, lost and changed, by trigger", y, parts)


def _svg(title: str, height: int, parts: list[str]) -> str:
    width = _LABEL + _BARS + _NUMBER + 90
    name = escape(title)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{name}"><title>{name}</title>'
        f"{''.join(parts)}</svg>"
    )


def _legend(tones: tuple[tuple[str, str], ...]) -> str:
    parts, x = [], _LABEL
    for tone, name in tones:
        parts.append(_bar(x, 4, 11, 11, tone) + _text(x + 17, 14, name, "l"))
        x += 90
    return "".join(parts)


def _bar(x: float, y: float, width: float, height: float, tone: str) -> str:
    return f'<rect class="{tone}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height}" rx="2"/>'


def _text(x: float, y: float, text: str, tone: str = "") -> str:
    shown = text if len(text) <= 32 or tone else text[:31] + "…"
    return f'<text class="{tone}" x="{x:.1f}" y="{y:.1f}">{escape(shown)}</text>'
