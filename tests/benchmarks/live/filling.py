"""A journal filled with hits, as the intake would have left it."""

from __future__ import annotations

import time

from service.engine import Hit
from service.engine.partition import partition_of
from service.intake.ids import new_hit_id
from service.servers import client
from service.settings import Settings
from tests.benchmarks.live.requests import requests
from tests.service.partitions import store

AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def fill(settings: Settings, count: int) -> None:
    """Append hits in batches of the usual size, to the partitions in turn."""
    waiting: dict[int, list[Hit]] = {}
    with client(settings.journal_url) as connection:
        for request in requests(count):
            number = partition_of(request.client, settings.partitions)
            waiting.setdefault(number, []).append(hit_of(request.data))
            if len(waiting[number]) == settings.batch_hits:
                store(connection, number, waiting.pop(number))
        for number, hits in waiting.items():
            store(connection, number, hits)


def hit_of(request: bytes) -> Hit:
    """A GET as the intake logs it."""
    path, _, query = request.split(b" ", 2)[1].partition(b"?")
    now = time.time_ns() // 1000
    return Hit(new_hit_id(now), now, "e", "GET", path, query, b"", "", "127.0.0.1", AGENT, "")
