"""Compare: what a second rulebook gains, loses and changes on the same hits, in postbacks and in money, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from click.testing import CliRunner, Result

import lab
from lab.commands import replay_command
from lab.compare import Comparison
from lab.compare_chart import _frame
from lab.log import LabError, Log
from lab.report_limits import NAMES, judge, limit_of
from lab.report_page import page
from tests.lab.conftest import RULES, Past

Store = Callable[[Past], Path]
DATASETS = Path(lab.__file__).parents[1] / "datasets"
CHEAPER = RULES.replace('percent = "25"', 'percent = "20"')
STRICTER = RULES.replace("amount >= 20", "amount >= 60")
WIDER = RULES.replace("amount >= 20", "amount >= 10")


@pytest.fixture
def log(past: Past, tables_of: Store) -> Log:
    return lab.open(tables_of(past))


def sizes(comparison: Comparison) -> tuple[int, int, int]:
    return comparison.gained.height, comparison.lost.height, comparison.changed.height


def test_a_rulebook_against_itself_changes_nothing(log: Log) -> None:
    comparison = log.compare(RULES, RULES)

    assert comparison.equal and sizes(comparison) == (0, 0, 0) and comparison.cases == ()
    assert comparison.sentence.startswith("Nothing changes over 11 hits")
    assert comparison.money["difference"].sum() == 0
    assert log.compare(None, RULES).equal  # as logged


def test_a_stricter_condition_loses_postbacks_and_says_why(log: Log) -> None:
    # when 50.00 is no longer enough
    comparison = log.compare(RULES, STRICTER)

    # then both messages of that firing are lost, with their money
    assert sizes(comparison) == (0, 2, 0)
    assert comparison.lost["recipient"].to_list() == ["affiliate:best", "client:acme"]
    deposit = comparison.money.filter(pl.col("trigger") == "deposit", pl.col("affiliate") == "best").row(0, named=True)
    assert (deposit["before"], deposit["after"], deposit["difference"]) == (
        Decimal("12.5"),
        Decimal(0),
        Decimal("-12.5"),
    )
    assert (deposit["firings_before"], deposit["firings_after"]) == (1, 0)
    # and the case says it by either rulebook
    (case,) = comparison.cases
    assert (case.kind, case.payout_before, case.payout_after) == ("lost", "12.500", "")
    assert case.before == "It fired, worth 12.50 EUR (25 % of amount 50.00)."
    assert "amount >= 60 is false (amount is 50.00)" in case.after


def test_a_wider_condition_gains_what_the_other_loses(log: Log) -> None:
    there, back = log.compare(RULES, WIDER), log.compare(WIDER, RULES)

    assert sizes(there) == (2, 0, 0) and sizes(back) == (0, 2, 0)
    assert there.gained.equals(back.lost)
    assert there.totals.row(0) == (
        "EUR",
        3,
        4,
        Decimal("34.5"),
        Decimal("39.5"),
        Decimal("5"),
        pytest.approx(14.4927, 1e-4),
    )
    assert there.money["difference"].sum() == -back.money["difference"].sum()


def test_another_payout_changes_the_postbacks_that_say_it(log: Log) -> None:
    comparison = log.compare(RULES, CHEAPER)

    assert sizes(comparison) == (0, 0, 4)
    row = comparison.changed.filter(pl.col("recipient") == "affiliate:best").row(0, named=True)
    assert (row["what"], row["payout_before"], row["payout_after"]) == ("sum, payout", Decimal("12.5"), Decimal(10))
    assert ("sum", "12.50", "10.00") in comparison.cases[0].differences
    assert comparison.rules == (
        "Client acme",
        "  Trigger deposit pays 20 % of amount instead of 25 % of amount: for amount 100 that is 20.00 instead of 25.00.",
    )


def test_a_trigger_that_is_gone_or_new_is_said(log: Log) -> None:
    renamed = RULES.replace('name = "order"', 'name = "purchase"')

    comparison = log.compare(RULES, renamed)

    by_kind = {case.kind: case for case in comparison.cases}
    assert "has no trigger order" in by_kind["lost"].after and "has no trigger purchase" in by_kind["gained"].before


def test_aliases_that_differ_are_read_by_each_rulebook_itself(log: Log) -> None:
    # given rules that read the amount under another name, so that no decoded event can be shared
    aliased = RULES.replace(
        'params = ["country", "sub1"]', 'params = ["country", "sub1"]\naliases = { country = "txid" }'
    )

    comparison = log.compare(RULES, aliased)

    after = log.replay(aliased)
    assert dict(comparison.verdicts.select("verdict", "after").iter_rows()) == dict(after.verdicts.iter_rows())


def test_the_counts_are_those_of_two_replays() -> None:
    # given three days of the sample and rules that touch three triggers
    log, rules = (
        lab.open(DATASETS / "tables", as_of="2026-03-04"),
        (DATASETS / "rules.toml").read_text(encoding="utf-8"),
    )
    other = rules.replace("amount >= 20", "amount >= 60").replace("amount > 100", "amount > 50").replace("7.5", "8")

    # when they are compared by either engine
    comparison, by_sets = log.compare(rules, other), log.compare(rules, other, engine="set")

    # then the sums are those of two replays done apart
    old, new = (log.replay(text).postbacks for text in (rules, other))
    mine, theirs = (set(frame["postback_id"]) for frame in (old, new))
    assert (comparison.gained.height, comparison.lost.height) == (len(theirs - mine), len(mine - theirs))
    fields = ["postback_id", "verb", "url", "body", "payout", "state"]
    unequal = old.select(fields).join(new.select(fields), on="postback_id").filter(
        pl.any_horizontal(pl.col(name) != pl.col(f"{name}_right") for name in fields[1:])
    )  # fmt: skip
    assert comparison.changed["postback_id"].sort().equals(unequal["postback_id"].sort())
    for name in ("gained", "lost", "changed", "money", "verdicts"):
        assert getattr(comparison, name).equals(getattr(by_sets, name)), name
    assert all(case.before and case.after and case.before != case.after for case in comparison.cases)


@pytest.fixture
def tied(tables_of: Store) -> Log:
    """Forty visitors whose click and registration came at the same moment."""
    past = Past()
    past.publish(RULES)
    for n in range(40):
        past.hit(f"client=acme&event=click&uid=u{n}&affiliate=best&sub1=x", after_s=1)
        past.hit(f"client=acme&event=registration&uid=u{n}", after_s=0)
    return lab.open(tables_of(past))


def test_what_depends_on_the_order_of_ties_is_the_noise_floor(tied: Log) -> None:
    noise = tied.compare(RULES, RULES).noise
    assert noise is not None
    assert noise.ties == 80 and 20 <= noise.lost <= 60 and noise.gained == 0
    assert "differences as small as that mean nothing" in noise.sentence


def test_money_by_a_column_that_is_none_names_those_that_may_be_asked(log: Log) -> None:
    comparison = log.compare(RULES, STRICTER)

    for asked, says in (
        ("nobody", "known are affiliate, client, currency, trigger"),
        ("client_", "did you mean 'client'"),
    ):
        with pytest.raises(LabError, match=f"money by '{asked}' is none.*{says}"):
            comparison.money_by(asked)
    assert comparison.money_by("currency").equals(comparison.totals)


def test_without_ties_there_is_no_noise(log: Log) -> None:
    calm = log.compare(RULES, CHEAPER).noise
    assert calm is not None and calm.ties == 0 and "nothing here depends" in calm.sentence


@pytest.mark.parametrize(("condition", "failed"), [
    ("gained>0", False), ("lost>0", True), ("lost>2", False), ("lost>=2", True), ("changed=0", True), ("money>10%", True),
    ("money > 37%", False), ("money>12.4", True), ("money>12.5", False),
])  # fmt: skip
def test_a_condition_holds_or_not(log: Log, condition: str, failed: bool) -> None:
    (verdict,) = judge(log.compare(RULES, STRICTER), [condition])
    assert verdict.failed is failed


def test_money_from_nothing_is_more_than_any_percentage(log: Log) -> None:
    without = RULES.replace('payout = { percent = "10", of = "amount" }', "")
    (verdict,) = judge(log.compare(without, RULES), ["money>1000000%"])
    assert verdict.failed and "USD, from nothing" in verdict.found


@pytest.mark.parametrize(("condition", "message"), [
    ("lost", "is no condition"), ("lots>0", "did you mean 'lost'"), ("lost>1%", "only money"),
    ("money>-1", "is no condition"),
])  # fmt: skip
def test_a_condition_that_cannot_be_read_is_named(condition: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        limit_of(condition)


def test_the_page_holds_all_of_it_and_needs_no_network(log: Log) -> None:
    comparison = log.compare(RULES, STRICTER)

    text = page(comparison, judge(comparison, ["lost>0", "gained>0"]))

    for part in (comparison.sentence, "1 of 2 conditions failed", "amount &gt;= 60 is false", "<svg", "light-dark("):
        assert part in text
    assert "<script" not in text and "<link" not in text and "src=" not in text and "url(" not in text


def test_what_a_visitor_sent_is_no_markup_of_the_page(past: Past, tables_of: Store) -> None:
    past.hit("client=bolt&event=sale&uid=%3Cimg%20src=x%3E&amount=5&currency=USD&txid=%3Cscript%3Ealert(1)")

    comparison = lab.open(tables_of(past)).compare(RULES, RULES.replace("order={txid}", "order={txid}&u={uid}"))

    text = page(comparison)
    assert "<script" not in text and "<img" not in text and "&lt;img" in text


def test_the_chart_has_its_frame(log: Log) -> None:
    chart = log.compare(RULES, STRICTER).chart()
    assert chart.frame.columns == ["what", "side", "value", "label"]
    assert "12.50 EUR" in " ".join(chart.frame["label"]) or "32.50 EUR" in " ".join(chart.frame["label"])
    assert chart.svg.startswith("<svg")


def test_a_bar_is_as_long_as_its_share_of_the_highest_in_its_currency() -> None:
    # given much in yen and little in euros
    rows = [("a, JPY", "before", 9000.0, "", "JPY"), ("a, JPY", "after", 4500.0, "", "JPY")]
    rows += [
        ("a, EUR", "before", 0.0, "", "EUR"),
        ("a, EUR", "after", 20.0, "", "EUR"),
        ("b, GBP", "after", 0.0, "", "GBP"),
    ]
    # then the euros are not crushed by the yen, and nothing is divided by nothing
    assert _frame(rows)["length"].to_list() == [1.0, 0.5, 0.0, 1.0, 0.0]


# the command


@pytest.fixture
def files(past: Past, tables_of: Store, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Folder of tables, rulebook, stricter rulebook."""
    paths = tables_of(past), tmp_path / "rules.toml", tmp_path / "rules-next.toml"
    paths[1].write_text(RULES, encoding="utf-8")
    paths[2].write_text(STRICTER, encoding="utf-8")
    return paths


def run(*arguments: object) -> Result:
    return CliRunner().invoke(replay_command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_condition_that_holds_ends_the_command_with_status_1(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    tables, rules, following = files
    page_path, junit = tmp_path / "what.html", tmp_path / "what.xml"

    result = run(
        tables, "--rules", rules, "--against", following, "--fail-on", "lost>0", "--fail-on", "gained>0",
        "--report", page_path, "--junit", junit,
    )  # fmt: skip

    assert result.exit_code == 1
    assert result.stdout.startswith("Postbacks over 11 hits: 0 gained, 2 lost, 0 changed. Money: -12.50 EUR.")
    assert "FAILED: fail on lost>0, found 2" in result.stdout and "amount >= 60 is false" in result.stdout
    assert page_path.read_text(encoding="utf-8").startswith("<!doctype html>")
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    cases = list(suite.iter("testcase"))
    assert [(case.get("name"), case.find("failure") is not None) for case in cases] == [
        ("lost>0", True),
        ("gained>0", False),
    ]


def test_the_command_prints_one_document(files: tuple[Path, Path, Path]) -> None:
    tables, rules, following = files

    result = run(tables, "--rules", rules, "--against", following, "--fail-on", "gained>0", "--json")

    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (document["gained"], document["lost"], document["failed"]) == (0, 2, [])
    assert [row["difference"] for row in document["totals"]] == ["-12.500", "0.000"]


@pytest.mark.parametrize(("options", "message"), [
    (("--report", "x.html"), "--report x.html needs a second rulebook: add --against FILE"),
    (("--fail-on", "lost>0"), "--fail-on 'lost>0' does not fit here: add --against FILE"),
    (("--against", "RULES", "--fail-on", "difference"), "leave out --against"),
    (("--against", "RULES", "--fail-on", "lots>0"), "there is no figure 'lots'"),
    (("--against", "missing.toml"), "missing.toml does not exist"),
    (("--against", "RULES", "--report", "no/where.html"), "no/where.html cannot be written"),
])  # fmt: skip
def test_bad_usage_is_one_line_and_status_2(
    files: tuple[Path, Path, Path], options: tuple[str, ...], message: str
) -> None:
    tables, rules, _ = files

    result = run(tables, *(str(rules) if option == "RULES" else option for option in options))

    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_every_figure_of_a_condition_is_in_the_readme() -> None:
    readme = Path(lab.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in readme] == []
