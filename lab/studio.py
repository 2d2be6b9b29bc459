"""The studio: a trigger is built with widgets, and what it would have done on the log is seen as one types."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from lab.log import LabError, given_log
from lab.replay import Rules, newest_rulebook, rulebook_of
from lab.studio_answer import Answer
from lab.studio_cases import Case
from lab.studio_check import Checked, Trouble, check
from lab.studio_draft import Draft, draft_of, read_draft
from lab.studio_form import Form
from lab.studio_ground import Ground
from lab.studio_page import body_html, count_html, progress_html, trouble_html
from lab.studio_run import CLOSED, Runner, Screen
from lab.studio_style import STYLE
from lab.studio_text import drafts_in
from lab.studio_widgets import column
from lab.studio_words import completions, events_for, names_for
from service.engine import Rulebook
from service.engine.rulebook import Trigger

if TYPE_CHECKING:
    from lab.log import Log

MOST_OPEN = 2
_OPEN: list[Studio] = []


class Studio(Screen):
    """Build a trigger, see it fire on the log.

    log: from `lab.open`. rules: the rulebook around the trigger, as for `log.replay`; None for the newest of the log.
    trigger: what to begin with: the name of a trigger of the rulebook, TOML with one `[[trigger]]`, or its keys as a
    mapping; None for a new one. Raises LabError and RulebookError as `log.replay` does.

    In a notebook it shows itself. Everything can be done without a browser: `set`, `draft`, `toml`, `troubles`, `result`,
    `cases`, `completions`, `trigger`, `rulebook()`. The widgets of most use to a test are `condition` (a text) and `count`
    (the headline, of CSS class `bt-count`).

    >>> studio = lab.Studio(log, trigger={"name": "big", "client": "acme", "on": "sale"})
    >>> studio.set(when="amount >= 100").result.fired > 0
    True
    """

    def __init__(self, log: Log, rules: Rules = None, trigger: str | dict[str, Any] | None = None) -> None:
        self.log = given_log(log)
        self._rulebook = newest_rulebook(log) if rules is None else rulebook_of(rules)
        assert self._rulebook is not None
        self._ground: Ground | None = None
        self._answer: Answer | None = None
        self.form = Form(self._typed)
        self.condition = self.form.condition
        self.count = w.HTML(progress_html(0, "opening"))
        self.count.add_class("bt-count")
        self.body = w.HTML()
        self.widget = self._laid_out()
        self._checked = Checked(Draft(), ())
        self._put(self._first(trigger))
        self._runner = Runner(log, self._rulebook, self)
        self._runner.ask(self._checked)
        _remember(self)
        self.form.toml.observe(self._pasted, "value")

    @property
    def draft(self) -> Draft:
        """The trigger as it stands, right or wrong.

        >>> studio.draft.name
        'big'
        """
        return self._checked.draft

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What is wrong with it, each with its field, words and in a condition the column; empty if nothing is.

        >>> studio.set(when="amont >= 100").troubles[0].says
        "'amont' is no parameter of client acme, did you mean 'amount'?"
        >>> studio.set(when="amount >= 100").troubles
        ()
        """
        return self._checked.troubles

    @property
    def trigger(self) -> Trigger:
        """The trigger as the engine has it. Raises LabError while something is wrong.

        >>> studio.trigger.on
        'sale'
        """
        return self._right()[0]

    @property
    def toml(self) -> str:
        """The draft as it stands in a rulebook; set it to paste one in.

        >>> print(studio.toml.splitlines()[0])
        [[trigger]]
        """
        return self.draft.toml

    @toml.setter
    def toml(self, text: str) -> None:
        self._put(read_draft(text))
        self._runner.ask(self._checked)

    def set(self, **keys: Any) -> Studio:
        """Change keys of the trigger, named as in TOML (`from_` for `from`); None takes a key away. Answers with itself.

        Raises LabError for a key that a trigger does not have; a wrong value is one of `troubles`.

        >>> studio.set(once="visitor").draft.once
        'visitor'
        """
        self._put(self.draft.changed(**keys))
        self._runner.ask(self._checked)
        return self

    def open(self, trigger: str) -> Studio:
        """Edit another trigger of the rulebook. Raises LabError if there is no such trigger.

        >>> studio.open("signup").draft.on
        'registration'
        >>> studio.open("first-deposit").draft.on
        'sale'
        """
        self._put(self._first(trigger))
        self._runner.ask(self._checked)
        return self

    def rulebook(self) -> Rulebook:
        """The rulebook with this trigger in it; its `text` is the file. Raises LabError while something is wrong.

        >>> [one.name for one in studio.rulebook().triggers][:2]
        ['signup', 'first-deposit']
        """
        return self._right()[1]

    @property
    def result(self) -> Answer:
        """The exact answer to the draft as it stands, waited for. Raises LabError while something is wrong with it.

        >>> studio.result.exact
        True
        """
        self._right()
        answer, _, failure = self._runner.settle()
        if answer is None:
            raise LabError(failure)
        return answer

    @property
    def cases(self) -> tuple[Case, ...]:
        """Examples of firings and the nearest misses, waited for.

        >>> studio.cases[0].stage
        'fired'
        """
        self._right()
        return self._runner.settle()[1]

    def completions(self, text: str | None = None) -> tuple[str, ...]:
        """What the condition, or this text, may become with its next word.

        >>> studio.completions("amou")
        ('amount ',)
        """
        seen = self._ground.names.custom if self._ground else ()
        names = names_for(self._base, self.draft.client, seen)
        return completions(self.draft.when if text is None else text, names, [name for _, name in self._events()])

    def close(self) -> None:
        """Give back the memory that the log takes.

        >>> studio.close()  # doctest: +SKIP
        """
        self._runner.close()
        self.count.value = f'<div class="bt-q">{CLOSED}</div>'

    def _right(self) -> tuple[Trigger, Rulebook]:
        checked = self._checked
        if checked.trigger is None or checked.rulebook is None:
            raise LabError("; ".join(f"{one.field}: {one.says}" if one.field else one.says for one in checked.troubles))
        return checked.trigger, checked.rulebook

    @property
    def _base(self) -> Rulebook:
        assert self._rulebook is not None
        return self._rulebook

    def _first(self, trigger: str | dict[str, Any] | None) -> Draft:
        known = drafts_in(self._base.text)
        if isinstance(trigger, dict):
            return draft_of(trigger)
        if isinstance(trigger, str) and "\n" in trigger:
            return read_draft(trigger)
        if trigger is not None:
            if trigger not in known:
                names = ", ".join(known) or "none"
                raise LabError(f"the rulebook has no trigger {trigger!r}; its triggers are {names}")
            return known[trigger]
        client = next(iter(self._base.clients), "")
        name = next(f"draft{number or ''}" for number in range(len(known) + 1) if f"draft{number or ''}" not in known)
        events = events_for(self._base, client)
        return Draft(name=name, client=client, on="sale" if "sale" in events else next(iter(events), ""))

    def _put(self, draft: Draft) -> None:
        """A draft from elsewhere than the widgets."""
        self.form.put(draft)
        self._judge(draft)

    def _judge(self, draft: Draft) -> None:
        self._checked = check(draft, self._base.text)
        self.form.offer(list(self._base.clients), list(self._base.affiliates), self._events())
        self.form.after.allowed_tags = [name for _, name in self._events()]
        self.form.judge(self._checked)
        if self._checked.troubles:
            for stale in (self.count, self.body):
                stale.add_class("bt-stale")  # they belong to the last whole draft
            self._say_what_is_missing()
        self.form.suggest(self.completions())

    def _typed(self) -> None:
        """A person has changed a widget."""
        self._judge(self.form.draft)
        self.form.follow()
        self._runner.ask(self._checked)

    def _pasted(self, change: Any) -> None:
        """A person has changed the TOML."""
        if change["new"] == self.draft.toml:
            return
        try:
            draft = read_draft(change["new"])
        except LabError as error:
            self.form.judge(Checked(self.draft, (Trouble("", str(error)),)))
            return
        self._put(draft)
        self._runner.ask(self._checked)

    def _events(self) -> list[tuple[str, str]]:
        """(label, name) of the client's events: those in the log with their number, then what the rulebook names."""
        client = self.draft.client
        named = [(name, name) for name in events_for(self._base, client)]
        if self._ground is None:
            return named
        kinds = self._ground.kinds
        seen = [(f"{event} · {hits:,}", event) for owner, event, hits, _ in kinds.iter_rows() if owner == client]
        known = {name for _, name in seen}
        return seen + [(f"{name} · 0", name) for _, name in named if name not in known]

    def _laid_out(self) -> Any:
        answer = column(self.count, self.body, css="bt-answer", width="64%")
        return column(w.HTML(STYLE), self.form.head, w.HBox([self.form.side, answer]), css="bt-studio")

    def preparing(self, share: float, what: str) -> None:
        self.count.value = progress_html(share, what)

    def _say_what_is_missing(self) -> None:
        if self._ground is not None and self._answer is None:
            self.count.value = "<span>Counted as soon as what is marked is put right.</span>"

    def ready(self, ground: Ground) -> None:
        self._ground = ground
        if self._checked.troubles:
            self._say_what_is_missing()
        self.form.offer(list(self._base.clients), list(self._base.affiliates), self._events())

    def working(self, exact: bool) -> None:
        self.body.add_class("bt-stale")

    def answered(self, answer: Answer, cases: tuple[Case, ...] | None) -> None:
        self._answer = answer
        self.count.value = count_html(answer)
        self.body.value = body_html(answer, cases)
        for fresh in (self.count, self.body):
            fresh.remove_class("bt-stale")

    def failed(self, says: str) -> None:
        self.count.value = trouble_html((Trouble("", says),))

    def _repr_mimebundle_(self, **how: Any) -> Any:
        return self.widget._repr_mimebundle_(**how)

    def __repr__(self) -> str:
        wrong = f", {len(self.troubles)} wrong" if self.troubles else ""
        return f"Studio of {self.log.path}: {self.draft.name} on {self.draft.on} of {self.draft.client}{wrong}"


def _remember(studio: Studio) -> None:
    """Close the oldest if too many are open: a cell that is run again would take the memory of its log again."""
    if not _OPEN:
        atexit.register(_close_all)
    _OPEN.append(studio)
    while len(_OPEN) > MOST_OPEN:
        _OPEN.pop(0).close()


def _close_all() -> None:
    """Before the interpreter ends: a thread that is cut off in the middle of a query takes it down."""
    while _OPEN:
        _OPEN.pop().close()
