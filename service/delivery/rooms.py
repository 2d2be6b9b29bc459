"""The rooms: who waits outside of the due index until its recipient may be called, and who comes out next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from service.delivery.due import DueIndex, Taken, Waiting
from service.delivery.health import Health
from service.delivery.shares import Shares

ROOMS_AT_ONCE = 32  # looked into in one turn: the next turn begins with the next ones
DRAIN_AT_ONCE = 16  # drawn out of one of them


class Rooms:
    """Draws from the rooms. permitted: how many calls the rate of a recipient allows, of so many."""

    def __init__(
        self, due: DueIndex, health: Health, shares: Shares, permitted: Callable[[str, int], Awaitable[int]]
    ) -> None:
        self._due = due
        self._health = health
        self._shares = shares
        self._permitted = permitted
        self._turn = 0

    def ready(self) -> list[str]:
        """Recipients for whom somebody waits and who may be called."""
        return [
            recipient for recipient in sorted(self._health.waiting - self._health.paused)
            if self._shares.free_of(recipient) > 0
        ]  # fmt: skip

    async def draw(self, lease_us: int, now_us: int, backlog: int) -> list[Taken]:
        """Take out who may be called now, and one to probe each paused recipient. backlog: how many need not be new."""
        rooms = self._rooms()
        found = await self._due.look_into_rooms(rooms, now_us)
        chosen = {who: await self._for_its_rate(who, some) for who, some in self._chosen(found, backlog).items()}
        for recipient in self._health.to_probe:
            if await self._health.may_probe(recipient, lease_us):
                chosen |= await self._due.look_into_rooms({recipient: 1}, now_us)
        self._health.to_probe = ()
        return await self._due.draw(chosen, lease_us)

    def _rooms(self) -> dict[str, int]:
        """How many may come out of which rooms, as far as their recipients are concerned."""
        rooms = self.ready()
        begin = self._turn % len(rooms) if rooms else 0
        self._turn = begin + ROOMS_AT_ONCE
        turn = (rooms[begin:] + rooms[:begin])[:ROOMS_AT_ONCE]
        return {recipient: min(self._shares.free_of(recipient), DRAIN_AT_ONCE) for recipient in turn}

    def _chosen(self, found: dict[str, list[Waiting]], backlog: int) -> dict[str, list[Waiting]]:
        """Those for whom there is a place."""
        chosen: dict[str, list[Waiting]] = {}
        free = self._shares.free()
        self._health.waiting -= {recipient for recipient, waiting in found.items() if not waiting}
        for recipient, waiting in found.items():
            for one in waiting:
                if free > 0 and (one.new or backlog > 0):
                    chosen.setdefault(recipient, []).append(one)
                    free -= 1
                    backlog -= not one.new
        return chosen

    async def _for_its_rate(self, recipient: str, chosen: Sequence[Waiting]) -> Sequence[Waiting]:
        return chosen[: await self._permitted(recipient, len(chosen))]
