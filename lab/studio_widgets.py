"""The few widgets that the studio, the explorer and the inspector are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from threading import local
from typing import Any

import ipywidgets as w

WIDE = "100%"


class Quiet(local):
    """`with quiet:` widgets are changed without telling, in this thread alone: what a person types meanwhile is heard."""

    on = False

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False


def text_field(placeholder: str, width: str = WIDE) -> Any:
    """A line of text that tells every key."""
    return w.Text(placeholder=placeholder, continuous_update=True, layout=w.Layout(width=width))


def dropdown(options: Sequence[Any], width: str = WIDE) -> Any:
    """One of a few."""
    return w.Dropdown(options=list(options), layout=w.Layout(width=width))


def checkbox(label: str, width: str = "150px") -> Any:
    """Yes or no."""
    return w.Checkbox(description=label, indent=False, layout=w.Layout(width=width))


def field(label: str, *parts: Any, width: str = WIDE) -> Any:
    """A quiet label above its widgets."""
    return column(w.HTML(f'<span class="bt-label">{label}</span>'), *parts, css="bt-field", width=width)


def row(*parts: Any) -> Any:
    """Beside each other."""
    box = w.HBox(list(parts), layout=w.Layout(width=WIDE))
    box.add_class("bt-row")
    return box


def shared(widget: Any, parts: int) -> Any:
    """So many parts of its row, however wide that is."""
    widget.layout = w.Layout(width="auto", min_width="0", flex=f"{parts} 1 0%")
    return widget


def column(*parts: Any, css: str, width: str = WIDE) -> Any:
    """Below each other."""
    box = w.VBox(list(parts), layout=w.Layout(width=width))
    box.add_class(css)
    return box
