"""Where in a cell something is wrong: line and column, in words."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable

from service.engine import Problem

_CONDITION = re.compile(r"column (\d+): ")
_NAMED = re.compile(r"'((?:[^'\\]|\\.)+)'")
_SYNTAX = re.compile(r"\(at line (\d+), column (\d+)\)")


def places(problems: Iterable[Problem], text: str, before: int = 0) -> list[str]:
    """A sentence per problem, each with its line and column in a cell.

    before: how many lines of the text stand before the cell. A problem before them has no place in the cell.
    """
    lines = text.split("\n")
    syntax = _syntax(text)
    said = []
    for problem in problems:
        message = _CONDITION.sub("", problem.message, count=1) if problem.key else problem.message
        line, column = problem.line, 0
        if not problem.key and syntax is not None:
            line, column = syntax
        elif 0 < line <= len(lines):
            column = _column(lines[line - 1], problem)
        where = f"line {line - before}, column {column}: " if line > before and column else ""
        said.append(f"{where}{_key(problem.key)}{message}")
    return said


def _key(key: str) -> str:
    """`when: ` for trigger[3].when: in a cell with one trigger its number says nothing."""
    return f"{key.rpartition('].')[2] if '].' in key else key}: " if key else ""


def _syntax(text: str) -> tuple[int, int] | None:
    """Line and column at which the text stops being TOML."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _SYNTAX.search(str(error))
        return (int(found[1]), int(found[2])) if found else None
    except RecursionError:
        return None
    return None


def _column(line: str, problem: Problem) -> int:
    """Column of what a problem is about: the place in a condition, the value or name that is quoted, else the key."""
    equals = line.find("=")
    begun = equals + 1 if equals >= 0 else 0
    inside = _CONDITION.match(problem.message)
    quote = re.search(r"[\"']", line[begun:])
    if inside and quote:
        return begun + quote.start() + 1 + int(inside[1])
    named = _NAMED.search(problem.message)
    if named:
        found = re.search(rf"(?<![\w.-]){re.escape(named[1])}(?![\w-])", line[begun:]) or re.search(
            re.escape(named[1]), line
        )
        if found:
            return (begun if found.string != line else 0) + found.start() + 1
    key = problem.key.rpartition(".")[2]
    return max(line.find(key), 0) + 1 if key in line else len(line) - len(line.lstrip()) + 1
