"""Progress of something whose length nobody knows: a line that counts the seconds, in a notebook or a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from rich.console import Console

PATIENCE_S = 0.7  # what is over sooner shows nothing


@contextmanager
def steps(what: str) -> Iterator[Callable[[], None]]:
    """Show what is under way; yields what to call now and then. The line is gone at the end."""
    if _kernel():
        line = _Line(what)
        try:
            yield line.show
        finally:
            line.clear()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    with console.status(what):
        yield lambda: None


def _kernel() -> bool:
    """Whether this is a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return hasattr(get_ipython(), "kernel")


class _Line:
    """A text in the output of the cell that runs, with the seconds so far."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = time.monotonic()
        self._handle: Any = None

    def show(self) -> None:
        """Show it, or how long it takes by now."""
        seconds = time.monotonic() - self._started
        if seconds < PATIENCE_S:
            return
        text = f"{self._what} … {seconds:.0f} s"
        if self._handle is not None:
            self._handle.update(_bundle(text), raw=True)
            return
        from IPython.core import display_functions

        untyped: Any = display_functions
        self._handle = untyped.DisplayHandle()
        self._handle.display(_bundle(text), raw=True)

    def clear(self) -> None:
        """Take it away."""
        if self._handle is not None:
            self._handle.update(_bundle(""), raw=True)


def _bundle(text: str) -> dict[str, str]:
    return {"text/plain": text, "text/html": f'<span style="opacity:.7;font:13px system-ui">{escape(text)}</span>'}
