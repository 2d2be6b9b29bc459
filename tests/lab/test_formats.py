"""Foreign logs, line by line: what is read, what is refused and why."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.formats import FORMATS, LineReason, ParsedLine, RejectedLine, format_named, lines_of, parse_line
from lab.log import LabError

SHARED = Path(__file__).parents[3] / "shared" / "data"
COMBINED, COMMON = FORMATS["combined"], FORMATS["common"]
START = b"192.0.2.7 - - [17/May/2015:10:05:03 +0000] "


def line(request: bytes = b"GET /a HTTP/1.1", rest: bytes = b'200 5 "-" "Mozilla/5.0"', start: bytes = START) -> bytes:
    return start + b'"' + request + b'" ' + rest


def parsed(raw: bytes) -> ParsedLine:
    found = parse_line(raw, COMBINED)
    assert isinstance(found, ParsedLine), f"{raw!r}: {found}"
    return found


def reason(raw: bytes) -> str:
    found = parse_line(raw, COMBINED)
    assert isinstance(found, RejectedLine), f"{raw!r}: {found}"
    return found.reason.value


@pytest.mark.parametrize("name", FORMATS)
def test_the_sample_line_of_each_format_is_of_that_format(name: str) -> None:
    assert isinstance(parse_line(FORMATS[name].sample.encode(), FORMATS[name]), ParsedLine)


def test_a_line_is_read_field_by_field() -> None:
    # given a line with every field
    raw = b'203.0.113.9 - frank [10/Oct/2000:13:55:36 -0700] "GET /a/b?c=d&e HTTP/1.0" 404 23 "http://r.example/x" "A B"\n'

    # when it is read
    found = parsed(raw)

    # then each is there, the time in UTC
    assert datetime.fromtimestamp(found.time_us / 1e6, UTC) == datetime(2000, 10, 10, 20, 55, 36, tzinfo=UTC)
    assert (found.address, found.user, found.method, found.protocol) == ("203.0.113.9", "frank", "GET", "HTTP/1.0")
    assert (found.target, found.path, found.query) == (b"/a/b?c=d&e", b"/a/b", b"c=d&e")
    assert (found.status, found.size, found.referrer, found.user_agent) == (404, 23, "http://r.example/x", "A B")


@pytest.mark.parametrize(
    ("stamp", "utc"),
    [
        ("01/Jan/2024:00:00:00 +0530", "2023-12-31T18:30:00"),
        ("31/Dec/2023:23:59:59 -0930", "2024-01-01T09:29:59"),
        ("29/Feb/2024:12:00:00 +0000", "2024-02-29T12:00:00"),
        ("30/Jun/2015:23:59:60 +0000", "2015-07-01T00:00:00"),  # a leap second
    ],
)
def test_a_time_is_read_in_its_zone(stamp: str, utc: str) -> None:
    found = parsed(line(start=f"::1 - - [{stamp}] ".encode()))
    assert found.time_us == int(datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    "stamp",
    ["32/Jan/2024:00:00:00 +0000", "29/Feb/2023:00:00:00 +0000", "01/Foo/2024:00:00:00 +0000",
     "01/Jan/2024:24:00:00 +0000", "01/Jan/2024:00:60:00 +0000", "01/Jan/2024:00:00:00 +1900", "01/Jan/0000:00:00:00 +0000",
     "01/Jan/2024:00:00:00", "yesterday"],
)  # fmt: skip
def test_a_time_that_does_not_exist_is_refused(stamp: str) -> None:
    assert reason(line(start=f"::1 - - [{stamp}] ".encode())) == "bad_time"


@pytest.mark.parametrize(
    ("request_line", "method", "path", "query", "protocol"),
    [
        (b"GET /", "GET", b"/", b"", ""),  # HTTP/0.9
        (b"GET /a b?c d HTTP/1.1", "GET", b"/a b", b"c d", "HTTP/1.1"),
        (b"GET http://h.example:81/a?b HTTP/1.1", "GET", b"/a", b"b", "HTTP/1.1"),
        (b"GET http://h.example HTTP/1.1", "GET", b"/", b"", "HTTP/1.1"),
        (b"OPTIONS * HTTP/1.1", "OPTIONS", b"*", b"", "HTTP/1.1"),
        (b"CONNECT h.example:443 HTTP/1.1", "CONNECT", b"h.example:443", b"", "HTTP/1.1"),
        (b"PRI * HTTP/2.0", "PRI", b"*", b"", "HTTP/2.0"),
        (rb"GET /\"x\\y\x22?q=\xc3\xa9\n HTTP/1.1", "GET", b'/"x\\y"', b"q=\xc3\xa9\n", "HTTP/1.1"),
        (b"GET //?a?b HTTP/1.1", "GET", b"//", b"a?b", "HTTP/1.1"),
        (b"GET /\xe9 HTTP/1.1", "GET", b"/\xe9", b"", "HTTP/1.1"),
    ],
)
def test_a_request_line_gives_method_path_and_query(
    request_line: bytes, method: str, path: bytes, query: bytes, protocol: str
) -> None:
    found = parsed(line(request_line))
    assert (found.method, found.path, found.query, found.protocol) == (method, path, query, protocol)


@pytest.mark.parametrize(
    ("request_line", "why"),
    [
        (b"-", "no_request"), (b"", "no_request"),
        (rb"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03", "bad_request"), (rb"\x00\x01 / HTTP/1.1", "bad_request"),
        (b"GET", "bad_request"), (b"GET  HTTP/1.1", "bad_request"), (b"mglndd_192.0.2.7_80", "bad_request"),
        (b"t3 12.2.1", "bad_request"), (b"OPTIONS / RTSP/1.0", "bad_request"), (b"HTTP/1.1", "bad_request"),
    ],
)  # fmt: skip
def test_what_is_no_http_request_is_refused(request_line: bytes, why: str) -> None:
    assert reason(line(request_line)) == why


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "empty_line"), (b" \t\r\n", "empty_line"), (b"hello", "wrong_shape"), (b'{"a": 1}', "wrong_shape"),
        (START + b'"GET / HTTP/1.1', "cut_off"), (START + b'"GET /a\\', "cut_off"), (START, "cut_off"),
        (line(rest=b"20"), "cut_off"), (line(rest=b'200 5 "http://x'), "cut_off"), (line(rest=b"200 5"), "cut_off"),
        (line(rest=b'200 5 "-" "a" "b"'), "trailing_text"), (line(rest=b'200 5 "-" "a"b"'), "trailing_text"),
        (line(rest=b'abc 5 "-" "-"'), "wrong_shape"), (line(rest=b'200 5x "-" "-"'), "wrong_shape"),
        (b"x" * 70_000, "line_too_long"),
    ],
)  # fmt: skip
def test_a_line_of_another_shape_is_refused_with_what_is_wrong(raw: bytes, why: str) -> None:
    assert reason(raw) == why


def test_a_dash_is_an_absent_value() -> None:
    found = parsed(line(rest=b'- - "-" "-"'))
    assert (found.status, found.size, found.referrer, found.user_agent, found.user) == (0, 0, "", "", "")


def test_escapes_and_broken_bytes_in_texts_stay_readable() -> None:
    found = parsed(line(rest=rb'200 5 "\x41\\\"" "caf' + b"\xe9" + rb' \xd0\x96 \q"'))
    assert (found.referrer, found.user_agent) == ('A\\"', "caf\\xe9 Ж \\q")


def test_a_user_name_may_hold_blanks() -> None:
    assert parsed(line(start=b"::1 - a b [17/May/2015:10:05:03 +0000] ")).user == "a b"


def test_common_has_no_referrer_and_no_user_agent() -> None:
    common = line(rest=b"200 5")
    found = parse_line(common, COMMON)
    assert isinstance(found, ParsedLine) and (found.referrer, found.user_agent) == ("", "")
    assert parse_line(line(), COMMON) == RejectedLine(LineReason.TRAILING_TEXT)


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_rejected(noise: bytes) -> None:
    for raw in (noise, START + noise, line(noise), line(rest=b'200 5 "' + noise + b'" "x"')):
        assert isinstance(parse_line(raw, COMBINED), ParsedLine | RejectedLine)


def apache_escaped(data: bytes) -> bytes:
    """As Apache's ap_escape_logitem writes it: an implementation of its own, byte by byte."""
    letters = {8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}
    return b"".join(letters.get(b) or (bytes([b]) if 32 <= b < 127 else b"\\x%02x" % b) for b in data)


@given(st.binary(min_size=1, max_size=80), st.text(min_size=1, max_size=40), st.integers(100, 599))
def test_what_a_server_escaped_is_read_back(target: bytes, agent: str, status: int) -> None:
    # given a request written by the server's own rules
    target = b"/" + target
    raw = line(
        apache_escaped(b"GET " + target + b" HTTP/1.1"),
        b'%d 1 "-" "%s"' % (status, apache_escaped(agent.encode())),
    )

    # when it is read, then it is what it was
    found = parsed(raw)
    assert (found.target, found.status) == (target, status)
    assert found.user_agent == ("" if agent == "-" else agent)


@pytest.mark.parametrize("name", ["plain.log", "packed.log.gz"])
def test_lines_are_read_plain_or_packed(tmp_path: Path, name: str) -> None:
    content = b"one\r\n\ntwo\nthree"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(lines_of(tmp_path / name)) == [b"one\r\n", b"\n", b"two\n", b"three"]


def test_a_file_that_cannot_be_read_as_a_log_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(bytes(range(1, 200)) * 50)[:-20])
    for name, message in (
        ("missing", "does not exist"), (".", "is a folder"), ("empty", "is empty"), ("binary", "is no text"),
        ("cut.gz", "broken gzip"), ("empty/x", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(LabError, match=message) as caught:
            list(lines_of(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(LabError, match="did you mean 'combined'"):
        format_named("combine")


@pytest.mark.parametrize(
    ("name", "lines", "refused"),
    [("apache_combined.log", 10_000, [(8899, "cut_off")]), ("hackers_combined.log", 3_456, [])],
)
def test_the_real_logs_are_read_whole(name: str, lines: int, refused: list[tuple[int, str]]) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    found = [parse_line(raw, COMBINED) for raw in lines_of(path)]
    assert len(found) == lines
    assert [(n, str(one.reason)) for n, one in enumerate(found, 1) if isinstance(one, RejectedLine)] == refused


def test_a_format_that_is_none_is_answered_with_those_there_are_once() -> None:
    with pytest.raises(LabError) as found:
        format_named("CSV")
    assert str(found.value).count("caddy_json") == 1 and "vhost_combined" in str(found.value)
