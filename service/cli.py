"""The command line: `backtrack`. Each command is thin; what it does lies in the module that it names.

Exit status 0 done, 1 the check failed, 2 bad usage or bad input.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click
import redis

from service.archive.tables import TableError
from service.engine import RulebookError
from service.servers import ServerError, address
from service.settings import Settings, SettingsError, from_environment

# commands of the lab: name to module and attribute, loaded when they are called, so that production needs no lab
LATE = {
    "demo": ("service.demo", "demo_command"),
    "partner": ("service.partner", "partner_command"),
    "rules": ("service.rules_commands", "rules"),
    "counts": ("service.counts_command", "counts_command"),
    "postback": ("service.postback_commands", "postback"),
    "erase": ("service.erase_command", "erase_command"),
    "replay": ("lab.commands", "replay_command"),
    "verify": ("lab.commands", "verify_command"),
    "explain": ("lab.commands", "explain_command"),
    "send": ("lab.send_command", "send_command"),
    "funnel": ("lab.funnel_command", "funnel_command"),
    "import": ("lab.importing", "import_command"),
}

# JupyterLab asks nobody outside for news, updates or extensions
QUIET_LAB = (
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
)
# defaults of its settings, which a person's own override: it does not ask whether it may fetch news either
QUIET_SETTINGS = Path(__file__).parent.parent / "lab" / "jupyter"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class InputError(Exception):
    """Something a person gave cannot be used. One line that names the thing, the value and the remedy."""


class LateGroup(click.Group):
    """A group whose commands are partly loaded when they are called: those in `late`."""

    late: ClassVar = LATE

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted({*super().list_commands(ctx), *self.late})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; where its packages are not installed, one that says which."""
        if cmd_name not in self.late:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.late[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            return _missing(cmd_name, error.name or "")
        return command


def _missing(name: str, package: str) -> click.Command:
    def say(**_: Any) -> None:
        click.echo(f"`backtrack {name}` needs the package {package}; install backtrack[lab]", err=True)
        sys.exit(2)

    hidden = {"ignore_unknown_options": True, "help_option_names": []}
    return click.Command(
        name, context_settings=hidden, params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)], callback=say,
        help="Not installed: needs backtrack[lab].", add_help_option=False,
    )  # fmt: skip


def one_line_errors(command: _Command) -> _Command:
    """Say in one line what a person can do about an error; exit status 2."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (InputError, ServerError, SettingsError, RulebookError, TableError) as error:
            message = str(error)
        except redis.RedisError as error:
            message = f"the journal went away in the middle of the work ({error}); run it again when it is back"
        except BrokenPipeError:
            raise
        except OSError as error:
            if not error.filename:
                raise
            message = f"{error.filename} cannot be used: {error.strerror}; check the path and its rights"
        click.echo(message, err=True)
        sys.exit(2)

    return guarded  # type: ignore[return-value]


@click.group(cls=LateGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="backtrack")
def main() -> None:
    """Event tracking for affiliate programmes that can be replayed."""


def settings_of(**overrides: Any) -> Settings:
    """The settings of this process."""
    return from_environment(os.environ, **overrides)


def log_to_stderr(level: int = logging.INFO) -> None:
    """One line per record."""
    logging.basicConfig(level=level, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("dramatiq").setLevel(logging.WARNING)


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.")
@one_line_errors
def web(host: str | None, port: int | None) -> None:
    """Serve the intake (one role, for production)."""
    from service import web as server

    log_to_stderr()
    server.run(settings_of(host=host, port=port))


@main.command()
@click.option("--queues", default="tracking,delivery,archive", show_default=True, help="Which work to take.")
@one_line_errors
def worker(queues: str) -> None:
    """Track, deliver and archive (one role, for production)."""
    from service import worker as process
    from service.wakeups import QUEUES

    chosen = [queue.strip() for queue in queues.split(",")]
    for queue in chosen:
        if queue not in QUEUES:
            raise InputError(f"--queues {queue!r}: there is no such queue; known are {', '.join(QUEUES)}")
    log_to_stderr()
    process.run(settings_of(), chosen)


@main.command()
@click.option("--var", type=click.Path(path_type=Path), help="Folder for everything that is kept.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--rules", type=click.Path(path_type=Path), help="Rulebook to publish at the start.")
@click.option(
    "--embedded/--no-embedded", default=True, help="Start the two Redis servers too, or use those of the settings."
)
@one_line_errors
def up(var: Path | None, host: str | None, port: int | None, rules: Path | None, embedded: bool) -> None:
    """Run web, worker and an embedded Redis on this machine."""
    from service.rules_commands import read_rules
    from service.supervisor import Up

    log_to_stderr()
    settings = settings_of(var=var, host=host, port=port)
    rulebook = read_rules(rules) if rules is not None else None
    with Up(settings, embedded) as running:
        if rulebook is not None:
            running.publish(rulebook.text, str(rules))
        _say_where(settings)
        running.run()


def _say_where(settings: Settings) -> None:
    click.echo(f"intake   http://{settings.host}:{settings.port}/e?client=NAME&event=NAME", err=True)
    click.echo(f"journal  {address(settings.journal_url)}", err=True)
    click.echo(f"tables   {settings.tables_path}", err=True)
    click.echo("Ctrl-C ends it.", err=True)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("notebooks"))
@click.option("--ip", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8888, show_default=True, help="Port to listen on.")
@click.option("--browser/--no-browser", default=True, help="Open a browser.")
@one_line_errors
def lab(folder: Path, ip: str, port: int, browser: bool) -> None:
    """Open JupyterLab on the notebooks."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one with the notebooks, such as notebooks")
    if importlib.util.find_spec("jupyterlab") is None:
        raise InputError("`backtrack lab` needs the package jupyterlab; install backtrack[lab]")
    arguments = [f"--ip={ip}", f"--port={port}", f"--notebook-dir={folder}", *QUIET_LAB]
    if not browser:
        arguments.append("--no-browser")
    if os.geteuid() == 0:  # JupyterLab would refuse, and whoever is root here has decided so
        arguments.append("--allow-root")
    found = (str(QUIET_SETTINGS), os.environ.get("JUPYTER_CONFIG_PATH", ""))
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(path for path in found if path)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *arguments])


if __name__ == "__main__":
    main()
