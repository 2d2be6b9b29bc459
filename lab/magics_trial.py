"""A trigger tried on a log: what it would have fired, in the studio's own words and numbers."""

from __future__ import annotations

from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.show import plural, text_of
from lab.studio_answer import Answer, Asking
from lab.studio_cases import Case, find_cases
from lab.studio_draft import Draft
from lab.studio_ground import Ground
from lab.studio_page import body_html, count_html
from lab.studio_style import STYLE
from service.engine import Rulebook
from service.engine.document import nearest
from service.engine.rulebook import Trigger

if TYPE_CHECKING:
    from lab.log import Log


class Trial:
    """What one trigger would have done on a log. The result of `%%trigger`.

    draft: the trigger as it was written. rulebook: with the trigger in it. firings: how often it fires; visitors: for how
    many; money: amount by currency. affiliates: a frame of affiliate, firings, payout, currency. stages: stage, stopped,
    left (hits), in the engine's order. cases: examples of firings with their postbacks, then the nearest misses.

    >>> trial.draft.when
    'amount >= 100'
    """

    def __init__(self, draft: Draft, rulebook: Rulebook, answer: Answer, cases: tuple[Case, ...], note: str) -> None:
        self.draft = draft
        self.rulebook = rulebook
        self.cases = cases
        self.note = note
        self._answer = answer

    @property
    def firings(self) -> int:
        """How often it fires.

        >>> trial.firings > 0
        True
        """
        return self._answer.fired

    @property
    def visitors(self) -> int:
        """For how many visitors it fires.

        >>> trial.visitors <= trial.firings
        True
        """
        return self._answer.visitors

    @property
    def money(self) -> dict[str, Decimal]:
        """What is paid, by currency; exact decimals.

        >>> sorted(trial.money)
        ['EUR']
        """
        return self._answer.money

    @property
    def affiliates(self) -> pl.DataFrame:
        """affiliate ("" or null if none), firings, payout (decimal), currency; most firings first.

        >>> trial.affiliates.columns
        ['affiliate', 'firings', 'payout', 'currency']
        """
        return self._answer.affiliates

    @property
    def stages(self) -> pl.DataFrame:
        """stage, stopped, left (hits), in the engine's order; the last is `fired`.

        >>> trial.stages["stage"].to_list()[-1]
        'fired'
        """
        return self._answer.stages

    @property
    def sentence(self) -> str:
        """The answer in one line.

        >>> trial.sentence.startswith("big would have fired")
        True
        """
        money = ", ".join(f"{text_of(amount)} {currency}" for currency, amount in self.money.items())
        return (
            f"{self.draft.name} would have fired {plural(self.firings, 'time')} for {plural(self.visitors, 'visitor')} "
            f"out of {plural(self._answer.asked, self.draft.on)}{f', worth {money}' if money else ''}"
        )

    def __repr__(self) -> str:
        return f"{self.sentence}{f'. {self.note}' if self.note else ''}"

    def _repr_html_(self) -> str:
        note = f'<div class="bt-trouble">{escape(self.note)}</div>' if self.note else ""
        head = f'<div class="bt-label">{escape(self.draft.name)} on this log</div>'
        body = (
            f'{head}<div class="bt-count">{count_html(self._answer)}</div>{note}{body_html(self._answer, self.cases)}'
        )
        return f'{STYLE}<div class="bt-studio"><div class="bt-answer">{body}</div></div>'


class Trials:
    """Tries triggers; what a log needs to be asked is prepared once and kept for the last log."""

    def __init__(self) -> None:
        self._kept: tuple[Log, Any, Asking] | None = None

    def trial(self, log: Log, draft: Draft, trigger: Trigger, rulebook: Rulebook) -> Trial:
        """Ask the log about a trigger that stands in this rulebook."""
        asking = self._asking(log, rulebook)
        answer = asking.answer(draft, trigger, rulebook)
        assert answer is not None  # nobody stops it, and the client is in the rulebook
        kinds = [
            event
            for client, event in asking.ground.kinds.select("client", "event").iter_rows()
            if client == draft.client
        ]
        note = "" if draft.on in kinds else f"No hit of {draft.client} is called {draft.on!r}{nearest(draft.on, kinds)}"
        return Trial(draft, rulebook, answer, find_cases(asking, answer), note)

    def _asking(self, log: Log, rulebook: Rulebook) -> Asking:
        people = rulebook.clients, rulebook.affiliates
        if self._kept is None or self._kept[0] is not log or self._kept[1] != people:
            self.close()
            self._kept = log, people, Asking(Ground(log, rulebook))
        return self._kept[2]

    def close(self) -> None:
        """Give back the memory that the last log takes."""
        if self._kept is not None:
            self._kept[2].ground.close()
            self._kept = None
