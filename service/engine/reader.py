"""A rulebook text to a rulebook: every key of the format is read here, and everything wrong is reported at once.

values   one value at a time                names    which names are known where
parties  clients and affiliates             trigger_tables, macros   triggers; templates against what they can be given
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from service.engine.document import Lines, dotted, read_toml
from service.engine.errors import Problem, RulebookError
from service.engine.macros import MacroChecks
from service.engine.names import DERIVED
from service.engine.parties import AFFILIATE_KEYS, CLIENT_KEYS, Parties
from service.engine.rulebook import Rulebook, index_triggers, rulebook_id
from service.engine.trigger_tables import TRIGGER_KEYS, TriggerTables

__all__ = ["AFFILIATE_KEYS", "CLIENT_KEYS", "DERIVED", "TRIGGER_KEYS", "load"]


@lru_cache(maxsize=32)
def load(text: str, source: str = "rulebook") -> Rulebook:
    """Compile a rulebook text. Raises RulebookError with all problems, each with line, key and a remedy."""
    document = read_toml(text, source)
    reader = _Reader()
    rulebook = reader.read(text, document)
    if reader.problems:
        lines = Lines(text)
        raise RulebookError(
            [Problem(dotted(path), message, lines.of(path)) for path, message in reader.problems],
            source,
            rulebook,
        )
    return rulebook


class _Reader(Parties, TriggerTables, MacroChecks):
    """The whole of a document: each part of it is read by the class of its own file."""

    def read(self, text: str, document: dict[str, Any]) -> Rulebook:
        self._only_known((), document, frozenset({"client", "affiliate", "trigger"}))
        for name, table in self._tables(document, "client"):
            self.clients[name] = self._client(name, table)
        for name, table in self._tables(document, "affiliate"):
            self.affiliates[name] = self._affiliate(name, table)
        triggers = self._triggers(document)
        self._check_overrides({(trigger.client, trigger.name) for trigger in triggers})
        self._check_macros(triggers)
        return Rulebook(rulebook_id(text), text, self.clients, self.affiliates, triggers, index_triggers(triggers))
