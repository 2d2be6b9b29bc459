"""Small pasts, written as the archive writes them: the engine decides hand-written hits, the tables hold what it said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from service.archive import tables
from service.archive.schemas import Attempt, attempt_row, decision_row, hit_row, postback_row, rulebook_row, table
from service.engine import EMPTY, Entry, Hit, Outcome, Postback, Rulebook, State, load, process

START_US = 1_772_409_600_000_000  # 2026-03-02T00:00Z
SECOND_US = 1_000_000
PARTITIONS = {"acme": 3, "bolt": 5}

RULES = """
[client.acme]
params = ["country", "sub1"]
webhook = "http://acme.example/events"

[client.bolt]
params = ["sub1"]
webhook = "http://bolt.example/hook?order={txid}&amount={amount}&id={postback_id}"

[affiliate.best]
params = ["sub1"]
webhook = "http://best.example/pb?cid={sub1}&sum={payout}&cur={payout_currency}"

[affiliate.silent]
name = "has no endpoint"

[[trigger]]
name = "signup"
client = "acme"
on = "registration"
after = ["click"]
once = "visitor"
payout = { fixed = "2.00", currency = "EUR" }
to = ["client", "affiliate"]

[[trigger]]
name = "deposit"
client = "acme"
on = "sale"
when = 'amount >= 20 and country == "DE"'
payout = { percent = "25", of = "amount" }
to = ["client", "affiliate"]

[[trigger]]
name = "order"
client = "bolt"
on = "sale"
payout = { percent = "10", of = "amount" }
to = ["client"]
"""


class Past:
    """A past being written: publish rulebooks, let hits happen, then store the tables in a folder."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.outcomes: list[tuple[int, int, Outcome]] = []
        self.attempts: list[tuple[int, Attempt]] = []
        self.texts: list[str] = []
        self.lost: set[str] = set()  # ids of hits whose postbacks never reach the table
        self.now_us = START_US
        self._rulebook: Rulebook = EMPTY
        self._states = {partition: State() for partition in PARTITIONS.values()}
        self._last = dict.fromkeys(PARTITIONS.values(), 0)
        self._hits = 0

    def publish(self, text: str) -> None:
        """A rulebook takes effect in every partition."""
        self.texts.append(text)
        self._rulebook = load(text)
        for partition in self._states:
            self.entries.append(Entry(partition, 1, self._next(partition), self.now_us, None, self._rulebook.id))

    def hit(self, query: str, path: str = "/e", after_s: int = 60) -> Outcome:
        """A GET comes in, is logged and decided."""
        self.now_us += after_s * SECOND_US
        self._hits += 1
        hit_id, route = f"{self._hits:032x}", path.split("/")[1]
        return self.take(
            Hit(hit_id, self.now_us, route, "GET", path.encode(), query.encode(), address="192.0.2.1")
        )  # fmt: skip

    def take(self, hit: Hit) -> Outcome:
        """A hit is logged and decided."""
        target = (hit.path + b"?" + hit.query).decode(errors="replace")
        named = target.split("/")[2] if target.startswith("/c/") else target.partition("client=")[2].partition("&")[0]
        partition = PARTITIONS.get(named, 3)
        entry = Entry(partition, 1, self._next(partition), self.now_us, hit)
        outcome = process(entry, self._states[partition], self._rulebook)
        self.entries.append(entry)
        self.outcomes.append((partition, 1, outcome))
        return outcome

    def outcomes_in_order(self) -> list[tuple[int, int, Outcome]]:
        """The outcomes by partition and seq, as a run lists them."""
        return sorted(self.outcomes, key=lambda placed: (placed[0], placed[2].seq))

    @property
    def postbacks(self) -> list[tuple[int, Postback]]:
        """(partition, postback) of everything promised."""
        return [(partition, postback) for partition, _, outcome in self.outcomes for postback in outcome.postbacks]

    def deliver(self) -> None:
        """Every due postback is delivered at the first attempt."""
        for partition, postback in self.postbacks:
            if postback.state == "due":
                self.attempts.append((partition, attempt_at(postback, self.now_us + SECOND_US)))

    def store(self, root: Path) -> Path:
        """Write all tables, in two commits for the hits, and name the folder."""
        half = len(self.entries) // 2
        for part in (self.entries[:half], self.entries[half:]):
            _append(root, "hits", [hit_row(entry, {}) for entry in part])
        _append(root, "decisions", [decision_row(*placed) for placed in self.outcomes])
        promised = [(p, postback) for p, postback in self.postbacks if postback.hit_id not in self.lost]
        _append(root, "postbacks", [postback_row(p, n, postback) for n, (p, postback) in enumerate(promised, 1)])
        _append(root, "attempts", [attempt_row(p, n, attempt) for n, (p, attempt) in enumerate(self.attempts, 1)])
        _append(root, "rulebooks", [rulebook_row(START_US, load(text).id, text, "rules.toml") for text in self.texts])
        return root

    def _next(self, partition: int) -> int:
        self._last[partition] += 1
        return self._last[partition]


def _append(root: Path, name: str, rows: list[dict[str, object]]) -> None:
    tables.append(root, name, table(name, rows), tables.open_table(root, name))


def attempt_at(postback: Postback, time_us: int, **changed: object) -> Attempt:
    """A successful attempt of a postback, with some fields changed."""
    attempt = Attempt(
        postback.id, 1, time_us, postback.recipient, postback.verb, postback.url, postback.body,
        {"webhook-id": postback.id}, "delivered", 200, "ok", "", 4_000, "delivered",
    )  # fmt: skip
    return msgspec.structs.replace(attempt, **changed)


def receipt_of(postback: Postback, **changed: object) -> dict[str, object]:
    """What the partner writes down for a postback, with some fields changed."""
    parts = urlsplit(postback.url)
    return {
        "time_us": postback.time_us, "method": postback.verb, "path": parts.path, "query": parts.query,
        "headers": {"webhook-id": postback.id}, "body": postback.body, "status": 200,
    } | changed  # fmt: skip


def live_through(past: Past) -> None:
    """A short day: a visitor of acme by affiliate best, one by silent, two of bolt, a duplicate, broken hits, a test."""
    click = past.hit("sub1=a%20b&country=DE", "/c/acme/best")
    past.hit(f"client=acme&event=registration&click_id={click.hit_id}&uid=anna")
    past.hit("client=acme&event=sale&uid=anna&amount=50.00&currency=EUR&txid=t1")
    past.hit("client=acme&event=sale&uid=anna&amount=50.00&currency=EUR&txid=t1")
    past.hit("client=acme&event=sale&uid=anna&amount=19.99&currency=EUR&txid=t2")
    other = past.hit("country=DE", "/c/acme/silent")
    past.hit(f"client=acme&event=sale&click_id={other.hit_id}&amount=80&currency=EUR&txid=t3")
    past.hit("client=bolt&event=sale&uid=ben&amount=99.95&currency=USD&txid=b1")
    past.hit("client=bolt&event=sale&uid=carla&amount=10&currency=USD&txid=b2&test=1")
    past.hit("client=nobody&event=sale")
    past.hit("client=acme&event=sale&amount=12,50")


@pytest.fixture
def past() -> Past:
    """A short day as logged, everything delivered, not stored yet."""
    past = Past()
    past.publish(RULES)
    live_through(past)
    past.deliver()
    return past


@pytest.fixture
def tables_of(tmp_path: Path) -> Callable[[Past], Path]:
    """Store a past below the test's folder."""
    return lambda past: past.store(tmp_path / "tables")


@pytest.fixture
def record(tmp_path: Path) -> Callable[[list[dict[str, object]]], Path]:
    """Write what the partner received as a file of JSON lines."""

    def write(receipts: list[dict[str, object]]) -> Path:
        path = tmp_path / "received.jsonl"
        path.write_text("".join(json.dumps(receipt) + "\n" for receipt in receipts), encoding="utf-8")
        return path

    return write
