"""The commands of the lab: readable tables, one JSON document, exit statuses that a script can rely on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import lab
from lab.commands import COMMANDS, one_line_errors
from lab.log import LabError
from lab.sets import SetDifference
from tests.lab.conftest import RULES, Past, attempt_at, receipt_of

Store = Callable[[Past], Path]
Record = Callable[[list[dict[str, object]]], Path]


def run(name: str, *arguments: object) -> Result:
    return CliRunner().invoke(COMMANDS[name], [str(argument) for argument in arguments], catch_exceptions=False)


def test_replay_prints_readable_tables(past: Past, tables_of: Store) -> None:
    result = run("replay", tables_of(past))

    assert result.exit_code == 0
    assert "Run as logged: 11 hits, 8 accepted" in result.stdout
    assert "invalid_amount" in result.stdout
    assert "12.50" in result.stdout
    assert "Equal: every stored decision" in result.stdout


def test_replay_prints_one_json_document(past: Past, tables_of: Store, tmp_path: Path) -> None:
    root, rules = tables_of(past), tmp_path / "rules.toml"
    rules.write_text(RULES, encoding="utf-8")

    first, second = run("replay", root, "--rules", rules, "--json"), run("replay", root, "--rules", rules, "--json")

    document = json.loads(first.stdout)
    expected = {
        "hits": 11, "partitions": 2, "accepted": 8, "rejected": 2, "duplicates": 1, "engine_errors": 0, "firings": 5,
        "postbacks": 8, "digest": lab.open(root).digest(), "equal": True, "first_difference": None, "warnings": [],
    }  # fmt: skip
    assert {name: document[name] for name in expected} == expected
    assert document["stored_digest"] == document["digest"] == json.loads(second.stdout)["digest"]
    assert document["counts"][0]["payout"] == "12.500"
    assert first.stderr == ""


def test_replay_with_other_rules_says_what_differs_first(past: Past, tables_of: Store, tmp_path: Path) -> None:
    root, rules = tables_of(past), tmp_path / "rules.toml"
    rules.write_text(RULES.replace('percent = "25"', 'percent = "20"'), encoding="utf-8")

    plain, strict = (
        run("replay", root, "--rules", rules),
        run("replay", root, "--rules", rules, "--fail-on", "difference"),
    )

    assert (plain.exit_code, strict.exit_code) == (0, 1)
    assert "Different. First: hit 0000" in plain.stdout
    assert json.loads(run("replay", root, "--rules", rules, "--json").stdout)["equal"] is False


def test_fail_on_difference_passes_where_there_is_none(past: Past, tables_of: Store) -> None:
    assert run("replay", tables_of(past), "--fail-on", "difference").exit_code == 0


def test_replay_of_a_log_without_decisions_has_nothing_to_compare_with(past: Past, tables_of: Store) -> None:
    past.outcomes = []

    root = tables_of(past)
    document = json.loads(run("replay", root, "--json").stdout)

    assert (document["stored_digest"], document["equal"], document["accepted"]) == (None, None, 8)
    assert run("replay", root, "--fail-on", "difference").exit_code == 1


@pytest.mark.parametrize("name", ["replay", "verify", "explain"])
def test_a_missing_folder_is_one_line_and_status_2(tmp_path: Path, name: str) -> None:
    result = run(name, tmp_path / "nothing", *(["x"] if name == "explain" else []))

    assert result.exit_code == 2
    assert result.stdout == ""
    assert (
        result.stderr
        == f"{tmp_path / 'nothing'} does not exist; give the folder that holds the tables, such as var/tables\n"
    )


def test_a_broken_rulebook_is_its_lines_and_status_2(past: Past, tables_of: Store, tmp_path: Path) -> None:
    rules = tmp_path / "broken.toml"
    rules.write_text(RULES.replace("{txid}", "{txidd}").replace('"visitor"', '"visit"'), encoding="utf-8")

    result = run("replay", tables_of(past), "--rules", rules)

    assert result.exit_code == 2
    assert [line.startswith(f"{rules}: line ") for line in result.stderr.splitlines()] == [True, True]
    assert "txid" in result.stderr


def test_a_table_file_that_is_gone_is_one_line_and_status_2(past: Past, tables_of: Store) -> None:
    root = tables_of(past)
    next((root / "hits").rglob("*.parquet")).unlink()

    result = run("replay", root)

    assert result.exit_code == 2
    assert result.stderr.startswith("a file of the tables cannot be read")
    assert len(result.stderr.splitlines()) == 1


def test_verify_says_its_verdict_in_the_first_line(past: Past, tables_of: Store, record: Record) -> None:
    received = record([receipt_of(postback) for _, postback in past.postbacks if postback.state == "due"])

    result = run("verify", tables_of(past), "--received", received)

    assert result.exit_code == 0
    assert result.stdout.startswith("All 6 due postbacks were sent, delivered and received as expected")


def test_verify_ends_with_status_1_and_names_the_parameter(past: Past, tables_of: Store) -> None:
    partition, postback = next(pair for pair in past.postbacks if pair[1].recipient == "affiliate:best")
    index = next(i for i, (_, attempt) in enumerate(past.attempts) if attempt.postback_id == postback.id)
    wrong = attempt_at(postback, past.now_us, url=postback.url.replace("a%20b", "%7Bsub1%7D"))
    past.attempts[index] = (partition, wrong)
    root = tables_of(past)

    plain, document = run("verify", root), run("verify", root, "--json")

    assert (plain.exit_code, document.exit_code) == (1, 1)
    assert "{sub1}" in plain.stdout
    found = json.loads(document.stdout)
    assert (found["ok"], found["verified_equal"], found["differences"]) == (False, 5, 1)
    assert found["found"][0]["parameter"] == "cid"


def test_every_command_and_option_is_in_the_readme() -> None:
    readme = Path(lab.__file__).with_name("README.md").read_text(encoding="utf-8")

    for name, command in COMMANDS.items():
        line = next(line for line in readme.splitlines() if line.startswith(f"    backtrack {name} "))
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert [option for option in options if option not in line] == []


@pytest.mark.parametrize(
    ("error", "status"), [(SetDifference("two engines differ"), 1), (LabError("no such folder"), 2)]
)
def test_a_failed_check_is_status_1_and_bad_input_status_2(error: LabError, status: int) -> None:
    # given a command that ends with the error
    @click.command()
    @one_line_errors
    def command() -> None:
        raise error

    # when it is called
    done = CliRunner().invoke(command)
    # then its status says which of the two it is
    assert (done.exit_code, done.stderr) == (status, f"{error}\n")
