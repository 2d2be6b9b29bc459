"""How far behind everything is: what is logged and not yet decided, promised and not yet settled, decided and not yet
in the tables."""

from __future__ import annotations

import msgspec
import redis

from service import keys
from service.archive.writer import app_id
from service.scripts import Script


class Backlog(msgspec.Struct, frozen=True):
    """Entries to be decided, postbacks to be settled, rows to be archived, and entries logged so far."""

    logged: int
    to_decide: int
    to_deliver: int
    to_archive: int

    @property
    def nothing_left(self) -> bool:
        """Whether everything is done."""
        return self.to_decide == self.to_deliver == self.to_archive == 0


def backlog(connection: redis.Redis, partitions: int) -> Backlog:
    """Look once, at one moment: nothing that moves meanwhile is counted twice, or not at all."""
    places = keys.partitions(partitions)
    names = [name for place in places for name in (place.head, place.tracked, place.due, place.decisions)]
    to_deliver, archived, *found = Script(connection, "backlog")(
        [keys.ARCHIVED, keys.ROOMS, *names], [keys.room(""), keys.OPERATOR_NAME]
    )
    reached = {name.decode(): int(number) for name, number in zip(archived[::2], archived[1::2], strict=True)}
    logged = to_decide = to_archive = 0
    for place, (*numbers, due, last_decision) in zip(places, found, strict=True):
        seq, postbacks, attempts, tracked = map(int, numbers)
        logged += seq
        # a partition that is decided further than it is logged is wrong; it must not hide what another has to decide
        to_decide += max(0, seq - tracked)
        to_deliver += due
        # rulebook entries have no decision, so the end of the journal tells nothing of the last one
        decided = int(last_decision.partition(b"-")[2] or 0)
        for table, number in (("hits", seq), ("postbacks", postbacks), ("attempts", attempts), ("decisions", decided)):
            # the tables have more than Redis until its loss is noticed
            to_archive += max(0, number - reached.get(app_id(table, place.number), 0))
    return Backlog(logged, to_decide, to_deliver, to_archive)
