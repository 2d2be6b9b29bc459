"""What stands behind a magic: options, and names of variables or files. Whatever is wrong is said in one line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from IPython.core.error import UsageError

from lab.log import LabError, Log
from lab.log import open as open_log
from service.engine import Rulebook, RulebookError
from service.engine.document import nearest

Names = Mapping[str, Any]
_Magic = TypeVar("_Magic", bound=Callable[..., Any])


class Arguments(argparse.ArgumentParser):
    """The options of one magic. What cannot be read is a UsageError, which IPython shows without a traceback."""

    def __init__(self, magic: str, usage: str) -> None:
        super().__init__(prog=magic, usage=usage, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and how it is written."""
        raise UsageError(f"{self.prog}: {message}; write {self.usage}")

    def read(self, line: str) -> argparse.Namespace:
        """The options of a line."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            self.error(f"{line!r} cannot be read ({str(error).lower()})")
        return self.parse_args(words)


def in_one_line(magic: _Magic) -> _Magic:
    """Say what a person can do about an error, without a traceback."""

    @wraps(magic)
    def guarded(*args: Any) -> Any:
        try:
            return magic(*args)
        except LabError as error:
            raise UsageError(str(error)) from None
        except RulebookError as error:
            raise UsageError(str(error)) from None
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}") from None

    return guarded  # type: ignore[return-value]


def log_named(names: Names, word: str | None) -> Log:
    """The log of a variable or of a folder; without a word the one variable that is a log, or the one called `log`."""
    if word is None:
        known = _of_type(names, Log)
        chosen = "log" if "log" in known else known[0] if len(known) == 1 else None
        if chosen is None:
            hint = f"say which: {', '.join(known)}" if known else 'open one first: log = lab.open("var/tables")'
            raise UsageError(f"there is {'more than one' if known else 'no'} log here; {hint}")
        word = chosen
    found = names.get(word)
    if isinstance(found, Log):
        return found
    if found is not None:
        raise UsageError(f"{word} is no log but {type(found).__name__}; open one: log = lab.open(...)")
    if not Path(word).exists():
        raise UsageError(
            f"there is no log {word!r}, neither a variable nor a folder{nearest(word, _of_type(names, Log))}"
        )
    return open_log(word)


def rules_named(names: Names, word: str) -> Rulebook | str:
    """The rulebook of a variable, or the path of a file."""
    found = names.get(word)
    if isinstance(found, Rulebook):
        return found
    if isinstance(found, (str, Path)):
        return str(found)
    if found is not None:
        raise UsageError(f"{word} is no rulebook but {type(found).__name__}; write one with %%rulebook {word}")
    if not Path(word).is_file():
        known = _of_type(names, Rulebook)
        raise UsageError(f"there is no rulebook {word!r}, neither a variable nor a file{nearest(word, known)}")
    return word


def _of_type(names: Names, kind: type) -> list[str]:
    return [name for name, value in names.items() if isinstance(value, kind) and not name.startswith("_")]
