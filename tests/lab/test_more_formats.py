"""Every format of the import by a written fixture: the same requests in each, read the same, lines adding up."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import lab
from lab.formats import ParsedLine, RejectedLine, all_formats, format_named, parse_line
from lab.importing import import_log
from lab.log import LabError

CUSTOM = '%v|%h|%x|%m|%U|%s|"%R"|"%u"'
FIXTURES = {
    "combined": [
        '192.0.2.7 - - [02/Mar/2026:10:05:03 +0000] "GET /a?sub1=x HTTP/1.1" 200 512 "http://r.example/p" "Agent 1"',
        '192.0.2.8 - frank [02/Mar/2026:12:05:04 +0200] "POST /login HTTP/1.1" 302 - "-" "Agent \\"2\\""',
    ],
    "common": [
        '192.0.2.7 - - [02/Mar/2026:10:05:03 +0000] "GET /a?sub1=x HTTP/1.1" 200 512',
        '192.0.2.8 - frank [02/Mar/2026:12:05:04 +0200] "POST /login HTTP/1.1" 302 -',
    ],
    "vhost_combined": [
        'Shop.example:443 192.0.2.7 - - [02/Mar/2026:10:05:03 +0000] "GET /a?sub1=x HTTP/1.1" 200 512 '
        '"http://r.example/p" "Agent 1"',
        'shop.example:443 192.0.2.8 - frank [02/Mar/2026:12:05:04 +0200] "POST /login HTTP/1.1" 302 - "-" "Agent \\"2\\""',
    ],
    "nginx_json": [
        '{"time_iso8601":"2026-03-02T10:05:03+00:00","remote_addr":"192.0.2.7","request":"GET /a?sub1=x HTTP/1.1",'
        '"status":"200","body_bytes_sent":"512","http_referer":"http://r.example/p","http_user_agent":"Agent 1"}',
        '{"msec":"1772445904.000","remote_addr":"192.0.2.8","request_method":"POST","request_uri":"/login","status":302,'
        '"http_referer":"-","http_user_agent":"Agent \\"2\\"","remote_user":"frank"}',
    ],
    "caddy_json": [
        '{"level":"info","ts":1772445903.0,"request":{"remote_ip":"192.0.2.7","proto":"HTTP/2.0","method":"GET",'
        '"host":"shop.example","uri":"/a?sub1=x","headers":{"User-Agent":["Agent 1"],"Referer":["http://r.example/p"]}},"size":512,"status":200}',
        '{"ts":1772445904,"request":{"client_ip":"192.0.2.8","method":"POST","host":"shop.example:443","uri":"/login",'
        '"headers":{"User-Agent":["Agent \\"2\\""]}},"status":302,"user_id":"frank"}',
    ],
    CUSTOM: [
        'shop.example|192.0.2.7|2026-03-02T10:05:03Z|GET|/a?sub1=x|200|"http://r.example/p"|"Agent 1"',
        'shop.example|192.0.2.8|1772445904|POST|/login|302|"-"|"Agent \\"2\\""',
    ],
}  # fmt: skip


def test_every_named_format_has_a_fixture() -> None:
    assert set(all_formats()) == set(FIXTURES) - {CUSTOM}


@pytest.mark.parametrize("name", FIXTURES)
def test_the_same_requests_are_read_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    # given two requests in a format, and a line of none, packed
    path = tmp_path / "access.log.gz"
    path.write_bytes(gzip.compress("\n".join([*FIXTURES[name], "hello", ""]).encode()))

    # when they are imported
    report = import_log(name, path, tmp_path / "out")

    # then lines add up, and both requests say what they said
    assert (report.lines, report.parsed, report.rejected) == (3, 2, 1)
    assert report.events == {"pageview": 1, "submit": 1}
    log = lab.open(tmp_path / "out")
    first, second = log.hits.filter(pl.col("kind") == "hit").sort("seq").collect().rows(named=True)
    assert (first["address"], first["method"], first["path"], first["time"].isoformat()) == (
        "192.0.2.7", "GET", b"/a", "2026-03-02T10:05:03+00:00",
    )  # fmt: skip
    assert (second["method"], second["path"], second["time"].isoformat()) == (
        "POST",
        b"/login",
        "2026-03-02T10:05:04+00:00",
    )
    params = dict(first["params"])
    assert (params["sub1"], params["status"]) == ("x", "200")
    if name != "common":
        assert (first["referrer"], second["referrer"]) == ("http://r.example/p", "")
        assert (first["user_agent"], second["user_agent"]) == ("Agent 1", 'Agent "2"')
    if name in ("vhost_combined", "caddy_json", CUSTOM):
        assert params["host"] == "shop.example"
    assert log.replay().digest == log.digest()


def test_many_files_and_a_pattern_are_one_log(tmp_path: Path) -> None:
    # given one log rotated into three files: plain, gzip and zstd
    lines = [line.encode() + b"\n" for line in FIXTURES["combined"]]
    (tmp_path / "access.log.1").write_bytes(lines[0])
    (tmp_path / "access.log.2.gz").write_bytes(gzip.compress(lines[1]))
    with pa.output_stream(str(tmp_path / "access.log.3.zst"), compression="zstd") as file:
        file.write(lines[0] * 3)

    # when they are imported by a pattern
    report = import_log("combined", tmp_path / "access.log.*", tmp_path / "out")

    # then all their lines are there
    assert (report.lines, report.parsed) == (5, 5)
    with pytest.raises(LabError, match="matches no file"):
        import_log("combined", tmp_path / "nothing*", tmp_path / "out2")


def test_a_broken_zstd_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"\xff" * 40)
    with pytest.raises(LabError, match="is broken zstd"):
        import_log("combined", path, tmp_path / "out")


@pytest.mark.parametrize(("name", "line", "reason"), [
    ("nginx_json", '{"time":"2026-03-02T10:05:03","remote_addr":"::1","request":"GET / HTTP/1.1"}', "bad_time"),
    ("nginx_json", '{"msec":1,"remote_addr":"::1","request":"-"}', "no_request"),
    ("nginx_json", '{"msec":1,"remote_addr":"::1","requ', "cut_off"), ("nginx_json", "[1]", "wrong_shape"),
    ("caddy_json", '{"ts":1,"request":{"remote_ip":"::1"}}', "bad_request"), ("caddy_json", '{"ts":1}', "wrong_shape"),
    ("caddy_json", '{"ts":"x","request":{"remote_ip":"::1","method":"GET","uri":"/"}}', "bad_time"),
    ("caddy_json", "", "empty_line"), (CUSTOM, 'a|::1|noon|GET|/|200|""|""', "bad_time"),
    (CUSTOM, 'a|::1|1772445904|GET|/|2x0|""|""', "wrong_shape"),
])  # fmt: skip
def test_what_is_no_request_of_a_format_has_a_reason(name: str, line: str, reason: str) -> None:
    found = parse_line(line.encode(), format_named(name))
    assert isinstance(found, RejectedLine) and found.reason.value == reason


@pytest.mark.parametrize(("text", "line", "time_us"), [
    ('%h %^[%d:%t %^] "%r" %s %b "%R" "%u"', '::1 - - [02/Mar/2026:10:05:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "x y"',
     1_772_445_903_000_000),
    ("%d %t %h %m %U %q %s", "2026-03-02 10:05:03.5 ::1 GET /a b=c 200", 1_772_445_903_500_000),
    ("%x %h %r", "02/Mar/2026:10:05:03 +0200 ::1 GET /a HTTP/1.1", 1_772_438_703_000_000),
    ("%x%%%h %r", "1772445903.25%::1 GET /a HTTP/1.1", 1_772_445_903_250_000),
])  # fmt: skip
def test_a_format_string_says_where_things_stand(text: str, line: str, time_us: int) -> None:
    found = parse_line(line.encode(), format_named(text))
    assert isinstance(found, ParsedLine)
    assert (found.address, found.method, found.path, found.time_us) == ("::1", "GET", b"/a", time_us)


@pytest.mark.parametrize(("text", "message"), [
    ("%h %r", "has no time"), ("%x %r", "needs the address %h"), ("%x %h %m", "needs the address %h and the request"),
    ("%x %h %r %Z", "there is no %Z"), ("%x %h %h %r", "%h stands there twice"),
])  # fmt: skip
def test_a_format_string_that_cannot_be_used_is_named(text: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        format_named(text)
