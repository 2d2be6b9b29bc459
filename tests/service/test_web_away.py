"""`backtrack web` that starts while Redis is away: it answers by the last rulebook it knew and spools what comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.servers import free_port
from tests.service.conftest import Servers
from tests.service.webprocess import Web, web_process
from tests.waiting import until

RULES = '[client.acme]\nlanding = "https://acme.example/?cid={click_id}"\n'


@pytest.fixture
def web(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web_process(tmp_path_factory.mktemp("away"), servers.broker_url, free_port(), RULES) as running:
        yield running


def spools(web: Web) -> list[object]:
    return list(web.settings.spool_path.glob("*.spool"))


def test_it_starts_without_redis_and_what_it_takes_arrives_later(web: Web) -> None:
    # given a journal that is dead when the process starts anew
    web.server.kill()
    web.end()
    web.start()
    # when an event and a visitor come
    ready = web.client.get("/readyz")
    event, click = web.client.get("/e?client=acme&event=sale"), web.client.get("/c/acme/best")
    unknown = web.client.get("/e?client=nobody&event=sale")
    # then they are answered by the last rulebook, and stored on disk
    assert ready.status_code == 200 and "the journal is away" in ready.text and "go to the spool" in ready.text
    assert (event.status_code, click.status_code, unknown.status_code) == (200, 302, 422)
    assert click.headers["x-hit-id"] in click.headers["location"] and spools(web)
    # and when the journal is back, they are in it
    web.server.start()
    until(lambda: not spools(web), "the spool to drain")
    for answer in (event, click, unknown):
        assert web.entry(answer.headers["x-hit-id"]).hit is not None
    assert "is away" in (web.settings.var / "web.log").read_text()


@pytest.mark.parametrize("kept", ["", "[client.acme\n"])
def test_without_any_rulebook_nothing_is_promised_or_refused(web: Web, kept: str) -> None:
    # given a process that has never seen a rulebook, or whose copy is broken, and a dead journal
    web.server.kill()
    web.end()
    copy = web.settings.spool_path / "rulebook.toml"
    if kept:
        copy.write_text(kept)
    else:
        copy.unlink()
    web.spawn()
    until(lambda: web.ready("/healthz"), "the web process")
    # when requests come
    event, click = web.client.get("/e?client=acme&event=sale"), web.client.get("/c/acme/best")
    # then none of them is stored, since every client would look unknown, and that would bind; the sender has to come again
    for answer in (event, click):
        assert (answer.status_code, answer.headers["x-reason"]) == (503, "not_stored")
        assert "x-hit-id" not in answer.headers
    ready = web.client.get("/readyz")
    assert ready.status_code == 503 and ready.text.startswith("no rulebook is known yet, the journal is away")
    # and when the journal is there, all is well without a restart
    web.server.start()
    until(lambda: web.client.get("/readyz").status_code == 200, "the rulebook")
    assert web.client.get("/e?client=acme&event=sale").status_code == 200
