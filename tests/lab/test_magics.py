"""The magics: what is written in a cell is checked, kept and tried on the log, and bad input is never a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import lab
from service.engine import Rulebook
from tests.lab.conftest import RULES, Past

BIG = """name = "big"
client = "acme"
on = "sale"
when = 'amount >= 50'
payout = { fixed = "5.00", currency = "EUR" }
to = ["client", "affiliate"]
"""
Store = Callable[[Past], Path]


class Shell:
    """An IPython shell with `%load_ext lab`, and what its cells print."""

    def __init__(self, shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
        self.names: dict[str, Any] = shell.user_ns
        self._shell, self._capsys = shell, capsys

    def run(self, cell: str) -> Any:
        """The value of a cell that works."""
        done = self._shell.run_cell(cell)
        said = self._capsys.readouterr()
        assert done.success, said
        assert "Traceback" not in said.out + said.err
        return done.result

    def refused(self, cell: str) -> list[str]:
        """The lines that a cell which does not work says: no traceback, and the cell has failed."""
        done = self._shell.run_cell(cell)
        said = self._capsys.readouterr()
        assert not done.success and said.out == "", said
        assert "Traceback" not in said.err
        return said.err.rstrip("\n").removeprefix("UsageError: ").split("\n")

    def shown(self, value: Any) -> dict[str, str]:
        """A value as a notebook shows it, by MIME type."""
        shown: dict[str, str] = self._shell.display_formatter.format(value)[0]
        return shown


@pytest.fixture
def shell(
    past: Past, tables_of: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shell]:
    """A shell in which `log` is a short day."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    started = InteractiveShell.instance(config=config)
    shell = Shell(started, capsys)
    shell.names["log"] = lab.open(tables_of(past))
    shell.run("%load_ext lab")
    yield shell
    InteractiveShell.clear_instance()


def test_a_cell_becomes_a_rulebook_under_the_name_that_it_is_given(shell: Shell) -> None:
    kept = shell.run(f"%%rulebook next\n{RULES}")
    assert isinstance(kept, Rulebook) and shell.names["next"] is kept
    # and one without a name is called rules
    assert shell.run(f"%%rulebook\n{RULES}") is shell.names["rules"]


def test_a_rulebook_is_shown_as_a_table_of_its_triggers(shell: Shell) -> None:
    rulebook = shell.run(f"%%rulebook\n{RULES}")
    shown = shell.shown(rulebook)
    assert shown["text/plain"] == f"Rulebook {rulebook.id}: 2 clients, 2 affiliates, 3 triggers"
    assert "<td>signup</td>" in shown["text/html"] and "amount &gt;= 20" in shown["text/html"]
    shown = shell.shown(rulebook.triggers[0])
    assert shown["text/plain"].startswith("Trigger signup: client acme, on registration, after click")


def test_everything_wrong_in_a_rulebook_is_said_at_once_with_line_and_column(shell: Shell) -> None:
    # given a rulebook with mistakes
    broken = """[client.acme]
params = ["country"]
webhook = "http://acme.example/et"
[[trigger]]
name = "a"
client = "acmee"
on = "sale"
[[trigger]]
name = "b"
client = "acme"
onn = "sale"
when = 'client == "x" and contry == "DE"'
payout = { percent = "x" }
"""
    # then each is named, at its place in the cell
    assert shell.refused(f"%%rulebook next\n{broken}") == [
        "next: 5 things are wrong",
        "  line 6, column 11: client: there is no client 'acmee', did you mean 'acme'?",
        "  line 8, column 1: on: the event that fires the trigger is missing",
        "  line 11, column 1: onn: there is no key 'onn' here, did you mean 'on'?",
        "  line 12, column 27: when: 'contry' is no parameter of client acme, did you mean 'country'?",
        "  line 13, column 23: payout.percent: 'x' is no decimal: write it in quotes, such as percent = \"12.50\"",
    ]
    assert "next" not in shell.names


def test_a_text_that_is_no_toml_is_refused_with_line_and_column(shell: Shell) -> None:
    (said,) = shell.refused("%%rulebook\n[client.acme]\nname = Acme\n")
    assert said == "rules: line 2, column 8: Invalid value: 'name = Acme' is no TOML"


def test_a_trigger_shows_what_it_would_have_fired(shell: Shell) -> None:
    # when a trigger is written, with no rulebook but that of the log
    trial = shell.run(f"%%trigger\n{BIG}")
    # then it stands in the rulebook
    rulebook = shell.names["rules"]
    assert [one.name for one in rulebook.triggers] == ["signup", "deposit", "order", "big"]
    # and what it would have done is what the engine says of that rulebook
    counts = shell.names["log"].replay(rulebook).counts.filter(trigger="big")
    assert trial.firings == counts["firings"].sum() == 2
    assert trial.money == {"EUR": counts["payout"].sum()}
    assert dict(trial.affiliates.select("affiliate", "firings").rows()) == dict(
        counts.select("affiliate", "firings").rows()
    )
    # with examples
    assert {case.stage for case in trial.cases} == {"fired", "condition"}
    assert repr(trial) == "big would have fired 2 times for 2 visitors out of 3 sales, worth 10.00 EUR"
    assert "best.example/pb" in trial._repr_html_()


def test_a_trigger_that_is_written_again_takes_its_own_place(shell: Shell) -> None:
    shell.run(f"%%rulebook next\n{RULES}")
    shell.run(f"%%trigger --rules next\n{BIG}")
    again = shell.run(f"%%trigger --rules next --log log\n{BIG.replace('50', '80')}")
    assert again.firings == 1
    assert [one.name for one in shell.names["next"].triggers] == ["signup", "deposit", "order", "big"]
    assert "amount >= 80" in shell.names["next"].text and "amount >= 50" not in shell.names["next"].text


def test_a_trigger_may_bring_its_header(shell: Shell) -> None:
    assert shell.run(f"%%trigger\n[[trigger]]\n{BIG}").firings == 2


def test_a_bad_trigger_names_the_place_in_its_cell_and_the_nearest_name(shell: Shell) -> None:
    before = shell.run(f"%%rulebook\n{RULES}")
    assert shell.refused("%%trigger\n" + BIG.replace("'amount", '\'country == "DE" and amont')) == [
        "trigger: line 4, column 29: when: 'amont' is no parameter of client acme, did you mean 'amount'?"
    ]
    assert shell.refused("%%trigger\n[[trigger]]\n" + BIG.replace("amount >=", "amount > >=")) == [
        "trigger: line 5, column 18: when: '>= 50' is not expected here"
    ]
    assert shell.names["rules"] is before


def test_an_event_that_nobody_sent_is_noted(shell: Shell) -> None:
    trial = shell.run("%%trigger\n" + BIG.replace('"sale"', '"sales"'))
    assert trial.firings == 0
    assert "No hit of acme is called 'sales', did you mean 'sale'?" in unescape(trial._repr_html_())


def test_replay_gives_a_run_and_with_two_rulebooks_a_comparison(shell: Shell, tmp_path: Path) -> None:
    # given two rulebooks, one as a file
    (tmp_path / "rules.toml").write_text(RULES, encoding="utf-8")
    shell.run(f"%%rulebook next\n{RULES.replace('>= 20', '>= 60')}")
    # then a run can be kept, or looked at
    shell.run("run = %replay log")
    assert shell.names["run"].digest == shell.names["log"].digest()
    by_sets = shell.run(f"%replay log {tmp_path}/rules.toml --engine set")
    assert by_sets.digest == shell.run(f"%replay log {tmp_path}/rules.toml").digest
    # and the rulebooks be compared
    what = shell.run(f"%replay log {tmp_path}/rules.toml --against next")
    assert what.lost.select(pl.col("trigger").unique()).to_series().to_list() == ["deposit"]
    # and the log be one of a folder, up to a time
    folder = shell.names["log"].path
    assert shell.run(f"%replay {folder} --as-of 2026-03-02T00:02:30").hits == 2


def test_the_list_names_every_magic(shell: Shell) -> None:
    listed = shell.run("%lab")
    assert {row[0].split()[0] for row in listed.magics.rows()} == {"%%rulebook", "%%trigger", "%replay", "%lab"}
    assert "lab.live(rules)" in repr(listed) and "<td>%lab</td>" in listed._repr_html_()


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("%lab me", "%lab: 'me' is one too many; write %lab"),
        ("%replay", "%replay: the following arguments are required: log; write %replay LOG [RULES]"),
        ("%replay lok", "there is no log 'lok', neither a variable nor a folder, did you mean 'log'?"),
        ("%replay lab", "lab is no log but module; open one: log = lab.open(...)"),
        ("%replay log nxt", "there is no rulebook 'nxt', neither a variable nor a file"),
        ("%replay log log", "log is no rulebook but Log; write one with %%rulebook log"),
        ("%replay log --engine fast", "there is no engine 'fast'; the engines are reference and set"),
        ("%replay log --as-of noon", "as_of 'noon' is no moment; write 2026-11-23 or 2026-11-23T09:47:17"),
        ("%replay 'log", '%replay: "\'log" cannot be read (no closing quotation); write %replay LOG'),
        ("%%rulebook a b\nx = 1", "%%rulebook: unrecognized arguments: b; write %%rulebook [NAME]"),
        ("%%rulebook 1a\nx = 1", "'1a' is no name of a variable; write %%rulebook [NAME]"),
        ("%%trigger --log lok\nx = 1", "there is no log 'lok', neither a variable nor a folder, did you mean 'log'?"),
        ("%%trigger --rules nxt\nx = 1", "there is no rulebook 'nxt', neither a variable nor a file"),
    ],
)
def test_bad_usage_is_one_line_that_says_what_to_write(shell: Shell, cell: str, says: str) -> None:
    shell.run("import lab")
    (said,) = shell.refused(cell)
    assert said.startswith(says)


def test_without_a_log_a_trigger_asks_for_one(shell: Shell) -> None:
    opened = shell.names.pop("log")
    assert shell.refused(f"%%trigger\n{BIG}") == ['there is no log here; open one first: log = lab.open("var/tables")']
    shell.names.update(one=opened, other=opened)
    assert shell.refused(f"%%trigger\n{BIG}") == ["there is more than one log here; say which: one, other"]
