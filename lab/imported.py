"""What the import of a foreign log did: every line accounted for, and what the order and the visitors are worth."""

from __future__ import annotations

import msgspec
import polars as pl

from lab.pictures import shares
from lab.show import html_block, html_table, plural
from lab.table_files import TABLE_FORMATS


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did.

    source, format, client: what was asked. rulebook_id: of the rulebook that decided. out: the folder of the tables.
    seconds: how long it took. lines = parsed + rejected; reasons: of the rejected lines.

    moved: parsed lines that stood behind a later one and were sorted forward. ties: hits that share their time with
    another, so that only the order of the lines orders them; visitor_ties: those whose twin is of the same visitor, the
    only ones that can change a funnel. verdicts, events, visitors: what the engine said; events are the accepted ones.
    first_time, last_time: UTC. columns: of CSV and Parquet, or parameters of the map: their name to ours.

    >>> report.lines == report.parsed + report.rejected
    True
    >>> sorted(report.events)
    ['pageview', 'sale']
    """

    source: str
    format: str
    client: str
    lines: int
    parsed: int
    rejected: int
    reasons: dict[str, int]
    moved: int
    ties: int
    visitor_ties: int
    first_time: str
    last_time: str
    verdicts: dict[str, int]
    events: dict[str, int]
    visitors: int
    rulebook_id: str
    seconds: float
    out: str
    columns: dict[str, str] = {}

    def __repr__(self) -> str:
        return (
            f"Import of {self.source}: {plural(self.lines, 'line')} = {self.parsed:,} parsed + {self.rejected:,} rejected; "
            f"{plural(self.visitors, 'visitor')}, {_short(self.first_time)} to {_short(self.last_time)} UTC"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about the order, and where everything is.

        >>> report.notes[1]
        'a visitor is an address with a user agent: an approximation'
        """
        return (
            f"{plural(self.moved, 'line')} stood behind a later one and moved; {plural(self.ties, 'hit')} share their "
            f"second with another, {self.visitor_ties:,} of them with one of the same visitor",
            *self._meanings,
            f"tables in {self.out}",
        )

    @property
    def _meanings(self) -> tuple[str, ...]:
        said = ", ".join(f"{theirs} as {ours}" for theirs, ours in self.columns.items())
        if self.format in TABLE_FORMATS:
            return (f"read {said}; other columns as parameters",)
        return (f"read {said}",) * bool(said) + ("a visitor is an address with a user agent: an approximation",)

    def frames(self) -> dict[str, pl.DataFrame]:
        """The counts as frames: event and hits; reason and lines.

        >>> list(report.frames())
        ['Events', 'Rejected lines']
        """
        return {
            "Events": _counts("event", "hits", self.events),
            "Rejected lines": _counts("reason", "lines", self.reasons),
        }

    def _repr_html_(self) -> str:
        tables = [html_table(frame, title) for title, frame in self.frames().items() if not frame.is_empty()]
        parts = [("parsed", self.parsed, "a"), ("rejected", self.rejected, "d")]
        return html_block(repr(self), shares("Lines", parts), *tables, notes=self.notes)


def _short(time: str) -> str:
    return time[:16].replace("T", " ")


def _counts(name: str, of: str, counts: dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame({name: list(counts), of: list(counts.values())}, schema={name: pl.String, of: pl.Int64})
