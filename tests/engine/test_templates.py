"""Macros and filters."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import TemplateError
from service.engine.templates import Rendered, compile_template, encode_url, iso_time


class Given:
    """Values out of a mapping."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def value(self, name: str) -> str | None:
        return self.values.get(name)


def render(source: str, **values: str) -> Rendered:
    return compile_template(source).render(Given({"time": "2026-11-23T09:47:17.000001Z", **values}), encode_url)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("https://x.example/?a={a}", "https://x.example/?a=a%20b%26c%2F%C3%A9%25~-._"),
        ("{a|raw}", "a%20b&c/%C3%A9%~-._"),
        ("{a|sha256}", hashlib.sha256("a b&c/é%~-._".encode()).hexdigest()),
        ("{a|default:x}", "a%20b%26c%2F%C3%A9%25~-._"),
        ("{none|default:x y}", "x%20y"),
        ("{none|default:x y|raw}", "x%20y"),
        ("{none|default:}", ""),
        ("{none|default:x|sha256}", hashlib.sha256(b"x").hexdigest()),
        ("{none!|default:x}", "x"),
        ("{time}", "2026-11-23T09%3A47%3A17.000001Z"),
        ("{time|%Y-%m-%d}", "2026-11-23"),
        ("{time|%d.%m.%Y %H:%M:%S|raw}", "23.11.2026%2009:47:17"),
        ("{{a}}", "{a}"),
        ("{{{a|raw}}}", "{a%20b&c/%C3%A9%~-._}"),
        ("}}{{", "}{"),
        ("no macro", "no macro"),
        ("", ""),
    ],
)
def test_the_table_of_filters(source: str, text: str) -> None:
    assert render(source, a="a b&c/é%~-._") == Rendered(text)


def test_a_missing_value_is_empty_and_recorded_once() -> None:
    assert render("{b}-{c}-{b}") == Rendered("--", ("b", "c"))


def test_a_missing_value_that_is_required_withholds() -> None:
    assert render("{b!}") == Rendered("", ("b",), True)
    assert render("{a!}{b}", a="x") == Rendered("x", ("b",))


@pytest.mark.parametrize(
    "name", ["a", "_a", "sub-id", "first.sub1", "param.a:b", "last.order/paid.amount", "last.sale.v2.ts"]
)
def test_every_name_that_can_be_declared_can_be_a_macro(name: str) -> None:
    assert compile_template(f"{{{name}}}").macros[0].name == name


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{a", "character 1 is not closed"),
        ("x{a}{", "character 5 is not closed"),
        ("a}", "character 2 has no opening one"),
        ("{}", "is no macro"),
        ("{a b}", "is no macro"),
        ("{1a}", "is no macro"),
        ("{a.}", "is no macro"),
        ("{a!!}", "is no macro"),
        ("{a|upper}", "the filters are raw, sha256"),
        ("{a|}", "the filters are raw, sha256"),
        ("{a|RAW}", "the filters are raw, sha256"),
        ("{a|%Y}", "only time can be formatted"),
        ("{time|%y}", "only %Y %m %d %H %M %S"),
        ("{time|%%}", "only %Y %m %d %H %M %S"),
        ("{time|%}", "only %Y %m %d %H %M %S"),
    ],
)
def test_what_is_no_template_is_refused_with_the_macro(source: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_template(source)
    assert words in str(caught.value)


@given(st.text(max_size=30))
def test_a_text_with_its_braces_doubled_renders_as_itself(text: str) -> None:
    source = text.replace("{", "{{").replace("}", "}}")
    assert render(source) == Rendered(text)


@given(st.text(max_size=30))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    try:
        assert compile_template(text).source == text
    except TemplateError as error:
        assert str(error)


@given(st.text(min_size=1, max_size=20))
def test_an_encoded_value_can_be_decoded_to_itself_and_breaks_no_url(value: str) -> None:
    url = render("https://x.example/?a={v}&b=1", v=value).text
    assert parse_qsl(urlsplit(url).query) == [("a", value), ("b", "1")]


@given(st.integers(0, 253_402_300_799_999_999))
def test_times_are_written_in_utc_with_six_places(time_us: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    assert datetime.fromisoformat(iso_time(time_us)) == moment
    assert len(iso_time(time_us)) == 27
