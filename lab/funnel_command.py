"""`backtrack funnel`: the funnel, its times, its trend and its leavers in a terminal, or all as one JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import polars as pl

import lab
from lab.commands import one_line_errors
from lab.funnel import Funnel, duration_text, funnel, text_table
from lab.funnel_steps import MODES
from lab.log import LabError
from lab.show import HELP


@click.command("funnel", context_settings=HELP)
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("steps", nargs=-1, required=True, metavar="STEP...")
@click.option("--within", metavar="30d", help="The longest time from the first step: a number and s, m, h, d or w.")
@click.option(
    "--mode",
    default="ordered",
    metavar="|".join(MODES),
    help="ordered: other events may come between (default). strict: nothing between. any: in any order.",
)
@click.option("--exclude", multiple=True, metavar="STEP", help="What ends an attempt. May be given several times.")
@click.option("--by", metavar="NAME", help="Break down by affiliate, client, event or any parameter.")
@click.option("--client", metavar="NAME", help="Only the visitors of this client.")
@click.option("--where", metavar="CONDITION", help="Only attempts that start with such a hit: 'country == \"DE\"'.")
@click.option("--against", metavar="CONDITION", help="A second segment, side by side with the first one.")
@click.option("--times", is_flag=True, help="How long each step took: the median and other quantiles.")
@click.option("--trend", is_flag=True, help="Day by day, by the day of the start.")
@click.option("--left", is_flag=True, help="What those who left did next.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw it into FILE.svg, .png or .html.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def funnel_command(
    log: Path, steps: tuple[str, ...], chart: Path | None, as_json: bool, against: str | None, times: bool, trend: bool,
    left: bool, **how: Any,
) -> None:  # fmt: skip
    """Count the visitors of LOG (a folder of tables) that did STEP after STEP.

    A STEP is an event, if need be with a condition as in the rulebook: 'sale[amount >= 20]'.
    """
    opened = lab.open(log)
    found = funnel(opened, *steps, **how)
    if against is not None and how["by"]:
        raise LabError(f"--by {how['by']} has many segments; leave it out to put two side by side by --against")
    segments = found.beside(funnel(opened, *steps, **how | {"where": against})) if against is not None else None
    if chart is not None:
        (segments or found).chart().save(chart)
    more: dict[str, pl.DataFrame] = {}
    if times:
        more["times"] = found.times
    if trend:
        more["trend"] = found.trend
    if left:
        more["left"] = found.left()
    if as_json:
        document = funnel_document(found) | {name: frame.to_dicts() for name, frame in more.items()}
        if segments is not None:
            document["against"] = {"where": against, "rows": segments.frame.to_dicts()}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    click.echo(repr(segments or found))
    for name, frame in more.items():
        click.echo(f"\n{_TITLES[name]}\n{text_table(_readable(frame))}")
    if chart is not None:
        click.echo(f"chart in {chart}")


_TITLES = {
    "times": "How long it took", "trend": "By day of the start (UTC)", "left": "What those who left did next",
}  # fmt: skip


def funnel_document(found: Funnel) -> dict[str, Any]:
    """What `backtrack funnel --json` prints."""
    return {
        "steps": [step.label for step in found.asked.steps], "mode": found.asked.mode, "within": found.within or None,
        "exclude": [step.label for step in found.asked.exclude], "where": found.where or None, "by": found.by or None,
        "client": found.client or None, "visitors": found.visitors, "rows": found.frame.to_dicts(),
        "ties": found.ties.to_dicts(),
    }  # fmt: skip


def _readable(frame: pl.DataFrame) -> pl.DataFrame:
    """Seconds in units, shares in percent."""
    seconds = [name for name in frame.columns if name[:1] == "p" and name[1:].isdigit()]
    shares = [name for name in frame.columns if name.startswith("share")]
    return frame.drop("step_number").with_columns(
        *(pl.col(name).map_elements(duration_text, pl.String) for name in seconds),
        *(pl.col(name).map_elements(lambda share: f"{100 * share:.1f} %", pl.String) for name in shares),
    )
