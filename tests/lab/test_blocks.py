"""Lines as columns: the very same as line by line, for plain lines and for all others."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import lab
from lab.blocks import SCHEMA, Blocks, read_block, row_of
from lab.decided import Deciding
from lab.foreign import Naming, hit_of, visitor_tag
from lab.foreign_columns import Tags
from lab.formats import FORMATS, ParsedLine, RejectedLine, parse_line
from lab.importing import import_log
from lab.log import Log
from lab.mapping import LogMap
from lab.placing import Placing
from lab.plain import plain_lines
from lab.reading import Reading
from lab.sources import AccessLog
from service.archive import tables
from service.engine.parse import parameters

SHARED = Path(__file__).parents[3] / "shared" / "data"

ADDRESSES = ("192.0.2.7", "192.0.2.8", "::1", "host name", "-", "a\tb", "é")
USERS = ("-", "frank", "a b", "")
STAMPS = (
    "17/May/2015:10:05:03 +0000", "29/Feb/2023:00:00:00 +0000", "31/Dec/2023:23:59:60 -0930", "1/Jan/2024:00:00:00 +0000",
    "01/Jan/2024:24:00:00 +0000", "01/jan/2024:00:00:00 +0000", "01/Jan/2024:00:00:00",
)  # fmt: skip
REQUESTS = (
    "GET / HTTP/1.1", "POST /a%20b/c.css?x=1 HTTP/1.0", "GET /feed?flav=rss20&x=%E9+y&&x=2 HTTP/1.1", "GET /a b HTTP/1.1",
    "-", "", "GET", r"GET /\x22q?a=\" HTTP/1.1", "GET http://h.example/p?path=1&q_path=2&uid=me HTTP/1.1",
    "PURGE /x HTTP/2",
    "GET /caf\u00e9?n=\u00e9 HTTP/1.1", "OPTIONS * HTTP/1.1", "GET /p?=1&b=&c&d=%zz HTTP/1.1", "GET /x HTTP/1.1 extra",
    "GET /~u/a;b:c@d!?ref=http://x/y?z HTTP/1.1", "M-SEARCH /x HTTP/1.1"
)  # fmt: skip
NUMBERS = ("200 5", "404 -", "- -", "301 0", "99 5", "200 5x", "200  5", "500 123456789012345678")
TEXTS = (
    "-",
    "",
    "http://u@R.Example:80/p?q",
    "https://r.example",
    "Mozilla/5.0 (X; Y)",
    r"a\"b",
    "x\u20ac",
    "android-app://a.b.c/",
)
TAILS = ("", " ", '"', ' "more"', "\r", "  ")


def some_line(draw: random.Random) -> bytes:
    """A line of combined, or nearly one."""
    often = draw.random() < 0.6
    pick = (lambda values: values[0]) if often else draw.choice
    text = f"{draw.choice(ADDRESSES[:3]) if often else draw.choice(ADDRESSES)} {pick(('-', 'x'))} {pick(USERS)} "
    text += f'[{pick(STAMPS)}] "{draw.choice(REQUESTS)}" {draw.choice(NUMBERS[:4]) if often else draw.choice(NUMBERS)}'
    text += f' "{draw.choice(TEXTS)}" "{draw.choice(TEXTS)}"' if draw.random() < 0.95 else ""
    return (text + pick(TAILS)).encode(draw.choice(("utf-8", "latin-1")), errors="replace")


@pytest.mark.parametrize("name", ["combined", "common", "vhost_combined"])
def test_random_lines_are_read_as_line_by_line(name: str) -> None:
    # given lines of every kind
    form, draw = FORMATS[name], random.Random(7)
    raws = [some_line(draw) for _ in range(4_000)]
    if name == "common":
        raws = [raw.rpartition(b' "')[0].rpartition(b' "')[0] for raw in raws]
    if name == "vhost_combined":
        raws = [b"Shop.example:443 " + raw for raw in raws]

    # when they are read as a block
    coded, rejected, lines = read_block(b"\n".join(raws) + b"\n", form)
    frame = coded.frame(SCHEMA)

    # then each line is what the parser of one line says
    found = [(number, parse_line(raw, form)) for number, raw in enumerate(raws, 1)]
    assert frame.rows() == [row_of(n, one) for n, one in found if isinstance(one, ParsedLine)]
    wrong = [(n, one.reason.value) for n, one in found if isinstance(one, RejectedLine)]
    assert [(n, reason) for n, reason, _ in rejected] == wrong
    assert lines == frame.height + len(wrong) == 4_000 and len(wrong) > 300 and frame.height > 1_000


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("name", ["combined", "common"])
def test_what_a_reader_of_csv_may_trip_over_changes_no_line(name: str, end: bytes) -> None:
    # given a mark of UTF-8 in front, bare returns, zero bytes, quotes where none belong, empty, short and endless lines
    good = FORMATS[name].sample.encode()
    odd = (
        b"\r", b"\0", b'"', b'""', b'"" "', b"", b"x", good + b'"', b'"' + good, good.replace(b"GET", b"GE\rT"),
        good.replace(b"/1.1", b"/1.1\0"), good + b"\r", good.replace(b" 512", b" 5x2").replace(b" 2326", b" 2x26"),
        good.replace(b"GET /", b"GET /" + b"y" * 9_000), good.replace(b"- ", b"-" * 9_000 + b" ", 1), b"z" * 70_000,
        good.replace(b" 200 ", b" 200"), good.replace(b" 200 ", b"200 "), good.replace(b"GET", b"\xe9"), good[:40],
    )  # fmt: skip
    lines = [b"\xef\xbb\xbf" + good, good, *(line for one in odd for line in (one, good))]

    # when they are read as a block, with and without an end of the last line
    for block in (end.join(lines), end.join(lines) + end):
        coded, rejected, count = read_block(block, FORMATS[name])

        # then each line is what the parser of one line says
        found = [(number, parse_line(raw, FORMATS[name])) for number, raw in enumerate(lines, 1)]
        assert coded.frame(SCHEMA).rows() == [row_of(n, one) for n, one in found if isinstance(one, ParsedLine)]
        wrong = [(n, one.reason.value) for n, one in found if isinstance(one, RejectedLine)]
        assert [(n, reason) for n, reason, _ in rejected] == wrong and count == len(lines)


def test_lines_that_are_all_plain_need_no_other_parser() -> None:
    lines = [FORMATS["combined"].sample.replace("512", str(n)).encode() for n in range(50)]
    found = plain_lines(b"\n".join(lines), FORMATS["combined"])
    assert found is not None and (found[0].height, found[1]) == (50, 50)


@pytest.mark.parametrize("size", [1, 50, 4_096])
def test_the_size_of_a_block_changes_nothing(tmp_path: Path, size: int) -> None:
    draw = random.Random(8)
    path = tmp_path / "x.log"
    path.write_bytes(b"\n".join(some_line(draw) for _ in range(60)))

    def whole(block_bytes: int) -> tuple[list[object], list[object], int, str]:
        blocks = Blocks([path], block_bytes)
        rows: list[object] = []
        rejected: list[object] = []
        lines = 0
        for block in blocks:
            coded, wrong, count = read_block(block, FORMATS["combined"])
            rows += coded.frame(SCHEMA).with_columns(pl.col("line") + lines).rows()
            rejected += [(number + lines, reason, raw) for number, reason, raw in wrong]
            lines += count
        return rows, rejected, lines, blocks.content

    assert whole(size) == whole(1 << 20)


def imported(folder: Path, *lines: bytes) -> Log:
    (folder / "x.log").write_bytes(b"\n".join(lines) + b"\n")
    import_log("combined", folder / "x.log", folder / "out")
    return lab.open(folder / "out")


def test_a_hit_is_the_one_that_is_made_of_its_line(tmp_path: Path) -> None:
    # given random lines
    draw = random.Random(9)
    raws = [some_line(draw) for _ in range(1_500)]

    # when they are imported
    log = imported(tmp_path, *raws)

    # then every row of hits is the hit of its line, with its parameters as the engine decodes them
    parsed = [one for raw in raws if isinstance(one := parse_line(raw, FORMATS["combined"]), ParsedLine)]
    parsed.sort(key=lambda one: one.time_us)
    rows = list(log.rows("hits", 0))[1:]
    assert len(rows) == len(parsed) > 500
    for row, one in zip(rows, parsed, strict=True):
        hit = hit_of(one, row["hit_id"], "site", Naming())
        assert (row["query"], row["path"], row["method"]) == (hit.query, hit.path, hit.method)
        assert row["params"] == list(parameters(hit).items()) or dict(row["params"]) == parameters(hit)
        assert (row["address"], row["user_agent"], row["referrer"]) == (hit.address, hit.user_agent, hit.referrer)


def at(days: float, query: str = "", address: str = "192.0.2.7", referrer: str = "-") -> bytes:
    stamp = (datetime(2015, 5, 17, tzinfo=UTC) + timedelta(days=days)).strftime("%d/%b/%Y:%H:%M:%S +0000")
    return f'{address} - - [{stamp}] "GET /p{query} HTTP/1.1" 200 5 "{referrer}" "M"'.encode()


def test_a_replay_says_what_an_import_of_random_lines_stored(tmp_path: Path) -> None:
    draw = random.Random(10)
    log = imported(tmp_path, *(some_line(draw) for _ in range(1_500)))
    assert log.replay().digest == log.digest()


def test_visitors_that_are_forgotten_remembered_or_hard_are_decided_as_by_the_engine(tmp_path: Path) -> None:
    # given somebody who comes back exactly at the end of being remembered and after it, with parameters in between
    lines = [at(0, "?a=1", referrer="http://r.example/"), at(1, "?b=2"), at(91), at(181.00002, "?c=3"), at(182)]
    # and somebody with more names than are remembered, a rejected request, a name too long, and too many at once
    lines += [at(n / 100, f"?n{n}=x&m{n}=y", "192.0.2.8") for n in range(150)]
    lines += [
        at(3, "?v=" + "x" * 1_100, "192.0.2.9"),
        at(4, "", "192.0.2.9"),
        at(5, "?" + "n" * 70 + "=1", "192.0.2.9"),
    ]
    lines += [at(6, "?" + "&".join(f"k{n}=1" for n in range(99)), "192.0.2.10"), at(7, "?z=1", "192.0.2.10")]
    lines += [at(8, "?" + "&".join(f"k{n}=1" for n in range(79)), "192.0.2.11"), at(9, "?z=%41", "192.0.2.11")]

    # when they are imported
    log = imported(tmp_path, *lines)

    # then every decision is the engine's
    assert log.replay().digest == log.digest()
    verdicts = dict(log.decisions.collect()["verdict"].value_counts().iter_rows())
    assert verdicts["rejected"] >= 2
    own = log.decisions.filter(pl.col("visitor") != "").collect()
    assert own.filter(pl.col("new_visitor")).height >= 6


def decided(folder: Path, block_bytes: int, memory_gb: float, batch_rows: int, piece_rows: int) -> list[dict[str, Any]]:
    """The decisions of x.log, made in pieces of these sizes."""
    source = AccessLog("combined", [folder / "x.log"], LogMap(), None, block_bytes)
    with Placing(folder, memory_gb, batch_rows, piece_rows) as placing, ThreadPoolExecutor(2) as pool:
        Reading(folder).read(source.read(pool), placing)
        placing.place(90 * 86_400_000_000)
        deciding = Deciding(source.rulebook(), of_requests=True)
        rows = [
            row
            for batch in placing.batches(source.content)
            for rows in deciding.decide(batch).decisions()
            for row in rows.select(["seq", "visitor", "new_visitor", "fields", "params"]).to_pylist()
        ]
    for row in rows:
        row["fields"], row["params"] = sorted(row["fields"]), sorted(row["params"])
    return sorted(rows, key=lambda row: row["seq"])


def test_the_sizes_of_pieces_and_what_waits_on_disk_change_nothing(tmp_path: Path) -> None:
    # given visitors who come back with new parameters, in no order
    draw = random.Random(11)
    lines = [
        at(draw.random() * 2_000, draw.choice(("", "", f"?a={n}", f"?b{n % 7}={n}")), f"192.0.2.{draw.randrange(9)}")
        for n in range(300)
    ]
    (tmp_path / "x.log").write_bytes(b"\n".join(lines) + b"\n")

    # when they are decided at once, and in small pieces that wait on disk, then nothing is different
    whole = decided(tmp_path, 1 << 20, 1.0, 1_000, 1_000)
    assert decided(tmp_path, 900, 0.0, 7, 50) == whole
    assert len(whole) == 300 and sum(row["new_visitor"] for row in whole) > 9


def test_names_that_look_alike_side_by_side_are_remembered_apart(tmp_path: Path) -> None:
    # given somebody who brings the names a and b, then one name of both, then them in another order, again and again
    queries = ("?a=1&b=2", "?a%26b=3", "?b=4&a=5", "", "?a=6&b=7", "?b=8", "?a=9&c=1", "", "?a=2&b=3")
    lines = [at(n / 100, query, f"192.0.2.{n % 2}") for n, query in enumerate(queries * 6)]
    (tmp_path / "x.log").write_bytes(b"\n".join(lines) + b"\n")

    # when it is imported, then every decision is the engine's, in batches of any size
    import_log("combined", tmp_path / "x.log", tmp_path / "out")
    log = lab.open(tmp_path / "out")
    assert log.replay().digest == log.digest()
    whole = decided(tmp_path, 1 << 20, 1.0, 1_000, 1_000)
    for rows in (1, 2, 5):
        assert decided(tmp_path, 900, 0.0, rows, 50) == whole


def test_a_day_is_stored_with_no_texts_of_other_days(tmp_path: Path) -> None:
    # given days that have their texts for themselves
    lines = [at(n // 40, f"?day{n // 40}={'x' * 100}{n:04}", f"192.0.2.{n // 40}") for n in range(400)]

    # when they are imported in one batch
    log = imported(tmp_path, *lines)

    # then no file holds texts of others
    files = [Path(file) for file in tables.files(tmp_path / "out", "hits") if "import-" in file]
    assert len(files) == 10 and log.replay().digest == log.digest()
    for day, file in enumerate(sorted(files)):
        raw = file.read_bytes()
        assert [other for other in range(10) if f"day{other}".encode() in raw] == [day]


def test_tags_are_those_of_one_request_however_few_are_remembered() -> None:
    people = pl.DataFrame({"address": [f"192.0.2.{n % 50}" for n in range(200)], "user_agent": ["A", "B"] * 100})
    tags = Tags(many=3)
    for frame in people.iter_slices(40):
        assert tags.of(frame).to_list() == [visitor_tag(*row) for row in frame.rows()]


@pytest.mark.parametrize("name", ["apache_combined.log", "hackers_combined.log"])
def test_real_logs_are_stored_as_a_replay_decides_them(tmp_path: Path, name: str) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    import_log("combined", path, tmp_path / "out")
    log = lab.open(tmp_path / "out")
    assert log.replay().digest == log.digest()
