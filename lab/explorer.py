"""The funnel explorer: widgets around `log.funnel`, and the line of Python that says the same."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from lab.funnel import Funnel, funnel
from lab.funnel_steps import MODES
from lab.log import LabError, given_log
from lab.show import html_table
from lab.studio_panel import Panel
from lab.studio_style import STYLE
from lab.studio_widgets import checkbox, column, dropdown, field, row, text_field

if TYPE_CHECKING:
    import polars as pl

    from lab.charts import Chart
    from lab.log import Log

VIEWS = ("visitors", "time to convert", "by day", "those who left", "two segments")
_KEYS = ("within", "by", "client", "mode", "exclude", "where")
_NONE = "(none)"


class FunnelExplorer(Panel):
    """Turn a funnel's screws and see it change.

    log: from `lab.open`. steps and keys: what to begin with, as for `log.funnel`; without steps the three most frequent
    events. Without a browser: `set`, `funnel` (waited for), `frame` and `chart` of the chosen view, `code`, `trouble`.

    >>> explorer = lab.FunnelExplorer(log, "click", "registration")
    >>> explorer.set(within="12h").funnel.within
    '12h'
    """

    def __init__(self, log: Log, *steps: str, **keys: Any) -> None:
        super().__init__("funnel explorer")
        self.log = given_log(log)
        self._funnel: Funnel | None = None
        self._other: Funnel | None = None
        self._known = _known(log)
        self._build()
        self.set(steps=list(steps) or self._known["events"][:3], **keys)

    def _build(self) -> None:
        known = self._known
        self.steps = w.TagsInput(allow_duplicates=True, placeholder="add a step", layout=w.Layout(width="100%"))
        self.within = text_field("30d")
        self.mode = dropdown(MODES)
        self.by = dropdown([_NONE, *known["names"]])
        self.client = dropdown([("(all)", _NONE), *((name, name) for name in known["clients"])])
        self.exclude = w.TagsInput(allow_duplicates=False, placeholder="an event", layout=w.Layout(width="100%"))
        self.where = text_field('country == "DE"')
        self.against = text_field('country != "DE"')
        self.view = w.ToggleButtons(options=VIEWS, style={"button_width": "auto"})
        self.view.add_class("bt-views")
        self.ties = checkbox("ranges by ties")
        self.written = w.HTML()
        inputs = (self.steps, self.within, self.mode, self.by, self.client, self.exclude, self.where, self.against)
        for widget in (*inputs, self.view, self.ties):
            widget.observe(self._changed, "value")
        head = column(
            row(
                field("steps, in this order: an event, or event[condition]", self.steps, width="52%"),
                field("within", self.within, width="12%"), field("order", self.mode, width="14%"),
                field("by", self.by, width="14%"), field("client", self.client, width="14%"),
            ),
            row(
                field("only attempts that start with", self.where, width="40%"),
                field("and beside them, as a second segment", self.against, width="34%"),
                field("ended by", self.exclude, width="26%"),
            ),
            self.said, css="bt-head",
        )  # fmt: skip
        answer = column(self.headline, row(self.view, self.ties), self.body, self.written, css="bt-answer")
        self.widget = column(w.HTML(STYLE), head, answer, css="bt-studio")

    def set(self, **keys: Any) -> FunnelExplorer:
        """Change what is asked: steps, within, by, client, mode, exclude, where, against (a second `where`), view, ties.

        >>> explorer.set(client="acme").funnel.client
        'acme'
        >>> explorer.set(client=None).funnel.client
        ''
        """
        widgets = {name: getattr(self, name) for name in ("steps", *_KEYS, "against", "view", "ties")}
        with self._quiet:
            for key, value in keys.items():
                if key not in widgets:
                    raise LabError(f"{key!r} is nothing that a funnel asks; known are {', '.join(widgets)}")
                _put(widgets[key], key, value)
        self._changed(None)
        return self

    @property
    def asked(self) -> tuple[list[str], dict[str, Any]]:
        """Steps and keys for `log.funnel`; keys at their default are left out.

        >>> explorer.asked[0]
        ['click', 'registration']
        """
        values: dict[str, Any] = {
            "within": self.within.value.strip(), "by": self.by.value, "client": self.client.value,
            "mode": self.mode.value, "exclude": list(self.exclude.value), "where": self.where.value.strip(),
        }  # fmt: skip
        nothing: tuple[Any, ...] = ("", _NONE, [], "ordered")
        return list(self.steps.value), {key: value for key, value in values.items() if value not in nothing}

    @property
    def code(self) -> str:
        """The line of Python that asks the same.

        >>> explorer.code.startswith("log.funnel(")
        True
        """
        steps, keys = self.asked
        return _call(steps, keys) + (
            f".beside({_call(steps, keys | {'where': self.against.value.strip()})})"
            if self.against.value.strip()
            else ""
        )

    @property
    def funnel(self) -> Funnel:
        """The funnel that is asked, waited for. Raises LabError with the words of `trouble`.

        >>> explorer.funnel.steps
        ('click', 'registration')
        """
        self._newest.settle()
        if self._funnel is None or self.trouble:
            raise LabError(self.trouble or "the explorer is closed; open another one")
        return self._funnel

    @property
    def frame(self) -> pl.DataFrame:
        """The numbers of the chosen view, waited for.

        >>> explorer.frame.height > 0
        True
        """
        return self._view(self.funnel)[1]

    @property
    def chart(self) -> Chart | None:
        """The picture of the chosen view, waited for; None for those who left.

        >>> explorer.chart is None or explorer.chart.frame.height > 0
        True
        """
        return self._view(self.funnel)[0]

    def _changed(self, _: Any) -> None:
        if not self._quiet.on:
            self.body.add_class("bt-stale")
            self._newest.ask(self._ask)

    def _ask(self) -> None:
        steps, keys = self.asked
        if not steps:
            raise LabError("name a step: type an event, then Enter")
        found = funnel(self.log, *steps, **keys)
        second = self.against.value.strip()
        self._other = funnel(self.log, *steps, **keys | {"where": second}) if second else None
        self._funnel, self.trouble = found, ""
        self.said.value = ""
        first, last = found.visitors[0], found.visitors[-1]
        self.headline.value = (
            f"<b>{100 * last / first if first else 0:.1f} %</b> <span>of {first:,} visitors "
            f"reached {escape(found.steps[-1])} ({last:,})</span>"
        )
        drawn, frame = self._view(found)
        if frame is found.frame:
            frame = found.readable()
        picture = f'<div class="bt-picture">{drawn.svg}</div>' if drawn else ""
        self.body.value = f'<div class="bt-body">{picture}{html_table(frame, limit=24)}</div>'
        self.written.value = f'<div class="bt-case"><code>{escape(self.code)}</code></div>'
        self.body.remove_class("bt-stale")

    def _view(self, found: Funnel) -> tuple[Chart | None, pl.DataFrame]:
        view = self.view.value
        if view == "time to convert":
            return (found.times_chart() if len(found.steps) > 1 else None), found.times
        if view == "by day":
            return found.trend_chart(), found.trend
        if view == "those who left":
            return None, found.left(2).head(24)
        if view == "two segments" and self._other is not None:
            both = found.beside(self._other)
            return both.chart(), both.frame
        return found.chart(), found.ties if self.ties.value else found.frame

    def __repr__(self) -> str:
        return f"FunnelExplorer of {self.log.path}: {self.code}"


def _known(log: Log) -> dict[str, list[str]]:
    """events, clients and names of the log's events: what can be chosen."""
    import polars as pl

    events = log.events.group_by("event").agg(pl.len()).sort("len", "event", descending=[True, False]).collect()
    clients = log.events.select(pl.col("client").unique()).collect()["client"].sort().to_list()
    names = log.events.select(pl.col("params").map.keys().explode().unique()).collect().to_series().drop_nulls()
    return {
        "events": events["event"].to_list(), "clients": clients,
        "names": ["affiliate", "client", "currency", *names.sort().to_list()],
    }  # fmt: skip


def _put(widget: Any, key: str, value: Any) -> None:
    if key in ("steps", "exclude"):
        widget.value = [value] if isinstance(value, str) else list(value or ())
    elif key in ("by", "client"):
        options = [option[1] if isinstance(option, tuple) else option for option in widget.options]
        if value is not None and value not in options:
            raise LabError(f"{key} {value!r} is not in this log; known are {', '.join(options[1:])}")
        widget.value = value if value is not None else _NONE
    else:
        widget.value = value if value is not None else ("ordered" if key == "mode" else "")


def _call(steps: list[str], keys: dict[str, Any]) -> str:
    parts = [*map(_quoted, steps), *(f"{key}={_quoted(value)}" for key, value in keys.items())]
    return f"log.funnel({', '.join(parts)})"


def _quoted(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    return repr(value) if '"' in str(value) else f'"{value}"'
