"""What the magics show beside results: a rulebook as a table, and the list of what there is."""

from __future__ import annotations

import polars as pl

from lab.show import html_block, html_table, plural
from service.engine import Rulebook
from service.engine.lint import lint
from service.engine.rulebook import Trigger
from service.engine.words import whole_span

MAGICS = (
    ("%%rulebook [NAME]", "keeps the TOML of the cell as a rulebook, checked at once", "%%rulebook next"),
    (
        "%%trigger [--rules NAME] [--log NAME]",
        "puts the trigger of the cell into the rulebook, and shows what it would have fired on the log",
        "%%trigger --rules next",
    ),
    (
        "%replay LOG [RULES] [--against RULES] [--engine set] [--as-of TIME]",
        "decides a log again, or compares two rulebooks on it",
        "what = %replay log --against next",
    ),
    ("%lab", "this list", "%lab"),
)
OBJECTS = (
    ('lab.open("var/tables")', "a Log: hits, decisions, postbacks, attempts, events as frames; summary, gaps"),
    ("log.replay(rules)", "a Run: counts, postbacks, verdicts, reasons, stages, digest"),
    ("log.compare(before, after)", "a Comparison: gained, lost, changed, money, cases, chart, report"),
    ("log.verify(received)", "a Verification: differences, defects, counts"),
    ('log.funnel("click", "sale", within="30d")', "a Funnel: frame, chart, times, trend, left, beside"),
    ("lab.Studio(log)", "a trigger built with widgets, seen on the log as one types"),
    ("lab.live(rules)", "a whole service in the notebook: hit, click, log, postbacks, received, publish, stop"),
)


class Listing:
    """What `%lab` shows.

    >>> Listing().magics.columns
    ['write', 'does', 'example']
    """

    @property
    def magics(self) -> pl.DataFrame:
        """write, does, example.

        >>> Listing().magics["write"].to_list()[-1]
        '%lab'
        """
        return pl.DataFrame(MAGICS, schema=["write", "does", "example"], orient="row")

    @property
    def objects(self) -> pl.DataFrame:
        """write, gives.

        >>> Listing().objects.columns
        ['write', 'gives']
        """
        return pl.DataFrame(OBJECTS, schema=["write", "gives"], orient="row")

    def __repr__(self) -> str:
        wide = max(len(row[0]) for row in (*MAGICS, *OBJECTS))
        return "\n".join(f"{row[0]:<{wide}}  {row[1]}" for row in (*MAGICS, *OBJECTS))

    def _repr_html_(self) -> str:
        return html_block("The lab", html_table(self.magics, "Magics"), html_table(self.objects, "In Python"))


def rulebook_text(rulebook: Rulebook) -> str:
    """A rulebook in one line."""
    counts = (("client", rulebook.clients), ("affiliate", rulebook.affiliates), ("trigger", rulebook.triggers))
    return f"Rulebook {rulebook.id}: " + ", ".join(plural(len(what), name) for name, what in counts)


def rulebook_html(rulebook: Rulebook) -> str:
    """A rulebook as its triggers, and what looks wrong in it."""
    notes = tuple(str(finding) for finding in lint(rulebook)[:5])
    return html_block(rulebook_text(rulebook), html_table(trigger_frame(rulebook.triggers), limit=40), notes=notes)


def trigger_text(trigger: Trigger) -> str:
    """A trigger in one line."""
    row = trigger_frame((trigger,)).row(0, named=True)
    return f"Trigger {row.pop('trigger')}: " + ", ".join(f"{name} {value}" for name, value in row.items() if value)


def trigger_html(trigger: Trigger) -> str:
    """A trigger as a table."""
    return html_block(f"Trigger {trigger.name}", html_table(trigger_frame((trigger,))))


def trigger_frame(triggers: tuple[Trigger, ...]) -> pl.DataFrame:
    """client, trigger, on, after, within, when, once, cap, payout, method, to; all texts."""
    rows = [
        (
            one.client, one.name, one.on, " → ".join(one.after), whole_span(one.within_us) if one.within_us else "",
            one.when.text if one.when else "", "visitor" if one.once == "visitor" else "",
            f"{one.cap.count:,} per {one.cap.per} and {one.cap.every}" if one.cap else "", _payout(one), one.method,
            ", ".join(one.to),
        )
        for one in triggers
    ]  # fmt: skip
    names = ("client", "trigger", "on", "after", "within", "when", "once", "cap", "payout", "method", "to")
    return pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row")


def _payout(trigger: Trigger) -> str:
    payout = trigger.payout
    if payout is None:
        return ""
    return f"{payout.fixed} {payout.currency}" if payout.fixed is not None else f"{payout.percent} % of {payout.of}"
