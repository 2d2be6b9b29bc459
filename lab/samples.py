"""The sample tables: one day of generated traffic, decided by the engine and delivered cleanly, without any service.

    python -m lab.samples     writes datasets/tables, if its rows would differ, and the counts in datasets/README.md

All rows follow from the rulebook, the seed and the number of hits; only the names of the files are random.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lab.traffic import SAMPLE_START_US, Request, generate, to_hit
from service.archive.schemas import (
    SCHEMAS,
    Attempt,
    attempt_row,
    decision_row,
    hit_row,
    postback_row,
    rulebook_row,
    table,
)
from service.archive.tables import append, open_table
from service.engine import (
    Entry,
    Hit,
    Outcome,
    Postback,
    PostbackState,
    Rejection,
    Rulebook,
    State,
    Verdict,
    load,
    parse,
    process,
)
from service.engine.parse import parameters
from service.engine.partition import partition_of

DATASETS = Path(__file__).parent.parent / "datasets"
HITS = 6_000
SEED = 7
PARTITIONS = 16
EPOCH = 1
RETRY_SHARE = 0.03  # of the postbacks get a 503 on the first try
RETRY_AFTER_US = 5_000_000
AHEAD_US = 40_000  # the clock of the second web process is fast, so that arrival and log time differ for its hits
APPEND_US = 200  # from the arrival to the journal

MARKS = ("<!-- counts: written by python -m lab.samples -->", "<!-- end of counts -->")

Rows = dict[str, list[dict[str, Any]]]


def build(root: Path, rules: str, hits: int = HITS, seed: int = SEED, source: str = "rules.toml") -> Rows:
    """Write all tables of the sample day below `root`. rules: text of the rulebook; source: where it is from."""
    made = sample_rows(load(rules), hits, seed, source)
    for name, rows in made.items():
        append(root, name, table(name, rows))
    return made


def sample_rows(rulebook: Rulebook, hits: int = HITS, seed: int = SEED, source: str = "rules.toml") -> Rows:
    """The rows of every table, each in the order of its partition and number."""
    rows: Rows = {name: [] for name in SCHEMAS}
    rows["rulebooks"].append(rulebook_row(SAMPLE_START_US, rulebook.id, rulebook.text, source))
    journals = _journals(rulebook, generate(rulebook, hits, seed), seed)
    for partition, entries in enumerate(journals):
        postbacks: list[Postback] = []
        for entry, outcome in _decide(entries, rulebook):
            rows["hits"].append(hit_row(entry, parameters(entry.hit) if entry.hit else {}))
            if outcome is not None:
                rows["decisions"].append(decision_row(partition, EPOCH, outcome))
                postbacks += outcome.postbacks
        rows["postbacks"] += [postback_row(partition, n, postback) for n, postback in enumerate(postbacks, 1)]
        rows["attempts"] += [attempt_row(partition, n, attempt) for n, attempt in enumerate(_deliver(postbacks), 1)]
    return rows


def hit_id(seed: int, index: int, time_us: int) -> str:
    """A UUIDv7 like the intake's, 32 hex digits, with bits from the seed in place of random ones."""
    bits = int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:10], "big")
    high = (time_us // 1000) << 16 | 0x7000 | bits >> 68
    return f"{high:016x}{1 << 63 | bits & (1 << 62) - 1:016x}"


def _journals(rulebook: Rulebook, requests: Iterable[Request], seed: int) -> list[list[Entry]]:
    """The entries of each partition: the rulebook takes effect, then the hits in the order they came."""
    journals = [[Entry(p, EPOCH, 1, SAMPLE_START_US, None, rulebook.id)] for p in range(PARTITIONS)]
    ids: list[str] = []
    for index, request in enumerate(requests):
        arrival_us = SAMPLE_START_US + request.offset_us
        received_at_us = arrival_us + AHEAD_US * (request.visitor % 2)
        ids.append(hit_id(seed, index, received_at_us))
        partition, hit = _take_in(to_hit(request, ids[index], received_at_us, ids), rulebook)
        journal = journals[partition]
        time_us = max(journal[-1].time_us, min(received_at_us, arrival_us + APPEND_US))
        journal.append(Entry(partition, EPOCH, len(journal) + 1, time_us, hit))
    return journals


def _take_in(hit: Hit, rulebook: Rulebook) -> tuple[int, Hit]:
    """What the intake finds: the partition, and the refusal that it answers."""
    parsed = parse(hit, rulebook)
    if isinstance(parsed, Rejection):
        hit = msgspec.structs.replace(hit, refusal=str(parsed.reason))
    return partition_of(parsed.client, PARTITIONS), hit


def _decide(entries: Iterable[Entry], rulebook: Rulebook) -> Iterator[tuple[Entry, Outcome | None]]:
    state = State()
    for entry in entries:
        outcome = process(entry, state, rulebook) if entry.hit is not None else None
        if outcome is not None and outcome.verdict == Verdict.ENGINE_ERROR:
            raise RuntimeError(f"the engine failed on hit {outcome.hit_id}, no tables were written: {outcome.detail}")
        yield entry, outcome


def _deliver(postbacks: Iterable[Postback]) -> list[Attempt]:
    """A clean delivery: everything due arrives, a few at the second try; in the order in which the tries ended."""
    attempts: list[Attempt] = []
    for postback in postbacks:
        if postback.state == PostbackState.DUE:
            attempts += _tries(postback)
    return sorted(attempts, key=lambda attempt: (attempt.time_us + attempt.duration_us, attempt.postback_id))


def _tries(postback: Postback) -> list[Attempt]:
    bits = hashlib.sha256(f"delivery {postback.id}".encode()).digest()
    wait_us = 4_000 + int.from_bytes(bits[:2], "big")
    duration_us = 1_500 + int.from_bytes(bits[2:4], "big") // 4
    first = _attempt(postback, 1, postback.time_us + wait_us, duration_us)
    if int.from_bytes(bits[4:8], "big") >= RETRY_SHARE * 2**32:
        return [first]
    due_us = first.time_us + duration_us + RETRY_AFTER_US + 10 * int.from_bytes(bits[8:10], "big")
    refused = msgspec.structs.replace(
        first, result="server_error", status=503, answer="busy, try again\n", state="due", next_due_us=due_us
    )
    return [refused, _attempt(postback, 2, due_us + wait_us, duration_us)]


def _attempt(postback: Postback, number: int, time_us: int, duration_us: int) -> Attempt:
    headers = {"webhook-id": postback.id, "webhook-timestamp": str(time_us // 1_000_000)}
    if postback.body:
        headers["content-type"] = "application/json"
    return Attempt(
        postback.id, number, time_us, postback.recipient, postback.verb, postback.url, postback.body, headers,
        "delivered", 200, "ok\n", "", duration_us, "delivered",
    )  # fmt: skip


def counts(rows: Rows) -> str:
    """What the day holds, as a Markdown table."""
    decisions = rows["decisions"]
    counted: list[tuple[str, Counter[str]]] = [
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


def write_counts(readme: Path, text: str) -> None:
    """Put the counts between the marks in the README."""
    head, mark, rest = readme.read_text(encoding="utf-8").partition(MARKS[0] + "\n")
    tail = rest.partition(MARKS[1])[2]
    readme.write_text(f"{head}{mark}{text}\n{MARKS[1]}{tail}", encoding="utf-8")


def forget_place(root: Path) -> None:
    """Take the folder's absolute path out of the tables' logs: only a note of where they were created, never read."""
    for log in root.glob("*/_delta_log/*.json"):
        actions = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for action in actions:
            action.get("commitInfo", {}).get("operationParameters", {}).pop("location", None)
        log.write_text("".join(json.dumps(action) + "\n" for action in actions), encoding="utf-8")


def rows_digest(root: Path) -> dict[str, str]:
    """Per table, a SHA-256 over all rows in a fixed order, whatever the files are called; "" for a missing table."""
    return {name: _digest(root, name) for name in SCHEMAS}


def _digest(root: Path, name: str) -> str:
    found = open_table(root, name)
    if found is None:
        return ""
    rows: list[Mapping[str, Any]] = found.to_pyarrow_table().select(SCHEMAS[name].names).to_pylist()
    lines = sorted(repr(list(row.values())) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def main() -> int:
    """Write the tables, unless they hold the very same rows already, and the counts in the README."""
    target = DATASETS / "tables"
    rules = (DATASETS / "rules.toml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=DATASETS, prefix=".tables-") as folder:
        fresh = Path(folder) / "tables"
        write_counts(DATASETS / "README.md", counts(build(fresh, rules)))
        if target.exists() and rows_digest(fresh) == rows_digest(target):
            print(f"{target}: unchanged")
            return 0
        forget_place(fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    print(f"{target}: written, {HITS:,} hits of seed {SEED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
