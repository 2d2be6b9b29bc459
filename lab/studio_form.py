"""The left half of a studio: a widget per key of a trigger, and what is wrong with each below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as w

from lab.studio_check import Checked
from lab.studio_draft import Draft
from lab.studio_page import trouble_html
from lab.studio_widgets import WIDE, Quiet, checkbox, column, dropdown, field, row, shared, text_field
from lab.studio_words import MOST

METHODS = ("webhook", "email", "javascript", "pixel")
_EVERY = ("hour", "day", "month", "total")


class Form:
    """The widgets. changed: called when a person has changed one. `draft` and `show` are what goes out and in."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._quiet = Quiet()
        self._draft = Draft()
        self.name = text_field("first-deposit")
        self.client = dropdown([])
        self.on = dropdown([])
        self.after = w.TagsInput(allow_duplicates=True, placeholder="add an event", layout=w.Layout(width=WIDE))
        self.within = text_field("30d")
        self.condition = text_field('amount >= 20 and country == "DE"')
        self.condition.add_class("bt-condition")
        self.chips = w.HBox([_chip(self._accepted) for _ in range(MOST)], layout=w.Layout(width=WIDE))
        self._offered: list[str] = []
        self.chips.add_class("bt-chips")
        self.once = checkbox("once per visitor", "150px")
        self.cap_count = w.BoundedIntText(min=0, max=10**9)
        self.cap_per = dropdown(["trigger", "affiliate"])
        self.cap_every = w.Dropdown(options=_EVERY, value="day")
        self.payout_kind = dropdown(["none", "fixed", "percent"])
        self.payout_sum = text_field("25")
        self.payout_of = text_field("amount")
        self.payout_currency = text_field("EUR")
        self.method = dropdown(METHODS, "130px")
        self.to_client = checkbox("client", "80px")
        self.to_affiliate = checkbox("affiliate", "100px")
        self.affiliate = dropdown([], "150px")
        self.template = w.Textarea(
            rows=2, placeholder="the affiliate's own address", layout=w.Layout(width=WIDE, height="52px")
        )
        self.template.add_class("bt-code")
        self.toml = w.Textarea(rows=10, layout=w.Layout(width=WIDE, height="220px"))
        self.toml.add_class("bt-code")
        self.says = {name: w.HTML() for name in ("name", "on", "after", "within", "when", "cap", "payout", "to",
                                                     "template", "toml")}  # fmt: skip
        self.head = self._head()
        self.side = self._side()
        for widget in self._inputs:
            widget.observe(self._told, "value")
        self.affiliate.observe(self._turned, "value")

    @property
    def _inputs(self) -> Sequence[Any]:
        return (
            self.name, self.client, self.on, self.after, self.within, self.condition, self.once, self.cap_count,
            self.cap_per, self.cap_every, self.payout_kind, self.payout_sum, self.payout_of, self.payout_currency,
            self.method, self.to_client, self.to_affiliate, self.template,
        )  # fmt: skip

    def _head(self) -> Any:
        """When it fires."""
        said = self.says
        who = row(
            field("name", self.name, said["name"], width="22%"), field("client", self.client, width="14%"),
            field("fires on", self.on, said["on"], width="22%"),
            field("after these steps, in this order", self.after, said["after"], width="30%"),
            field("within", self.within, said["within"], width="12%"),
        )  # fmt: skip
        return column(who, field("condition", self.condition, said["when"], self.chips), css="bt-head")

    def _side(self) -> Any:
        """How often, for what, and where it is posted."""
        said = self.says
        cap = row(shared(self.cap_count, 3), shared(self.cap_per, 4), shared(self.cap_every, 3))
        payout = row(
            shared(self.payout_kind, 4), shared(self.payout_sum, 3), shared(self.payout_of, 4),
            shared(self.payout_currency, 3),
        )  # fmt: skip
        paste = w.Accordion([w.VBox([self.toml, said["toml"]])], titles=("as TOML, to copy or paste",))
        return column(
            self.once, field("cap: how many (0: no cap) · per · every", cap, said["cap"]),
            field("payout · how much · of · currency", payout, said["payout"]),
            field("posts by · to", row(self.method, self.to_client, self.to_affiliate), said["to"]),
            field("an address of its own for one affiliate", self.affiliate, self.template, said["template"]),
            paste, css="bt-side", width="36%",
        )  # fmt: skip

    def offer(self, clients: Sequence[str], affiliates: Sequence[str], events: Sequence[tuple[str, str]]) -> None:
        """What can be chosen. events: (label, name)."""
        with self._quiet:
            self.client.options = _with(clients, self._draft.client)
            chosen = self.affiliate.value
            self.affiliate.options = list(affiliates)
            self.affiliate.value = chosen if chosen in affiliates else next(iter(affiliates), None)
            names = [name for _, name in events]
            more = [] if self._draft.on in names or not self._draft.on else [(self._draft.on, self._draft.on)]
            self.on.options = [*events, *more]
            self.on.value = self._draft.on or (names[0] if names else None)

    def put(self, draft: Draft) -> None:
        """Show a draft."""
        self._draft = draft
        with self._quiet:
            self.name.value, self.within.value, self.condition.value = draft.name, draft.within, draft.when
            self.client.options = _with(self.client.options, draft.client)
            self.client.value = draft.client or None
            if draft.on and draft.on not in [name for _, name in self.on.options]:
                self.on.options = [*self.on.options, (draft.on, draft.on)]
            self.on.value = draft.on or None
            self.after.value = list(draft.after)
            self.once.value = draft.once == "visitor"
            count = draft.cap.get("count", 0)
            self.cap_count.value = count if isinstance(count, int) else 0
            self.cap_per.value = draft.cap.get("per", "trigger")
            self.cap_every.value = draft.cap.get("every", "day")
            self._put_payout(draft)
            self.method.value = draft.method if draft.method in METHODS else "webhook"
            self.to_client.value, self.to_affiliate.value = "client" in draft.to, "affiliate" in draft.to
            self._show_template()
            self.toml.value = draft.toml

    def _put_payout(self, draft: Draft) -> None:
        kind = next((kind for kind in ("fixed", "percent") if kind in draft.payout), "none")
        self.payout_kind.value = kind
        self.payout_sum.value = str(draft.payout.get(kind, ""))
        self.payout_of.value = draft.payout.get("of", "")
        self.payout_currency.value = draft.payout.get("currency", "")
        self.payout_sum.disabled = self.payout_currency.disabled = kind == "none"
        self.payout_of.disabled = kind != "percent"

    @property
    def draft(self) -> Draft:
        """What the widgets say. Keys without a widget are kept as they were."""
        cap = {"per": self.cap_per.value, "every": self.cap_every.value, "count": self.cap_count.value}
        recipients = [name for name in self._draft.to if name in ("client", "affiliate")]
        wanted = {"client": self.to_client.value, "affiliate": self.to_affiliate.value}
        to = [name for name in recipients if wanted[name]]
        to += [name for name, yes in wanted.items() if yes and name not in to]
        return self._draft.changed(
            name=self.name.value.strip(), client=self.client.value or "", on=self.on.value or "",
            after=tuple(self.after.value), within=self.within.value.strip(), when=self.condition.value,
            once="visitor" if self.once.value else "always", cap=cap if cap["count"] else {}, payout=self._payout(),
            method=self.method.value, to=tuple(to), templates=self._templates(),
        )  # fmt: skip

    def _payout(self) -> dict[str, Any]:
        kind = self.payout_kind.value
        if kind == "none":
            return {}
        payout = {kind: self.payout_sum.value.strip()}
        if kind == "percent" and self.payout_of.value.strip():
            payout["of"] = self.payout_of.value.strip()
        if self.payout_currency.value.strip():
            payout["currency"] = self.payout_currency.value.strip()
        return payout

    def _templates(self) -> dict[str, Any]:
        templates = dict(self._draft.templates)
        if self.affiliate.value:
            templates.pop(self.affiliate.value, None)
            if self.template.value.strip():
                templates[self.affiliate.value] = self.template.value.strip()
        return templates

    def _show_template(self) -> None:
        chosen = self.affiliate.value
        own = self._draft.templates.get(chosen, "") if chosen else ""
        self.template.value = own if isinstance(own, str) else ""
        self.template.disabled = not isinstance(own, str)  # a table is edited as TOML

    def judge(self, checked: Checked, hint: str = "") -> None:
        """Show what is wrong, each thing at its field. hint: below the address where nothing is wrong with it."""
        chosen = f"template {self.affiliate.value}"
        for name, html in self.says.items():
            field = chosen if name == "template" else name
            found = checked.at(field)
            if name == "toml":
                known = {*self.says, chosen}
                found = tuple(one for one in checked.troubles if one.field not in known)
            html.value = trouble_html(found, checked.draft.when if name == "when" else "")
        if not checked.at(chosen) and hint:
            self.says["template"].value = f'<div class="bt-q">{hint}</div>'
        _mark(self.condition, bool(checked.at("when")))
        _mark(self.template, bool(checked.at(chosen)))

    def suggest(self, texts: Sequence[str]) -> None:
        """Offer these texts of the condition as buttons, each named by what it adds."""
        typed = self.condition.value
        self._offered = list(texts)
        for number, button in enumerate(self.chips.children):
            text = texts[number] if number < len(texts) else ""
            same = next((i for i, (a, b) in enumerate(zip(text, typed, strict=False)) if a != b), len(typed))
            begins = text[:same].endswith((" ", "(")) or text[same : same + 1] == " "
            word = max(text.rfind(mark, 0, same) for mark in " (") + 1  # where the last word begins
            button.description = text[same if begins else word :].strip()
            button.layout.display = None if text else "none"

    def _accepted(self, button: Any) -> None:
        """An offer is clicked."""
        self.condition.value = self._offered[self.chips.children.index(button)]

    def _told(self, change: Any) -> None:
        if self._quiet.on:
            return
        self._draft = self.draft
        self._changed()

    def _turned(self, change: Any) -> None:
        """Another affiliate is chosen: its address is shown."""
        if not self._quiet.on:
            with self._quiet:
                self._show_template()
            self._changed()

    def follow(self) -> None:
        """Show the TOML of what the widgets say, and what can be filled in for the chosen payout."""
        with self._quiet:
            self._put_payout(self._draft)
            self.toml.value = self._draft.toml


def _chip(clicked: Callable[[Any], None]) -> Any:
    button = w.Button(layout=w.Layout(display="none"))
    button.add_class("bt-chip")
    button.on_click(clicked)
    return button


def _with(options: Sequence[str], one: str) -> list[str]:
    return [*options, *([one] if one and one not in options else [])]


def _mark(widget: Any, bad: bool) -> None:
    (widget.add_class if bad else widget.remove_class)("bt-bad")
