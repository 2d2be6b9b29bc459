"""`backtrack send`: a log to a staging service over HTTP, marked as tests, in the rhythm of the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

import lab
from lab.commands import late_span, one_line_errors
from lab.send import SendReport, send
from lab.show import HELP, progress, rich_table, terminal


@click.command("send", context_settings=HELP)
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="URL", help="The staging service: scheme, host and port, nothing else.")
@click.option("--speed", default=10.0, show_default=True, help="The gaps of the log are divided by it.")
@click.option("--gap-cap", default="5s", show_default=True, metavar="SPAN", help="No pause is longer than this.")
@click.option("--limit", type=int, metavar="N", help="Only the first N hits.")
@click.option("--run", metavar="NAME", help="Value of the parameter test_run, by default the time.")
@click.option("--production", metavar="URL", help="What is refused, instead of BACKTRACK_PUBLIC_URL.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def send_command(log: Path, gap_cap: str, as_json: bool, **how: Any) -> None:
    """Send the requests of LOG (a folder of tables) to a staging service, each marked as a test.

    The production address is refused. Exit status 1 if an answer is an error or unlike what the log says.
    """
    opened = lab.open(log)
    with progress("sending") as report:
        sent = send(opened, gap_cap_s=late_span(gap_cap, "--gap-cap", "0 for no pauses") / 1e6, progress=report, **how)
    if as_json:
        click.echo(msgspec.json.encode(_document(sent)).decode())
    else:
        _show(sent)
    raise SystemExit(1 if sent.differences.height or sent.frame["errors"].sum() else 0)


def _document(sent: SendReport) -> dict[str, Any]:
    kept = sorted(sent.kept_back.items())
    planned = {"to": sent.to, "run": sent.run, "planned": len(sent.plan.requests), "seconds": sent.seconds}
    if sent.dry:
        return planned | {"dry_run": True, "kept_back": dict(kept)}
    return planned | sent.frame.row(0, named=True) | {
        "kept_back": dict(kept), "answers": sent.answers.to_dicts(), "differences": sent.differences.to_dicts(),
    }  # fmt: skip


def _show(sent: SendReport) -> None:
    out = terminal()
    out.print(repr(sent), highlight=False, soft_wrap=True, markup=False)
    if not sent.dry:
        out.print(rich_table(sent.frame))
        out.print(rich_table(sent.answers, "Answers"))
    if sent.differences.height:
        out.print(rich_table(sent.differences, "Unlike the log"))
