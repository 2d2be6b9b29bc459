"""One thread that answers drafts: the newest wins, a sample at once, exactly when nobody types any more."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread
from typing import TYPE_CHECKING

from lab.studio_answer import Answer, Asking
from lab.studio_cases import Case, find_cases
from lab.studio_check import Checked
from lab.studio_ground import Ground

if TYPE_CHECKING:
    from lab.log import Log
    from service.engine import Rulebook

TYPING_S = 0.05  # a pause that ends a burst of keys
WARM_S = 2.0  # how long nobody has asked before what may be asked next is prepared
CLOSED = "this studio is closed; open another one"
IDLE_S = 0.25  # how long nobody has typed before the exact answer is worked out


class Screen:
    """Where the answers go; called from the thread that works them out."""

    def preparing(self, share: float, what: str) -> None:
        """The log is being read: share from 0 to 1."""

    def ready(self, ground: Ground) -> None:
        """It has been read."""

    def answered(self, answer: Answer, cases: tuple[Case, ...] | None) -> None:
        """A draft has an answer. cases: None if they are still to come."""

    def working(self, exact: bool) -> None:
        """An answer is being worked out."""

    def failed(self, says: str) -> None:
        """A draft could not be answered, in words."""


class Runner:
    """Prepares a log, then answers drafts until it is closed."""

    def __init__(self, log: Log, rulebook: Rulebook, screen: Screen) -> None:
        self._log, self._rulebook, self._screen = log, rulebook, screen
        self._news = Condition()
        self._wanted: Checked | None = None
        self._number = self._settled = 0
        self._closed = False
        self._failure = ""
        self._last: Answer | None = None
        self._cases: tuple[Case, ...] = ()
        self._thread = Thread(target=self._work, name="studio", daemon=True)
        self._thread.start()

    def ask(self, checked: Checked) -> None:
        """Answer this draft next, and no older one any more. One that is wrong is only waited for."""
        with self._news:
            self._wanted = checked if checked.trigger is not None else None
            self._number += 1
            self._news.notify_all()

    def settle(self, timeout_s: float | None = None) -> tuple[Answer | None, tuple[Case, ...], str]:
        """Wait until the newest draft has its exact answer: the answer, its cases, and what failed in words."""
        with self._news:
            self._news.wait_for(lambda: self._settled == self._number or self._closed, timeout_s)
            if self._closed:
                return None, (), CLOSED
            return self._last, self._cases, self._failure

    def close(self) -> None:
        """End the thread and give back its memory."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._thread.join()

    def _work(self) -> None:
        try:
            ground = Ground(self._log, self._rulebook, self._screen.preparing)
        except Exception as error:
            self._fail(f"the log could not be prepared: {error}")
            return
        try:
            self._screen.ready(ground)
            asking = Asking(ground)
            while not self._closed:
                self._turn(asking)
        finally:
            ground.close()

    def _turn(self, asking: Asking) -> None:
        """The newest draft, from the sample to its cases; left early for a newer one."""
        with self._news:
            self._news.wait_for(lambda: self._number != self._settled or self._closed)
            while not self._closed and self._newer(self._number, TYPING_S):
                pass
            number, checked = self._number, self._wanted
        if self._closed:
            return
        try:
            found = self._answer(asking, checked, number) if checked is not None else None
        except (
            Exception
        ) as error:  # shown as words: a notebook must not be filled with a traceback while somebody types
            self._fail(f"this trigger could not be counted: {error}")
            found = None
        with self._news:
            if number == self._number:
                self._settled = number
                self._last, self._cases = found if found is not None else (None, ())
                self._news.notify_all()
        if checked is not None and found is not None and asking.ground.share > 1:
            self._warm(asking, checked.draft.client, number)

    def _warm(self, asking: Asking, client: str, number: int) -> None:
        """While nobody asks, get ready for another event: its first answer is the slowest."""
        for drawn, wait_s in ((True, 0.0), (False, WARM_S)):
            with self._news:
                if self._newer(number, wait_s):
                    return
            asking.warm(client, drawn, lambda: self._number != number or self._closed)

    def _answer(self, asking: Asking, checked: Checked, number: int) -> tuple[Answer, tuple[Case, ...]] | None:
        def stopped() -> bool:
            return self._number != number or self._closed

        self._failure = ""
        sampled = asking.ground.share > 1
        if sampled:
            if self._shown(asking, checked, False, stopped) is None:
                return None
            with self._news:
                if self._newer(number, IDLE_S):
                    return None
        answer = self._shown(asking, checked, True, stopped)
        if answer is None:
            return None
        cases = find_cases(asking, answer)
        self._screen.answered(answer, cases)
        return answer, cases

    def _shown(self, asking: Asking, checked: Checked, exact: bool, stopped: Callable[[], bool]) -> Answer | None:
        """An answer on the screen, None if it was stopped."""
        assert checked.trigger is not None and checked.rulebook is not None
        self._screen.working(exact)
        answer = asking.answer(checked.draft, checked.trigger, checked.rulebook, exact, stopped)
        if answer is None or stopped():
            return None
        self._screen.answered(answer, None)
        return answer

    def _newer(self, number: int, wait_s: float) -> bool:
        """Whether a newer draft comes within this time."""
        return self._news.wait_for(lambda: self._number != number or self._closed, wait_s)

    def _fail(self, says: str) -> None:
        self._failure = says
        self._screen.failed(says)
        with self._news:
            self._settled = self._number
            self._news.notify_all()
