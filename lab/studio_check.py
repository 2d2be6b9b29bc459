"""A draft checked as a rulebook is: what is wrong, at which field, and in a condition at which column."""

from __future__ import annotations

import re

import msgspec

from lab.log import LabError
from lab.studio_draft import Draft
from lab.studio_text import put
from service.engine import ConditionError, Rulebook, RulebookError, load
from service.engine.conditions import compile_condition
from service.engine.rulebook import Trigger

_TEXTS = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_TRIGGER_KEY = re.compile(r"trigger\[(\d+)\]\.?([a-z]*)")


class Trouble(msgspec.Struct, frozen=True):
    """One thing that is wrong.

    says: what, in words. field: a key of the trigger, `template AFFILIATE`, or "" for the rulebook around it.

    column: from 1, where in the condition; 0 if it is nowhere in particular.

    >>> studio.set(when="amount > ").troubles[0].column
    10
    """

    field: str
    says: str
    column: int = 0

    def caret(self, text: str) -> str:
        """The text and below it a caret at the column; "" without one.

        >>> print(studio.set(when="amount > > 1").troubles[0].caret("amount > > 1"))
        amount > > 1
                 ^
        >>> studio.set(when="amount >= 100").troubles
        ()
        """
        if not self.column:
            return ""
        before, _, _ = text[: self.column - 1].rpartition("\n")
        begun = len(before) + 1 if before or text[: self.column - 1].startswith("\n") else 0
        line = text[begun:].split("\n", 1)[0]
        return f"{line}\n{' ' * (self.column - 1 - begun)}^"


class Checked(msgspec.Struct, frozen=True):
    """A draft, checked. trigger and rulebook are there if nothing is wrong."""

    draft: Draft
    troubles: tuple[Trouble, ...]
    trigger: Trigger | None = None
    rulebook: Rulebook | None = None

    def at(self, field: str) -> tuple[Trouble, ...]:
        """What is wrong at a field."""
        return tuple(one for one in self.troubles if one.field == field)


def check(draft: Draft, text: str) -> Checked:
    """Check a draft as part of the rulebook with this text. Never raises for what a draft can hold."""
    unclear = tuple(_condition(draft))
    try:
        rulebook = load(put(text, draft), "the rulebook with this trigger")
    except LabError as error:
        return Checked(draft, (Trouble("", str(error)),))
    except RulebookError as error:
        names = [trigger.name for trigger in error.draft.triggers] if error.draft is not None else []
        found = (_trouble(problem.key, problem.message, names, draft) for problem in error.problems)
        return Checked(draft, unclear + tuple(one for one in found if not (unclear and one.field == "when")))
    trigger = next(one for one in rulebook.triggers if one.name == draft.name)
    return Checked(draft, (), trigger, rulebook)


def _condition(draft: Draft) -> list[Trouble]:
    """What is wrong with the condition itself, with its column."""
    if not draft.when:
        return []
    try:
        compile_condition(draft.when)
    except ConditionError as error:
        return [Trouble("when", error.message, error.column)]
    return []


def _trouble(key: str, message: str, names: list[str], draft: Draft) -> Trouble:
    found = _TRIGGER_KEY.match(key)
    if found and names[int(found[1]) : int(found[1]) + 1] == [draft.name]:
        column = _column(draft.when, message) if found[2] == "when" else 0
        return Trouble(found[2] or "name", message, column)
    parts = key.split(".")
    if parts[0] == "affiliate" and f".for.{draft.client}.{draft.name}" in key:
        return Trouble(f"template {parts[1]}", message)
    return Trouble("", f"{key}: {message}" if key else message)


def _column(text: str, message: str) -> int:
    """Where the name stands that a message begins with."""
    named = re.match(r"'([^']+)' is no parameter", message)
    if named is None:
        return 0
    bare = _TEXTS.sub(lambda quoted: " " * len(quoted[0]), text)
    place = re.search(rf"(?<![\w.:/-]){re.escape(named[1])}(?![\w.:/-])", bare)
    return place.start() + 1 if place else 0
