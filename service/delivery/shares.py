"""Who may be called now: no recipient gets more than its share, who hangs holds up nobody else, and new ones find a place.

A failure halves a recipient's share, a success gives one call back; after a pause it begins with one. A call that is under
way for longer than a second is slow; slow calls take no place from others until there are very many.
"""

from __future__ import annotations

from collections import Counter

SLOW_S = 1.0
FOR_NEW = 4  # one place in so many is not for the backlog
SLOW_TIMES = 8  # calls under way, slow ones with them, are at most so many times the bound of those that are not


class Shares:
    """The calls under way in this process. Times in seconds of a clock that never falls."""

    def __init__(self, calls: int, per_recipient: int) -> None:
        self._calls = calls
        self._most = per_recipient
        self._busy: Counter[str] = Counter()
        self._share: dict[str, float] = {}
        self._started: dict[int, float] = {}
        self._slow: set[int] = set()
        self._backlog: set[int] = set()  # those of its calls that are not slow
        self._for_new = calls // FOR_NEW
        self._next = 0

    def free(self) -> int:
        """How many calls may begin, whoever they are for."""
        under_way = len(self._started)
        return max(0, min(self._calls - under_way + len(self._slow), self._calls * SLOW_TIMES - under_way))

    def free_for_backlog(self) -> int:
        """How many calls for the backlog may begin."""
        return max(0, min(self.free(), self._calls - self._for_new - len(self._backlog)))

    def free_of(self, recipient: str) -> int:
        """How many calls to this recipient may begin, as far as it is concerned."""
        return max(0, int(self._share.get(recipient, self._most)) - self._busy[recipient])

    def begin(self, recipient: str, now_s: float, new: bool = True) -> int:
        """Note a call. new: whether it is none of the backlog. Returns its number."""
        self._next += 1
        self._busy[recipient] += 1
        self._started[self._next] = now_s
        if not new:
            self._backlog.add(self._next)
        return self._next

    def end(self, call: int, recipient: str, went_well: bool | None) -> None:
        """Note the end of a call. went_well: None if it says nothing about the recipient."""
        del self._started[call]
        self._slow.discard(call)
        self._backlog.discard(call)
        self._busy[recipient] -= 1
        if not self._busy[recipient]:
            del self._busy[recipient]
        if went_well is not None:
            share = self._share.get(recipient, self._most)
            self._share[recipient] = min(self._most, share + 1) if went_well else max(1, share // 2)

    def start_again(self, recipient: str) -> None:
        """A recipient that was paused begins with one call."""
        self._share[recipient] = 1

    def sweep(self, now_s: float) -> None:
        """Find the slow calls. Calls are noted in the order of their beginning."""
        for call, started_s in self._started.items():
            if now_s - started_s < SLOW_S:
                break
            self._slow.add(call)
            self._backlog.discard(call)
