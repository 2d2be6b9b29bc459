"""Charts: the drawing holds the numbers of its frame, and needs nothing from outside."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

import lab
from lab import LabError
from lab.charts import BAR, INK, MAX_PANELS, Chart
from tests.lab.conftest import RULES, Past

Store = Callable[[Past], Path]


def texts(chart: Chart) -> list[str]:
    return [element.text or "" for element in ET.fromstring(chart.svg).iter("{http://www.w3.org/2000/svg}text")]


def clicks(values: int) -> Past:
    """Visitors of `values` countries; every second of each country registers, and `it's` is one of the events."""
    past = Past()
    past.publish(RULES)
    for number in range(values * 2):
        past.hit(f"client=acme&uid=u{number}&event=click&country=C{number // 2}")
        if number % 2:
            past.hit(f"client=acme&uid=u{number}&event=registration")
    return past


def test_a_funnel_chart_shows_every_step_with_its_numbers(tables_of: Store) -> None:
    found = lab.open(tables_of(clicks(600))).funnel("click", "registration", "registration", within="30d")
    chart = found.chart()
    assert chart.frame.equals(found.frame)
    shown = texts(chart)
    for text in ("click", "1,200", "600 · 50.0 % of first", "0 · 0.0 % of first · 0.0 % of previous"):
        assert text in shown
    assert shown.count("registration") == 2
    assert any("click → registration → registration within 30d" in text for text in shown)


def test_a_breakdown_has_a_panel_per_value_and_says_what_it_leaves_out(tables_of: Store) -> None:
    # given more values than there are panels
    chart = lab.open(tables_of(clicks(MAX_PANELS + 3))).funnel("click", "registration", by="country").chart()

    # then the first ones are drawn, the rest is named and all of it is in the frame
    shown = texts(chart)
    assert len([text for text in shown if re.fullmatch(r"C\d+", text)]) == MAX_PANELS
    assert any("3 more in the frame" in text for text in shown)
    assert chart.frame.height == 2 * (MAX_PANELS + 3)
    assert shown.count("1 · 50.0 %") == MAX_PANELS


def test_markup_in_a_value_stays_text(tables_of: Store) -> None:
    past = clicks(1)
    past.hit("client=acme&uid=x&event=click&country=%3Cscript%3Ealert(1)%3C/script%3E%27%22")
    chart = lab.open(tables_of(past)).funnel("click", by="country").chart()
    assert "<script>alert(1)</script>'\"" in texts(chart)
    assert "<script" not in chart.html and "<script" not in chart.svg


def test_a_chart_is_an_svg_in_a_notebook(tables_of: Store) -> None:
    bundle = lab.open(tables_of(clicks(1))).funnel("click").chart()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/svg+xml"}
    assert ET.fromstring(bundle["image/svg+xml"]).tag.endswith("svg")


def test_a_saved_chart_is_complete_in_itself(tables_of: Store, tmp_path: Path) -> None:
    chart = lab.open(tables_of(clicks(2))).funnel("click", "registration", by="country").chart()
    svg, png, html = (chart.save(tmp_path / f"chart{ending}") for ending in (".svg", ".PNG", ".html"))
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for page in (svg.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")):
        assert "<svg" in page
        assert not re.search(r"(?:src|href)\s*=|@import|url\((?!#)", page)
        assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
    assert "<table>" in html.read_text(encoding="utf-8")


def test_an_unknown_ending_is_one_clear_line(tables_of: Store, tmp_path: Path) -> None:
    chart = lab.open(tables_of(clicks(1))).funnel("click").chart()
    with pytest.raises(LabError, match="charts are written as"):
        chart.save(tmp_path / "chart.gif")
    with pytest.raises(LabError, match="cannot be written"):
        chart.save(tmp_path / "missing" / "chart.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tables"]


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
@pytest.mark.parametrize(("colour", "least"), [(INK, 4.0), (BAR, 3.0)])
def test_the_colours_read_on_light_and_on_dark_pages(page: str, colour: str, least: float) -> None:
    light, dark = sorted((luminance(page), luminance(colour)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least  # the contrast ratio of WCAG 2


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
