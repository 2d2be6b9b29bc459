"""The tables that a service would have written for some requests: logged, decided by the engine, delivered by a model.

All rows follow from the requests, the rulebooks and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lab.delivering import Outage, deliver
from lab.traffic import SAMPLE_START_US, Request, to_hit
from service.archive.schemas import SCHEMAS, attempt_row, decision_row, hit_row, postback_row, rulebook_row, table
from service.archive.tables import append
from service.engine import (
    EMPTY,
    Entry,
    Hit,
    Outcome,
    Postback,
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

PARTITIONS = 16
EPOCH = 1
AHEAD_US = 40_000  # the clock of the second web process is fast, so that arrival and log time differ for its hits
APPEND_US = 200  # from the arrival to the journal

Rows = dict[str, list[dict[str, Any]]]


class Published(msgspec.Struct, frozen=True):
    """A rulebook that takes effect at an offset (microseconds since the start). source: where it is from."""

    offset_us: int
    text: str
    source: str = "rules.toml"


def rows_of(
    requests: Sequence[Request], published: Sequence[Published], seed: int, start_us: int = SAMPLE_START_US,
    outages: Sequence[Outage] = (),
) -> Rows:  # fmt: skip
    """The rows of every table, each in the order of its partition and number. published: in the order of their times."""
    books = [(start_us + one.offset_us, load(one.text), one.source) for one in published]
    rows: Rows = {name: [] for name in SCHEMAS}
    rows["rulebooks"] += [rulebook_row(at_us, book.id, book.text, source) for at_us, book, source in books]
    library = {book.id: book for _, book, _ in books}
    journals = _journals(requests, [(at_us, book) for at_us, book, _ in books], seed, start_us)
    for partition, entries in enumerate(journals):
        postbacks: list[Postback] = []
        for entry, outcome in _decide(entries, library):
            rows["hits"].append(hit_row(entry, parameters(entry.hit) if entry.hit else {}))
            if outcome is not None:
                rows["decisions"].append(decision_row(partition, EPOCH, outcome))
                postbacks += outcome.postbacks
        rows["postbacks"] += [postback_row(partition, n, postback) for n, postback in enumerate(postbacks, 1)]
        attempts = deliver(postbacks, outages)
        rows["attempts"] += [attempt_row(partition, n, attempt) for n, attempt in enumerate(attempts, 1)]
    return rows


def write(root: Path, rows: Rows) -> None:
    """Append the rows to the tables below `root`, each in one commit."""
    for name, made in rows.items():
        append(root, name, table(name, made))


def hit_ids(requests: Sequence[Request], seed: int, start_us: int) -> list[str]:
    """The id of the hit of each request."""
    return [
        hit_id(seed, index, start_us + request.offset_us + AHEAD_US * (request.visitor % 2))
        for index, request in enumerate(requests)
    ]


def hit_id(seed: int, index: int, time_us: int) -> str:
    """A UUIDv7 like the intake's, 32 hex digits, with bits from the seed in place of random ones."""
    bits = int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:10], "big")
    high = (time_us // 1000) << 16 | 0x7000 | bits >> 68
    return f"{high:016x}{1 << 63 | bits & (1 << 62) - 1:016x}"


def _journals(
    requests: Sequence[Request], books: Sequence[tuple[int, Rulebook]], seed: int, start_us: int
) -> list[list[Entry]]:
    """The entries of each partition: rulebooks take effect in all of them, hits come in their order."""
    journals: list[list[Entry]] = [[] for _ in range(PARTITIONS)]
    current, waiting = EMPTY, list(books)
    ids = hit_ids(requests, seed, start_us)
    for index, request in enumerate(requests):
        arrival_us = start_us + request.offset_us
        while waiting and waiting[0][0] <= arrival_us:
            current = _publish(journals, *waiting.pop(0))
        received_at_us = arrival_us + AHEAD_US * (request.visitor % 2)
        partition, hit = _take_in(to_hit(request, ids[index], received_at_us, ids), current)
        journal = journals[partition]
        last_us = journal[-1].time_us if journal else 0
        time_us = max(last_us, min(received_at_us, arrival_us + APPEND_US))
        journal.append(Entry(partition, EPOCH, len(journal) + 1, time_us, hit))
    for at_us, book in waiting:
        _publish(journals, at_us, book)
    return journals


def _publish(journals: list[list[Entry]], at_us: int, rulebook: Rulebook) -> Rulebook:
    for partition, journal in enumerate(journals):
        time_us = max(at_us, journal[-1].time_us if journal else 0)
        journal.append(Entry(partition, EPOCH, len(journal) + 1, time_us, None, rulebook.id))
    return rulebook


def _take_in(hit: Hit, rulebook: Rulebook) -> tuple[int, Hit]:
    """What the intake finds: the partition, and the refusal that it answers."""
    parsed = parse(hit, rulebook)
    if isinstance(parsed, Rejection):
        hit = msgspec.structs.replace(hit, refusal=str(parsed.reason))
    return partition_of(parsed.client, PARTITIONS), hit


def _decide(entries: Iterable[Entry], library: dict[str, Rulebook]) -> Iterator[tuple[Entry, Outcome | None]]:
    state, rulebook = State(), EMPTY
    for entry in entries:
        if entry.hit is None:
            rulebook = library[entry.rulebook_id]
            yield entry, None
            continue
        outcome = process(entry, state, rulebook)
        if outcome.verdict == Verdict.ENGINE_ERROR:
            raise RuntimeError(f"the engine failed on hit {outcome.hit_id}, no tables were written: {outcome.detail}")
        yield entry, outcome
