"""Progress of something whose length nobody knows: a line that counts the seconds, in a notebook or a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from rich.console import Console


@contextmanager
def steps(what: str) -> Iterator[Callable[[], None]]:
    """Show what is under way; yields what to call now and then. The line is gone at the end."""
    started = time.monotonic()
    handle = _in_notebook(what)
    if handle is None:
        console = Console(stderr=True)
        if not console.is_terminal:
            yield lambda: None
            return
        with console.status(what):
            yield lambda: None
        return
    try:
        yield lambda: handle(f"{what} … {time.monotonic() - started:.0f} s")
    finally:
        handle("")


def _in_notebook(what: str) -> Callable[[str], None] | None:
    """What shows a text in the cell that runs, and replaces it; None outside of a notebook."""
    if "IPython" not in sys.modules:
        return None
    from IPython.core import display_functions
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    untyped: Any = display_functions
    handle = untyped.DisplayHandle()
    handle.display(_bundle(what), raw=True)

    def show(text: str) -> None:
        handle.update(_bundle(text), raw=True)

    return show


def _bundle(text: str) -> dict[str, str]:
    return {"text/plain": text, "text/html": f'<span style="opacity:.7;font:13px system-ui">{escape(text)}</span>'}
