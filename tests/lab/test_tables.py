"""CSV and Parquet files as logs, and the mapping that says what the names of a foreign log mean."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner

import lab
from lab.importing import import_command, import_log
from lab.log import LabError, Log
from service.archive import tables

SHARED = Path(__file__).parents[3] / "shared" / "data"
HEAD = "created;Customer ID;goal;aff_id;sum;cur;order_id;country;email"
ROWS = (
    "2026-03-02 10:05:03;u1;click;bestodds;;;;DE;a@x.example",
    "2026-03-02 10:06:00;u1;registration;;;;;DE;",
    "2026-03-02 10:05:30;u2;click;bestodds;;;;AT;",
    '2026-03-02 10:07:00;u1;sale;;25.50;eur;"o;1";DE;',
    "2026-03-02 10:08:00;u1;sale;;25.50;EUR;o;1;DE;",
    "yesterday;u1;sale;;1;EUR;o2;DE;",
    "2026-03-02 10:09:00;u1;;;1;EUR;o3;DE;",
    "",
    "2026-03-02 10:10:00;u1;sale",
    "2026-03-02 10:11:00;u3;sale;;12,50;EUR;o4;caf\xe9;",
)
MAP = {"client": "shop", "zone": "Europe/Berlin", "columns": {"created": "time", "Customer ID": "uid", "email": ""}}


def csv_file(folder: Path, name: str = "events.csv.gz") -> Path:
    path = folder / name
    content = "\n".join((HEAD, *ROWS, ROWS[3].replace("o;1", "o5"))).encode("latin-1")
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def rejected(folder: Path) -> list[tuple[int, str, bytes]]:
    return sorted(pl.read_parquet(tables.files(folder, "rejected")).rows())


def test_the_rows_of_a_csv_file_become_hits_or_are_rejected_with_a_reason(tmp_path: Path) -> None:
    # given an export in another zone with a quoted separator, a broken time, no event, an empty and a cut row, odd bytes
    path = csv_file(tmp_path)

    # when it is imported with a map
    report = import_log("csv", path, tmp_path / "out", map=MAP)

    # then all rows are accounted for
    assert (report.lines, report.parsed, report.rejected) == (11, 5, 6)
    assert report.reasons == {
        "wrong_shape": 1,
        "bad_time": 1,
        "no_event": 1,
        "empty_line": 1,
        "cut_off": 1,
        "not_utf8": 1,
    }
    assert [(line, reason) for line, reason, _ in rejected(tmp_path / "out")] == [
        (5, "wrong_shape"), (6, "bad_time"), (7, "no_event"), (8, "empty_line"), (9, "cut_off"), (10, "not_utf8"),
    ]  # fmt: skip
    assert rejected(tmp_path / "out")[4][2] == ROWS[8].encode()
    assert report.columns == {
        "created": "time", "Customer ID": "uid", "goal": "event", "aff_id": "affiliate", "sum": "amount", "cur": "currency",
        "order_id": "txid",
    }  # fmt: skip

    # and the engine decided them as it would decide such requests
    log = lab.open(tmp_path / "out")
    assert (report.moved, report.visitors, report.events) == (1, 2, {"click": 2, "sale": 2, "registration": 1})
    first, *_, last = log.decisions.sort("seq").collect().rows(named=True)
    assert (first["client"], first["time"].isoformat()) == ("shop", "2026-03-02T09:05:03+00:00")
    assert last["affiliate"] == "bestodds"
    assert dict(last["fields"])["amount"] == "25.50" and dict(last["fields"])["currency"] == "EUR"
    assert dict(last["params"]) == {"country": "DE"}
    assert log.replay().digest == log.digest()
    assert log.funnel("click", "registration", "sale").visitors == [2, 1, 1]


def test_a_hit_says_what_its_row_said(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('time,event,uid,note,q_ts,ts\n1772445903.5,sale,a b,"1&2=3",x,9\n1772445903500,pageview,,,,\n')
    import_log("csv", path, tmp_path / "out")
    first, second = (
        lab.open(tmp_path / "out").hits.filter(pl.col("kind") == "hit").sort("seq").collect().rows(named=True)
    )
    assert first["query"] == b"client=site&event=sale&uid=a+b&note=1%262%3D3&q_q_ts=x&q_ts=9"
    assert dict(first["params"]) == {
        "client": "site", "event": "sale", "uid": "a b", "note": "1&2=3", "q_q_ts": "x", "q_ts": "9",
    }  # fmt: skip
    assert first["time"] == second["time"] and dict(second["params"]) == {"client": "site", "event": "pageview"}


def test_csv_and_parquet_of_the_same_rows_are_the_same_log(tmp_path: Path) -> None:
    # given the same rows as text, and as Parquet with types
    rows = {
        "when": ["2026-03-02T10:05:03+00:00", "2026-03-02T10:05:04+00:00"], "user_id": [7, 8], "event": ["click", "sale"],
        "amount": [None, "12.5"], "vip": ["true", None],
    }  # fmt: skip
    typed = pl.DataFrame(rows).with_columns(
        pl.col("when").str.to_datetime(time_zone="UTC"), pl.col("amount").cast(pl.Float64), pl.col("vip") == "true"
    )
    typed.write_parquet(tmp_path / "x.parquet")
    pl.DataFrame(rows).write_csv(tmp_path / "x.csv")

    # when both are imported, then their hits and decisions are equal but for their ids
    logs = []
    for name in ("csv", "parquet"):
        report = import_log(name, tmp_path / f"x.{name}", tmp_path / name, map={"columns": {"when": "time"}})
        assert (report.lines, report.parsed) == (2, 2)
        logs.append(lab.open(tmp_path / name))
    a, b = (log.hits.drop("hit_id").sort("seq").collect() for log in logs)
    assert a.drop("rulebook_id").equals(b.drop("rulebook_id"))
    assert logs[0].summary().equals(logs[1].summary())


def test_a_column_may_say_the_client(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("time,event,client,uid\n1772445903,click,a,1\n1772445904,click,b,1\n1772445905,click,no name,1\n")
    report = import_log("csv", path, tmp_path / "out")
    assert (report.client, report.parsed, report.reasons, report.visitors) == ("a, b", 2, {"bad_client": 1}, 2)


def test_files_of_rows_are_one_log(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("time,event,uid\n1772445903,click,1\n")
    with pa.output_stream(str(tmp_path / "2.csv"), compression="zstd") as file:
        file.write(b"event\tuid\ttime\nsale\t1\t1772445904\n")
    report = import_log("csv", tmp_path / "*.csv", tmp_path / "out")
    assert (report.lines, report.events, report.visitors) == (2, {"click": 1, "sale": 1}, 1)


@pytest.mark.parametrize(("content", "given", "message"), [
    ("a,b\n1,2\n", {}, "no column is known as time among a, b; name it, as in --column a=time"),
    ("time,b\n1,2\n", {}, "no column is known as event among time, b"),
    ("time,event\nnoon,x\n", {}, "the time 'noon' in column 'time' is none"),
    ("time,event\n1,\n", {}, "column 'event' is empty"),
    ("time,event\n", {}, "has no rows below its head line"),
    ("time,event,time\n1,2,3\n", {}, "two columns 'time'"),
    ("time,event\n1,x\n", {"columns": {"user": "uid"}}, "has no column 'user'; its columns are time, event"),
    ("time,event\n1,x\n", {"columns": {"time": "tiem"}}, "time = 'tiem' is no name of ours, did you mean 'time'"),
    ("time,event\n1,x\n", {"columns": {"time": "uid", "event": "uid"}}, "'time' and 'event' are both 'uid'"),
    ("time,event\n1,x\n", {"zone": "Mars"}, "zone 'Mars' is not known"),
    ("time,event\n1,x\n", {"colums": {}}, "there is no 'colums', did you mean 'columns'"),
    ("time,event\n1,x\n", {"columns": "x"}, "Expected `object`, got `str`"),
    ("time,event\n1,x\n", {"events": {"sale": "x"}}, "events name requests of an access log"),
    ("time,event\n1,x\n", {"event": "a b"}, "event 'a b' is no event name"),
])  # fmt: skip
def test_a_mapping_that_does_not_fit_is_one_clear_line(
    tmp_path: Path, content: str, given: Mapping[str, Any], message: str
) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(LabError) as found:
        import_log("csv", tmp_path / "x.csv", tmp_path / "out", map=given)
    assert message in str(found.value) and "\n" not in str(found.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_parquet_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("hello")
    for name, message in (("x", "is no Parquet file"), ("y", "does not exist")):
        with pytest.raises(LabError, match=message):
            import_log("parquet", tmp_path / f"{name}.parquet", tmp_path / "out")


# the mapping of an access log


def access_log(folder: Path) -> Path:
    def line(second: int, address: str, target: str) -> str:
        return f'{address} - - [02/Mar/2026:10:05:{second:02} +0000] "GET {target} HTTP/1.1" 200 5 "-" "A"\n'

    path = folder / "access.log"
    path.write_text(
        line(1, "192.0.2.1", "/?user=ann&ref=x") + line(2, "192.0.2.2", "/checkout/done?user=ann&order=7")
        + line(3, "192.0.2.2", "/checkout/done?user=ann&order=7") + line(4, "192.0.2.3", "/?uid=no")
    )  # fmt: skip
    return path


def test_a_map_says_which_request_is_which_event_and_which_parameter_is_which_identifier(tmp_path: Path) -> None:
    # given a map, and a log in which one person comes from two addresses and reloads the last page
    (tmp_path / "map.toml").write_text(
        'client = "shop"\n[events]\nsale = "^/checkout/done$"\n[parameters]\nuser = "uid"\norder = "txid"\n'
    )
    path = access_log(tmp_path)

    # when it is opened directly
    log = lab.open(path, format="combined", map=tmp_path / "map.toml")

    # then both are one visitor, the reload is a duplicate, and a parameter that nobody mapped identifies nobody
    assert log.imported is not None and log.imported.events == {"pageview": 2, "sale": 1}
    assert log.imported.verdicts == {"accepted": 3, "duplicate": 1} and log.imported.visitors == 2
    assert log.replay().digest == log.digest()
    assert log.funnel("pageview", "sale").visitors == [2, 1]


def kept_by(log: Log) -> Path:
    return log.refresh().path


def test_a_log_that_was_opened_directly_leaves_nothing_behind(tmp_path: Path) -> None:
    log = lab.open([access_log(tmp_path)], format="combined")
    folder = kept_by(log)
    assert folder.is_dir() and log.refresh().hits.collect().height == 5
    del log
    assert not folder.exists()


def test_the_command_takes_a_map_and_columns(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps(MAP | {"columns": {"created": "time"}}))
    arguments = ["csv", str(csv_file(tmp_path)), "--out", str(tmp_path / "out"), "--map", str(tmp_path / "map.json")]
    found = CliRunner().invoke(import_command, [*arguments, "--column", "Customer ID=uid", "--zone", "UTC", "--json"])
    document = json.loads(found.stdout)
    assert found.exit_code == 0 and document["client"] == "shop"
    assert document["lines"] == document["parsed"] + document["rejected"] == 11
    assert document["first_time"] == "2026-03-02T10:05:03+00:00" and document["columns"]["Customer ID"] == "uid"


@pytest.mark.parametrize(("arguments", "message"), [
    (("csv", "events.csv", "--column", "uid"), "--column 'uid' is no THEIRS=OURS"),
    (("csv", "events.csv", "--map", "missing.toml"), "map missing.toml cannot be read"),
    (("csv", "events.csv", "--map", "events.csv"), "map events.csv is no TOML"),
    (("combined", "events.csv", "--column", "a=uid"), "'columns' is for csv and parquet"),
    (("cvs", "events.csv"), "did you mean 'csv'"),
])  # fmt: skip
def test_bad_options_are_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    csv_file(tmp_path, "events.csv")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(import_command, [*arguments, "--out", "out"])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_the_events_of_a_real_shop_add_up(tmp_path: Path) -> None:
    # given 31,106 events of a web shop
    path = SHARED / "ecom.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with gzip.open(path, "rt") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["timestamp"])
    seen: dict[str, datetime] = {}
    lives: list[str] = []
    for row in rows:
        user, time = row["user_id"], datetime.fromisoformat(row["timestamp"])
        if user not in seen or time - seen[user] > timedelta(days=90):  # forgotten meanwhile
            lives.append(user)
        seen[user] = time

    # when they are imported with no map at all, then each is there, with everybody's events
    report = import_log("csv", path, tmp_path / "out")
    assert (report.lines, report.parsed, report.rejected) == (31_106, 31_106, 0)
    assert report.visitors == len(lives) >= len(seen)
    assert report.columns == {"user_id": "uid", "event": "event", "timestamp": "time"}
    log = lab.open(tmp_path / "out")
    assert log.events.select(pl.len()).collect().item() == 31_106
    viewed = Counter(row["event"] for row in rows)
    assert {event: report.events[event] for event in viewed} == viewed
