"""Charts of any frame: they draw what is in it, offline."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from lab.frame_charts import columns, lines

HOURS = [datetime(2026, 3, 2, tzinfo=UTC) + timedelta(hours=hour) for hour in range(6)]


def test_columns_over_time_are_as_wide_as_their_step_and_stacked_by_name() -> None:
    # given counts of two kinds in each of six hours
    frame = pl.DataFrame({"time": HOURS * 2, "clicks": range(12), "which": ["one"] * 6 + ["other"] * 6})
    # when they are drawn
    chart = columns(frame, "time", "clicks", by="which", title="Clicks by hour")
    # then each hour has its column, the legend names both, and times stay UTC
    spec = chart.spec.to_dict()
    assert 60 < spec["mark"]["width"] < 560 / 6
    assert spec["encoding"]["color"]["scale"]["domain"] == ["one", "other"]
    assert spec["data"]["values"][1]["time"] == "2026-03-02T01:00:00Z"
    assert chart.frame is frame and "Clicks by hour" in chart.svg


def test_a_line_of_shares_by_day_is_in_percent() -> None:
    days = [date(2026, 3, day) for day in range(2, 9)]
    chart = lines(
        pl.DataFrame({"day": days, "share_of_first": [day / 10 for day in range(7)]}), "day", "share_of_first"
    )
    assert chart.spec.to_dict()["encoding"]["y"]["axis"]["format"] == ".0%"
    assert chart.title == "share of first by day"


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_anything_is_drawn_too(rows: int) -> None:
    frame = pl.DataFrame({"time": HOURS, "hits": range(6)}).head(rows)
    assert columns(frame, "time", "hits").svg.startswith("<svg")


def test_values_that_are_no_times_stand_in_the_order_of_the_frame() -> None:
    chart = columns(pl.DataFrame({"label": ["z", "a"], "visitors": [2, 1]}), "label", "visitors")
    assert chart.spec.to_dict()["encoding"]["x"]["sort"] is None


def test_a_frame_too_large_to_be_read_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="the frame has 5,001 rows"):
        lines(pl.DataFrame({"n": range(5_001), "y": range(5_001)}), "n", "y")
