"""Rulebooks in force: publishing one into every partition's journal, and following what is in force."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import redis

from service import epochs, keys
from service.archive import tables
from service.archive.past import rulebook_text
from service.archive.schemas import rulebook_row, table
from service.engine import EMPTY, Rulebook, load
from service.scripts import Script

log = logging.getLogger("backtrack.rulebooks")


def publish(connection: redis.Redis, partitions: int, tables_root: Path, text: str, source: str) -> tuple[str, bool]:
    """Put a rulebook in force: first its text into the table, then one entry into every partition's journal.

    Returns its id and whether it was news (publishing the one in force again changes nothing).
    Raises RulebookError if the text is broken.
    """
    rulebook = load(text, source)
    epochs.compare(connection, partitions, tables_root)
    if current_id(connection) == rulebook.id:
        return rulebook.id, False
    rows = table("rulebooks", [rulebook_row(time.time_ns() // 1000, rulebook.id, text, source)])
    tables.append(tables_root, "rulebooks", rows, tables.open_table(tables_root, "rulebooks"))
    places = keys.partitions(partitions)
    names = [keys.RULEBOOK, keys.RULEBOOKS]
    for place in places:
        names += [place.journal, place.head]
    Script(connection, "tracking/publish")(names, [rulebook.id, text])
    return rulebook.id, True


def current_id(connection: redis.Redis) -> str:
    """Id of the rulebook in force, "" before the first."""
    found: Any = connection.get(keys.RULEBOOK)
    return found.decode() if found else ""


def compiled(text: Any) -> Rulebook:
    """A stored text as a rulebook; the empty one if there is none."""
    return load(text.decode() if isinstance(text, bytes) else text) if text else EMPTY


class Shelf:
    """Rulebooks by id, fetched once. tables_root: where the texts lie that Redis does not have, since it lost them."""

    def __init__(self, connection: redis.Redis, tables_root: Path | None = None) -> None:
        self._connection = connection
        self._tables_root = tables_root
        self._known: dict[str, Rulebook] = {"": EMPTY, EMPTY.id: EMPTY}

    def get(self, rulebook_id: str) -> Rulebook:
        """The rulebook of this id. Raises KeyError if its text is nowhere."""
        if rulebook_id not in self._known:
            text: Any = self._connection.hget(keys.RULEBOOKS, rulebook_id)
            if text is None and self._tables_root is not None:
                text = rulebook_text(self._tables_root, rulebook_id)
            if text is None:
                raise KeyError(f"the text of rulebook {rulebook_id} is missing in {keys.RULEBOOKS}")
            self._known[rulebook_id] = compiled(text)
        return self._known[rulebook_id]
