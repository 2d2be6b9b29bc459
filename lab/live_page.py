"""The service of a notebook as HTML: where it is, its triggers, and the last hits with what was answered."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import polars as pl

from lab.show import html_block, html_table

if TYPE_CHECKING:
    from lab.live import Live

_LAST = 8  # hits


def live_html(live: Live) -> str:
    """The service at one look."""
    colour, word = ("#2e9d6a", "running") if live.running else ("#8b929c", "stopped")
    circle = f'<circle cx="5" cy="5" r="5" fill="{colour}"/>'
    dot = f'<svg style="display:inline" width="10" height="10" role="img" aria-label="{word}">{circle}</svg>'
    places = pl.DataFrame(
        [
            ("send an event", f"{live.url}/e?client={_client(live)}&event=NAME"),
            ("a tracker link", f"{live.url}/c/{_client(live)}/{_affiliate(live)}"),
            ("tables", str(live.folder / "tables")),
            ("partner's record", str(live.record)),
        ],
        schema=["what", "where"],
        orient="row",
    )
    triggers = pl.DataFrame(
        [(one.client, one.name, one.on, " → ".join(one.after), ", ".join(one.to)) for one in live.rulebook.triggers],
        schema=dict.fromkeys(("client", "trigger", "on", "after", "to"), pl.String),
        orient="row",
    )
    said = pl.DataFrame({"last hits, as answered": [repr(answer) for answer in live.answers[-_LAST:]]})
    parts = [
        f"<div>{dot} {escape(word)}, rulebook {escape(live.rulebook.id)}</div>",
        html_table(places),
        html_table(triggers),
    ]
    return html_block(repr(live), *parts, *([html_table(said)] if live.answers else []))


def _client(live: Live) -> str:
    return next(iter(sorted(live.rulebook.clients)), "NAME")


def _affiliate(live: Live) -> str:
    return next(iter(sorted(live.rulebook.affiliates)), "NAME")
