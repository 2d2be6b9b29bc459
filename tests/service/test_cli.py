"""The command line: every command has its help, and whatever a person gives wrongly is one line and status 2."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import redis
from click.testing import CliRunner
from deltalake import DeltaTable

from service.archive import tables
from service.archive.schemas import SCHEMAS
from service.cli import LATE, main
from service.servers import free_port
from service.settings import Settings
from tests.service.ownserver import OwnServer
from tests.waiting import until

RULES = "datasets/rules.toml"


class Done:
    """What a command said."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr

    def one_line(self) -> str:
        """The one line of a person's mistake: status 2, nothing on standard output, no traceback."""
        assert (self.status, self.stdout) == (2, ""), (self.status, self.stdout, self.stderr)
        lines = [line for line in self.stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d .* backtrack\.", line)]
        assert len(lines) == 1 and "Traceback" not in self.stderr, self.stderr
        return lines[0]


def inside(*arguments: object, settings: Settings | None = None, **variables: str) -> Done:
    """A command run in this process, with the settings and variables as its environment."""
    environment = (settings.environment() if settings is not None else {}) | variables
    done = CliRunner().invoke(main, [str(part) for part in arguments], env=environment, prog_name="backtrack")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def outside(*arguments: object, settings: Settings | None = None, **variables: str) -> Done:
    """A command as its own process, with a time limit."""
    environment = {**os.environ, **(settings.environment() if settings is not None else {}), **variables}
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return Done(done.returncode, done.stdout, done.stderr)


def commands(group: click.Group, *names: str) -> Iterator[tuple[str, ...]]:
    """All commands below a group, by their words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*names, name)
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)


ALL = sorted(commands(main))


def test_the_commands_are_those_of_the_design() -> None:
    assert {names[0] for names in ALL} == {
        "up", "demo", "web", "worker", "partner", "rules", "replay", "verify", "explain", "funnel", "import", "counts",
        "erase", "postback", "send", "lab",
    }  # fmt: skip
    deeper = {
        group: {names[1] for names in ALL if names[0] == group and len(names) == 2} for group in ("rules", "postback")
    }
    assert deeper == {
        "rules": {"check", "diff", "publish", "history"},
        "postback": {"resend", "test", "preview", "paused", "reopen"},
    }


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_every_command_has_its_help(names: tuple[str, ...]) -> None:
    # when a person asks for help in either way
    long, short = inside(*names, "--help"), inside(*names, "-h")
    # then it begins with the usage, says in a sentence what the command does, and every option has a text
    assert (long.status, long.stderr) == (0, "") and long.stdout == short.stdout
    assert long.stdout.startswith(f"Usage: backtrack {' '.join(names)} ")
    command: click.Command = main
    for name in names:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize("name", sorted(LATE))
def test_every_late_command_loads(name: str) -> None:
    assert main.get_command(click.Context(main), name) is not None


def test_the_program_runs_as_a_process_and_knows_its_version() -> None:
    done = outside("--version")
    assert (done.status, done.stderr) == (0, "") and re.search(r"version \d+\.\d+", done.stdout)


def test_without_the_labs_packages_the_service_still_runs_and_says_what_is_missing(tmp_path: Path) -> None:
    # given an installation without polars
    (tmp_path / "polars.py").write_text("raise ModuleNotFoundError(\"No module named 'polars'\", name='polars')")
    bare = str(tmp_path)
    # then the help is whole, the service's commands work, and those of the lab say what to install
    assert outside("--help", PYTHONPATH=bare).stdout.count("needs backtrack[lab]") == 6
    assert outside("rules", "check", RULES, PYTHONPATH=bare).status == 0
    for arguments in (["replay", "datasets/tables"], ["replay", "--help"], ["funnel", "x", "a", "b", "--by", "c"]):
        line = outside(*arguments, PYTHONPATH=bare).one_line()
        assert line == f"`backtrack {arguments[0]}` needs the package polars; install backtrack[lab]"


@pytest.mark.parametrize("command", ["web", "worker", "counts", "up"])
def test_a_setting_that_does_not_exist_is_named_with_its_nearest(command: str) -> None:
    line = inside(command, BACKTRACK_JORNAL_URL="redis://127.0.0.1/0").one_line()
    assert line == "there is no setting BACKTRACK_JORNAL_URL, did you mean BACKTRACK_JOURNAL_URL?"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BACKTRACK_PORT", "many", "BACKTRACK_PORT='many' is no whole number"),
        ("BACKTRACK_PORT", "70000", "BACKTRACK_PORT=70000: use 1 to 65535"),
        ("BACKTRACK_PARTITIONS", "0", "BACKTRACK_PARTITIONS=0: use 1 to 1024"),
        ("BACKTRACK_ALLOW_ADDRESSES", "localhost", "write networks such as 127.0.0.1/32"),
        ("BACKTRACK_ALLOW_ADDRESSES", "127.0.0.1/8", "127.0.0.1/8 has host bits set"),
        ("BACKTRACK_JOURNAL_URL", "127.0.0.1:6379", "the journal's address '127.0.0.1:6379' cannot be used"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(variable: str, value: str, words: str, settings: Settings) -> None:
    assert words in inside("web", settings=settings, **{variable: value}).one_line()


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("command", ["up", "web", "demo", "partner"])
def test_a_port_in_use_is_named_with_the_remedy(
    command: str, used_port: int, settings: Settings, tmp_path: Path
) -> None:
    # when a command is to listen where somebody else does
    extra = {"demo": ("--hits", 1, "--exit"), "partner": ("--record", tmp_path / "r.jsonl")}.get(command, ())
    done = outside(command, "--port", used_port, *extra, settings=settings)
    # then it says so, and nothing was started or written
    assert re.search(rf"{used_port}.* in use.*--port", done.one_line())
    assert not (tmp_path / "r.jsonl").exists() and not list(settings.var.glob("**/*.aof"))


def test_the_demo_names_the_partners_port_too(used_port: int, settings: Settings) -> None:
    line = inside("demo", "--port", 0, "--partner-port", used_port, settings=settings).one_line()
    assert str(used_port) in line and "--partner-port" in line


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
@pytest.mark.parametrize("command", ["up", "web"])
def test_a_host_that_is_not_of_this_machine_is_named(command: str, host: str, settings: Settings) -> None:
    line = inside(command, "--host", host, "--port", free_port(), settings=settings).one_line()
    assert line.startswith("cannot listen on port ") and host in line and "--host" in line


@pytest.mark.parametrize(
    "command", [["worker"], ["counts"], ["rules", "publish", RULES], ["up", "--no-embedded"]], ids=" ".join
)
def test_a_redis_that_cannot_be_reached_is_one_line(command: list[str], settings: Settings) -> None:
    # given a journal's address where nobody listens
    port = free_port()
    done = inside(*command, settings=settings, BACKTRACK_JOURNAL_URL=f"redis://:secret@127.0.0.1:{port}/0")
    # then the address is named, without its password
    line = done.one_line()
    assert line.startswith(f"the journal at 127.0.0.1:{port}/0 cannot be reached") and "secret" not in line
    assert "is the server running?" in line


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "would evict (allkeys-lru); set maxmemory-policy noeviction"),
        (("--appendonly", "no"), "keeps no append-only file; set appendonly yes"),
        (("--appendfsync", "everysec"), "has appendfsync everysec; an answer is a promise, set appendfsync always"),
    ],
)
def test_a_journal_that_could_break_the_promise_is_not_used(
    option: tuple[str, str], words: str, settings: Settings, tmp_path: Path
) -> None:
    # given a server with one wrong setting
    server = OwnServer(tmp_path / "journal")
    server.folder.mkdir()
    server.start_with(*option)
    try:
        until(lambda: _answers(server), "the server")
        # then nobody starts on it
        done = inside("web", "--port", free_port(), settings=settings, BACKTRACK_JOURNAL_URL=server.url)
    finally:
        server.kill()
    assert done.one_line() == f"the journal at 127.0.0.1:{server.port}/0 {words}"


def _answers(server: OwnServer) -> bool:
    try:
        return bool(server.connect().ping())
    except redis.RedisError:
        return False


def test_a_journal_with_other_partitions_is_not_used(settings: Settings) -> None:
    # given a journal that was used with 16 partitions
    assert inside("counts", settings=settings).status == 0
    # when somebody comes with 8
    line = inside("counts", settings=settings, BACKTRACK_PARTITIONS="8").one_line()
    # then both numbers are named
    assert "holds state of partitions 16, this program uses 8" in line


@pytest.mark.parametrize(
    "command", [["up", "--port"], ["demo", "--hits", "1", "--exit", "--partner-port", "0", "--port"]]
)
def test_a_folder_that_cannot_be_written_is_named(command: list[str], settings: Settings) -> None:
    line = outside(*command, free_port(), "--var", "README.md/var", settings=settings).one_line()
    assert line.startswith("the folder README.md/var cannot be written: ") and "--var" in line


def test_a_rulebook_is_not_published_where_its_text_cannot_be_kept(settings: Settings) -> None:
    done = inside("rules", "publish", RULES, settings=settings, BACKTRACK_TABLES="README.md/tables")
    assert done.one_line().startswith("the folder README.md/tables cannot be written: ")


def test_tables_of_another_version_are_named(settings: Settings) -> None:
    # given tables that a later program has written
    root = settings.tables_path
    DeltaTable.create(
        str(root / "decisions"),
        SCHEMAS["decisions"],
        partition_by=["day"],
        description="backtrack table decisions, version 9",
    )
    # then the commands that would read or write them say which version they use
    for command in (
        ["counts", "--recount"],
        ["worker"],
        ["replay", root],
        ["verify", root],
        ["funnel", root, "a", "b"],
    ):
        line = inside(*command, settings=settings).one_line()
        assert "version 9" in line and "version 1" in line and str(root / "decisions") in line


def test_a_table_of_somebody_else_is_named(settings: Settings) -> None:
    DeltaTable.create(str(settings.tables_path / "rulebooks"), SCHEMAS["rulebooks"])
    line = inside("rules", "history", settings=settings).one_line()
    assert "no mark" in line and str(settings.tables_path / "rulebooks") in line
    assert tables.TABLES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "no/such/folder"], "no/such/folder does not exist"),
        (["replay", "README.md"], "README.md is a file"),
        (["replay", "tests"], "tests holds no tables"),
        (["verify", "no/such/folder"], "no/such/folder does not exist"),
        (["replay", "datasets/tables", "--rules", "no.toml"], "no.toml"),
        (["worker", "--queues", "tracking,delivry"], "--queues 'delivry': there is no such queue; known are"),
        (["lab", "no/such/folder"], "no/such/folder is no folder"),
        (["up", "--rules", "no.toml"], "no.toml cannot be read"),
        (["up", "--rules", "tests"], "tests cannot be read (Is a directory)"),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], words: str) -> None:
    assert words in inside(*arguments).one_line()


def test_up_with_a_broken_rulebook_starts_nothing(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('[client.acme]\nwebook = "http://a.example/"\n')
    line = inside("up", "--rules", path, "--port", free_port(), settings=settings).one_line()
    assert line.startswith(f"{path}: line 2: ") and not settings.var.exists()


def test_an_embedded_server_is_not_started_for_an_address_elsewhere(settings: Settings) -> None:
    elsewhere = {"BACKTRACK_JOURNAL_URL": "redis://journal.example:6379/0"}
    line = inside("up", settings=settings, **elsewhere).one_line()
    assert line.startswith("BACKTRACK_JOURNAL_URL is journal.example:6379/0") and "--no-embedded" in line


def test_an_embedded_server_whose_port_is_used_names_the_setting(settings: Settings, used_port: int) -> None:
    variables = {"BACKTRACK_JOURNAL_URL": f"redis://127.0.0.1:{used_port}/0"}
    line = inside("up", settings=settings, **variables).one_line()
    assert f"port {used_port} for the embedded journal is in use" in line and "BACKTRACK_JOURNAL_URL" in line


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["web", "--prot", "1"], ["rules", "check"], ["demo", "--hits", "none"]]
)
def test_bad_usage_is_status_2_and_says_how_it_is_used(arguments: list[str]) -> None:
    done = inside(*arguments)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: backtrack") and "Traceback" not in done.stderr


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    command = f"{sys.executable} -m service.cli rules diff {RULES} {RULES} --json | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_the_signal_of_the_terminal_ends_a_role_cleanly(settings: Settings) -> None:
    # given a worker at work
    environment = {**os.environ, **settings.environment()}
    command = [sys.executable, "-m", "service.cli", "worker"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        ready = next(line for line in process.stderr if "worker ready" in line)
        # when Ctrl-C is pressed
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    # then it ends with 0 and says so
    assert "tracking, delivery, archive" in ready
    assert process.returncode == 0 and "worker ended" in errors and "Traceback" not in errors
