"""Reading a TOML document so that every problem is found at once and is named with its line and key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from typing import Any

from service.engine.errors import Problem, RulebookError

Path = tuple[str | int, ...]


def read_toml(text: str, source: str) -> dict[str, Any]:
    """Parse the text. Raises RulebookError with the line of a syntax error."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RulebookError([Problem("", "lists or tables are nested too deeply")], source) from None
    except tomllib.TOMLDecodeError as error:
        raise RulebookError([_syntax_problem(text, str(error))], source) from None


def _syntax_problem(text: str, message: str) -> Problem:
    """What the parser says, in our form; a document that ends too early is wrong where its last statement begins."""
    what, _, where = message.partition(" (at ")
    number = where.removeprefix("line ").partition(",")[0]
    if number.isdigit():
        return Problem("", f"{what}: {text.splitlines()[int(number) - 1].strip()[:60]!r} is no TOML", int(number))
    complete = [first + statement.count("\n") for first, statement in _statements(text)]
    line = max(complete, default=1)
    return Problem("", "the document ends in the middle of what begins here; close the quotes or brackets", line)


def dotted(path: Path) -> str:
    """`client.acme.webhook`, `trigger[2].when`."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else part)
    return out


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` or `; known are ...` for an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f", did you mean {close[0]!r}?"
    return f"; known are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else ""


class Lines:
    """Finds the line of a key. Built only when there is something to report."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        prefix: Path = ()
        counts: dict[Path, int] = {}
        for number, statement in _statements(text):
            plain = _PLAIN.match(statement)
            if plain is not None:
                self._lines.setdefault((*prefix, plain.group(1)), number)
            elif statement.lstrip().startswith("["):
                prefix = self._header(statement, number, counts)
            else:
                self._keys(prefix, tomllib.loads(statement), number)

    def _header(self, statement: str, number: int, counts: dict[Path, int]) -> Path:
        node: Any = tomllib.loads(statement)
        path: Path = ()
        while isinstance(node, (dict, list)) and node:
            if isinstance(node, list):
                index = counts[path] = counts.get(path, -1) + 1
                path = (*path, index)
                node = node[0]
            else:
                key, node = next(iter(node.items()))
                path = (*path, key)
                if not isinstance(node, list) and path in counts:
                    path = (*path, counts[path])  # a sub-table of the latest element
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], number)
        return path

    def _keys(self, prefix: Path, node: dict[str, Any], number: int) -> None:
        for key, value in node.items():
            self._lines.setdefault((*prefix, key), number)
            if isinstance(value, dict):
                self._keys((*prefix, key), value, number)

    def of(self, path: Path) -> int:
        """Line of the path or of the nearest thing around it, 0 if nothing is known."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 0


# a key with a value that is over at the end of its line: nearly all lines are that, and reading them as TOML is slow
_PLAIN = re.compile(
    r"""\s*([A-Za-z0-9_-]+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|true|false|[0-9]+|\[(?:"[^"\\]*"\s*,?\s*)*\])\s*(?:\#.*)?\Z"""
)


def _statements(text: str) -> Iterable[tuple[int, str]]:
    """Each header or key with its first line: lines are gathered until they are a TOML document of their own."""
    gathered, first = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if not gathered and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if not gathered and _PLAIN.match(line):
            yield number, line + "\n"
            continue
        first = first if gathered else number
        gathered += line + "\n"
        try:
            tomllib.loads(gathered)
        except tomllib.TOMLDecodeError:
            continue
        yield first, gathered
        gathered = ""
