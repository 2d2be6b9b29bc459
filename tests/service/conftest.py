"""A real journal and a real broker for the tests of the service, and settings that point to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.servers import client, free_port, start_server
from service.settings import Settings


class Servers:
    """Addresses of the two servers."""

    def __init__(self, journal_port: int, broker_port: int) -> None:
        self.journal_url = f"redis://127.0.0.1:{journal_port}/0"
        self.broker_url = f"redis://127.0.0.1:{broker_port}/0"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One journal and one broker for the whole run, real servers with the settings of production."""
    folder = tmp_path_factory.mktemp("servers")
    ports = free_port(), free_port()
    started = [start_server(ports[0], folder / "journal", True), start_server(ports[1], folder / "broker", False)]
    yield Servers(*ports)
    for process in started:
        process.terminate()
        process.wait(10)


@pytest.fixture
def settings(servers: Servers, tmp_path: Path) -> Settings:
    """Settings for one test: empty servers, a folder of its own, postbacks to loopback allowed."""
    for url in (servers.journal_url, servers.broker_url):
        connection = client(url)
        connection.flushall()
        connection.close()
    return Settings(
        journal_url=servers.journal_url,
        broker_url=servers.broker_url,
        var=tmp_path / "var",
        port=free_port(),
        allow_addresses="127.0.0.1/32",
        linger_ms=50,
        spool_floor_mb=0,
    )


@pytest.fixture
def journal(settings: Settings) -> Iterator[redis.Redis]:
    """A connection to the journal."""
    connection = client(settings.journal_url)
    yield connection
    connection.close()
