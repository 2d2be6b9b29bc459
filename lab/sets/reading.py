"""What a hit says, as expressions of SQL over the column `params`: the second reading of `service.engine.parse`.

Clients that read alike (same aliases, same values that are no identifier, same browser events) share a shape; a CASE over
the shape stands where the engine asks the client.
"""

from __future__ import annotations

from collections.abc import Callable

from lab.sets.conditions import NUMBER_PATTERN
from lab.sets.session import text, texts
from service.engine.model import IDENTIFIERS, RESERVED
from service.engine.rulebook import BROWSER_EVENTS, Client, Rulebook

Shape = tuple[tuple[tuple[str, str], ...], frozenset[str], frozenset[str]]

EVENT_PATTERN = "[A-Za-z0-9_.:/-]{1,64}"
# `parse.MACRO` without its anchors: RE2 is asked for the whole text
MACRO_PATTERN = r"\$?\{[^{}]*\}|\{\{[^{}]*\}\}|\[[^\[\]]*\]|\[\[[^\[\]]*\]\]|#[^#]*#|%[A-Za-z0-9_]+%"
FIELDS = tuple(sorted(RESERVED))


def shape_of(client: Client) -> Shape:
    """What decides how a client's hits are read."""
    return tuple(client.aliases.items()), client.not_an_id, client.browser_events


class Reading:
    """Expressions over the columns params, route, hit_id, refusal, event, client, shape, linked_affiliate and
    linked_reason."""

    def __init__(self, rulebook: Rulebook) -> None:
        self.clients = list(rulebook.clients.values())
        self.shapes: list[Shape] = list(dict.fromkeys(map(shape_of, self.clients)))
        self._params: dict[str, str] = {}
        self._known_events = sorted({*BROWSER_EVENTS, *(trigger.on for trigger in rulebook.triggers)})

    def field(self, name: str) -> str:
        """A reserved name: its own value, else that of its first alias that came; null if it is absent."""
        if name == "client":
            return "client"
        if name == "event":
            return f"(CASE WHEN route = 'c' THEN 'click' ELSE {self.sent(name)} END)"
        if name == "affiliate":
            return f"(CASE WHEN route = 'c' THEN linked_affiliate ELSE {self.sent(name)} END)"
        if name == "click_id":
            return f"(CASE WHEN route = 'c' THEN hit_id ELSE {self.sent(name)} END)"
        if name == "currency":
            return f"upper({self.sent(name)})"
        return self.sent(name)

    def sent(self, name: str) -> str:
        """What came under the name or its aliases, before a tracker link puts its own in place."""
        guard = self._identifier if name in IDENTIFIERS else _as_sent
        return self._by_shape(lambda shape: self._first(shape, name, guard))

    def ignored(self) -> str:
        """Whether something came as an identifier and may be none: such hits have a detail."""

        def test(shape: Shape) -> str:
            sources = [*IDENTIFIERS, *(alias for alias, name in shape[0] if name in IDENTIFIERS)]
            columns = map(self.param, sources)
            return " OR ".join(f"({p} IS NOT NULL AND {self._identifier(p, shape)} IS NULL)" for p in columns)

        return self._by_shape(test)

    def param(self, name: str) -> str:
        """The column of a parameter as it was sent; `looked_up` makes it."""
        return self._params.setdefault(name, f"p{len(self._params)}")

    def looked_up(self) -> str:
        """The columns of the parameters that were asked for so far. Looking into the map is dear: each is done once."""
        return ", ".join(f"params[{text(name)}] AS {column}" for name, column in self._params.items())

    def reason(self) -> str:
        """Why the hit is rejected, null if it is not. Order and meaning of `parse`."""
        event, amount, currency = "event", self.field("amount"), self.sent("currency")
        allowed = self._by_shape(lambda shape: f"{event} IN ({texts(sorted(shape[2]))})")
        checks = (
            ("missing_client", "client IS NULL"),
            ("unknown_client", "shape IS NULL"),
            ("missing_event", f"{event} IS NULL"),
            (
                "invalid_event",
                f"{event} NOT IN ({texts(self._known_events)}) AND NOT regexp_full_match({event}, '{EVENT_PATTERN}')",
            ),
            (
                "event_not_allowed",
                f"route IN ('e.gif', 'e.js') AND NOT coalesce({allowed}, false) AND NOT list_contains(flags, 'signed')",
            ),
            ("invalid_amount", f"{amount} IS NOT NULL AND NOT regexp_full_match({amount}, '{NUMBER_PATTERN}')"),
            ("invalid_currency", f"{currency} IS NOT NULL AND NOT regexp_full_match({currency}, '[A-Za-z]{{3}}')"),
        )
        cases = " ".join(f"WHEN {test} THEN {text(reason)}" for reason, test in checks)
        return f"CASE WHEN refusal <> '' THEN refusal WHEN linked_reason IS NOT NULL THEN linked_reason {cases} END"

    def _identifier(self, source: str, shape: Shape) -> str:
        return (
            f"(CASE WHEN {source} IN ({texts(sorted(shape[1]))}) OR (right({source}, 1) IN ('}}', ']', '#', '%') "
            f"AND regexp_full_match({source}, {text(MACRO_PATTERN)})) THEN NULL ELSE {source} END)"
        )

    def _first(self, shape: Shape, name: str, guard: Callable[[str, Shape], str]) -> str:
        sources = [name, *(alias for alias, target in shape[0] if target == name)]
        made = [guard(self.param(source), shape) for source in sources]
        return made[0] if len(made) == 1 else f"coalesce({', '.join(made)})"

    def _by_shape(self, expression: Callable[[Shape], str]) -> str:
        made = [expression(shape) for shape in self.shapes]
        if len(set(made)) == 1:
            return f"({made[0]})"
        cases = " ".join(f"WHEN {number} THEN {sql}" for number, sql in enumerate(made))
        return f"(CASE shape {cases} END)"


def _as_sent(source: str, shape: Shape) -> str:
    return source
