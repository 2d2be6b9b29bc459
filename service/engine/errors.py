"""What can be wrong with a configuration. A bad hit is never an exception: it is a verdict with a reason.

EngineError
├── RulebookError      a rulebook text with one or more problems, all of them listed
└── ConditionError     a condition that is not of the language, with the column
    TemplateError      a template with an unknown macro or filter, with the macro
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from service.engine.rulebook import Rulebook


class EngineError(Exception):
    """Root of what the engine raises for broken configuration."""


class ConditionError(EngineError):
    """A condition that cannot be compiled. `column` counts from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"column {column}: {message}")
        self.message = message
        self.column = column


class TemplateError(EngineError):
    """A template that cannot be compiled."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong in a rulebook.

    key: dotted path of the key in the document; line: 1-based, 0 if unknown.
    """

    key: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


class RulebookError(EngineError):
    """All problems of one rulebook text, in the order of their lines.

    draft: what could be read of it, to be looked at and never to decide by; None if the text is no document.
    """

    def __init__(self, problems: Sequence[Problem], source: str = "rulebook", draft: Rulebook | None = None) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        self.source = source
        self.draft = draft
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))
