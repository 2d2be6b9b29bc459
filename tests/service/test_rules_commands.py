"""`backtrack rules`: what is wrong in a rulebook is said with its place, and what is published is in force everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from service import keys
from service.archive import tables
from service.engine.difference import difference
from service.rules_commands import read_rules, rules
from service.settings import Settings

RULES = Path("datasets/rules.toml")


def run(*arguments: object, settings: Settings | None = None) -> Result:
    environment = settings.environment() if settings is not None else {}
    return CliRunner().invoke(rules, [str(part) for part in arguments], env=environment, catch_exceptions=False)


def changed(tmp_path: Path, old: str, new: str, name: str = "next.toml") -> Path:
    """The rulebook of the datasets with one passage changed."""
    text = RULES.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / name
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def line_of(path: Path, passage: str) -> int:
    return path.read_text(encoding="utf-8").partition(passage)[0].count("\n") + 1


def test_a_right_rulebook_is_said_to_be_one() -> None:
    plain, as_json = run("check", RULES), run("check", RULES, "--json")
    assert plain.exit_code == as_json.exit_code == 0
    said = plain.stdout.splitlines()[-1]
    assert said.startswith(f"{RULES} is a rulebook: rulebook ") and "triggers 5" in said
    found = json.loads(as_json.stdout)
    assert re.fullmatch(r"[0-9a-f]{16}", found.pop("rulebook"))
    warnings = [warning["rule"] for warning in found.pop("warnings")]
    assert warnings == ["unused_parameter", "unused_parameter", "no_endpoint", "missing_and_not"]
    assert found == {"clients": 3, "affiliates": 5, "triggers": 5, "ok": True, "errors": []}


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("landing = \"http://127.0.0.1:8701/travel", "landng = \"http://127.0.0.1:8701/travel", "client.cozy.landng",
         "did you mean 'landing'?"),
        ('client = "bolt"', 'client = "bollt"', "trigger.order.client", "did you mean 'bolt'?"),
        ("coupon matches", "coupom matches", "trigger.order.when", "did you mean 'coupon'?"),
        ("&coupon={coupon|default:none}", "&coupon={cuopon}", "client.bolt.webhook", "did you mean 'coupon'?"),
        ("amount > 100 or", "amount > 100 oder", "trigger.booking.when", "is not expected here"),
        ('attribution = "first_click"', 'attribution = "first"', "client.bolt.attribution", "first_click"),
        ('remember = "90d"', "remember = 90", "client.acme.remember", 'such as "30d"'),
        ('percent = "7.5"', 'percent = "a lot"', "trigger.order.payout", "a lot"),
        ('name = "booking"\n', 'name = "order"\n# twice\n', "trigger", "order"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, key: str, words: str
) -> None:
    # given a rulebook with one mistake
    path = changed(tmp_path, old, new)
    # when it is checked
    done = run("check", path)
    # then one line names file, line and key, and what would be right; what only looks wrong comes after it
    assert (done.exit_code, done.stdout) == (2, "")
    error, *rest = done.stderr.splitlines()
    assert all(": warning: " in line or ": note: " in line for line in rest), done.stderr
    found = re.fullmatch(r"(?P<file>.+?): line (?P<line>\d+): (?P<key>[\w.\[\]-]+): (?P<message>.+)", error)
    assert found is not None, done.stderr
    assert found["file"] == str(path) and found["key"].startswith(key.split(".")[0])
    assert abs(int(found["line"]) - line_of(path, new)) <= 1
    assert words in found["message"], done.stderr


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(
        '[client.acme]\nwebook = "http://a.example/"\n[[trigger]]\nname = "x"\nclient = "acne"\non = "sale"\n'
    )
    done = run("check", path)
    assert done.exit_code == 2 and done.stderr.count("\n") >= 2
    assert "did you mean 'webhook'?" in done.stderr and "did you mean 'acme'?" in done.stderr


@pytest.mark.parametrize("command", ["check", "publish"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "cannot be read (No such file or directory); name a rulebook"),
        ("folder", "cannot be read (Is a directory); name a rulebook"),
        ("binary", "line 2: byte 0xff is no UTF-8; save the rulebook as UTF-8 text"),
        ("no toml", "line 1"),
        ("nul", "line 1"),
    ],
)
def test_a_file_that_is_no_rulebook_is_one_line(tmp_path: Path, command: str, kind: str, words: str) -> None:
    # given something that is no rulebook
    path = tmp_path / "rules.toml"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"binary": b"# fine\n\xff\xfe\x00", "no toml": b"<html>", "nul": b"a = '\x00'"}[kind])
    # then any command that reads it says so in one line
    done = run(command, path)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(str(path)) and words in done.stderr


def test_a_difference_is_told_in_sentences_by_client(tmp_path: Path) -> None:
    # given a rulebook with changes of several kinds
    text = RULES.read_text(encoding="utf-8")
    for old, new in (
        ('remember = "90d"', 'remember = "60d"'),
        ("amount >= 20", "amount >= 25"),
        ("count = 500", "count = 50"),
        ('[affiliate.quiet]\nname = "Quiet Partner"', '[affiliate.loud]\nname = "Loud Partner"'),
        ('on = "login"', 'on = "login"\nfrom = 2026-03-01'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = tmp_path / "next.toml"
    path.write_text(text, encoding="utf-8")
    # when the two are compared
    plain, as_json = run("diff", RULES, path), run("diff", RULES, path, "--json")
    # then each change is one sentence under its client, and the status tells a script
    assert (plain.exit_code, as_json.exit_code) == (1, 1)
    assert plain.stdout.splitlines() == [
        "Client acme",
        "  Client acme forgets a visitor who stays away for more than 60 days instead of 90 days.",
        "  Trigger first-deposit asks for amount at least 25 instead of 20; it can only fire less often.",
        "  Trigger first-deposit is capped at 50 firings a day per affiliate instead of 500 firings a day per affiliate; "
        "it can only fire less often.",
        "  Trigger vip-login begins at 2026-03-01 00:00:00 UTC instead of any time.",
        "Affiliates",
        "  Affiliate quiet is gone: its events fire nothing for it any more.",
        "  Affiliate loud is new.",
    ]
    changes = json.loads(as_json.stdout)["changes"]
    assert [(change["client"], change["subject"], change["key"]) for change in changes[:2]] == [
        ("acme", "client acme", "remember"), ("acme", "trigger first-deposit", "when"),
    ]  # fmt: skip


def test_no_difference_is_status_0_and_says_whether_the_texts_are_the_same(tmp_path: Path) -> None:
    commented = tmp_path / "commented.toml"
    commented.write_text("# a comment\n" + RULES.read_text(encoding="utf-8"), encoding="utf-8")
    same, other = run("diff", RULES, RULES), run("diff", RULES, commented)
    assert (same.exit_code, same.stdout) == (0, "no difference\n")
    assert (other.exit_code, other.stdout) == (0, "the texts differ, the rules do not\n")
    document = json.loads(run("diff", RULES, commented, "--json").stdout)
    assert document["equal"] is True and document["old"] != document["new"]


def test_no_change_of_a_line_goes_unnoticed(tmp_path: Path) -> None:
    # given the rulebook without one of its settings, for each of them
    text, whole, path = RULES.read_text(encoding="utf-8"), read_rules(RULES), tmp_path / "less.toml"
    settings = [line for line in text.splitlines() if " = " in line]
    unnoticed = []
    for line in settings:
        path.write_text(text.replace(line + "\n", "", 1), encoding="utf-8")
        if run("check", path).exit_code == 0 and not difference(whole, read_rules(path)):
            unnoticed.append(line)
    # then only those make no difference that write out what holds anyway
    assert len(settings) > 50
    assert unnoticed == [
        'browser_events = ["pageview", "click", "login", "registration"]', 'remember = "90d"',
        'attribution = "last_click"', 'click_window = "30d"', 'to = ["client"]',
    ]  # fmt: skip


def test_publishing_puts_a_rulebook_in_force_in_every_partition(
    settings: Settings, journal: redis.Redis, tmp_path: Path
) -> None:
    # when a rulebook is published, again, and then another one
    other = changed(tmp_path, "amount >= 20", "amount >= 25")
    first, again, second = (run("publish", path, settings=settings) for path in (RULES, RULES, other))
    # then each says what is in force
    one, two = read_rules(RULES).id, read_rules(other).id
    assert (first.stdout, again.stdout) == (f"rulebook {one} is in force\n", f"rulebook {one} is in force already\n")
    assert second.stdout == f"rulebook {two} is in force\n"
    assert {done.exit_code for done in (first, again, second)} == {0}
    # and every partition's journal has one entry of each, in order
    for place in keys.partitions(settings.partitions):
        entries: Any = journal.xrange(place.journal)
        assert [fields[b"r"].decode() for _, fields in entries] == [one, two]
    assert journal.get(keys.RULEBOOK) == two.encode()
    table = tables.open_table(settings.tables_path, "rulebooks")
    assert table is not None and table.to_pyarrow_table().num_rows == 2


def test_the_history_tells_what_was_published_and_what_is_in_force(settings: Settings, tmp_path: Path) -> None:
    # given three publications, the last one going back to the first
    assert "nothing was published into" in run("history", settings=settings).stdout
    other = changed(tmp_path, "amount >= 20", "amount >= 25")
    for path in (RULES, other, RULES):
        run("publish", path, settings=settings)
    # when the history is read
    plain, as_json = run("history", settings=settings), run("history", "--json", settings=settings)
    # then the newest stands first, and only it is in force
    lines = plain.stdout.splitlines()
    assert [line.split()[4] for line in lines] == [str(RULES), str(other), str(RULES)]
    assert [line.endswith("in force") for line in lines] == [True, False, False]
    document = json.loads(as_json.stdout)
    assert document["in_force"] == document["rulebooks"][0]["rulebook"] == read_rules(RULES).id


def test_if_none_leaves_what_is_in_force(settings: Settings, tmp_path: Path) -> None:
    other = changed(tmp_path, "amount >= 20", "amount >= 25")
    first = run("publish", "--if-none", RULES, settings=settings)
    second = run("publish", "--if-none", other, settings=settings)
    identity = read_rules(RULES).id
    assert first.stdout == f"rulebook {identity} is in force\n"
    assert (second.exit_code, second.stdout) == (0, f"rulebook {identity} is in force and stays\n")


def test_a_broken_rulebook_is_never_published(settings: Settings, journal: redis.Redis, tmp_path: Path) -> None:
    done = run("publish", changed(tmp_path, 'client = "bolt"', 'client = "bollt"'), settings=settings)
    assert (done.exit_code, done.stdout) == (2, "") and "did you mean 'bolt'?" in done.stderr
    assert not journal.exists(keys.RULEBOOK) and not settings.tables_path.exists()


def test_what_looks_wrong_ends_with_status_1_only_if_that_is_asked_for(tmp_path: Path) -> None:
    # given a rulebook without an error, with a trigger that never fires
    path = tmp_path / "paused.toml"
    path.write_text('[client.acme]\nwebhook = "https://acme.example/"\n[[trigger]]\nname = "x"\nclient = "acme"\n'
                    'on = "sale"\npaused = true\n')  # fmt: skip
    # then it is said either way
    plain, strict = run("check", path), run("check", path, "--strict")
    assert plain.stdout == strict.stdout
    assert f"{path}: line 7: warning: trigger[0].paused: x is paused and never fires" in plain.stdout
    assert (plain.exit_code, strict.exit_code) == (0, 1)
    # and a note alone is no warning
    path.write_text(path.read_text().replace("paused = true", 'after = ["sale"]'))
    assert run("check", path, "--strict").exit_code == 0


def test_errors_come_before_warnings_and_both_are_in_the_json(tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text(
        '[client.acme]\nwebhook = "http://acme.example/"\n[[trigger]]\nname = "x"\nclient = "acme"\nonn = "sale"\n'
    )
    plain, as_json = run("check", path), run("check", path, "--json")
    assert (plain.exit_code, as_json.exit_code, plain.stdout) == (2, 2, "")
    kinds = ["warning" in line for line in plain.stderr.splitlines()]
    assert kinds == sorted(kinds) == [False, False, True]
    document = json.loads(as_json.stdout)
    assert document["ok"] is False
    assert [error["key"] for error in document["errors"]] == ["trigger[0].on", "trigger[0].onn"]
    assert [warning["rule"] for warning in document["warnings"]] == ["plain_http"]
