"""Wrong input to the commands and to the Python of the lab: one line that names the thing, the value and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from deltalake import write_deltalake

import lab
from lab import LabError
from lab.frame_charts import lines
from lab.frame_table import table
from service.cli import main

DATASETS = Path(__file__).parents[2] / "datasets"
TABLES, RULES = str(DATASETS / "tables"), str(DATASETS / "rules.toml")
LINE = '192.0.2.7 - - [02/Mar/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 12 "-" "Mozilla"\n'
UNKNOWN_HIT = "0" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that somebody might name by mistake."""
    place = tmp_path_factory.mktemp("wrong")
    (place / "ok.log").write_text(LINE)
    (place / "odd.log").write_text("no line of a log\nnor this\n")
    (place / "empty.log").write_text("")
    (place / "cols.csv").write_text("a,b\n1,2\n")
    (place / "syntax.toml").write_text("[client.acme\n")
    (place / "latin.toml").write_bytes(b"\xff\xfe\n")
    (place / "map.json").write_text("{")
    (place / "map.toml").write_text("bogus = 3\n")
    (place / "fake.parquet").write_text("no Parquet\n")
    (place / "empty").mkdir()
    other = pl.DataFrame({"x": [1]})
    other.write_parquet(place / "other.parquet")
    write_deltalake(place / "delta" / "hits", other.to_arrow())
    return place


# what is typed, in a folder of such files | what the line says | and says
COMMANDS = """
replay nowhere | nowhere does not exist | give the folder
replay ok.log | ok.log is a file | backtrack import
replay empty | empty holds no tables | empty/hits
replay delta | delta/hits | or another folder
replay TABLES --rules nowhere.toml | nowhere.toml does not exist | give the path
replay TABLES --rules syntax.toml | syntax.toml: line 1 | '[client.acme'
replay TABLES --rules latin.toml | latin.toml is no UTF-8 | save the rulebook as UTF-8
replay TABLES --rules empty | empty cannot be read | directory
replay TABLES --as-of yesterday | as_of 'yesterday' is no moment | write 2026-11-23
replay TABLES --as-of 1999-01-01 | '1999-01-01' is before the log begins, 2026-03-02 00:00 | a later moment
replay TABLES --against RULES --fail-on lost> | --fail-on 'lost>' is no condition | lost>0
replay TABLES --against RULES --fail-on profit>1 | no figure 'profit' | gained, lost, money
replay TABLES --against RULES --report no/x.html | no/x.html cannot be written | no folder no
replay TABLES --fail-on lost>0 | 'lost>0' does not fit here | add --against
verify nowhere | nowhere does not exist | give the folder
verify TABLES --late soon | --late 'soon' is no span | 15m
explain TABLES UNKNOWN_HIT | there is no hit 'UNKNOWN_HIT' | 32 hex digits
postback preview UNKNOWN_HIT TABLES | there is no hit 'UNKNOWN_HIT' | 32 hex digits
funnel TABLES click sael | called 'sael' | did you mean 'sale'?
funnel TABLES click sale --within 3x | within '3x' is no duration | such as 30d
funnel TABLES click sale --mode zigzag | mode 'zigzag' is none | ordered
funnel TABLES click sale --client acmee | a client 'acmee' | did you mean 'acme'?
funnel TABLES click sale --by contry | a parameter 'contry' | did you mean 'country'?
funnel TABLES click sale --where amount> | condition 'amount>' | column 8
funnel TABLES click[ sale | step 'click[' is none | sale[amount >= 20]
funnel TABLES click sale --chart x.bmp | x.bmp has no known ending | .svg
import combinde ok.log --out o | no log format 'combinde' | did you mean 'combined'?
import combined no*.log --out o | no*.log matches no file | give the path
import combined empty.log --out o | empty.log is empty | nothing to import
import combined odd.log --out o | none of 2 lines is in the format combined | combined looks like
import combined ok.log --out ok.log | ok.log exists | give a new folder
import combined ok.log --out o --map map.json | map map.json is no JSON | truncated
import combined ok.log --out o --map map.toml | there is no 'bogus' | known are client
import combined ok.log --out o --event sale | --event 'sale' is no NAME=REGEX | checkout
import combined ok.log --out o --event sale=( | '(' is no regular expression | missing )
import combined ok.log --out o --zone Mars | zone 'Mars' is not known | Europe/Berlin
import csv cols.csv --out o | cols.csv: no column is known as time among a, b | --column a=time
import parquet other.parquet --out o | other.parquet: no column is known as time among x | --column x=time
import parquet fake.parquet --out o | fake.parquet is no Parquet file | magic
send TABLES --to nowhere | to='nowhere' | give scheme, host and port
send TABLES --to http://127.0.0.1:9 --speed 0 | speed=0 | above 0
send TABLES --to http://127.0.0.1:9 --gap-cap x | --gap-cap 'x' is no span | or 0 for no pauses
rules check nowhere.toml | nowhere.toml cannot be read | name a rulebook
rules check syntax.toml | syntax.toml: line 1 | '[client.acme'
rules diff RULES nowhere.toml | nowhere.toml cannot be read | name a rulebook
erase --client acme | name the person by one of | --uid
postback resend | which ones? | --dead
up --rules nowhere.toml | nowhere.toml cannot be read | name a rulebook
lab nowhere | nowhere is no folder | such as notebooks
"""
NAMED = {"TABLES": TABLES, "RULES": RULES, "UNKNOWN_HIT": UNKNOWN_HIT}


@pytest.mark.parametrize("row", COMMANDS.strip().splitlines())
def test_a_wrong_command_is_answered_in_one_line(folder: Path, row: str) -> None:
    for name, meant in NAMED.items():
        row = row.replace(name, meant)
    typed, *says = row.split(" | ")
    with chdir(folder):
        answer = CliRunner().invoke(main, typed.split(" "), catch_exceptions=False)
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert [said for said in says if said not in answer.stderr] == [] != says


@pytest.fixture(scope="module")
def log() -> lab.Log:
    return lab.open(TABLES, as_of="2026-03-02")


CALLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "open a number": (lambda log: lab.open(3), "a foreign log needs its format"),  # type: ignore[arg-type]
    "open until a number": (lambda log: lab.open(TABLES, as_of=3), "as_of 3 is no moment"),  # type: ignore[arg-type]
    "map a number": (lambda log: lab.open(RULES, format="combined", map=3), "map 3 is none; give a path"),  # type: ignore[arg-type]
    "replay a number": (lambda log: log.replay(3), "3 is no rulebook; give its path"),
    "replay nothing written": (lambda log: log.replay(""), "'' is no rulebook; give its path"),
    "compare a number": (lambda log: log.compare(3, RULES), "3 is no rulebook; give its path"),
    "live with a number": (lambda log: lab.live(3), "3 is no rulebook; give its path"),  # type: ignore[arg-type]
    "verify a number": (lambda log: log.verify(3), "received 3 is no path; give the file"),
    "late by a word": (lambda log: log.verify(late_us="2h"), "late_us '2h' is no number of microseconds"),
    "a step that is a number": (lambda log: log.funnel("click", 3), "step 3 is none; write an event"),
    "a window that is a number": (lambda log: log.funnel("click", within=30), "within 30 is no duration; write a number"),
    "by a number": (lambda log: log.funnel("click", by=3), "by 3 is no parameter; give a name"),
    "beside a number": (lambda log: log.funnel("click").beside(3), "3 is no funnel; give another one"),
    "send to a number": (lambda log: log.send(to=3), "to=3: give scheme, host and port"),
    "send at the speed of a word": (lambda log: log.send(to="http://127.0.0.1:9", speed="x"), "'x' is no number; speed"),
    "fit a path": (lambda log: lab.fit(TABLES), "is no log; open one first: lab.open"),  # type: ignore[arg-type]
    "a studio of a path": (lambda log: lab.Studio(TABLES), "is no log; open one first"),  # type: ignore[arg-type]
    "an explorer of a path": (lambda log: lab.FunnelExplorer(TABLES), "is no log; open one first"),  # type: ignore[arg-type]
    "an inspector of a path": (lambda log: lab.Inspector(TABLES), "is no log; open one first"),  # type: ignore[arg-type]
    "a chart of no column": (lambda log: lines(log.summary(), "clint", "hits"), "'clint', did you mean 'client'?"),
    "a table of a list": (lambda log: table([1]), r"\[1\] is no frame; give a Polars frame"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_says_what_to_give(log: lab.Log, call: str) -> None:
    called, says = CALLS[call]
    with pytest.raises(LabError, match=says):
        called(log)
