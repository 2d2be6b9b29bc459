"""One partition's road from journal to decisions: read a batch, decide it, commit it in one script."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from service import keys
from service.archive import past
from service.archive.tables import TableError
from service.engine import EMPTY, Entry, Event, Outcome, Rejection, Rulebook, RulebookError, parse, process
from service.engine.parse import BROWSER_ROUTES
from service.engine.triggers import drop_past_caps
from service.intake.entries import Unreadable, read
from service.keys import Partition
from service.rulebooks import Shelf
from service.scripts import Script
from service.settings import Settings
from service.tracking import poison
from service.tracking.store import Recording, commit_args, commit_keys, fetch
from service.tracking.sweep import Sweep

log = logging.getLogger("backtrack.tracking")

Items = Sequence[Entry | Unreadable]
# what says nothing about the hits: the batch is repeated, and never taken for poison
NOT_ITS_FAULT = (redis.RedisError, OSError, TableError, MemoryError)

PAST_ENTRIES = 5_000  # read from the tables at a time
HOUR_US = 3_600_000_000
GATHER_S = 0.01  # between two small commits: each costs three round trips and an fsync, however much it carries
MAX_TURN_S = 60.0  # then the actor makes room and wakes a successor, so that no time limit ever cuts it off


class FencedError(Exception):
    """Another actor holds the partition; what this one decided was not written and does not count."""


class Tracker:
    """Decides what waits in one partition, while it holds the partition."""

    def __init__(
        self,
        connection: redis.Redis,
        place: Partition,
        settings: Settings,
        shelf: Shelf,
        stopping: Callable[[], bool] = bool,
        sweep: Sweep | None = None,
    ) -> None:
        self._sweep = sweep or Sweep(connection, settings.keep_days)
        self._stopping = stopping
        self._redis = connection
        self._place = place
        self._settings = settings
        self._shelf = shelf
        self._commit = Script(connection, "tracking/commit")
        self._acquire = Script(connection, "tracking/acquire")
        self._release = Script(connection, "tracking/release")
        self._hold = Script(connection, "tracking/hold")
        self._fence = 0
        self._renewed_s = 0.0  # when the lease was last renewed; a commit does that too
        self._committed_s = 0.0
        self._epoch = 0
        self._seq = 0
        self._rulebook: Rulebook = EMPTY
        self._in_force = ""  # its id
        self._no_rulebook = ""  # why it cannot be had
        self._caps: dict[str, int] = {}
        self._caps_hour = 0  # of log time, in which the caps of earlier periods were dropped
        self._time_us = 0  # log time

    def run(self) -> bool:
        """Work until the partition has been quiet for a while. True if there is more to do (after a long turn)."""
        if not self._take():
            return False
        started, more = time.monotonic(), True
        while time.monotonic() - started < MAX_TURN_S and not self._stopping():
            entries = (self._read(block_ms=0) if more else []) or self._linger()
            more = not 0 < len(entries) < self._settings.batch_hits  # a short read was the end of the journal
            self._sweep.step(place=self._place, fence=self._fence, rulebook=self._rulebook, time_us=self._time_us)
            if entries:
                self._decide_all(entries)
            elif self._give_back():
                return False
        if self._give_back():
            return False
        self._drop_lease()
        return True

    def _take(self) -> bool:
        place = self._place
        self._fence = int(self._acquire([place.lease, place.fence, place.wake], [self._settings.lease_ms]))
        if not self._fence:
            return False
        tracked: Any = self._redis.hgetall(place.tracked)
        self._epoch, self._seq = int(tracked.get(b"epoch", 1)), int(tracked.get(b"seq", 0))
        self._time_us = int(tracked.get(b"time", 0))
        self._switch(tracked.get(b"rulebook", b"").decode())
        caps: Any = self._redis.hgetall(place.caps)
        self._caps = {key.decode(): int(count) for key, count in caps.items()}
        return True

    def _give_back(self) -> bool:
        place = self._place
        return bool(self._release([place.fence, place.lease, place.wake, place.head, place.tracked], [self._fence]))

    def _drop_lease(self) -> None:
        """Let a successor in although there is work left."""
        self._hold([self._place.fence, self._place.lease], [self._fence, 0])

    # reading

    def _read(self, block_ms: int) -> list[Entry | Unreadable]:
        found: Any = self._redis.xread(
            {self._place.journal: f"{self._epoch}-{self._seq}"},
            count=self._settings.batch_hits,
            block=block_ms or None,
        )
        items = (found[0][1] if isinstance(found, list) else next(iter(found.values()))) if found else []
        return [read(self._place.number, item_id, fields) for item_id, fields in items]

    def _linger(self) -> list[Entry | Unreadable]:
        """Wait on the journal, renewing the lease, so that idle latency is paid once and not per hit."""
        self._gather()
        deadline = time.monotonic() + self._settings.linger_ms / 1000
        a_part_ms = self._settings.lease_ms // 4
        while (left := deadline - time.monotonic()) > 0 and not self._stopping():
            if time.monotonic() - self._renewed_s > a_part_ms / 1000:
                self._renew()
            entries = self._read(block_ms=max(1, min(int(left * 1000), a_part_ms)))
            if entries:
                return entries
        return []

    def _gather(self) -> None:
        """Let hits come together after a commit; the first after a pause waits for nothing."""
        time.sleep(max(0.0, self._committed_s + GATHER_S - time.monotonic()))

    def _renew(self) -> None:
        self._renewed_s = time.monotonic()
        if not self._hold([self._place.fence, self._place.lease], [self._fence, self._settings.lease_ms]):
            raise FencedError("it took too long to come back")

    # deciding

    def _decide_all(self, entries: Items) -> None:
        for run in _runs(entries, self._settings.batch_bytes):
            if run[0].epoch > self._epoch:
                self._decide_past(run[0])
            self._decide(run)

    def _decide_past(self, first: Entry | Unreadable) -> None:
        """Decide what lies before the first entry of a new epoch and is in the tables alone, since Redis has lost it.

        State and postbacks are as they were then, so the outcomes are those that were stored. Some may be nowhere.
        """
        after = self._seq
        while after + 1 < first.seq:
            to = min(after + PAST_ENTRIES, first.seq - 1)
            entries = past.entries(self._settings.tables_path, self._place.number, after, to)
            self._renew()
            for run in _runs(entries, self._settings.batch_bytes):
                self._decide(run)
            after = to

    def _decide(self, entries: Items) -> None:
        """One run of entries under one rulebook; a rulebook entry comes alone, so does one that cannot be read."""
        first = entries[0]
        if isinstance(first, Unreadable):
            self._set_aside(first, poison.UNREADABLE, first.error)
            self._write(Recording(), [], first)
        elif first.hit is None:
            before = self._rulebook, self._in_force, self._no_rulebook
            self._switch(first.rulebook_id)
            if self._no_rulebook:
                self._set_aside(first, poison.NO_RULEBOOK, self._no_rulebook)
                self._rulebook, self._in_force, self._no_rulebook = before
            self._write(Recording(), [], first)
        else:
            self._decide_hits([entry for entry in entries if isinstance(entry, Entry)])

    def _switch(self, rulebook_id: str) -> None:
        """Put a rulebook in force here, or know why it cannot be."""
        self._in_force = rulebook_id
        try:
            self._rulebook, self._no_rulebook = self._shelf.get(rulebook_id), ""
        except (KeyError, RulebookError) as error:
            self._no_rulebook = str(error.args[0]) if error.args else str(error)

    def _decide_hits(self, entries: Sequence[Entry]) -> None:
        """Together, and if that is too much for anything of ours, one by one: whoever cannot be decided is set aside."""
        try:
            if self._no_rulebook:
                raise LookupError(self._no_rulebook)
            state, decided = self._outcomes(entries)
            self._drop_past_caps(state, entries[-1].time_us)
            args = commit_args(state, decided, self._place, self._settings.browser_keep_s)
        except NOT_ITS_FAULT:
            raise
        except Exception as bug:
            if len(entries) > 1:
                for entry in entries:
                    self._decide_hits([entry])
                return
            error = f"{type(bug).__name__}: {bug}"
            self._set_aside(entries[0], poison.UNDECIDABLE, error)
            state, decided = Recording(), [(entries[0].epoch, poison.outcome(entries[0], self._in_force, error))]
            args = commit_args(state, decided)
        self._write_args(args, entries[-1])
        self._tell_pages(entries)
        self._caps.update(state.new_caps)
        for key in state.dropped_caps:
            self._caps.pop(key, None)
        self._report(decided)

    def _outcomes(self, entries: Sequence[Entry]) -> tuple[Recording, list[tuple[int, Outcome]]]:
        parsed = [self._parsed(entry) for entry in entries]
        state = fetch(self._redis, self._place, [one for one in parsed if one is not None], self._caps)
        return state, [
            (entry.epoch, process(entry, state, self._rulebook, event))
            for entry, event in zip(entries, parsed, strict=True)
        ]

    def _drop_past_caps(self, state: Recording, time_us: int) -> None:
        """At most once in an hour of log time: no period is shorter."""
        hour = time_us // HOUR_US
        if hour != self._caps_hour:
            drop_past_caps(state, time_us)
            self._caps_hour = hour

    def _parsed(self, entry: Entry) -> Event | Rejection | None:
        """None for a hit that the parser has a bug with: the engine meets it again, and makes its own verdict of it."""
        assert entry.hit is not None
        try:
            return parse(entry.hit, self._rulebook)
        except Exception:
            return None

    def _set_aside(self, entry: Entry | Unreadable, reason: str, error: str) -> None:
        poison.note(self._redis, self._place, entry.epoch, entry.seq, reason, error)

    def _write(self, state: Recording, decided: list[tuple[int, Outcome]], last: Entry | Unreadable) -> None:
        self._write_args(commit_args(state, decided), last)

    def _write_args(self, lists: list[Any], last: Entry | Unreadable) -> None:
        args = [self._fence, self._settings.lease_ms, self._seq, last.epoch, last.seq, self._in_force, last.time_us]
        asked_s = time.monotonic()
        try:
            self._commit(commit_keys(self._place), [*args, *lists])
        except redis.ResponseError as error:
            if str(error).startswith(("FENCED", "POSITION")):
                raise FencedError(str(error)) from None
            raise
        self._renewed_s = asked_s
        self._committed_s = time.monotonic()
        self._epoch, self._seq, self._time_us = last.epoch, last.seq, last.time_us

    def _tell_pages(self, entries: Sequence[Entry]) -> None:
        """Answers to pages may wait for this. A message that nobody hears costs only time."""
        if self._rulebook.in_browsers:
            seen = [one.hit.id for one in entries if one.hit is not None and one.hit.route in BROWSER_ROUTES]
            if seen:
                self._redis.publish(keys.DECIDED, "".join(seen))

    def _report(self, decided: list[tuple[int, Outcome]]) -> None:
        for _, outcome in decided:
            if outcome.verdict == "engine_error":
                log.error("engine error at partition %d seq %d: %s", self._place.number, outcome.seq, outcome.detail)


def _runs(entries: Items, most_bytes: int) -> list[list[Entry | Unreadable]]:
    """Entries cut at everything that is no hit, which stands alone, and where a commit would become too large."""
    runs: list[list[Entry | Unreadable]] = []
    size = 0
    for entry in entries:
        own = 0 if entry.hit is None else len(entry.hit.query) + len(entry.hit.body)
        if entry.hit is None or not runs or runs[-1][-1].hit is None or size + own > most_bytes:
            runs.append([entry])
            size = own
        else:
            runs[-1].append(entry)
            size += own
    return runs
