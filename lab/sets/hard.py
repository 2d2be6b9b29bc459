"""The hard ones: whole visitors through the reference engine, but with caps lifted.

Who gets through a cap depends on everybody, plain and hard, so it is decided later. What duplicates a transaction depends
on everybody too; that is known before (`duplicates`) and is put into the state hit by hit.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lab.sets.stored import Known
from service.engine import Event, Outcome, Rulebook, State, process
from service.engine.rulebook import Cap, index_triggers
from service.engine.visitors import space, txid_key

NO_CAP = 1 << 62

Decided = tuple[int, int, Outcome]  # ord, epoch, outcome


def lift_caps(rulebook: Rulebook) -> Rulebook:
    """The same rulebook with caps that nobody exceeds: an outcome then lists all that reach the cap as fired."""
    triggers = tuple(
        trigger if trigger.cap is None else msgspec.structs.replace(trigger, cap=Cap("trigger", "total", NO_CAP))
        for trigger in rulebook.triggers
    )
    return Rulebook(
        rulebook.id, rulebook.text, rulebook.clients, rulebook.affiliates, triggers, index_triggers(triggers)
    )


def decide(hits: Iterable[Known], earlier: dict[int, int], rulebook: Rulebook) -> list[Decided]:
    """Hits in log order through the engine. earlier: log time of the accepted hit with the same txid, by ord."""
    states: dict[int, State] = {}
    found: list[Decided] = []
    for place, entry, event in hits:
        state = states.setdefault(entry.partition, State())
        if place in earlier and isinstance(event, Event):
            key = txid_key(space(event.client, False), event)
            if key is not None:
                state.put_txid(key, earlier[place])
        found.append((place, entry.epoch, process(entry, state, rulebook, event)))
    return found
