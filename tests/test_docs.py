"""What the engine knows stands in its README, and what stands there the engine knows; its examples are run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import service.engine
from service.engine import STEPS, PostbackState, Reason, Stage, Verdict
from service.engine.conditions import COMPARE, GRAMMAR, compile_condition
from service.engine.explain_request import REMEDIES
from service.engine.lint import RULES
from service.engine.mails import EMAIL_KEYS
from service.engine.model import RESERVED
from service.engine.parse import (
    MAX_BODY_BYTES,
    MAX_JSON_DEPTH,
    MAX_NAME,
    MAX_PARAMETERS,
    MAX_QUERY_BYTES,
    MAX_VALUE,
)
from service.engine.reader import AFFILIATE_KEYS, CLIENT_KEYS, DERIVED, TRIGGER_KEYS
from service.engine.templates import compile_template, encode_url
from service.engine.webhooks import WEBHOOK_KEYS

README = (Path(__file__).parents[1] / "service" / "engine" / "README.md").read_text(encoding="utf-8")

Row = dict[str, str]


def tables(text: str) -> Iterator[list[Row]]:
    """The tables of a Markdown text: rows as heading to cell, code marks taken off, `\\|` a plain bar."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        lines = [[_cell(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        yield [dict(zip(lines[0], row, strict=True)) for row in lines[2:]]


def _cell(cell: str) -> str:
    text = cell.strip().replace(r"\|", "|")
    return text[1:-1] if re.fullmatch(r"`[^`]*`", text) else text


def table(heading: str) -> list[Row]:
    """The one table whose first column has this heading."""
    found = [rows for rows in tables(README) if next(iter(rows[0])).replace("`", "") == heading]
    assert len(found) == 1, f"{len(found)} tables begin with {heading!r}"
    return found[0]


def first_column(heading: str) -> list[str]:
    return [next(iter(row.values())) for row in table(heading)]


OPERATORS = [*COMPARE, *re.findall(r"^_[A-Z]+\.2: /([a-z]+)", GRAMMAR, flags=re.MULTILINE)]


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("step", [step.__name__ for step in STEPS]),
        ("stage", [stage.value for stage in Stage]),
        ("verdict", sorted(verdict.value for verdict in Verdict)),
        ("reason", sorted(reason.value for reason in Reason)),
        ("state", sorted(state.value for state in PostbackState)),
        ("key of [client.NAME]", sorted(CLIENT_KEYS)),
        ("key of [affiliate.NAME]", sorted(AFFILIATE_KEYS)),
        ("key of [[trigger]]", sorted(TRIGGER_KEYS)),
        ("key of webhook", sorted(WEBHOOK_KEYS)),
        ("key of email", sorted(EMAIL_KEYS)),
        ("key of cap", ["count", "every", "per"]),
        ("key of payout", ["currency", "fixed", "of", "percent"]),
        ("macro", sorted([*RESERVED, *DERIVED, "NAME", "param.NAME", "first.NAME", "last.EVENT.NAME"])),
        ("filter", sorted(["none", "raw", "default:x", "sha256", "%Y-%m-%d", "!", "{{ }}"])),
        ("operator", sorted(OPERATORS)),
        ("rule", sorted(RULES)),
    ],
)
def test_a_table_holds_what_the_code_knows_and_nothing_else(heading: str, known: list[str]) -> None:
    column = list(dict.fromkeys(first_column(heading)))
    ordered = heading in ("step", "stage")  # where the order is part of the meaning
    assert (column if ordered else sorted(column)) == known


def test_a_rule_of_the_lint_has_its_level() -> None:
    assert {row["rule"]: row["level"] for row in table("rule")} == {name: level for name, (level, _) in RULES.items()}


def test_a_reason_is_remedied_in_the_words_of_the_code() -> None:
    assert {row["reason"]: row["what the sender can do"].replace("`", "") for row in table("reason")} == REMEDIES


def test_the_limits_are_those_of_the_code() -> None:
    assert {row["limit"]: int(row["value"]) for row in table("limit")} == {
        "MAX_QUERY_BYTES": MAX_QUERY_BYTES,
        "MAX_BODY_BYTES": MAX_BODY_BYTES,
        "MAX_PARAMETERS": MAX_PARAMETERS,
        "MAX_NAME": MAX_NAME,
        "MAX_VALUE": MAX_VALUE,
        "MAX_JSON_DEPTH": MAX_JSON_DEPTH,
    }


class Facts:
    """Facts as the README writes them: `amount=5, count(sale)=2, since(sale)=60`."""

    def __init__(self, text: str) -> None:
        self.values = dict(part.split("=", 1) for part in text.split(", ") if part)

    def value(self, name: str) -> str | None:
        return self.values.get(name)

    def count(self, event: str) -> int:
        return int(self.values.get(f"count({event})", 0))

    def since_us(self, event: str) -> int | None:
        age_s = self.values.get(f"since({event})")
        return None if age_s is None else int(age_s) * 1_000_000


@pytest.mark.parametrize("row", table("operator"), ids=lambda row: row["example"])
def test_an_example_of_a_condition_is_true_to_its_row(row: Row) -> None:
    assert row["operator"] in row["example"]
    assert compile_condition(row["example"])(Facts(row["facts"])) is (row["holds"] == "yes")


@pytest.mark.parametrize("row", table("filter"), ids=lambda row: row["template"])
def test_an_example_of_a_filter_is_true_to_its_row(row: Row) -> None:
    values = {"time": "2026-11-23T09:47:17.000000Z"} | ({"sub1": row["value"]} if row["value"] else {})

    class Values:
        def value(self, name: str) -> str | None:
            return values.get(name)

    rendered = compile_template(row["template"]).render(Values(), encode_url)
    assert rendered.text == row["result"]
    assert rendered.withheld is (row["filter"] == "!")


def test_the_example_at_the_top_imports_names_that_exist() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = re.findall(r"import (.*)", code)[0].split(", ")
    assert set(names) <= set(service.engine.__all__)
