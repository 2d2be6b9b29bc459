"""A foreign log made ours: every line accounted for, the same file the same log, nothing half written."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from pathlib import Path

import msgspec
import polars as pl
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import lab
from lab.foreign import MADE_UP, Naming, hit_of, own_query, visitor_tag
from lab.formats import FORMATS, ParsedLine, parse_line
from lab.importing import import_command, import_log
from lab.log import LabError
from service.archive import tables
from service.engine import Event, load, parse
from service.engine.model import RESERVED
from service.engine.parse import decode

SHARED = Path(__file__).parents[3] / "shared" / "data"
RULES = load("[client.site]\n")


def line(
    request: str = "GET / HTTP/1.1",
    second: int = 0,
    status: int = 200,
    address: str = "192.0.2.7",
    more: str = '"-" "M"',
) -> str:
    stamp = f"17/May/2015:10:{second // 60:02}:{second % 60:02} +0000"
    return f'{address} - - [{stamp}] "{request}" {status} 5 {more}'


def write(folder: Path, *lines: str, name: str = "access.log") -> Path:
    path = folder / name
    content = "".join(text + "\n" for text in lines).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def parsed(request: str = "GET / HTTP/1.1", status: int = 200, more: str = '"-" "M"') -> ParsedLine:
    found = parse_line(line(request, status=status, more=more).encode(), FORMATS["combined"])
    assert isinstance(found, ParsedLine)
    return found


def event_of(request: str, status: int = 200, events: Mapping[str, str] | None = None) -> str:
    event = parse(hit_of(parsed(request, status), "0" * 32, "site", Naming(events)), RULES)
    assert isinstance(event, Event), event
    return event.name


def params_of(request: str) -> dict[str, str]:
    event = parse(hit_of(parsed(request), "0" * 32, "site", Naming()), RULES)
    assert isinstance(event, Event), event
    return event.params


# one request


@pytest.mark.parametrize(
    ("request_line", "status", "event"),
    [
        ("GET / HTTP/1.1", 200, "pageview"), ("HEAD /a HTTP/1.1", 304, "pageview"),
        ("GET /a.html HTTP/1.1", 301, "pageview"),
        ("GET /a.css?v=1 HTTP/1.1", 200, "asset"), ("GET /favicon.ico HTTP/1.1", 200, "asset"),
        ("GET /blog?flav=rss20 HTTP/1.1", 200, "feed"), ("GET /feed/ HTTP/1.1", 200, "feed"),
        ("GET /robots.txt HTTP/1.1", 200, "robots"), ("GET /x.tar.gz HTTP/1.1", 206, "download"),
        ("POST /login HTTP/1.1", 302, "submit"), ("GET /a HTTP/1.1", 404, "error"), ("POST /a HTTP/1.1", 500, "error"),
        ("OPTIONS * HTTP/1.1", 200, "other"),
    ],
)  # fmt: skip
def test_each_request_is_named_by_what_it_was(request_line: str, status: int, event: str) -> None:
    assert event_of(request_line, status) == event


def test_own_rules_name_first_and_the_first_match_wins() -> None:
    events = {"login": "POST ^/login$", "form": "^/log", "caf": "é"}
    assert event_of("POST /login HTTP/1.1", events=events) == "login"
    assert event_of("GET /login HTTP/1.1", events=events) == "form"
    assert event_of("GET /caf%C3%A9.css HTTP/1.1", events=events) == "caf"
    assert event_of("GET /login HTTP/1.1", 404, events=events) == "error"


@pytest.mark.parametrize(
    ("events", "message"),
    [({"sale": "(a"}, "no regular expression of RE2: missing \\)"), ({"a b": "x"}, "event 'a b' is no event name"),
     ({"x": r"(a)\1"}, "no regular expression of RE2")],
)  # fmt: skip
def test_a_rule_that_cannot_be_used_is_named(events: dict[str, str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        Naming(events)


def test_a_hit_carries_what_an_intake_request_would() -> None:
    # given a request with a referrer and parameters of its own
    found = parsed("GET /a%20b?x=1+2&path=p HTTP/1.1", more='"http://u@R.Example:80/p?q" "Agent"')

    # when it becomes a hit and the engine reads it
    hit = hit_of(found, "a" * 32, "site", Naming())
    event = parse(hit, RULES)

    # then everything is there, and its own `path` did not overwrite the requested one
    assert isinstance(event, Event)
    assert (hit.route, hit.path, hit.received_at_us) == ("import", b"/a%20b", found.time_us)
    assert event.fields == {"client": "site", "event": "pageview", "tag_id": visitor_tag("192.0.2.7", "Agent")}
    assert event.params == {
        "path": "/a b", "status": "200", "method": "GET", "referrer_host": "r.example", "x": "1 2", "q_path": "p",
    }  # fmt: skip


@pytest.mark.parametrize("name", [*RESERVED, *MADE_UP])
def test_a_name_that_is_taken_gets_a_prefix(name: str) -> None:
    params = params_of(f"GET /?{name}=1&q_{name}=2&%{ord(name[0]):02x}{name[1:]}=3 HTTP/1.1")
    assert (params[f"q_{name}"], params[f"q_q_{name}"]) == ("3", "2")  # of repeated names the last value wins


def test_bytes_that_are_no_utf8_stay_as_percent_text() -> None:
    params = params_of(r"GET /caf%E9/\xff?a=%E9+x%26&b%FF=1&ok=%C3%A9 HTTP/1.1")
    assert params["path"] == "/caf%E9/%FF"
    assert (params["a"], params["b%FF"], params["ok"]) == ("%E9 x&", "1", "é")


@given(st.binary(max_size=200).filter(lambda data: b"\n" not in data))
def test_any_query_can_be_decoded_and_overwrites_nothing(query: bytes) -> None:
    hit = hit_of(parsed(), "a" * 32, "site", Naming())
    plain = decode(hit)
    own = own_query(query)
    both = parse(msgspec.structs.replace(hit, query=hit.query + b"&" + own), RULES)
    assert own.count(b"&") <= query.count(b"&")
    if isinstance(both, Event):
        assert {name: value for name, value in {**both.fields, **both.params}.items() if name in plain} == plain
    else:
        assert both.reason in ("name_too_long", "too_many_parameters")


def test_a_very_long_path_does_not_spoil_its_hit() -> None:
    params = params_of(f"GET /{'x' * 3000} HTTP/1.1")
    assert len(params["path"]) == 1024


# the whole file


def test_a_log_is_imported_sorted_and_decided(tmp_path: Path) -> None:
    # given a log with a line out of order, a tie, a broken and an empty line
    path = write(
        tmp_path,
        line("GET /late HTTP/1.1", 9), line("GET /early HTTP/1.1", 3), "what?", "",
        line("GET /tie HTTP/1.1", 9, address="192.0.2.8"), line("GET /twin HTTP/1.1", 9),
    )  # fmt: skip

    # when it is imported
    report = import_log("combined", path, tmp_path / "out")

    # then every line is accounted for
    assert (report.lines, report.parsed, report.rejected) == (6, 4, 2)
    assert report.reasons == {"wrong_shape": 1, "empty_line": 1}
    assert (report.moved, report.ties, report.visitor_ties) == (1, 3, 2)
    assert (report.first_time, report.last_time) == ("2015-05-17T10:00:03+00:00", "2015-05-17T10:00:09+00:00")
    assert (report.events, report.visitors, report.verdicts) == ({"pageview": 4}, 2, {"accepted": 4})

    # and the log is in the order of (time, line), without gaps, behind its rulebook
    log = lab.open(tmp_path / "out")
    rows = log.hits.sort("seq").collect()
    assert rows["seq"].to_list() == [1, 2, 3, 4, 5]
    assert rows["kind"].to_list() == ["rulebook", "hit", "hit", "hit", "hit"]
    assert rows["path"].to_list()[1:] == [b"/early", b"/late", b"/tie", b"/twin"]
    assert log.rulebooks.collect()["rulebook_id"].to_list() == [report.rulebook_id]

    # and the rejected lines are kept as they were
    rejected = pl.read_parquet(tables.files(tmp_path / "out", "rejected"))
    assert rejected.rows() == [(3, "wrong_shape", b"what?"), (4, "empty_line", b"")]


def test_a_replay_of_an_imported_log_says_what_is_stored(tmp_path: Path) -> None:
    path = write(tmp_path, *(line(f"GET /{n}?a=%E9 HTTP/1.1", n, address=f"192.0.2.{n % 5}") for n in range(60)))
    import_log("combined", path, tmp_path / "out", client="my.shop")
    log = lab.open(tmp_path / "out")
    assert log.replay().digest == log.digest()
    assert log.summary().row(0, named=True)["client"] == "my.shop"


def test_the_same_file_gives_the_same_log_packed_or_not(tmp_path: Path) -> None:
    lines = [line(f"GET /{n} HTTP/1.1", n % 7) for n in range(20)]
    for name, path in (("a", write(tmp_path, *lines)), ("b", write(tmp_path, *lines, name="access.log.gz"))):
        import_log("combined", path, tmp_path / name)
    a, b = (lab.open(tmp_path / name).hits.sort("seq").collect() for name in "ab")
    assert a.equals(b)
    assert a["hit_id"].drop_nulls().n_unique() == 20 and a["hit_id"].drop_nulls().str.contains("^[0-9a-f]{32}$").all()


def test_the_order_of_hits_is_that_of_a_stable_sort(tmp_path: Path) -> None:
    # given lines in no order, many with the same second
    draw = random.Random(7)
    seconds = [draw.randrange(20) for _ in range(300)]
    path = write(tmp_path, *(line(f"GET /{n} HTTP/1.1", second) for n, second in enumerate(seconds)))

    # when they are imported
    report = import_log("combined", path, tmp_path / "out")

    # then equal seconds keep the order of the file, and the moved are those behind a later one
    found = lab.open(tmp_path / "out").hits.filter(pl.col("kind") == "hit").sort("seq").collect()["path"].to_list()
    assert found == [f"/{n}".encode() for n in sorted(range(300), key=lambda n: (seconds[n], n))]
    assert report.moved == sum(second < max(seconds[: n + 1]) for n, second in enumerate(seconds))
    assert report.ties == 300 and report.visitor_ties == 300


def test_progress_ends_at_the_number_of_hits(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = write(tmp_path, *(line(second=n % 60) for n in range(1500)))
    import_log("combined", path, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 1500), (1500, 1500)]


# what cannot be imported


def nothing_but(folder: Path, *names: str) -> bool:
    return sorted(found.name for found in folder.iterdir()) == sorted(names)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, line())
    (tmp_path / "out").mkdir()
    import_log("combined", path, tmp_path / "out")  # an empty one is taken
    with pytest.raises(LabError, match="exists and is not empty"):
        import_log("combined", path, tmp_path / "out")
    with pytest.raises(LabError, match="exists and is not empty"):
        import_log("combined", path, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("hello\nworld\n", "none of 2 lines is in the format combined"), ("\n\n", r"\(empty_line\)"),
     (line(more="") + "\n", "none of 1 line "), (line(more="").strip() + "\n", "it looks like common")],
)  # fmt: skip
def test_a_file_without_one_good_line_writes_nothing(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "access.log").write_text(content)
    with pytest.raises(LabError, match=message):
        import_log("combined", tmp_path / "access.log", tmp_path / "out")
    assert nothing_but(tmp_path, "access.log")


def test_an_import_that_breaks_half_way_leaves_nothing(tmp_path: Path) -> None:
    # given an import that fails in the middle of deciding
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    path = write(tmp_path, line())

    # when it is run
    with pytest.raises(Stop):
        import_log("combined", path, tmp_path / "out", progress=stop)

    # then neither the target nor anything unfinished is there
    assert nothing_but(tmp_path, "access.log")


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    path = write(tmp_path, line())
    with pytest.raises(LabError, match="cannot be written"):
        import_log("combined", path, path / "out")


# the command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(import_command, [str(argument) for argument in arguments])


def test_the_command_prints_one_document(tmp_path: Path) -> None:
    path = write(tmp_path, line("GET /done HTTP/1.1"), "x")
    result = run("combined", path, "--out", tmp_path / "out", "--event", "sale=^/done$", "--client", "shop", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document["lines"] == document["parsed"] + document["rejected"] == 2
    assert document["events"] == {"sale": 1} and document["client"] == "shop"
    assert {"reasons", "moved", "ties", "first_time", "last_time", "visitors", "seconds", "out"} <= set(document)


def test_the_command_prints_readable_tables(tmp_path: Path) -> None:
    result = run("combined", write(tmp_path, line(), "x"), "--out", tmp_path / "out")
    assert result.exit_code == 0
    for part in (
        "2 lines = 1 parsed + 1 rejected",
        "pageview",
        "wrong_shape",
        "an approximation",
        str(tmp_path / "out"),
    ):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("combine", "access.log", "--out", "out"), "did you mean 'combined'"),
        (("combined", "missing.log", "--out", "out"), "missing.log does not exist"),
        (("combined", "access.log", "--out", "out", "--event", "sale"), "no NAME=REGEX"),
        (("combined", "access.log", "--out", "out", "--event", "sale=("), "no regular expression"),
        (("combined", "access.log", "--out", "out", "--client", "a b"), "client 'a b' is no name"),
        (("combined", "access.log", "--out", "."), "exists and is not empty"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    write(tmp_path, line())
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert nothing_but(tmp_path, "access.log")


@pytest.mark.parametrize(
    ("name", "lines", "rejected"), [("apache_combined.log", 10_000, 1), ("hackers_combined.log", 3_456, 0)]
)
def test_the_real_logs_are_imported_whole(tmp_path: Path, name: str, lines: int, rejected: int) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    report = import_log("combined", path, tmp_path / "out")
    assert (report.lines, report.parsed + report.rejected, report.rejected) == (lines, lines, rejected)
    assert sum(report.verdicts.values()) == report.parsed == report.verdicts["accepted"]
    log = lab.open(tmp_path / "out")
    assert log.gaps().is_empty()
    assert log.events.select(pl.len()).collect().item() == report.parsed
