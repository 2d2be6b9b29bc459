"""Every notebook runs from top to bottom without a browser, says what it should, and is kept without outputs."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_OUTPUT_LINES = 40  # more text than that is a wall

SAYS: dict[str, tuple[str, ...]] = {  # what the outputs of each notebook must hold
    "1-explore-funnels.ipynb": (
        "14,000 hits of 3 clients",
        "visitors did click",
        "630 clicks; one from the next: 67 to 70 s",
        "dropped-click-ids",
    ),
    "2-replay-a-day.ipynb": (
        "1,748 hits of 3 clients",
        r"equal +True",
        "first-deposit",
        "equal in every parameter",
        "rules-next.toml",
        "amount >= 50 is false",
    ),
    "4-verify-postbacks.ipynb": (
        "21 late",
        r"record are \+1 h from ours",
        "missing_there",
        r"19 postbacks between Friday .* 389\.36 EUR",
        "Try 1, .*: delivered, status 200",
    ),
    "3-try-a-rule.ipynb": (
        r"7,240 hits of 3 clients",
        r"\d+ gained, \d+ lost, \d+ changed",
        "asks for amount at least 50 instead of 20",
        'destination == "Rome"',
        "It fired, worth 12.50 EUR",
        "depends on the order of ties|share their time with another",
        r"booking would have fired \d+ times",
        r"2026-03-05 12:00:00",
        r"The first difference is of Thursday 1\d:\d\d UTC",
        "came true",
    ),
    "5-prototype-a-trigger.ipynb": (
        r"second-deposit: fires \d+ times of \d+ sale \(exact\)",
        r"second-deposit would have fired \d+ times for \d+ visitors",
        r"\d+ gained, 0 lost, 0 changed",
        r"Live at http://127\.0\.0\.1:\d+",
        r"stored [0-9a-f]{32} acme sale",
        "Trigger second-deposit fired after the click",
        "cid=spring-campaign&event=sale&sum=3.00&cur=EUR",
        "All 6 due postbacks were sent, delivered and received as expected",
    ),
}
CHARTS = {
    "1-explore-funnels.ipynb": 8,
    "2-replay-a-day.ipynb": 1,
    "4-verify-postbacks.ipynb": 3,
    "3-try-a-rule.ipynb": 1,
    "5-prototype-a-trigger.ipynb": 0,
}
STORIES: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "datasets" / "stories.toml").read_text(encoding="utf-8"))
NEAR = timedelta(hours=2)  # what was found begins and ends with its first and last hit


def run(notebook: Path, folder: Path) -> Any:
    """Execute a copy that finds the sample data where the notebook does, and nothing else."""
    copy = folder / "notebooks" / notebook.name
    copy.parent.mkdir()
    shutil.copy(notebook, copy)
    (folder / "datasets").symlink_to(ROOT / "datasets", target_is_directory=True)
    document = nbformat.read(copy, as_version=4)
    if any(answer["notebook"] == notebook.stem for answer in STORIES.values()):
        document.cells.append(nbformat.v4.new_code_cell("print(found.write_json())"))
    client = NotebookClient(document, timeout=120, kernel_name="python3", resources={"metadata": {"path": copy.parent}})
    return client.execute()


def outputs(document: Any) -> list[dict[str, Any]]:
    return [output for cell in document.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(output: dict[str, Any]) -> list[str]:
    """The plain texts of an output: what is printed, and each representation."""
    if output["output_type"] == "stream":
        return [output["text"]]
    return [value for value in output.get("data", {}).values() if isinstance(value, str)]


def test_there_are_notebooks_and_each_says_what_it_must_show() -> None:
    assert {notebook.name for notebook in NOTEBOOKS} == set(SAYS)


def check_what_was_found(notebook: str, found: list[dict[str, Any]]) -> None:
    """The stories that this notebook has to tell, against the answers in datasets: who, when and how many."""
    told = {name: answer for name, answer in STORIES.items() if answer["notebook"] == notebook}
    rows = json.loads(found[-1]["text"]) if told else []
    assert sorted(row["story"] for row in rows) == sorted(told)
    for row in rows:
        answer = told[row["story"]]
        assert (row["who"], row["count"]) == (answer["who"], answer[row["counted"]]), row
        for end in ("begins", "ends"):
            if row[end] is not None:
                assert abs(datetime.fromisoformat(row[end]).astimezone(UTC) - answer[end]) <= NEAR, row


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_a_notebook_runs_and_shows_its_results(notebook: Path, tmp_path: Path) -> None:
    # given the sample data, when all cells are run
    document = run(notebook, tmp_path)

    # then its key results are there, as text or as a drawing
    found = outputs(document)
    everything = "\n".join(text for output in found for text in texts(output))
    for pattern in SAYS[notebook.name]:
        assert re.search(pattern, everything), f"{pattern!r} is in no output"
    assert sum("image/svg+xml" in output.get("data", {}) for output in found) == CHARTS[notebook.name]

    # and what it found is what was planted
    check_what_was_found(notebook.stem, found)

    # and nothing is shown twice, as a repr in rich would be that a kernel takes for a display
    assert not any("overflow-x:auto" in output.get("data", {}).get("text/html", "")[:60] for output in found)

    # and nothing is a warning or a wall of text
    assert [output["text"] for output in found if output.get("name") == "stderr"] == []
    for output in found:
        plain = output.get("text") or output.get("data", {}).get("text/plain", "")
        assert plain.count("\n") <= MAX_OUTPUT_LINES


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []
