"""The sample tables: a week of generated traffic with planted stories, decided by the engine and delivered by a model.

    python -m lab.samples     writes what is in datasets, if it would differ: the tables, bestodds.csv, stories.toml and the
                              counts and stories in README.md

All rows follow from the rulebooks, the seed and the number of hits; only the names of the files are random.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from lab.answers import Week, answers, markdown, toml
from lab.delivering import Outage
from lab.journal import Published, Rows, rows_of, write
from lab.stories import IN_TRAFFIC, STORIES
from lab.traffic import SAMPLE_START_US, generate
from lab.world import linked_affiliates
from service.archive.schemas import SCHEMAS, table
from service.archive.tables import open_table
from service.engine import Rulebook, Verdict, load

DATASETS = Path(__file__).parent.parent / "datasets"
HITS = 14_000
DAYS = 7
SEED = 7
PARTNER_ZONE = timedelta(hours=1)  # the partner's export is written in another time zone

COUNTS = ("<!-- counts: written by python -m lab.samples -->", "<!-- end of counts -->")
TOLD = ("<!-- stories: written by python -m lab.samples -->", "<!-- end of stories -->")


def sample_week(hits: int = HITS, seed: int = SEED) -> Week:
    """The sample week of the rulebooks in datasets; the same for the same numbers."""
    before, after = ((DATASETS / name).read_text(encoding="utf-8") for name in ("rules.toml", "rules-next.toml"))
    rulebook = load(before)
    linked = linked_affiliates(rulebook)
    published = (
        Published(0, before, "rules.toml"),
        Published(STORIES["rule-change"].window(DAYS).from_us, after, "rules-next.toml"),
    )
    requests = generate(rulebook, hits, seed, days=DAYS, stories=IN_TRAFFIC)
    down = STORIES["outage"].window(DAYS)
    outage = Outage(
        STORIES["outage"].about(rulebook, linked), SAMPLE_START_US + down.from_us, SAMPLE_START_US + down.until_us
    )
    rows = rows_of(requests, published, seed, outages=[outage])
    lost = _lost(rows, rulebook, linked)
    return Week(requests, rows, published, seed, SAMPLE_START_US, DAYS, linked, lost)


def _lost(rows: Rows, rulebook: Rulebook, linked: list[str]) -> list[dict[str, Any]]:
    """The postbacks that the partner answered and lost."""
    story = STORIES["lost-postbacks"]
    who, window = story.about(rulebook, linked), story.window(DAYS)
    start, end = (SAMPLE_START_US + at_us for at_us in (window.from_us, window.until_us))
    arrived = {
        row["postback_id"] for row in rows["attempts"]
        if row["state"] == "delivered" and start <= row["time"].timestamp() * 1_000_000 < end
    }  # fmt: skip
    return [row for row in rows["postbacks"] if row["recipient"] == who and row["postback_id"] in arrived]


def partner_export(week: Week) -> str:
    """What the partner has of its postbacks, as its own CSV export: other names, its own time zone, no test, none lost."""
    lost = {row["postback_id"] for row in week.lost}
    out = StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["Date", "Sub ID", "Type", "Commission", "Currency", "Postback ID"])
    mine = [
        row for row in week.rows["attempts"]
        if row["recipient"] == week.who("lost-postbacks") and row["state"] == "delivered"
        and row["postback_id"] not in lost
    ]  # fmt: skip
    promised = {row["postback_id"]: row for row in week.rows["postbacks"]}
    for row in sorted(mine, key=lambda row: (row["time"], row["postback_id"])):
        postback, said = promised[row["postback_id"]], parse_qs(urlsplit(row["url"]).query)
        date = f"{row['time'] + PARTNER_ZONE:%Y-%m-%d %H:%M:%S}"
        money = [postback["payout"], postback["currency"]]
        rows.writerow([date, *said.get("cid", [""]), postback["event"], *money, postback["postback_id"]])
    return out.getvalue()


def counts(rows: Rows) -> str:
    """What the week holds, as a Markdown table."""
    decisions = rows["decisions"]
    counted: list[tuple[str, Counter[str]]] = [
        ("hits by day", Counter(row["day"] for row in decisions)),
        ("hits by route", Counter(row["route"] for row in rows["hits"] if row["kind"] == "hit")),
        ("hits by client", Counter(row["client"] or "(none)" for row in decisions)),
        ("verdicts", Counter(row["verdict"] for row in decisions)),
        ("reasons of rejected hits", Counter(row["reason"] for row in decisions if row["reason"])),
        ("accepted events", Counter(row["event"] for row in decisions if row["verdict"] == Verdict.ACCEPTED)),
        ("firings by trigger", Counter(firing["trigger"] for row in decisions for firing in row["fired"])),
        ("postbacks by state", Counter(row["state"] for row in rows["postbacks"])),
        ("postbacks by recipient", Counter(row["recipient"] for row in rows["postbacks"])),
        ("attempts by result", Counter(row["result"] for row in rows["attempts"])),
        ("hits of tests", Counter(row["client"] for row in decisions if row["test"])),
        ("hits that joined visitors", Counter(row["client"] for row in decisions if row["absorbed"])),
        ("hits with a conflict", Counter(row["client"] for row in decisions if row["conflicts"])),
    ]
    lines = ["| what | in all | of it |", "|---|---|---|"]
    for name, found in counted:
        parts = ", ".join(f"{value} {count:,}" for value, count in sorted(found.items()))
        lines.append(f"| {name} | {found.total():,} | {parts} |")
    return "\n".join(lines)


def between(marks: tuple[str, str], document: str, text: str) -> str:
    """The document with the text between its marks."""
    head, mark, rest = document.partition(marks[0] + "\n")
    return f"{head}{mark}{text}\n{marks[1]}{rest.partition(marks[1])[2]}"


def forget_place(root: Path) -> None:
    """Take the folder's absolute path out of the tables' logs: only a note of where they were created, never read."""
    for log in root.glob("*/_delta_log/*.json"):
        actions = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for action in actions:
            action.get("commitInfo", {}).get("operationParameters", {}).pop("location", None)
        log.write_text("".join(json.dumps(action) + "\n" for action in actions), encoding="utf-8")


def rows_digest(root: Path) -> dict[str, str]:
    """Per table, a SHA-256 over all rows in a fixed order, whatever the files are called; "" for a missing table."""
    found = {name: open_table(root, name) for name in SCHEMAS}
    return {name: _digest(name, one.to_pyarrow_table()) if one is not None else "" for name, one in found.items()}


def _digest(name: str, rows: pa.Table) -> str:
    lines = sorted(repr(list(row.values())) for row in rows.select(SCHEMAS[name].names).to_pylist())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def texts(week: Week) -> dict[str, str]:
    """What each file beside the tables has to hold."""
    found = answers(week)
    readme = (DATASETS / "README.md").read_text(encoding="utf-8")
    readme = between(TOLD, between(COUNTS, readme, counts(week.rows)), markdown(found))
    return {"README.md": readme, "stories.toml": toml(found), "bestodds.csv": partner_export(week)}


def stale(week: Week) -> list[str]:
    """What differs in datasets from what is made anew: names of files, or `tables`."""
    files = {DATASETS / name: text for name, text in texts(week).items()}
    names = [path.name for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    fresh = {name: _digest(name, table(name, rows)) for name, rows in week.rows.items()}
    return names + ([] if rows_digest(DATASETS / "tables") == fresh else ["tables"])


def main() -> int:
    """Write whatever would differ."""
    week = sample_week()
    changed = stale(week)
    for name, text in texts(week).items():
        if name in changed:
            (DATASETS / name).write_text(text, encoding="utf-8")
    if "tables" in changed:
        _put_tables(DATASETS / "tables", week.rows)
    print(f"{DATASETS}: {', '.join(changed) + ' written' if changed else 'unchanged'}")
    return 0


def _put_tables(target: Path, rows: Rows) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tables-") as folder:
        fresh = Path(folder) / "tables"
        write(fresh, rows)
        forget_place(fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)


if __name__ == "__main__":
    sys.exit(main())
