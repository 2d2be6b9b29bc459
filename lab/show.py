"""How results look: a frame as a table of the terminal, and as compact HTML that reads well on light and dark pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

HELP = {"help_option_names": ["-h", "--help"]}  # of every command, also where it is called by itself
_WIDE = 200  # columns, where nobody says how many there are
_WHOLE = 34  # characters up to which a text stays in one line: an id, a name of a trigger
Report = Callable[[int, int], None]  # done, total

_OWN = ".backtrack.backtrack.backtrack table"  # three times: JupyterLab's own rules for tables weigh two classes
_STYLE = (
    "<style>.backtrack{font:13px/1.45 system-ui,sans-serif;color:inherit}.backtrack b{font-weight:600}"
    ".backtrack table{border-collapse:collapse;margin:.4em 0;font-size:12px}"
    f"{_OWN} th,{_OWN} td{{padding:2px 12px 2px 0;border:0;border-bottom:1px solid rgba(128,128,128,.35);max-width:none;"
    "text-align:left;vertical-align:top;background:none;color:inherit}.backtrack th{font-weight:600;opacity:.75}"
    f"{_OWN} tr{{background:none}}{_OWN} .n{{text-align:right;font-variant-numeric:tabular-nums}}"
    f"{_OWN} th,{_OWN} td{{white-space:nowrap}}{_OWN} .l{{white-space:normal}}"
    ".backtrack .q{opacity:.65}"
    ".backtrack svg{display:block;max-width:100%;height:auto;margin:.5em 0}"
    ".backtrack svg text{fill:currentColor;font:12px system-ui,'DejaVu Sans',sans-serif}"
    ".backtrack .a{fill:#2a91a2}.backtrack .b{fill:#8b929c}.backtrack .u{fill:#2e9d6a}.backtrack .d{fill:#c9564c}"
    ".backtrack svg .q{fill:#8a8f98;opacity:.18}.backtrack summary{cursor:pointer;opacity:.75}</style>"
)


def plural(count: int, noun: str) -> str:
    """`1 hit`, `2,000 hits`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def text_of(value: Any) -> str:
    """A value of a frame as a person reads it: thousands apart, times to the second, money with two places or more."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, Decimal):
        whole, _, places = f"{value:,f}".partition(".")
        return f"{whole}.{places.rstrip('0').ljust(2, '0')}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return str(value)


def cell_of(name: str, value: Any) -> str:
    """A value of the column of that name: shares (of one) and percents with their sign, everything else as `text_of`."""
    if isinstance(value, float) and (name == "percent" or name.split("_")[0] == "share"):
        return f"{value if name == 'percent' else 100 * value:,.1f} %"
    return text_of(value)


def rich_table(frame: pl.DataFrame, title: str = "", limit: int | None = None) -> Table:
    """A frame as a table of rich: numbers to the right, at most `limit` rows and a line that says how many are left."""
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for name in frame.columns:
        justify = "right" if frame.schema[name].is_numeric() else "left"
        table.add_column(name.replace("_", " "), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in frame.head(limit if limit is not None else frame.height).iter_rows():
        table.add_row(*(Text(cell_of(*cell)) for cell in zip(frame.columns, row, strict=True)))
    if limit is not None and frame.height > limit:
        table.add_row(Text(f"and {frame.height - limit:,} more", style="dim"))
    return table


def terminal() -> Console:
    """Standard output: as wide as the terminal, wide enough for one line per row where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def html_table(frame: pl.DataFrame, caption: str = "", limit: int = 20) -> str:
    """A frame as an HTML table of at most `limit` rows."""
    shown = [[cell_of(*cell) for cell in zip(frame.columns, row, strict=True)] for row in frame.head(limit).iter_rows()]
    classes = [_class(dtype, [row[n] for row in shown]) for n, dtype in enumerate(frame.dtypes)]
    head = "".join(
        f"<th{c}>{escape(name.replace('_', ' '))}</th>" for name, c in zip(frame.columns, classes, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(f"<td{c}>{escape(text)}</td>" for text, c in zip(row, classes, strict=True)) + "</tr>"
        for row in shown
    )
    more = f'<div class="q">and {frame.height - limit:,} more</div>' if frame.height > limit else ""
    title = f"<div><b>{escape(caption)}</b></div>" if caption else ""
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _class(dtype: pl.DataType, texts: list[str]) -> str:
    """Numbers stand to the right; what is long may take several lines."""
    if dtype.is_numeric():
        return ' class="n"'
    return ' class="l"' if any(len(text) > _WHOLE for text in texts) else ""


def html_block(headline: str, *parts: str, notes: tuple[str, ...] = ()) -> str:
    """A headline, quiet notes below it, and finished parts such as tables."""
    quiet = "".join(f'<div class="q">{escape(note)}</div>' for note in notes)
    return f'{_STYLE}<div class="backtrack"><div><b>{escape(headline)}</b></div>{quiet}{"".join(parts)}</div>'


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """A progress bar on standard error where that is a terminal, else nothing. Yields what to call with (done, total)."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report
