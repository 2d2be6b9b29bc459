"""How far the tables are behind the answers, with real processes and load."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import polars as pl

from service.archive import tables
from service.servers import free_port
from tests.service.conftest import Servers
from tests.service.partitions import RULES
from tests.service.webprocess import Web, web_process
from tests.waiting import until

LOAD_S = 6.0
MOST_S = 5.0


def send(web: Web, acked: dict[str, float], ended: threading.Event, number: int) -> None:
    """Hits one after the other; id and moment of each answer."""
    with httpx.Client(base_url=web.base, trust_env=False) as client:
        while not ended.is_set():
            number += 7
            answer = client.get(f"/e?client=acme&event=pageview&uid=u{number % 500}&sub1={number}")
            acked[answer.headers["X-Hit-Id"]] = time.monotonic()


def stored(web: Web) -> set[str]:
    files = tables.files(web.settings.tables_path, "decisions")
    return set(pl.scan_parquet(files, glob=False).select("hit_id").collect()["hit_id"]) if files else set()


def test_an_answered_hit_is_in_the_tables_within_5_seconds(servers: Servers, tmp_path: Path) -> None:
    # given web and worker under load
    acked: dict[str, float] = {}
    ended = threading.Event()
    with web_process(tmp_path, servers.broker_url, free_port(), RULES) as web:
        command = [sys.executable, "-m", "service.cli", "worker"]
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(command, env={**os.environ, **web.settings.environment()}, stdout=log, stderr=log)
        threads = [threading.Thread(target=send, args=(web, acked, ended, number)) for number in range(3)]
        try:
            send_one = web.client.get("/e?client=acme&event=click").headers["X-Hit-Id"]
            until(lambda: send_one in stored(web), "the worker to archive")
            for thread in threads:
                thread.start()
            # when it is measured again and again how old the oldest answered hit is that no table holds
            behind = [0.0]
            end = time.monotonic() + LOAD_S
            while time.monotonic() < end:
                known, there = dict(acked), stored(web)
                missing = [moment for hit_id, moment in known.items() if hit_id not in there]
                behind.append(time.monotonic() - min(missing, default=time.monotonic()))
            ended.set()
            for thread in threads:
                thread.join()
            until(lambda: acked.keys() <= stored(web), "the last ones", timeout_s=MOST_S)
        finally:
            ended.set()
            worker.terminate()
            worker.wait(40)
    # then it is never older than 5 s, its decision with it
    print(f"{len(acked)} hits, {len(acked) / LOAD_S:.0f}/s; at most {max(behind):.1f} s behind")
    assert len(acked) > 200
    assert max(behind) < MOST_S
