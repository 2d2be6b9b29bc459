"""The picture of a profile: when visitors come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from lab.charts import BAR, INK, Chart, dressed
from lab.profile import DAYS

if TYPE_CHECKING:
    from lab.profile import Profile


def curve_chart(profile: Profile) -> Chart:
    """A bar per hour of the week."""
    frame = profile.curve
    labels = {str(24 * number + 12): day for number, day in enumerate(DAYS)}
    axis = alt.Axis(
        values=[int(hour) for hour in labels], labelExpr=f"{labels!r}[datum.value]", title=None, labelColor=INK,
        domain=False, ticks=False, grid=False,
    )  # fmt: skip
    shares = alt.Axis(format=".1%", title="share of visitors", labelColor=INK, titleColor=INK, domain=False,
                      ticks=False, gridColor="#8a8f9840", titleFontWeight="normal")  # fmt: skip
    spec = alt.Chart(alt.Data(values=frame.to_dicts())).mark_bar(color=BAR, width=2.6).encode(
        x=alt.X("hour:Q", axis=axis, scale=alt.Scale(domain=[-1, 168], nice=False)), y=alt.Y("share:Q", axis=shares)
    ).properties(width=560, height=160)  # fmt: skip
    return Chart(frame, dressed(spec, "When visitors come", "by hour of the week, UTC"), profile.sentence)
