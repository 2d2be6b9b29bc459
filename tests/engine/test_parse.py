"""Bytes to an event."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from urllib.parse import quote, unquote_to_bytes, urlencode

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import Event, Hit, Reason, Rejection, load, parse
from service.engine.decoding import _decode_text
from service.engine.parse import (
    MACRO,
    MAX_BODY_BYTES,
    MAX_JSON_DEPTH,
    MAX_PARAMETERS,
    MAX_QUERY_BYTES,
    NUMBER,
    parameters,
)
from service.engine.rulebook import NOT_AN_ID
from tests.engine.world import CLIENT, SIMPLE, hit, read, refuse

OK = "client=acme&event=sale"


# decoding


def test_the_last_of_repeated_names_wins() -> None:
    assert read("sub1=a&sub1=b").params["sub1"] == "b"


def test_the_body_beats_the_query() -> None:
    event = read("sub1=query&country=DE", body=b"sub1=body")
    assert event.params == {"sub1": "body", "country": "DE"}


def test_an_empty_value_is_an_absent_one() -> None:
    event = read("sub1=&uid=&country=DE")
    assert event.params == {"country": "DE"}
    assert "uid" not in event.fields


def test_an_empty_value_takes_nothing_from_an_earlier_one() -> None:
    assert read("sub1=a&sub1=").params == {"sub1": "a"}
    assert read("sub1=a", body=b"sub1=").params == {"sub1": "a"}
    assert read("sub1=a", body=b'{"sub1": null}').params == {"sub1": "a"}


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ("a+b", "a b"),
        ("a%2Bb", "a+b"),
        ("a%20b", "a b"),
        ("100%", "100%"),
        ("100%2", "100%2"),
        ("%zz", "%zz"),
        ("a=b", "a=b"),
        ("%3D%26", "=&"),
        ("%C3%A9", "é"),
        (b"\xc3\xa9", "é"),
        (b"\xc3%A9", "é"),
        ("%00", "\x00"),
        ("%25%34%31", "%41"),
    ],
)
def test_percent_and_plus_are_decoded_once(sent: str | bytes, value: str) -> None:
    assert read(b"sub1=" + (sent.encode() if isinstance(sent, str) else sent)).params == {"sub1": value}


def test_names_are_decoded_like_values() -> None:
    assert read("a%20b=1&c+d=2").params == {"a b": "1", "c d": "2"}


def test_parts_without_a_name_or_a_value_are_nothing() -> None:
    assert read("&&=5&x&=&y=1").params == {"y": "1"}


@pytest.mark.parametrize("query", [b"x=%FF", b"x=\xff", b"%E9=1", b"x=%ED%A0%80", b"x=%C3"])
def test_bytes_that_are_no_utf8_are_rejected_and_still_counted_for_their_client(query: bytes) -> None:
    rejection = refuse(hit(OK.encode() + b"&" + query))
    assert rejection.reason == "not_utf8"
    assert (rejection.client, rejection.event) == ("acme", "sale")


def test_a_json_body_keeps_numbers_as_written_and_nested_values_as_their_json() -> None:
    body = b' {"a": 1.50, "b": -0, "c": {"x": [1, 2.0]}, "d": true, "e": null, "f": "\\u00e9", "g": 1E5, "h": ""} '
    event = read("", body=body, content_type="application/json")
    assert event.params == {"a": "1.50", "b": "-0", "c": '{"x": [1, 2.0]}', "d": "true", "f": "é", "g": "1E5"}


def test_of_repeated_json_names_the_last_wins() -> None:
    assert read("", body=b'{"a": 1, "a": 2}', content_type="application/json").params == {"a": "2"}


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "", "text/plain", "x"])
def test_a_body_that_begins_like_json_is_json_whatever_it_is_called(kind: str) -> None:
    assert read("", body=b' {"sub1": "a=b"}', content_type=kind).params == {"sub1": "a=b"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"text"',
        b"12",
        b'{"a": NaN}',
        b'{"a": 01}',
        b'{"a": 1} x',
        rb'{"a": "\ud800"}',
        rb'{"\ud800": 1}',
        rb'{"a": ["\udc00"]}',
        b'{"a": "\x01"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"a":' + b"[" * 30_000,
        b'{"a":' + b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH + b"}",
    ],
)
def test_a_broken_json_body_is_rejected_not_guessed(body: bytes) -> None:
    rejection = refuse(hit(OK, body=body, content_type="application/json"))
    assert rejection.reason == "invalid_body"
    assert (rejection.client, rejection.event) == ("acme", "sale")


def test_brackets_inside_a_json_text_nest_nothing() -> None:
    text = "[{" * 100 + '\\"['
    assert read("", body=f'{{"a": "{text}"}}'.encode()).params["a"].startswith("[{[{")


def test_a_json_body_that_is_no_utf8_is_rejected_and_counted_for_its_client() -> None:
    rejection = refuse(
        hit("", body=b'{"client": "acme", "event": "sale", "x": "\xff"}', content_type="application/json")
    )
    assert (rejection.reason, rejection.client, rejection.event) == ("not_utf8", "acme", "sale")


def test_a_multipart_body_is_rejected_by_name() -> None:
    rejection = refuse(hit(OK, body=b"--x\r\n...", content_type="multipart/form-data; boundary=x"))
    assert rejection.reason == "invalid_body"
    assert "multipart" in rejection.detail


# limits


@dataclass(frozen=True)
class Limit:
    """A hit at a bound and the same one step past it."""

    reason: Reason
    at: Hit
    past: Hit


def _filled(length: int) -> str:
    return OK + "&" + "&".join(["p=" + "x" * 1000] * 9)[: length - len(OK) - 1]


LIMITS = [
    Limit(Reason.QUERY_TOO_LONG, hit(_filled(MAX_QUERY_BYTES)), hit(_filled(MAX_QUERY_BYTES) + "x")),
    Limit(
        Reason.BODY_TOO_LONG,
        hit(OK, body=b"&" * MAX_BODY_BYTES),
        hit(OK, body=b"&" * (MAX_BODY_BYTES + 1)),
    ),
    Limit(
        Reason.TOO_MANY_PARAMETERS,
        hit(OK + "".join(f"&p{n}=1" for n in range(MAX_PARAMETERS - 2)) + "&p0=2&empty="),
        hit(OK + "".join(f"&p{n}=1" for n in range(MAX_PARAMETERS - 1))),
    ),
    Limit(Reason.NAME_TOO_LONG, hit(f"{OK}&{'n' * 64}=1"), hit(f"{OK}&{'n' * 65}=1")),
    Limit(Reason.VALUE_TOO_LONG, hit(f"{OK}&v={'%C3%A9' * 1024}"), hit(f"{OK}&v={'x' * 1025}")),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.reason.value)
def test_a_hit_at_a_limit_is_read_and_one_past_it_is_rejected_and_counted(limit: Limit) -> None:
    rulebook = load(SIMPLE)
    assert isinstance(parse(limit.at, rulebook), Event)
    rejection = refuse(limit.past)
    assert rejection.reason == limit.reason.value
    assert (rejection.client, rejection.event) == ("acme", "sale")


def test_a_cut_body_is_rejected_whatever_its_length() -> None:
    assert refuse(hit(OK, body=b"a=1", flags=("body_cut",))).reason == "body_too_long"


def test_a_name_that_may_be_cut_is_not_taken_for_a_client() -> None:
    query = "x=" + "y" * (MAX_QUERY_BYTES - 14) + "&client=acme-and-more"
    assert query[MAX_QUERY_BYTES - 11 : MAX_QUERY_BYTES] == "client=acme"
    assert refuse(hit(query)).client == ""


# the client's names


def test_a_reserved_name_wins_over_its_alias_and_both_names_stay() -> None:
    event = read("click_id=reserved&subid=alias")
    assert event.fields["click_id"] == "reserved"
    assert event.params == {"subid": "alias"}


@pytest.mark.parametrize("query", ["subid=a&clickid=b", "clickid=b&subid=a"])
def test_of_two_aliases_the_first_in_the_file_wins_in_whatever_order_they_come(query: str) -> None:
    event = read(query)
    assert event.fields["click_id"] == "a"
    assert event.params == {"subid": "a", "clickid": "b"}


def test_an_empty_reserved_name_leaves_its_place_to_the_alias() -> None:
    assert read("click_id=&subid=a").fields["click_id"] == "a"


@pytest.mark.parametrize("value", ["{click_id}", "null", "0"])
def test_a_value_that_is_no_identifier_leaves_its_place_to_the_alias_and_is_told(value: str) -> None:
    event = read(f"click_id={value}&subid={value}&clickid=real")
    assert event.fields["click_id"] == "real"
    assert event.detail == f"no identifier: click_id {value!r}, subid {value!r}"


@pytest.mark.parametrize(
    "value", ["{x}", "{{x}}", "[x]", "[[x]]", "#x#", "%25x%25", "${x}", "%25CLICK_ID%25", *NOT_AN_ID]
)
def test_an_unfilled_macro_is_no_identifier(value: str) -> None:
    event = read(f"uid={value.replace('#', '%23')}&tag_id=t")
    assert "uid" not in event.fields
    assert event.fields["tag_id"] == "t"


@pytest.mark.parametrize("value", ["{x", "x}", "a{x}", "[x", "#", "100%", "00", "nullx"])
def test_a_value_that_only_resembles_a_macro_is_an_identifier(value: str) -> None:
    assert MACRO.match(value) is None
    assert value not in NOT_AN_ID


def test_a_client_can_choose_its_own_list_of_what_is_no_identifier() -> None:
    rulebook = load(CLIENT + 'not_an_id = ["guest"]\n')
    assert "uid" not in read("uid=guest", rulebook).fields
    assert read("uid=null", rulebook).fields["uid"] == "null"


def test_fields_are_sorted_however_they_came() -> None:
    event = read("uid=u&customer=c&payout=5&subid=s&currency=eur")
    assert list(event.fields) == sorted(event.fields)
    assert event.fields["currency"] == "EUR"
    assert event.fields["amount"] == "5"


# checks


@pytest.mark.parametrize(
    ("query", "reason", "client"),
    [
        ("event=sale", "missing_client", ""),
        ("client=&event=sale", "missing_client", ""),
        ("client=acm&event=sale", "unknown_client", ""),
        ("client=ACME&event=sale", "unknown_client", ""),
        ("client=acme", "missing_event", "acme"),
        ("client=acme&event=", "missing_event", "acme"),
        ("client=acme&event=a%20b", "invalid_event", "acme"),
        ("client=acme&event=" + "e" * 65, "invalid_event", "acme"),
        ("client=acme&event=sale%0A", "invalid_event", "acme"),
        (OK + "&amount=12,50", "invalid_amount", "acme"),
        (OK + "&amount=1e3", "invalid_amount", "acme"),
        (OK + "&amount=+5", "invalid_amount", "acme"),
        (OK + "&amount=.5", "invalid_amount", "acme"),
        (OK + "&amount=5%0A", "invalid_amount", "acme"),
        (OK + "&amount=%D9%A3", "invalid_amount", "acme"),
        (OK + "&payout=x", "invalid_amount", "acme"),
        (OK + "&currency=EURO", "invalid_currency", "acme"),
        (OK + "&currency=%C3%9F", "invalid_currency", "acme"),
    ],
)
def test_what_is_wrong_is_named_with_a_reason(query: str, reason: str, client: str) -> None:
    rejection = refuse(hit(query))
    assert (rejection.reason, rejection.client) == (reason, client)
    assert rejection.detail


def test_a_browser_may_bring_only_the_events_its_client_allows() -> None:
    rulebook = load(SIMPLE)
    assert refuse(hit(OK, route="e.gif"), rulebook).reason == "event_not_allowed"
    assert isinstance(parse(hit("client=acme&event=login", route="e.gif"), rulebook), Event)


def test_a_rejected_hit_keeps_the_parameters_that_could_be_read() -> None:
    assert refuse(hit("client=acme&event=a%20b&sub1=x")).params == {"client": "acme", "event": "a b", "sub1": "x"}


# what the intake found


def test_a_refusal_by_the_intake_binds_even_where_the_hit_would_be_valid() -> None:
    rejection = refuse(hit(OK + "&sub1=x", refusal="unknown_client"))
    assert (rejection.reason, rejection.detail) == ("unknown_client", "refused by the intake")
    assert (rejection.client, rejection.event, rejection.params["sub1"]) == ("acme", "sale", "x")


def test_the_detail_that_the_sender_was_told_stands_where_the_reason_is_the_same() -> None:
    first = refuse(hit(OK + "&amount=x"))
    again = refuse(hit(OK + "&amount=x", refusal=first.reason))
    assert again == first


def test_a_refused_hit_of_an_unknown_client_is_counted_for_nobody() -> None:
    assert refuse(hit("client=nobody&event=sale", refusal="unknown_client")).client == ""


def test_a_refused_hit_that_cannot_be_read_is_counted_for_its_client() -> None:
    rejection = refuse(hit(b"client=acme&x=%FF", refusal="invalid_body"))
    assert (rejection.reason, rejection.client) == ("invalid_body", "acme")


def test_a_valid_signature_lets_a_browser_route_bring_any_event() -> None:
    assert refuse(hit(OK, route="e.gif")).reason == "event_not_allowed"
    assert isinstance(parse(hit(OK, route="e.gif", flags=("signed",)), load(SIMPLE)), Event)


# the tracker link


def link(path: str | bytes, query: str = "") -> Hit:
    return hit(query, route="c", path=path.encode() if isinstance(path, str) else path, number=7)


def test_a_tracker_link_is_a_click_with_a_click_id_of_its_own() -> None:
    event = parse(link("/c/acme/bestodds", "sub1=x"), load(SIMPLE))
    assert isinstance(event, Event)
    assert event.name == "click"
    assert event.fields == {"affiliate": "bestodds", "click_id": f"{7:032x}", "client": "acme", "event": "click"}
    assert event.params == {"sub1": "x"}


@pytest.mark.parametrize("query", ["click_id=theirs", "subid=theirs"])
def test_an_id_that_the_affiliate_sends_along_is_its_own_click_id(query: str) -> None:
    event = parse(link("/c/acme/bestodds", query), load(SIMPLE))
    assert isinstance(event, Event)
    assert event.params["affiliate_click_id"] == "theirs"
    assert event.fields["click_id"] == f"{7:032x}"


def test_an_unfilled_macro_is_no_affiliate_click_id() -> None:
    event = parse(link("/c/acme/bestodds", "subid={clickid}"), load(SIMPLE))
    assert isinstance(event, Event)
    assert "affiliate_click_id" not in event.params


def test_the_path_of_a_tracker_link_beats_its_query() -> None:
    event = parse(link("/c/acme/bestodds/", "client=x&affiliate=y&event=sale"), load(SIMPLE))
    assert isinstance(event, Event)
    assert (event.client, event.name, event.fields["affiliate"]) == ("acme", "click", "bestodds")
    assert (event.fields["client"], event.fields["event"]) == ("acme", "click")


def test_the_path_is_split_before_it_is_decoded() -> None:
    event = parse(link("/c/%61cme/a%2Fb+c%20d"), load(SIMPLE))
    assert isinstance(event, Event)
    assert event.fields["affiliate"] == "a/b+c d"


def test_an_unknown_affiliate_is_kept_as_it_is_for_the_triggers_to_refuse() -> None:
    event = parse(link("/c/acme/nobody"), load(SIMPLE))
    assert isinstance(event, Event)
    assert event.fields["affiliate"] == "nobody"


@pytest.mark.parametrize(
    "path", ["/c", "/c/", "/c/acme", "/c/acme/", "/c//bestodds", "/c/acme/bestodds/more", "/c/acme//"]
)
def test_a_tracker_link_with_a_part_missing_or_too_many_is_a_bad_path(path: str) -> None:
    rejection = refuse(link(path, "client=acme&event=sale"))
    assert rejection.reason == "bad_path"
    assert rejection.client == ("acme" if "/acme" in path else "")
    assert rejection.event == "click"


def test_a_tracker_link_can_be_refused_like_any_other_hit() -> None:
    assert refuse(link("/c/nobody/bestodds")).reason == "unknown_client"
    assert refuse(link(b"/c/acme/%FF")).reason == "not_utf8"
    assert refuse(link("/c/acme/" + "a" * 1025)).reason == "value_too_long"


# always


@settings(deadline=None, max_examples=300)
@given(
    route=st.sampled_from(["e", "e.gif", "e.js", "c", "?"]),
    path=st.binary(max_size=40) | st.sampled_from([b"/c/acme/x", b"/e"]),
    query=st.binary(max_size=200),
    body=st.binary(max_size=200) | st.builds(lambda tail: b'{"client":"acme","a":' + tail, st.binary(max_size=60)),
    kind=st.sampled_from(["", "application/json", "application/x-www-form-urlencoded", "multipart/x"]),
)
def test_no_bytes_whatever_raise(route: str, path: bytes, query: bytes, body: bytes, kind: str) -> None:
    sent = hit(b"client=acme&" + query, route=route, path=path, body=body, content_type=kind)
    found = parse(sent, load(SIMPLE))
    texts = [found.client, found.detail, *found.params, *found.params.values()]
    assert all(text.encode().decode() == text for text in texts)
    if isinstance(found, Rejection):
        assert found.reason in set(Reason)
    assert all(parameters(sent).values())


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=30), max_size=10))
def test_a_form_and_json_say_the_same(pairs: dict[str, str]) -> None:
    form = urlencode(pairs).encode()
    spaced = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs.items()).encode()
    as_json = hit("", body=msgspec.json.encode(pairs), content_type="application/json")
    assert parameters(hit(form)) == parameters(hit(spaced)) == parameters(as_json) == pairs


@given(st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,10})?", fullmatch=True) | st.text(max_size=12))
def test_the_number_pattern_takes_only_what_a_decimal_holds_exactly(text: str) -> None:
    if NUMBER.match(text):
        assert Fraction(Decimal(text)) == Fraction(text)
        assert text.isascii()
        whole, _, places = text.lstrip("-").partition(".")
        assert len(whole) <= 18
        assert len(places) <= 9
    else:
        assert not (text.isascii() and text.isdigit() and len(text) <= 18)


@given(st.text(alphabet="%aAf0+29é=& ", max_size=12))
def test_the_short_way_of_decoding_says_what_the_standard_one_says(text: str) -> None:
    # given any text of the wire, one character per byte
    try:
        expected = unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            _decode_text(text)
    else:
        assert _decode_text(text) == expected


def test_a_value_of_the_greatest_length_is_read_in_a_short_query_and_a_longer_one_is_not() -> None:
    for name, value, reason in (
        ("n" * 64, "x", ""),
        ("n" * 65, "x", "name_too_long"),
        ("n", "x" * 1025, "value_too_long"),
    ):
        found = parse(hit(f"{OK}&{name}={value}"), load(SIMPLE))
        assert (found.reason if isinstance(found, Rejection) else "") == reason
        body = parse(hit(OK, body=f"{name}={value}".encode()), load(SIMPLE))
        assert (body.reason if isinstance(body, Rejection) else "") == reason
