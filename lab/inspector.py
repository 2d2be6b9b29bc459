"""The postback inspector: a visitor's timeline, and for each value of a hit or a postback the hit that it came from."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as w
import polars as pl

from lab.inspector_visitor import THIS, Inspected, find_visitors
from lab.log import LabError, given_log
from lab.show import plural
from lab.studio_page import readable
from lab.studio_panel import Panel
from lab.studio_style import STYLE
from lab.studio_widgets import column, field, row, text_field

if TYPE_CHECKING:
    from lab.log import Log
    from service.engine.explain import Story

_SHOWN = 300  # characters of one value


class Inspector(Panel):
    """Look at one visitor.

    log: from `lab.open`, with decisions. asked: whom to begin with, as for `look`. Without a browser: `look`, `choose`, and
    then `visitor`, `timeline`, `lineage`, `postbacks`, `story` and `notes`, each waited for; `trouble` is what went wrong.

    >>> inspector = lab.Inspector(log, run.postbacks["hit_id"][0])
    >>> inspector.trouble
    ''
    """

    def __init__(self, log: Log, asked: str = "") -> None:
        super().__init__("inspector")
        self.log = given_log(log)
        self._found = pl.DataFrame()
        self._seen: Inspected | None = None
        self.asked = text_field("a hit id, a visitor, a postback id, uid:anna, click_id:..., txid:...")
        self.asked.continuous_update = False
        self.asked.add_class("bt-code")
        self.who = w.Dropdown(layout=w.Layout(width="100%"))
        self.hits = w.Select(rows=18, layout=w.Layout(width="100%", height="430px"))
        self.hits.add_class("bt-hits")
        self.widget = self._laid_out()
        self.asked.observe(lambda _: self._newest.ask(self._search), "value")
        self.who.observe(self._turned, "value")
        self.hits.observe(self._turned, "value")
        if asked:
            self.look(asked)
        else:
            self.body.value = '<div class="bt-q">Name somebody above and press Enter.</div>'

    def _laid_out(self) -> Any:
        head = column(
            row(field("whom", self.asked, width="58%"), field("visitor", self.who, width="42%")), self.said, css="bt-head"
        )  # fmt: skip
        side = column(field("hits, in the order of the log", self.hits), css="bt-side", width="38%")
        answer = column(self.headline, self.body, css="bt-answer", width="62%")
        return column(w.HTML(STYLE), head, w.HBox([side, answer]), css="bt-studio")

    def look(self, asked: str) -> Inspector:
        """Look for a hit id, a visitor, a postback id, or a value of uid, click_id, tag_id or txid, such as `uid:anna`.

        >>> inspector.look(run.postbacks["hit_id"][0]).trouble
        ''
        """
        if self.asked.value == asked:
            self._newest.ask(self._search)
        self.asked.value = asked
        return self

    def choose(self, hit_id: str) -> Inspector:
        """Another hit of the visitor. Raises LabError if it has no such hit.

        >>> inspector.choose(run.postbacks["hit_id"][0]).trouble
        ''
        """
        if hit_id not in self.timeline["hit_id"]:
            raise LabError(f"visitor {self.visitor} has no hit {hit_id!r}; its hits are in timeline")
        self.hits.value = hit_id
        return self

    @property
    def visitor(self) -> str:
        """The id of the visitor.

        >>> len(inspector.visitor)
        32
        """
        return self._inspected.visitor

    @property
    def visitors(self) -> pl.DataFrame:
        """Everybody who was found: visitor, client, hits, first, last.

        >>> inspector.visitors.columns
        ['visitor', 'client', 'hits', 'first', 'last']
        """
        self._newest.settle()
        return self._found

    @property
    def timeline(self) -> pl.DataFrame:
        """hit_id, time, event, verdict, affiliate, fired, amount, visitor; in log order.

        >>> inspector.timeline.columns
        ['hit_id', 'time', 'event', 'verdict', 'affiliate', 'fired', 'amount', 'visitor']
        """
        return self._inspected.timeline

    @property
    def lineage(self) -> pl.DataFrame:
        """hit_id, name, value, origin (`this hit`, `remembered`), from_hit, from_time, from_event of every value.

        >>> inspector.lineage.columns
        ['hit_id', 'name', 'value', 'origin', 'from_hit', 'from_time', 'from_event']
        """
        return self._inspected.lineage

    @property
    def postbacks(self) -> pl.DataFrame:
        """The promises of these hits: hit_id, postback_id, trigger, recipient, state, verb, url, body, payout, currency,
        tries, result (of the last try).

        >>> inspector.postbacks.columns[-4:]
        ['payout', 'currency', 'tries', 'result']
        """
        return self._inspected.postbacks

    @property
    def story(self) -> Story | None:
        """All about the chosen hit, see service/engine/explain.py; None where its rulebook is not known.

        >>> inspector.story.verdict
        'accepted'
        """
        return self._inspected.stories.get(self.hits.value or "")

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes this less than certain.

        >>> inspector.notes
        ()
        """
        return tuple(self._inspected.notes)

    @property
    def _inspected(self) -> Inspected:
        self._newest.settle()
        if self._seen is None or self.trouble:
            raise LabError(self.trouble or "nobody is looked at yet; use look")
        return self._seen

    def _search(self) -> None:
        self.body.add_class("bt-stale")
        asked = self.asked.value.strip()
        if not asked:
            return
        found = find_visitors(self.log, asked)
        options = [
            (f"{one['client']} · {one['visitor']} · {plural(one['hits'], 'such hit')}", one["visitor"])
            for one in found.iter_rows(named=True)
        ]
        self._found, self.trouble, self.said.value = found, "", ""
        with self._quiet:
            self.who.options = options
            self.who.value = options[0][1]
        self._look_at(options[0][1], asked.removeprefix("hit:"))

    def _look_at(self, visitor: str, hit_id: str = "") -> None:
        self._seen = seen = Inspected(self.log, visitor)
        ids = seen.timeline["hit_id"].to_list()
        posted = seen.postbacks.filter(pl.col("postback_id") == hit_id.removeprefix("postback:"))["hit_id"].to_list()
        fired = seen.timeline.filter(pl.col("fired").list.len() > 0)["hit_id"].to_list()
        chosen = hit_id if hit_id in ids else (posted or fired or ids)[-1]

        with self._quiet:
            self.hits.options = [(_line(one), one["hit_id"]) for one in seen.timeline.iter_rows(named=True)]
            self.hits.value = chosen
        first, last = seen.timeline["time"][0], seen.timeline["time"][-1]
        firings = int(seen.timeline["fired"].list.len().sum())
        self.headline.value = (
            f"<b>{len(ids):,}</b> <span>{'hit' if len(ids) == 1 else 'hits'}, {plural(firings, 'firing')}, "
            f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC</span>"
        )
        self._show()

    def _turned(self, change: Any) -> None:
        if self._quiet.on or not change["new"]:
            return
        if change["owner"] is self.who:
            self._newest.ask(lambda: self._look_at(change["new"]))
        else:
            self._newest.ask(self._show)

    def _show(self) -> None:
        seen, hit_id = self._seen, self.hits.value
        if seen is None or not hit_id:
            return
        story = seen.stories.get(hit_id)
        parts = [f'<div class="bt-q">{escape(note)}</div>' for note in seen.notes]
        if story is not None:
            parts.append(_told(story))
        parts += [_lineage(seen.lineage.filter(pl.col("hit_id") == hit_id)), _postbacks(seen, hit_id)]
        self.body.value = f'<div class="bt-body">{"".join(parts)}</div>'
        self.body.remove_class("bt-stale")

    def __repr__(self) -> str:
        return f"Inspector of {self.log.path}: {self.asked.value or 'nobody yet'}"


def _line(one: dict[str, Any]) -> str:
    """A hit in the list of hits."""
    fired = f"  ▸ {', '.join(one['fired'])}" if one["fired"] else ""
    verdict = "" if one["verdict"] == "accepted" else f"  ({one['verdict']})"
    amount = f" {one['amount']}" if one["amount"] else ""
    return f"{one['time']:%m-%d %H:%M:%S}  {one['event'] or '—'}{amount}{verdict}{fired}"


def _told(story: Story) -> str:
    """The request, what became of it and who it was."""
    lines = [*story.says, *story.reading, *story.visitor, *((story.affiliate,) if story.affiliate else ())]
    fired = [f"Trigger {one.name} {one.says}" for one in story.triggers if one.stage == "fired"]
    stopped = [
        f"Trigger {one.name} did not fire ({one.stage}): {one.says}."
        for one in story.triggers
        if one.stage not in ("fired", "event")
    ]
    said = "".join(f"<div>{escape(line)}</div>" for line in (*lines, *fired, *stopped))
    return f'<h4>Hit {escape(story.hit_id)}</h4><div class="bt-case"><code>{escape(story.request[:900])}</code>{said}</div>'


def _lineage(lineage: pl.DataFrame) -> str:
    """A row per value; the remembered ones say which hit brought them."""
    rows = []
    for one in lineage.iter_rows(named=True):
        if one["origin"] == THIS:
            origin = '<span class="bt-q">this hit</span>'
        elif one["from_time"] is None:
            origin = '<span class="bt-q">an earlier hit</span>'
        else:
            source = f"{one['from_event']} of {one['from_time']:%m-%d %H:%M:%S}"
            origin = f'<span title="hit {escape(one["from_hit"])}">{escape(source)}</span>'
        rows.append(f"<tr><td>{escape(one['name'])}</td><td>{escape(one['value'][:_SHOWN])}</td><td>{origin}</td></tr>")
    head = "<tr><th>name</th><th>value</th><th>from</th></tr>"
    return f"<h4>What it knew, and from where</h4><table>{head}{''.join(rows)}</table>" if rows else ""


def _postbacks(seen: Inspected, hit_id: str) -> str:
    """The promises of a hit, what became of them, and for each value where it came from."""
    story = seen.stories.get(hit_id)
    told = {one.id: one for one in story.postbacks} if story else {}
    parts = []
    for one in seen.postbacks.filter(pl.col("hit_id") == hit_id).iter_rows(named=True):
        tries = f"{one['tries']:,} {'try' if one['tries'] == 1 else 'tries'}"
        became = f"{one['result']} after {tries}" if one["tries"] else one["state"]
        rows = "".join(
            f"<tr><td>{escape(value.name)}</td><td>{escape((value.value or '(missing)')[:_SHOWN])}</td>"
            f'<td><span class="bt-q">{escape(value.origin)}</span></td></tr>'
            for value in (told[one["postback_id"]].values if one["postback_id"] in told else ())
        )
        body = f"<code>{escape(readable(one['body']))}</code>" if one["body"] else ""
        target = f"{one['verb']} {one['url']}".strip() or "no endpoint for this method"
        parts.append(
            f'<details class="bt-case" open><summary>{escape(one["trigger"])} to {escape(one["recipient"])} · '
            f"{escape(became)}</summary><code>{escape(target)}</code>{body}<table>{rows}</table></details>"
        )
    return f"<h4>Postbacks</h4>{''.join(parts)}" if parts else ""
