"""`/metrics` over real HTTP with a real Redis: what an operator sees of hits on their way, and while something is away."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from service import keys
from service.admin.metrics import METRICS
from service.archive.writer import Archiver
from service.engine.model import Reason
from service.engine.partition import partition_of
from service.servers import free_port
from tests.service.conftest import Servers
from tests.service.partitions import RULES, track_all
from tests.service.scraped import Page
from tests.service.webprocess import Reply, Web, web_process
from tests.waiting import until

README = (Path(__file__).parents[2] / "service" / "admin" / "README.md").read_text(encoding="utf-8")
PARTITIONS = 4
ACME = str(partition_of("acme", PARTITIONS))


@pytest.fixture(scope="module")
def web(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("metrics")
    with web_process(folder, servers.broker_url, free_port(), RULES, partitions=PARTITIONS) as process:
        yield process


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Two web workers behind one port, a spool that takes nothing, and no broker."""
    folder = tmp_path_factory.mktemp("crowd")
    changes = {"partitions": PARTITIONS, "web_workers": 2, "spool_floor_mb": 1_000_000_000}
    with web_process(folder, f"redis://127.0.0.1:{free_port()}/0", free_port(), RULES, **changes) as process:
        yield process


def get(web: Web, path: str) -> Reply:
    """An answer, over a connection of its own, so that any worker may give it."""
    (reply,) = web.talk(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return reply


def scraped(web: Web) -> Page:
    """The page."""
    reply = get(web, "/metrics")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return Page(reply.body.decode())


def shows(web: Web, condition: Callable[[Page], object], what: str) -> Page:
    """The first page of which the condition holds; one page is given out for a second."""

    def page() -> Page | None:
        found = scraped(web)
        return found if condition(found) else None

    found = until(page, f"a page that shows {what}")
    assert found is not None
    return found


def anew(web: Web) -> Page:
    """A page that was made after this call."""
    last = scraped(web)("journal_look_seconds")  # no two looks take the same time
    return shows(web, lambda page: page("journal_look_seconds") != last, "another look")


def send(web: Web, query: str, times: int = 1) -> None:
    for _ in range(times):
        assert get(web, f"/e?{query}").headers["x-hit-id"]


def archive(web: Web) -> None:
    with web.connect() as connection:
        Archiver(connection, web.settings.tables_path, PARTITIONS, 20_000).round()


def test_the_readme_has_every_metric_with_its_kind_its_labels_and_its_meaning(web: Web) -> None:
    # given the table of the README
    rows = re.findall(r"^\| `(backtrack_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", README, flags=re.MULTILINE)
    # then it is that of the code
    assert rows == [(one.name, one.kind, ", ".join(f"`{label}`" for label in one.labels), one.means) for one in METRICS]
    # and whatever its alerts ask for stands on the page
    page = scraped(web)
    assert page.kinds.items() <= {one.name: one.kind for one in METRICS}.items()
    alerts = re.findall(r"^\| `([^`]*backtrack_[^`]*)` \| \d+ (?:s|min) \|", README, flags=re.MULTILINE)
    assert len(alerts) > 8
    assert set(re.findall(r"backtrack_\w+", " ".join(alerts))) <= page.kinds.keys()


def test_hits_are_seen_at_every_station_of_their_road(web: Web) -> None:
    # given a page, and hits that nobody decides yet: sales with a postback each, one refused, one a test
    before = anew(web)
    send(web, "client=acme&event=sale&amount=40&currency=EUR&affiliate=best&uid=u", times=5)
    send(web, "client=acme&event=sale&amount=nonsense")
    send(web, "client=acme&event=click&test=1&uid=t")
    acknowledged = before("hits_acknowledged_total") + 7
    page = shows(web, lambda page: page("hits_acknowledged_total") == acknowledged, "7 hits more")
    # then they are logged, wait for tracking, and nobody holds their partition
    assert page("entries_logged_total") == before("entries_logged_total") + 7
    behind = page("tracking_behind_entries", partition=ACME)
    assert behind >= 7 and page("tracking_behind_seconds", partition=ACME) > 0 and page("partitions_left") >= 1
    assert (
        page("archive_behind_rows", table="hits") == page("entries_logged_total") == page("stream_items", table="hits")
    )
    assert page("archive_behind_seconds", table="hits") >= page("tracking_behind_seconds", partition=ACME)
    assert page("hits_decided_total") == page("visitors") == page("postbacks_total") == 0
    # when they are decided
    with web.connect() as connection:
        track_all(connection, web.settings)
    page = shows(web, lambda page: page("hits_decided_total"), "decisions")
    # then each counts by its verdict, and waits for delivery and archive
    assert page("hits_decided_total", verdict="accepted", reason="", kind="live") == 5
    assert page("hits_decided_total", verdict="accepted", reason="", kind="test") == 1
    assert page("hits_decided_total", verdict="rejected", reason="invalid_amount", kind="live") == 1
    assert page("hits_decided_total") == 7
    assert page("tracking_behind_entries") == page("tracking_behind_seconds") == page("partitions_left") == 0
    assert page("visitors") == 2 and page("identifiers") == 2
    assert page("postbacks_total") == page("postbacks_waiting", state="due") == 3  # of the first three sales
    assert page("delivery_behind_seconds") > 0
    assert page("archive_behind_seconds", table="decisions") > 0 and page("archive_behind_rows", table="decisions") >= 7
    # and when they are archived, nothing is behind
    archive(web)
    page = shows(web, lambda page: not page("archive_behind_rows"), "no row behind")
    assert page("archive_behind_seconds") == 0 and page("entries_logged_total") == before("entries_logged_total") + 7


def test_each_line_of_a_batch_has_an_answer(web: Web) -> None:
    # given a batch of two lines, one of them refused
    before = anew(web)
    web.client.post("/e/batch?client=acme", content=b'{"event": "click"}\n{"event": 5, "amount": []}\n')
    # then both are acknowledged
    shows(web, lambda page: page("hits_acknowledged_total") == before("hits_acknowledged_total") + 2, "two more")


def test_every_reason_stands_there_before_it_happens(web: Web) -> None:
    # then a rise from nothing can be told
    page = scraped(web)
    for reason in Reason:
        assert page("hits_decided_total", verdict="rejected", reason=reason.value, kind="live") >= 0
    assert page("hits_decided_total", verdict="engine_error", reason="", kind="live") == 0


def test_it_names_nobody(web: Web) -> None:
    # given hits and postbacks of acme and best
    send(web, "client=acme&event=sale&amount=40&affiliate=best&uid=somebody")
    with web.connect() as connection:
        track_all(connection, web.settings)
        assert connection.hlen(keys.Partition(int(ACME)).promises)
    # then without a token everybody may read the page
    assert not re.search(b"acme|best|somebody|127.0.0.1", get(web, "/metrics").body)


def test_however_often_it_is_asked_redis_is_asked_once_a_second(web: Web) -> None:
    # given how often the journal's Redis was asked for figures
    def asked(connection: redis.Redis) -> dict[str, int]:
        told = connection.info("commandstats")
        return {name.removeprefix("cmdstat_"): one["calls"] for name, one in told.items()}

    with web.connect() as connection:
        before, started = asked(connection), time.monotonic()
        # when a hundred pages are asked for
        for _ in range(100):
            assert web.client.get("/metrics").status_code == 200
        took, after = time.monotonic() - started, asked(connection)
    # then it was asked once a second, and never for all its keys
    assert after["eval"] - before["eval"] <= took + 2
    assert not {"keys", "scan", "hscan", "sscan", "zscan"} & after.keys() - before.keys()


def test_while_the_journal_is_away_the_rest_is_told(web: Web) -> None:
    # given a journal that is killed
    before = anew(web)
    web.server.kill()
    # when hits come
    send(web, "client=acme&event=click&uid=away", times=3)
    page = shows(web, lambda page: page("spool_bytes") > 0, "a spool")
    # then they are counted, lie in the spool, and nothing is said about what Redis knows
    assert page("journal_up") == 0 and page("broker_up") == 1 and page("spool_files") == 1
    assert page("hits_acknowledged_total") == before("hits_acknowledged_total") + 3
    assert page("spool_free_bytes") > page("spool_floor_bytes") == 0
    known = {"build_info", "broker_up", "journal_up", "hits_acknowledged_total", "hits_not_stored_total", "spool_files",
             "spool_bytes", "spool_free_bytes", "spool_floor_bytes"}  # fmt: skip
    assert page.kinds.keys() == {f"backtrack_{name}" for name in known}
    # and when it is back, all of it is told again
    web.server.start()
    page = shows(web, lambda page: page("journal_up") and not page("spool_files"), "the journal, and no spool")
    assert page("entries_logged_total") == before("entries_logged_total") + 3
    assert page("journal_epoch") == 1 and page.kinds.keys() == before.kinds.keys()


def test_while_the_journal_hangs_a_page_comes_in_time(web: Web) -> None:
    # given a journal that takes connections and answers nothing
    with web.server.hanging():
        page = shows(web, lambda page: not page("journal_up"), "that the journal is away")
        # then two pages take less than Prometheus waits for one
        started = time.monotonic()
        assert shows(web, lambda page: page("spool_files") == 0, "the spool") and time.monotonic() - started < 10
    assert page("spool_files") == 0
    shows(web, lambda page: page("journal_up"), "the journal")


def test_a_journal_without_memory_says_so(web: Web) -> None:
    # given a journal that is full
    with web.connect() as connection:
        connection.config_set("maxmemory", 1)
        try:
            # when a hit comes
            send(web, "client=acme&event=click&uid=full")
            page = shows(web, lambda page: page("spool_bytes") > 0, "a spool")
        finally:
            connection.config_set("maxmemory", 0)
    # then the page tells both
    assert page("journal_up") == 1
    assert page("redis_memory_bytes") > page("redis_memory_limit_bytes") == 1
    page = shows(web, lambda page: not page("spool_files"), "no spool")
    assert page("redis_memory_limit_bytes") > page("redis_memory_bytes") and page("redis_log_ok") == 1


def test_whichever_worker_answers_says_the_same(crowd: Web) -> None:
    # given two workers and hits, each over a connection of its own
    assert len(crowd.workers()) == 2
    send(crowd, "client=acme&event=click&uid=u", times=40)
    # then both count them, as soon as they have told each other
    shows(crowd, lambda page: page("hits_acknowledged_total") == 40, "all hits")
    until(lambda: [scraped(crowd)("hits_acknowledged_total") for _ in range(20)] == [40] * 20, "the same of both")
    # and when nothing can be stored
    crowd.server.kill()
    for _ in range(20):
        assert get(crowd, "/e?client=acme&event=click").status == 503
    page = shows(crowd, lambda page: page("hits_not_stored_total") == 20, "all that was lost")
    assert page("journal_up") == 0 and page("spool_free_bytes") < page("spool_floor_bytes")
    assert page("broker_up") == 0
    # then nothing of it is forgotten by a restart, and what is refused while no rulebook is known counts too
    crowd.end()
    (crowd.settings.spool_path / "rulebook.toml").unlink()
    crowd.spawn()
    until(lambda: crowd.ready("/healthz"), "the web process")
    assert get(crowd, "/e?client=acme&event=click").status == 503
    page = shows(crowd, lambda page: page("hits_not_stored_total") == 21, "what was lost before and after")
    assert page("hits_acknowledged_total") == 40
