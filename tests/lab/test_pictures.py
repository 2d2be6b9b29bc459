"""Every result shows itself as a picture and a table that take the colours of the page, and what a log holds stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import lab
from lab.explain import explain
from lab.imported import ImportReport
from lab.pictures import bars, over_time, shares
from lab.show import html_block, html_table
from tests.lab.conftest import RULES, Past

Store = Callable[[Past], Path]


@pytest.fixture
def log(past: Past, tables_of: Store) -> lab.Log:
    return lab.open(tables_of(past))


SHOWN: dict[str, Callable[[lab.Log], object]] = {
    "log": lambda log: log,
    "run": lambda log: log.replay(),
    "verification": lambda log: log.verify(rules=RULES.replace("sum={payout}", "sum=7")),
    "comparison": lambda log: log.compare(RULES, RULES.replace(">= 20", ">= 60")),
    "comparison without money": lambda log: log.compare(RULES, RULES.replace("sum={payout}", "sum=7")),
    "funnel": lambda log: log.funnel("click", "sale"),
    "funnel by value": lambda log: log.funnel("click", "sale", by="affiliate"),
    "segments": lambda log: log.funnel("click", "sale").beside(log.funnel("click", "sale", where='affiliate == "best"')),
    "explanation": lambda log: explain(log, log.postbacks.collect()["hit_id"][0]),
    "import": lambda log: ImportReport(
        "access.log", "combined", "shop", 3, 2, 1, {"not_utf8": 1}, 0, 0, 0, "2026-03-02T00:00", "2026-03-02T00:01",
        {"accepted": 2}, {"sale": 2}, 1, "0" * 16, 0.1, "var/imported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_result_is_a_picture_and_a_table_in_the_colours_of_the_page(log: lab.Log, name: str) -> None:
    page = SHOWN[name](log)._repr_html_()  # type: ignore[attr-defined]
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert pictures and "<table>" in page
    for picture in pictures:
        drawn = ET.fromstring(picture)
        assert drawn.get("aria-label") and drawn.find("title") is not None
        assert all("fill" not in text.attrib for text in drawn.iter("text"))  # text is as dark or light as its page


def test_what_a_log_holds_stays_text() -> None:
    picture = bars("<b>", [("<script>", 1.0, "a & b")])
    assert "<script>" not in picture and "&lt;script&gt;" in picture
    assert [text.text for text in ET.fromstring(picture).iter("text")] == ["<script>", "a & b"]


def test_bars_are_as_long_as_their_values_and_those_left_out_are_counted() -> None:
    picture = ET.fromstring(bars("firings", [(f"trigger {n}", float(20 - n), "") for n in range(20)]))
    widths = [float(bar.get("width", 0)) for bar in picture.iter("rect")]
    assert len(widths) == 12 and widths[10] / widths[0] == pytest.approx(0.5, abs=0.01)
    assert [text.text for text in picture.iter("text")][-1] == "and 8 more"


def test_shares_leave_out_what_is_nothing() -> None:
    picture = ET.fromstring(shares("hits", [("accepted", 30, "a"), ("duplicate", 0, "b"), ("rejected", 10, "d")]))
    assert [text.text for text in picture.iter("text")] == ["accepted 30", "rejected 10"]
    assert shares("hits", [("accepted", 0, "a")]) == bars("hits", []) == ""


def test_hits_over_time_show_the_hours_in_which_nothing_came() -> None:
    # given three hits at once and one of another kind five hours later
    start = datetime(2026, 3, 2, tzinfo=UTC)
    times = [start, start, start, start + timedelta(hours=5)]
    hits = pl.LazyFrame({"time": times, "good": [True, True, True, False]})
    # when they are drawn in steps of ten minutes
    picture = ET.fromstring(over_time("hits", hits))
    # then the last bar stands where five hours later is
    first, last, *key = picture.findall(".//rect")
    assert float(last.get("x", 0)) / float(first.get("width", 0)) == pytest.approx(31, abs=3)
    assert [text.text for text in picture.iter("text")] == [
        "accepted", "not accepted", "2026-03-02 00:00 to 2026-03-02 05:00 UTC, in steps of 10m, 3 at most"
    ]  # fmt: skip
    # and its colour is explained beside the bars
    assert [rect.get("class") for rect in (first, last)] == [rect.get("class") for rect in key] == ["a", "d"]


def test_a_table_writes_shares_in_percent_and_keeps_short_texts_in_one_line() -> None:
    frame = pl.DataFrame(
        {"trigger": ["first-deposit"], "why": ["w" * 80], "share_of_first": [0.1234], "percent": [-0.11]}
    )
    page = html_table(frame)
    assert "<td>first-deposit</td>" in page and "td{white-space:nowrap}" in html_block("", page)
    assert f'<td class="l">{"w" * 80}</td>' in page
    assert '<td class="n">12.3 %</td><td class="n">-0.1 %</td>' in page


def test_two_segments_have_two_colours(log: lab.Log) -> None:
    beside = log.funnel("click", "sale").beside(log.funnel("click", "sale", where='affiliate == "best"'))
    drawn = ET.fromstring(re.findall(r"<svg.*?</svg>", beside._repr_html_(), flags=re.DOTALL)[0])
    assert [bar.get("class") for bar in drawn.iter("rect") if bar.get("class") != "q"][:2] == ["a", "b"]
