"""`backtrack postback preview`: the postbacks of one logged hit as a rulebook would render them; nothing is sent."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

import lab
from lab.commands import one_line_errors
from lab.explain import Before, find_hit
from lab.log import Log
from lab.replay import rulebook_of
from lab.show import HELP, progress
from service.engine import Postback


def preview(log: Log, hit_id: str, rules: Path | None = None) -> tuple[Postback, ...]:
    """The postbacks of the hit, after its partition was replayed up to it.

    rules: instead of the rulebook that was in force. Raises LabError for an unknown hit, RulebookError for broken rules.
    """
    with progress("replaying what came before") as report:
        _, outcome, _, _ = Before(log, find_hit(log, hit_id), rulebook_of(rules)).tell(report)
    return outcome.postbacks


@click.command("preview", context_settings=HELP)
@click.argument("hit_id")
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--rules", type=click.Path(path_type=Path), help="Render by this rulebook instead of as logged.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def preview_command(hit_id: str, log: Path, rules: Path | None, as_json: bool) -> None:
    """Render the postbacks of the hit HIT_ID of LOG (a folder of tables) without sending anything."""
    found = preview(lab.open(log), hit_id, rules)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    for one in found:
        click.echo(f"{one.trigger} to {one.recipient}: {one.state}\n  {one.verb} {one.url}".rstrip())
        if one.body:
            click.echo(f"  {one.body}")
        if one.missing:
            click.echo(f"  without a value: {', '.join(one.missing)}")
    if not found:
        click.echo(f"no trigger fires on hit {hit_id}; `backtrack explain {log} {hit_id}` says why")
