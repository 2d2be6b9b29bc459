"""The two Redis servers: what the promises rest on is checked, and what is wrong is said in one line with exit status 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import pytest
import redis

from service.archive import tables
from service.servers import ServerError, check_broker, check_journal, client, free_port, is_away, port_is_free
from service.settings import Settings
from tests.service.ownserver import OwnServer, own_server
from tests.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnServer]:
    with own_server(tmp_path / "redis") as running:
        yield running


def backtrack(settings: Settings, *words: str, **variables: str) -> tuple[int, str]:
    """A command with these settings, run to its end: exit status and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *words],
        env={**os.environ, **settings.environment(), **variables},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def backtracks(settings: Settings, *commands: str) -> list[tuple[int, str]]:
    """Several commands at once."""
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda command: backtrack(settings, *command.split()), commands))


def assert_one_line(outcome: tuple[int, str], *words: str) -> None:
    """Exit status 2 and one line with these words."""
    status, said = outcome
    assert status == 2 and said.count("\n") == 1, said
    assert all(word in said for word in words), said


# checked once, at the start


def test_a_journal_as_it_should_be_is_taken_and_marked(server: OwnServer) -> None:
    # given an empty server with the settings of production
    # when it is checked twice, then it is ready
    check_journal(server.url, 16).close()
    check_journal(server.url, 16).close()
    # and another number of partitions is refused from now on
    with pytest.raises(
        ServerError, match="holds state of partitions 16, this program uses 8; use the program and settings"
    ):
        check_journal(server.url, 8)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("maxmemory-policy", "allkeys-lru", "would evict (allkeys-lru); set maxmemory-policy noeviction"),
        ("maxmemory-policy", "volatile-ttl", "would evict (volatile-ttl)"),
        ("appendonly", "no", "keeps no append-only file; set appendonly yes"),
        ("appendfsync", "everysec", "has appendfsync everysec; an answer is a promise, set appendfsync always"),
    ],
)
def test_a_journal_that_could_break_a_promise_is_refused(
    server: OwnServer, setting: str, value: str, said: str
) -> None:
    # given a server with such a setting
    with server.connect() as connection:
        connection.config_set(setting, value)
    # when it is checked, then it is refused by its name, with the remedy
    with pytest.raises(ServerError) as caught:
        check_journal(server.url, 16)
    assert str(caught.value) == f"the journal at 127.0.0.1:{server.port}/0 {said}" or said in str(caught.value)


def test_a_journal_that_still_loads_is_waited_for(server: OwnServer) -> None:
    # given a server that has much to read when it starts
    with server.connect() as connection:
        pipeline = connection.pipeline(transaction=False)
        for number in range(4_000):
            pipeline.set(f"k{number}", "x" * 100)
        pipeline.execute()
    server.kill()
    server.start_with("--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024")

    patient = client(server.url)

    def loading() -> bool:
        try:
            return not patient.ping()
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False

    until(loading, "the server to load")
    # when it is checked, then that takes as long as it takes
    check_journal(server.url, 16).close()


def test_a_full_server_says_so(server: OwnServer) -> None:
    # given a server without memory, on which nothing was stored yet
    with server.connect() as connection:
        connection.config_set("maxmemory", "1")
    # when it is checked, then it cannot be used
    with pytest.raises(ServerError, match=r"cannot be used: .*maxmemory"):
        check_journal(server.url, 16)


def test_a_password_is_never_shown(server: OwnServer) -> None:
    # given a server that wants a password, and a wrong one
    with server.connect() as connection:
        connection.config_set("requirepass", "right")
    with pytest.raises(ServerError, match="refuses the login") as caught:
        check_journal(f"redis://:wrong@127.0.0.1:{server.port}/0", 16)
    # then the message names the server and not the password
    assert "wrong" not in str(caught.value) and str(server.port) in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://127.0.0.1", "redis://127.0.0.1:port/0"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    # given what is no address, when it is used, then the message shows it
    for check in (partial(check_journal, partitions=16), check_broker):
        with pytest.raises(ServerError, match=r"address .* cannot be used|cannot be reached"):
            check(url)


def test_errors_that_mean_away_are_told_from_errors_that_mean_wrong(server: OwnServer) -> None:
    connection = server.connect()
    connection.set("text", "x")

    def error_of(*command: str) -> redis.RedisError:
        with pytest.raises(redis.RedisError) as caught:
            connection.execute_command(*command)  # type: ignore[no-untyped-call]
        return caught.value

    # given errors of a server that cannot take a write now
    connection.config_set("maxmemory", "1")
    full, full_script = error_of("SET", "a", "1"), error_of("EVAL", "return redis.call('SET', KEYS[1], '1')", "1", "a")
    connection.config_set("maxmemory", "0")
    connection.replicaof("127.0.0.1", 1)
    read_only = error_of("SET", "a", "1")
    connection.replicaof("NO", "ONE")
    connection.config_set("min-replicas-to-write", 1)
    no_replicas = error_of("SET", "a", "1")
    connection.config_set("min-replicas-to-write", 0)
    # and errors of a wrong program
    wrong = [
        error_of("HGET", "text", "x"),
        error_of("NONSENSE"),
        error_of("EVAL", "return redis.call('HGET', 'text', 'x')", "0"),
    ]
    server.kill()
    dead = error_of("PING")
    # then they are told apart
    assert [is_away(error) for error in (full, full_script, read_only, no_replicas, dead)] == [True] * 5
    assert [is_away(error) for error in wrong] == [False] * 3


def test_a_port_is_free_or_not() -> None:
    # given a port that somebody listens on
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # then it is not free, and another one is
        assert not port_is_free("127.0.0.1", taken.getsockname()[1])
        assert port_is_free("127.0.0.1", free_port())


# as a person meets it


@pytest.fixture
def dead(settings: Settings) -> Settings:
    """Settings that lead to servers that do not exist."""
    return msgspec.structs.replace(
        settings, journal_url=f"redis://127.0.0.1:{free_port()}/0", broker_url=f"redis://127.0.0.1:{free_port()}/0"
    )


def test_commands_without_a_server_end_with_one_line(settings: Settings, dead: Settings, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("[client.acme]\n")
    # given no journal, without which web starts and spools, when another role starts or something is to be published,
    # then one line says which server
    for outcome in backtracks(dead, "worker", "up --no-embedded", f"rules publish {rules}"):
        assert_one_line(outcome, "the journal at 127.0.0.1:", "cannot be reached", "is the server running?")
    # given no broker, then it is the broker
    no_broker = msgspec.structs.replace(settings, broker_url=dead.broker_url)
    assert_one_line(backtrack(no_broker, "worker"), "the broker at 127.0.0.1:", "cannot be reached")


@pytest.mark.parametrize(
    ("role", "option", "value", "said"),
    [("web", "--maxmemory-policy", "allkeys-lru", "would evict"), ("worker", "--appendonly", "no", "append-only file")],
)
def test_a_server_that_could_break_a_promise_ends_a_role_with_one_line(
    settings: Settings, tmp_path: Path, role: str, option: str, value: str, said: str
) -> None:
    # given such a server
    server = OwnServer(tmp_path / "bad")
    server.folder.mkdir()
    server.start_with(option, value)
    try:
        until(lambda: _answers(server), "the server")
        # when a role starts, then one line says what to set
        refused = msgspec.structs.replace(settings, journal_url=server.url)
        assert_one_line(backtrack(refused, role), f"127.0.0.1:{server.port}", said, "; set ")
    finally:
        server.kill()


def _answers(server: OwnServer) -> bool:
    try:
        return bool(client(server.url).ping())
    except redis.ConnectionError:
        return False


def test_another_number_of_partitions_ends_with_one_line(settings: Settings) -> None:
    # given a journal with 16 partitions
    check_journal(settings.journal_url, 16).close()
    # when a role starts with 8, then one line says so
    other = msgspec.structs.replace(settings, partitions=8)
    assert_one_line(backtrack(other, "worker"), "partitions 16, this program uses 8")


def test_a_port_in_use_ends_with_one_line(settings: Settings) -> None:
    # given a port that somebody listens on
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = msgspec.structs.replace(settings, port=taken.getsockname()[1])
        # when web or everything starts there, then one line says so
        for outcome in backtracks(used, "web", "up --no-embedded"):
            assert_one_line(outcome, f"port {used.port}", "in use", "--port")


def test_a_folder_that_cannot_be_written_ends_with_one_line(settings: Settings, tmp_path: Path) -> None:
    # given a file where the folder should be
    (tmp_path / "file").write_text("")
    bad = msgspec.structs.replace(settings, var=tmp_path / "file")
    # when a role starts, then one line names the folder
    for outcome in backtracks(bad, "web", "worker", "up --no-embedded"):
        assert_one_line(outcome, str(tmp_path / "file"), "cannot be written", "BACKTRACK_VAR")


def test_a_table_of_another_version_ends_a_worker_with_one_line(settings: Settings) -> None:
    # given tables of which one was written by another version
    root = settings.tables_path
    tables.create(root, "hits")
    log = root / "hits" / "_delta_log" / "00000000000000000000.json"
    log.write_text(log.read_text().replace("version 1", "version 99"))
    before = sorted(path.name for path in root.rglob("*"))
    # when a worker starts, then one line names it, and nothing is written
    assert_one_line(
        backtrack(settings, "worker"), str(root / "hits"), "version 99", "use the program version that wrote it"
    )
    assert sorted(path.name for path in root.rglob("*")) == before


def test_unknown_settings_and_queues_end_with_status_2(settings: Settings) -> None:
    # given a variable and a queue that do not exist, when a role starts, then they are named
    outcome = backtrack(settings, "web", BACKTRACK_PROT="1")
    assert_one_line(outcome, "BACKTRACK_PROT", "did you mean BACKTRACK_PORT?")
    status, said = backtrack(settings, "worker", "--queues", "tracking,nonsense")
    assert status == 2 and "'nonsense'" in said and "delivery" in said and "Traceback" not in said
