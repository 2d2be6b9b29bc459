"""The story of one hit as HTML: its road as a picture, triggers and postbacks as tables, the whole story to unfold."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import polars as pl

from lab.pictures import road
from lab.show import html_block, html_table, text_of

if TYPE_CHECKING:
    from lab.explain import Explanation

_TONES = {
    "accepted": "u",
    "duplicate": "b",
    "delivered": "u",
    "withheld": "b",
    "recorded": "b",
    "due": "a",
    "fired": "a",
}


def explanation_html(told: Explanation) -> str:
    """The story at one look."""
    triggers, postbacks = _triggers(told), _postbacks(told)
    tables = [
        html_table(frame, title) for title, frame in (("Triggers", triggers), ("Postbacks", postbacks)) if frame.height
    ]
    indented = ((len(line) - len(line.lstrip()), escape(line.lstrip())) for line in told.lines[1:])
    story = "".join(f'<div style="padding-left:{depth * 0.6:.1f}em">{line}</div>' for depth, line in indented)
    whole = f"<details{'' if tables else ' open'}><summary>The whole story</summary>{story}</details>"
    says = told.story.says if told.story is not None else ()
    return html_block(
        told.lines[0], _picture(told, triggers, postbacks), *tables, whole, notes=(*says, *told.notes[:5])
    )


def _picture(told: Explanation, triggers: pl.DataFrame, postbacks: pl.DataFrame) -> str:
    verdict = told.story.verdict if told.story is not None else (told.decision or {}).get("verdict", "not decided")
    reason = told.story.reason if told.story is not None else (told.decision or {}).get("reason", "")
    nodes = [("hit", text_of(told.hit["time"])[5:16], "a"), (str(verdict), str(reason), _TONES.get(str(verdict), "d"))]
    nodes += [(name, stage, _TONES.get(stage, "b")) for name, stage in triggers.select("trigger", "ended").iter_rows()]
    nodes += [
        (recipient.partition(":")[2], state, _TONES.get(state, "d"))
        for recipient, state in postbacks.select("recipient", "state").iter_rows()
    ]
    return road("The road of the hit", nodes)


def _triggers(told: Explanation) -> pl.DataFrame:
    """trigger, ended (`fired`, or the stage that stopped it), why; those that fired first."""
    rows = [(one.name, one.stage, one.says) for one in told.story.triggers] if told.story is not None else []
    rows.sort(key=lambda row: row[1] != "fired")
    return pl.DataFrame(rows, dict.fromkeys(("trigger", "ended", "why"), pl.String), orient="row")


def _postbacks(told: Explanation) -> pl.DataFrame:
    """recipient, state (of the last try), tries, request."""
    tried: dict[str, list[str]] = {}
    for row in told.attempts:
        tried.setdefault(row["postback_id"], []).append(row["state"])
    rows = [
        (one.recipient, (tried.get(one.id) or [str(one.state)])[-1], len(tried.get(one.id, ())), one.request)
        for one in (told.story.postbacks if told.story is not None else ())
    ]
    schema = {"recipient": pl.String, "state": pl.String, "tries": pl.Int64, "request": pl.String}
    return pl.DataFrame(rows, schema, orient="row")
