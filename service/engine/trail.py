"""What a story needs to know about earlier hits and the state does not keep: ids, and which hit used something up."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from service.engine.model import Outcome, Stage, Verdict
from service.engine.visitors import Visitor
from service.engine.words import moment

Place = tuple[str, int]  # hit id, log time in microseconds
_USED = (Stage.CAP.value,)
PRIVATE = "(private)"


class Trail:
    """The earlier hits of a partition, noted one by one while they are replayed.

    places: finds hit id and time of a sequence number, for logs too long to be held; without it they are held.
    """

    def __init__(self, places: Callable[[int], Place | None] | None = None) -> None:
        self._places = places
        self._held: dict[int, Place] = {}
        self._used: dict[str, dict[str, int]] = {}  # visitor -> trigger -> seq of the hit that reached `once`
        self._accepted: dict[tuple[str, bool, str, str], int] = {}
        self.private: frozenset[str] = frozenset()  # names whose values the reader of the story may not see
        self.named: dict[str, str] = {}  # hit id -> what it is, for every hit that the story at hand names

    def hides(self, name: str) -> bool:
        """Whether the value of a name may not be seen, as `param.NAME`, `first.NAME` or `last.EVENT.NAME` neither."""
        return bool(self.private) and (name in self.private or name.rpartition(".")[2] in self.private)

    def shown(self, name: str, value: str) -> str:
        """The value of a name as the reader may see it."""
        return PRIVATE if self.hides(name) else value

    def note(self, outcome: Outcome) -> None:
        """Take in the next outcome."""
        if self._places is None:
            self._held[outcome.seq] = (outcome.hit_id, outcome.time_us)
        mine = self._used.get(outcome.visitor, {})
        for absorbed in outcome.absorbed:
            mine = self._used.pop(absorbed, {}) | mine
        for firing in outcome.fired:
            mine.setdefault(firing.trigger, outcome.seq)
        for trigger, stage in outcome.not_fired.items():
            if stage in _USED:
                mine.setdefault(trigger, outcome.seq)
        if mine:
            self._used[outcome.visitor] = mine
        txid = outcome.fields.get("txid")
        if txid is not None and outcome.verdict == Verdict.ACCEPTED:
            self._accepted[outcome.client, outcome.test, outcome.event, txid] = outcome.seq

    def used(self, trigger: str, visitors: Iterable[str]) -> int | None:
        """The entry of the hit that first fired this trigger, or was the first to reach its cap, for these visitors."""
        found = [self._used[visitor][trigger] for visitor in visitors if trigger in self._used.get(visitor, {})]
        return min(found, default=None)

    def accepted(self, client: str, test: bool, event: str, txid: str) -> int | None:
        """The entry of the last accepted hit with this transaction."""
        return self._accepted.get((client, test, event, txid))

    def place(self, seq: int) -> Place | None:
        """Hit id and time of an entry, None if it is not known."""
        return self._held.get(seq) if self._places is None else self._places(seq)

    def event(self, seq: int, visitor: Visitor, name: str = "event") -> str:
        """`the click of TIME`, as far as it is known."""
        name = next((name for number, _, name in visitor.history if number == seq), name)
        found = self.place(seq)
        if found is None:
            return f"the {name} at entry {seq} of the log"
        said = f"{name} of {moment(found[1])}"
        self.named[found[0]] = said
        return f"the {said}"
