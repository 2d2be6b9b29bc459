"""Broken requests over raw sockets, and a count of what became of them. `fuzz_requests` makes them.

`Lane` is a connection that pipelines, is sometimes slow, and sometimes goes away in the middle. `Fuzz` sends by many lanes,
so that the server has something to do for all of them, compares what was answered with what lies in the journal, and
empties it on the way. One thread: each lane sends before any is read.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from typing import Any, NamedTuple

import msgspec
import redis

from service import keys
from service.engine import Hit, Rejection, Rulebook, parse
from tests.service.fuzz_requests import Requests

RULES = """
[client.acme]
landing = "https://acme.example/welcome?cid={click_id}"
params = ["country", "sub1"]
aliases = { subid = "click_id" }
[client.bolt]
landing = "https://bolt.example/{sub1|raw}"
params = ["sub1"]
bots = "reject"
[client.signed]
sig_secret = "env:FUZZ_SIG"
[client.near]
addresses = ["203.0.113.0/24"]
"""
MAX_PIPELINE = 16

_hit = msgspec.msgpack.Decoder(Hit).decode


class Answered(NamedTuple):
    """One answer. told: id to reason ("" for what counts) of every hit that it names."""

    status: int
    told: dict[str, str]


class Lane:
    """A connection; a new one when the last is over."""

    def __init__(self, place: tuple[str, int]) -> None:
        self._place = place
        self._wire: socket.socket | None = None
        self._buffer = b""
        self._rest = b""
        self._sent = b""
        self._waiting: list[bool] = []  # for each answer that is to come, whether it has no body
        self._closing = False

    def send(self, requests: Requests, most: int) -> int:
        """Send some requests, at times only a part of their bytes; returns how many."""
        random = requests.random
        if self._wire is None:
            self._wire = socket.create_connection(self._place, timeout=60)
            self._buffer = b""
        if random.random() < 0.04:
            self._wire.sendall(requests.cut())
            self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", random.random() < 0.5, 0))
            self.close()
            return 1
        if random.random() < 0.15:
            self._closing = True
            data, count = requests.last(), 1
        else:
            sent = [requests.plain() for _ in range(min(most, random.randint(1, MAX_PIPELINE)))]
            self._waiting = [one.bodiless for one in sent]
            data, count = b"".join([one.data for one in sent]), len(sent)
        self._sent = data
        cut = random.randrange(len(data)) if random.random() < 0.1 else len(data)
        self._rest = data[cut:]
        self._push(data[:cut])
        return count

    def receive(self) -> list[Answered]:
        """Send what is left and read all answers that are to come."""
        if self._wire is None:
            return []
        if self._rest:
            self._push(self._rest)
            self._rest = b""
        if self._closing:
            return self._until_the_end()
        found = [self._answer(bodiless) for bodiless in self._waiting]
        self._waiting = []
        return found

    def close(self) -> None:
        """Let go of the connection."""
        if self._wire is not None:
            self._wire.close()
        self._wire, self._closing, self._waiting, self._rest = None, False, [], b""

    def _push(self, data: bytes) -> None:
        assert self._wire is not None
        try:
            self._wire.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            if not self._closing:
                raise  # the server hung up on somebody who may go on

    def _until_the_end(self) -> list[Answered]:
        assert self._wire is not None
        try:
            while data := self._wire.recv(1 << 18):
                self._buffer += data
        except ConnectionResetError:
            pass
        found = []
        while self._buffer:
            found.append(self._answer(False))
        self.close()
        return found

    def _answer(self, bodiless: bool) -> Answered:
        while True:
            head = self._take(self._end(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            if status >= 200:
                break
        length = 0 if bodiless or status in (204, 304) else int(_header(head, b"content-length") or 0)
        body = self._take(length)
        told = {}
        hit_id = _header(head, b"x-hit-id").decode()
        if hit_id:
            told[hit_id] = _header(head, b"x-reason").decode()
        elif b"\r\nx-stored:" in head:
            told = dict(_line(line) for line in body.splitlines() if b"not_stored" not in line[:30])
        return Answered(status, told)

    def _end(self, mark: bytes) -> int:
        while (at := self._buffer.find(mark)) < 0:
            self._more()
        return at + len(mark)

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._more()
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken

    def _more(self) -> None:
        assert self._wire is not None
        data = self._wire.recv(1 << 18)
        if not data:
            raise AssertionError(f"the connection ended before its answer: {self._buffer[:200]!r}; sent {self._sent!r}")
        self._buffer += data


def _header(head: bytes, name: bytes) -> bytes:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else b""


def _line(line: bytes) -> tuple[str, str]:
    """Id and reason of a line of a batch's answer, be it text or JSON."""
    if line.startswith(b"{"):
        document: dict[str, str] = msgspec.json.decode(line)
        return document["id"], document.get("reason", "")
    words = line.partition(b": ")[0].decode().split()
    return words[1], words[2] if words[0] == "rejected" else ""


class Fuzz:
    """Sends, counts and compares. connection: to the journal, which is emptied on the way."""

    def __init__(
        self,
        place: tuple[str, int],
        connection: redis.Redis,
        partitions: int,
        rulebook: Rulebook,
        seed: int,
        lanes: int = 24,
    ) -> None:
        self.statuses: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.requests = self.ids = self.accepted = self.rejected = self.left = 0
        self._requests = Requests(seed)
        self._lanes = [Lane(place) for _ in range(lanes)]
        self._connection = connection
        self._rulebook = rulebook
        self._told: dict[str, str] = {}
        self._next = dict.fromkeys(range(partitions), 1)

    def run(self, count: int, check_every: int = 20_000) -> None:
        """Send so many requests. Raises AssertionError for a 5xx, and where log and answers differ."""
        checked = 0
        while self.requests < count:
            for lane in self._lanes:
                self.requests += lane.send(self._requests, max(1, count - self.requests))
            for lane in self._lanes:
                for answered in lane.receive():
                    self.statuses[answered.status] += 1
                    assert answered.status < 500, answered
                    self._told.update(answered.told)
                    self.ids += len(answered.told)
            if self.requests - checked >= check_every:
                self.compare()
                checked = self.requests
        for lane in self._lanes:
            lane.close()

    def compare(self) -> None:
        """Hold the log against the answers. Every id is logged once, decided as it was told; nobody else's hit is there but
        of those who went away."""
        for number in self._next:
            for seq, hit in self._read(number):
                assert seq == self._next[number], f"partition {number} goes on with {seq}, not {self._next[number]}"
                self._next[number] += 1
                if hit is not None:
                    self._settle(hit)

    def _settle(self, hit: Hit) -> None:
        found = parse(hit, self._rulebook)
        reason = found.reason if isinstance(found, Rejection) else ""
        assert reason == hit.refusal, hit
        if {"disconnected", "do_not_track"} & {
            *hit.flags
        } and hit.id not in self._told:  # of the latter no more is kept
            self.left += 1  # nobody was there to be told
            return
        assert self._told.pop(hit.id, None) == reason, f"logged and not told so: {hit}"
        self.reasons[reason] += 1
        if reason:
            self.rejected += 1
        else:
            self.accepted += 1

    def _read(self, number: int) -> list[tuple[int, Hit | None]]:
        """The entries of a partition so far, which are taken out of the journal."""
        place = keys.Partition(number)
        items: Any = self._connection.xrange(place.journal)
        if items:
            self._connection.xtrim(place.journal, maxlen=0, approximate=False)
        return [
            (int(name.partition(b"-")[2]), _hit(fields[b"h"]) if b"h" in fields else None) for name, fields in items
        ]

    @property
    def unlogged(self) -> int:
        """Ids that were told and are not in the log, after `compare`."""
        return len(self._told)
