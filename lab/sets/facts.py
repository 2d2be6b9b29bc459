"""What a trigger may ask about an event, for many events at once: counts, times, steps and remembered values by windows.

`facts` has one row per hit in a view (see `people`): the hit itself, what it said (`said`), and a column for everything
that some condition, step, payout or attribution of the rulebook asks, seen from just before the hit.
"""

from __future__ import annotations

from collections.abc import Iterable

from lab.sets.conditions import names_of
from lab.sets.said import own
from lab.sets.session import Session, text
from service.engine.conditions import syntax
from service.engine.model import RESERVED
from service.engine.rulebook import Rulebook, Trigger

_WINDOW = "WINDOW past AS (PARTITION BY view ORDER BY ord ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
VISITOR = "r.hit_id"
_NEVER = "CAST(NULL AS VARCHAR)"


class Asked:
    """The columns of `facts`: what these triggers ask, each thing once. It is also where conditions find their columns."""

    def __init__(self, rulebook: Rulebook, triggers: Iterable[Trigger]) -> None:
        self.rulebook = rulebook
        self.windows: dict[str, str] = {}  # expression -> column, over the past
        self.inputs: dict[str, str] = {}  # what windows and conditions read of the hit itself -> column
        self.steps: dict[tuple[str, ...], str] = {}  # steps -> column: the latest time at which they may have begun
        for trigger in triggers:
            self._ask(trigger)

    def _ask(self, trigger: Trigger) -> None:
        for length in range(1, len(trigger.after) + 1):
            self.steps.setdefault(trigger.after[:length], f"step{len(self.steps)}")
        if trigger.when is not None:
            for name in sorted(names_of(syntax(trigger.when.text))):
                kind, bracket, event = name.rstrip(")").partition("(")
                if not bracket:
                    self.value(name)
                elif kind == "count":
                    self.count(event)
                else:
                    self.since_us(event)
        if trigger.sample:
            self.visitor()

    def count(self, event: str) -> str:
        """How many earlier counted events of this name."""
        return self._window(f"coalesce(sum(CASE WHEN {_did(event)} THEN 1 END) OVER past, 0)")

    def since_us(self, event: str) -> str:
        """Microseconds since the last of them."""
        return f"(t - {self._window(_last(f'CASE WHEN {_did(event)} THEN t END'))})"

    def value(self, name: str) -> str:
        """The value of a name as `triggers.Facts.value` finds it, null if it is missing."""
        scope, dot, rest = name.partition(".")
        if name == "affiliate":
            return "affiliate"
        if name in RESERVED:
            return self._input(f"s.f_{name}")
        if name in ("hit_id", "visitor"):
            return self._input("s.hit_id" if name == "hit_id" else VISITOR)
        if name == "time":
            return "strftime(make_timestamp(t), '%Y-%m-%dT%H:%M:%S.%fZ')"
        if not dot:
            return self._remembered(name)
        if scope == "param":
            return self._remembered(rest)
        if scope == "first":
            mine = self._input(own(rest))
            return f"coalesce({self._window(_first(f'CASE WHEN counted THEN {mine} END'))}, {mine})"
        return self._last_of(*rest.rpartition(".")[::2]) if scope == "last" else _NEVER

    def _remembered(self, name: str) -> str:
        mine = self._input(own(name))
        return f"coalesce({mine}, {self._window(_last(f'CASE WHEN counted THEN {mine} END'))})"

    def _last_of(self, event: str, field: str) -> str:
        """A reserved name of the last counted event; it may be missing there, which an empty text stands for."""
        value = self._input(f"s.f_{field}")
        found = f"CASE WHEN {_did(event)} THEN coalesce({value}, '') END"
        return f"nullif({self._window(_last(found))}, '')"

    def visitor(self) -> str:
        """The id of the visitor, for those who ask: it is wide."""
        return self._input(VISITOR)

    def _input(self, expression: str) -> str:
        return self.inputs.setdefault(expression, f"i{len(self.inputs)}")

    def _window(self, expression: str) -> str:
        return self.windows.setdefault(expression, f"w{len(self.windows)}")

    def done(self, trigger: Trigger) -> str:
        """Whether the steps of a trigger are done."""
        if not trigger.after:
            return "true"
        start = self.steps[trigger.after]
        return f"coalesce({start} >= t - {trigger.within_us}, false)" if trigger.within_us else f"({start} IS NOT NULL)"


def _did(event: str) -> str:
    return f"counted AND event = {text(event)}"


def _last(expression: str) -> str:
    return f"last_value({expression} IGNORE NULLS) OVER past"


def _first(expression: str) -> str:
    return f"first_value({expression} IGNORE NULLS) OVER past"


def find_facts(session: Session, asked: Asked) -> None:
    """Make the table `facts` out of `views`, `said`, `events` and `twice`."""
    root = "JOIN said AS r ON r.ord = v.view" if VISITOR in asked.inputs else ""
    inputs = "".join(f", {expression} AS {column}" for expression, column in asked.inputs.items())
    base = (
        "SELECT v.view, v.label, v.speaks, e.ord, e.t, e.grp, e.cid, e.event, s.f_affiliate, "
        f"coalesce(NOT d.duplicate, true) AS counted{inputs} FROM views AS v JOIN events AS e ON e.ord = v.ord "
        f"JOIN said AS s ON s.ord = v.ord {root} LEFT JOIN twice AS d ON d.ord = v.ord"
    )
    windows = [f"{expression} AS {column}" for expression, column in asked.windows.items()]
    query = f"SELECT {', '.join(['*', *windows, *_clicks(asked)])} FROM ({base}) {_WINDOW}"
    for depth in range(1, max(map(len, asked.steps), default=0) + 1):
        level = [_step(asked, steps) for steps in asked.steps if len(steps) == depth]
        query = f"SELECT *, {', '.join(level)} FROM ({query}) {_WINDOW}"
    query = f"SELECT *, coalesce(f_affiliate, {_attributed(asked)}) AS affiliate FROM ({query}) WHERE speaks"
    session.make("facts", query)


def _step(asked: Asked, steps: tuple[str, ...]) -> str:
    *before, step = steps
    start = asked.steps[tuple(before)] if before else "t"
    return f"max(CASE WHEN {_did(step)} THEN {start} END) OVER past AS {asked.steps[steps]}"


_CLICK = "CASE WHEN counted AND event = 'click' AND f_affiliate IS NOT NULL THEN {} END"


def _clicks(asked: Asked) -> list[str]:
    """The last click that named an affiliate, and for clients that count the first one, all of them."""
    time, affiliate = _CLICK.format("t"), _CLICK.format("f_affiliate")
    found = [f"{_last(time)} AS clicked_t", f"{_last(affiliate)} AS clicked_affiliate"]
    if _first_clickers(asked):
        click = _CLICK.format("{'t': t, 'affiliate': f_affiliate}")
        found.append(f"list({click}) OVER past AS clicks")
    return found


def _attributed(asked: Asked) -> str:
    cases = ""
    first = _first_clickers(asked)
    for cid, client in enumerate(asked.rulebook.clients.values()):
        oldest = f"t - {client.click_window_us}"
        if cid in first:
            inside = f"list_filter(clicks, lambda click: click IS NOT NULL AND click.t >= {oldest})"
            cases += f" WHEN {cid} THEN {inside}[1].affiliate"
        else:
            cases += f" WHEN {cid} THEN CASE WHEN clicked_t >= {oldest} THEN clicked_affiliate END"
    return f"CASE cid{cases} END"


def _first_clickers(asked: Asked) -> set[int]:
    clients = enumerate(asked.rulebook.clients.values())
    return {cid for cid, client in clients if client.attribution == "first_click"}
