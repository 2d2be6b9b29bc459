"""What the explorer and the inspector have in common: a thread for the newest question, and words for what went wrong."""

from __future__ import annotations

from typing import Any

import ipywidgets as w

from lab.studio_check import Trouble
from lab.studio_newest import Newest
from lab.studio_page import trouble_html
from lab.studio_widgets import Quiet


class Panel:
    """Widgets that ask in a thread. headline, said, body: the answer, what is wrong with the question, and all the rest.

    trouble: what went wrong, in words; "" if nothing did. widget: all of it.
    """

    widget: Any

    def __init__(self, name: str) -> None:
        self.trouble = ""
        self.headline, self.said, self.body = w.HTML(), w.HTML(), w.HTML()
        self.headline.add_class("bt-count")
        self._quiet = Quiet()
        self._newest = Newest(self._failed, name)

    def close(self) -> None:
        """End the thread."""
        self._newest.close()

    def _failed(self, says: str) -> None:
        self.trouble = says
        self.said.value = trouble_html((Trouble("", says),))
        self.body.remove_class("bt-stale")

    def _repr_mimebundle_(self, **how: Any) -> Any:
        return self.widget._repr_mimebundle_(**how)
