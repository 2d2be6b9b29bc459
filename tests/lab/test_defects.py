"""Planted defects: each class is found in every place it was planted, named rightly, and nothing else is."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lab
from lab.commands import verify_command
from lab.defects import DEFECTS, defect_of, number_of
from lab.log import LabError
from lab.verify import Verification
from tests.lab.conftest import Past
from tests.lab.planted import PLANTS, Day, id_of, plant, said

Store = Callable[[Past], Path]
HITS = 1_500
EACH = 4


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return Day(HITS).store(tmp_path_factory.mktemp("clean"))


def found_in(verification: Verification) -> dict[str, set[str]]:
    """Postbacks by defect; a doubled one under the id it should have."""
    found = defaultdict(set)
    for row in verification.differences.iter_rows(named=True):
        found[str(row["defect"])].add(row["expected"] if row["defect"] == "doubled" else row["postback_id"])
    return dict(found)


def test_a_clean_day_raises_no_alarm(clean: tuple[Path, Path]) -> None:
    tables, record = clean
    verification = lab.open(tables).verify(record)
    assert verification.ok, repr(verification)
    assert verification.received == verification.delivered > 1_000


def test_each_planted_defect_is_found_and_named_and_nothing_else(tmp_path: Path) -> None:
    # given a day with every class of defect in a few postbacks, and some harmless repeats
    day = Day(HITS)
    repeats = day.receipts[5::200]
    planted = plant(day, EACH)
    day.receipts += [dict(receipt) for receipt in repeats if receipt in day.receipts and said(receipt).get("id")]
    tables, record = day.store(tmp_path)

    # when it is verified
    verification = lab.open(tables).verify(record)

    # then each is named where it was planted
    found = found_in(verification)
    assert set(found) - {"not_delivered"} == set(planted)
    for defect, ids in planted.items():
        assert found[defect] == ids, defect
    assert found["not_delivered"] == planted["missing_here"]  # what was never promised cannot have been delivered
    counted = dict(verification.defects.select("defect", "postbacks").iter_rows())
    assert all(counted[defect] == EACH for defect in planted)


@pytest.mark.parametrize(("parameter", "expected", "found", "defect"), [
    ("sub1", "banner", "{sub1}", "literal_macro"), ("sub1", "banner", "${SUB1}", "literal_macro"),
    ("x", "a", "pre-{subacc4}-x", "literal_macro"), ("x", "{kept}", "{kept}!", "other_value"),
    ("sum", "12.0", "12", "number_format"), ("sum", "12.50", "12,50", "number_format"),
    ("sum", "1234.50", "1,234.50", "number_format"), ("sum", "1234.50", "1.234,50", "number_format"),
    ("amount", "50.00", "50.0 (a number)", "number_format"), ("sum", "1000000", "1e6", "number_format"),
    ("sum", "12.50", "12", "truncated"), ("sum", "12.50", "13.50", "other_value"),
    ("sub1", "a b", "a%20b", "double_encoded"), ("sub1", "ü&", "%C3%BC%26", "double_encoded"),
    ("sub1", "a b", "a%2520b", "double_encoded"), ("sub1", "50%", "50%25", "double_encoded"),
    ("at", "2026-03-02T10:00:00Z", "2026-03-02T12:00:00Z", "time_zone"),
    ("at", "2026-03-02T10:00:00Z", "2026-03-02T11:00:00+01:00", "time_zone"),
    ("at", "2026-03-02T10:00:00Z", "2026-03-02 15:30:00", "time_zone"), ("at", "2026-03-02", "2026-03-03", "time_zone"),
    ("at", "1772445600", "1772449200", "time_zone"), ("at", "2026-03-02T10:00:00Z", "2026-03-02T10:00:07Z", "other_value"),
    ("cur", "EUR", "USD", "currency"), ("cur", "EUR", "eur", "currency"), ("country", "DE", "AT", "other_value"),
    ("sub1", "banner-left", "banner-l", "truncated"), ("sub1", "banner-left", "banner...", "truncated"),
    ("sub1", "banner", "", "truncated"), ("sub1", "banner", None, "left_out"), ("sub1", None, "x", "added"),
])  # fmt: skip
def test_a_difference_has_a_name(parameter: str, expected: str | None, found: str | None, defect: str) -> None:
    assert defect_of(parameter, expected, found) == defect


@pytest.mark.parametrize("text", ["", "abc", "1.2.3", "12 EUR", "٣", "--1", "1,23,4"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert number_of(text) is None


def test_every_defect_is_explained_and_every_planted_one_exists() -> None:
    readme = Path(lab.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert [defect for defect in DEFECTS if f"`{defect}`" not in readme] == []
    assert set(PLANTS) <= set(DEFECTS)


# what the partner says it got, in a form of its own


def access_log(day: Day, path: Path, recipient: str, change: Callable[[list[str]], list[str]] = list) -> Path:
    """The record of one recipient as its web server writes it: combined, without headers."""
    lines = [
        f"192.0.2.1 - - [{datetime.fromtimestamp(r['time_us'] // 1_000_000, UTC):%d/%b/%Y:%H:%M:%S +0000}] "
        f'"{r["method"]} {r["path"]}?{r["query"]} HTTP/1.1" 200 2 "-" "Backtrack"'
        for r in day.receipts
        if day.recipients.get(id_of(r)) == recipient
    ]
    path.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    return path


def test_an_access_log_is_reconciled(clean: tuple[Path, Path], tmp_path: Path) -> None:
    # given the partner's own access log: one line lost, one cut, one stranger, and other traffic
    day = Day(HITS)
    lost = cut = ""

    def change(lines: list[str]) -> list[str]:
        nonlocal lost, cut
        sales = [line for line in lines if "&tx=" in line and "&tx=&" not in line]
        lost, cut = sales[3], sales[5]
        broken = cut.replace("&cur=EUR", "&cur=USD").replace("&cur=GBP", "&cur=USD")
        stranger = cut.split("?")[0] + '?sub=zzz&tx=nobody HTTP/1.1" 200 2 "-" "x"'
        other = cut.split('"')[0] + '"GET /robots.txt HTTP/1.1" 200 2 "-" "x"'
        return [broken if line == cut else line for line in lines if line != lost] + [stranger, other]

    path = access_log(day, tmp_path / "partner.log", "affiliate:best", change)

    # when it is verified
    verification = lab.open(clean[0]).verify(path)

    # then each is said once, and nothing else
    rows = verification.differences.select("kind", "defect", "place").rows()
    assert sorted(rows) == [
        ("different", "currency", "received"), ("missing", "missing_there", "received"),
        ("unexpected", "unexpected", "received"),
    ]  # fmt: skip
    assert verification.other == 1


def test_requests_without_any_id_are_matched_as_they_are(past: Past, tables_of: Store, tmp_path: Path) -> None:
    # given a template without ids, and the partner's log: one request twice, one never
    requests = [p.url for _, p in past.postbacks if p.recipient == "affiliate:best" and p.state == "due"]
    paths = [url.removeprefix("http://best.example") for url in (requests[0], requests[0])]
    log = tmp_path / "partner.log"
    log.write_text(
        "".join(f'::1 - - [02/Mar/2026:00:03:00 +0000] "GET {path} HTTP/1.1" 200 2 "-" "x"\n' for path in paths)
    )

    # when it is verified
    verification = lab.open(tables_of(past)).verify(log)

    # then the repeat is allowed and the other one is missing there
    assert verification.repeated == 1 and len(set(requests)) == 2
    assert verification.differences.select("kind", "expected").rows() == [("missing", requests[1])]


def test_a_csv_export_is_reconciled_by_txid(clean: tuple[Path, Path], tmp_path: Path) -> None:
    # given an export of the partner: its own names, numbers without zeros, local times, one row lost, one with less money
    day = Day(HITS)
    sales = [said(r) | {"time_us": str(r["time_us"])} for r in day.receipts
             if day.recipients.get(id_of(r)) == "affiliate:best" and said(r).get("tx") and said(r).get("sum")]  # fmt: skip
    path = tmp_path / "export.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Order ID", "Commission", "Currency", "Received at"])
        for number, values in enumerate(sales[1:]):
            amount = float(values["sum"]) - (1 if number == 4 else 0)
            local_us = int(values["time_us"]) + 7_200_000_000
            writer.writerow([values["tx"], f"{amount:g}", values["cur"], str(local_us)])

    # when it is verified as the record of one affiliate's sales
    verification = lab.open(clean[0]).verify(path, recipient="affiliate:best")

    # then the wrong sum is named, all that is no sale is missing there, and the zone of the times is noted
    different = verification.differences.filter(verification.differences["kind"] == "different")
    assert different.select("parameter", "defect").rows() == [("Commission", "other_value")]
    missing = set(verification.differences.filter(verification.differences["kind"] == "missing")["postback_id"])
    assert sales[0]["id"] in missing and sales[1]["id"] not in missing
    assert any("+2 h from ours" in warning for warning in verification.warnings)


@pytest.mark.parametrize(("content", "options", "message"), [
    ("a,b\n1,2\n", {}, "no column is known among a, b"),
    ("tid\nx\n", {"columns": {"zz": "txid"}}, "has no column 'zz'; its columns are tid"),
    ("tid\nx\n", {}, "whose record is it? give the recipient, one of affiliate:best, affiliate:hub"),
    ("tid\nx\n", {"recipient": "affiliate:bst"}, "there is no postback to 'affiliate:bst'"),
])  # fmt: skip
def test_a_record_that_cannot_be_used_is_one_clear_line(
    clean: tuple[Path, Path], tmp_path: Path, content: str, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "export.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LabError, match=message.replace("?", r"\?")):
        lab.open(clean[0]).verify(path, **options)


@pytest.mark.parametrize(("options", "message"), [
    (("--late", "soon"), "--late 'soon' is no span"), (("--column", "a=b"), "ours is one of postback_id, txid"),
])  # fmt: skip
def test_an_option_that_cannot_be_read_is_status_2(
    clean: tuple[Path, Path], options: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(verify_command, [str(clean[0]), *options])
    assert result.exit_code == 2 and message in result.stderr


def test_an_export_that_is_not_there_is_said_in_plain_words(tmp_path: Path, past: Past) -> None:
    log = lab.open(past.store(tmp_path / "tables"))
    with pytest.raises(
        LabError, match=r"none\.csv cannot be read: No such file or directory; give the partner's export"
    ):
        log.verify(tmp_path / "none.csv")
