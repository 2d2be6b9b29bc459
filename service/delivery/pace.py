"""How gently a backlog is drained: by handfuls, so that what is new meets at most one of them on its way.

A handful at a time is little, but many in a second take the processor from those who are new. So while new ones come, each
lets one of the backlog begin too, beside a few in every second; while none come, nobody is in the way.
"""

from __future__ import annotations

HANDFUL = 16
PER_S = 500.0  # by one courier, while there are new ones
ALONE_PER_S = 4_000.0  # while there are none; that is more than it can do
ALONE_AFTER_S = 1.0


class Pace:
    """How many of the backlog may begin. Times in seconds of a clock that never falls."""

    def __init__(self, now_s: float) -> None:
        self._left = float(HANDFUL)
        self._at_s = self._new_at_s = now_s

    def allowed(self, now_s: float) -> int:
        """How many may begin now."""
        self._left = min(HANDFUL, self._left + (now_s - self._at_s) * self._per_s(now_s))
        self._at_s = now_s
        return int(self._left)

    def begin(self, new: bool, now_s: float) -> None:
        """Note that one begins."""
        self._left += 1 if new else -1
        if new:
            self._new_at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """How long until a whole handful may begin."""
        self.allowed(now_s)
        return (HANDFUL - self._left) / self._per_s(now_s)

    def _per_s(self, now_s: float) -> float:
        return ALONE_PER_S if now_s - self._new_at_s > ALONE_AFTER_S else PER_S
