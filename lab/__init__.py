"""The lab: the past, opened as tables, decided again, compared with what was sent.

log       a folder of tables, pinned and cut at what is committed in all
replay    the log through the engine again         digest    one number for all outcomes
verify    what should have been sent against what was sent
funnel    how visitors move through the steps      explain   what became of one hit, and why
fit       what is typical of a log                 simulate  a day that has not happened, as a log
studio    a trigger built with widgets, seen on the log as one types
explorer  a funnel with widgets                    inspector   a visitor, and where each value came from
live      a service inside a notebook              magics    %%rulebook, %%trigger, %replay, %lab
memory    how the libraries hold memory            compile   the kernel of the set engine as machine code

    import lab

    log = lab.open("var/tables")
    run = log.replay()                   # as logged; or log.replay("rules.toml")
    run.counts                           # every result is a Polars frame
    log.verify()
    log.funnel("click", "registration", "sale", within="30d", by="affiliate")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import lab.memory  # noqa: F401 - before anything loads Polars
from lab.live import live
from lab.log import LabError, Log, open

if TYPE_CHECKING:
    from lab.explorer import FunnelExplorer
    from lab.fitting import fit
    from lab.inspector import Inspector
    from lab.profile import Profile
    from lab.simulating import simulate
    from lab.studio import Studio

__all__ = ["FunnelExplorer", "Inspector", "LabError", "Log", "Profile", "Studio", "fit", "live", "open", "simulate"]

# what the command line should not wait for
_LATE = {
    "FunnelExplorer": "lab.explorer",
    "Inspector": "lab.inspector",
    "Profile": "lab.profile",
    "Studio": "lab.studio",
    "fit": "lab.fitting",
    "simulate": "lab.simulating",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'lab' has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext lab`: the magics `%%rulebook`, `%%trigger`, `%replay` and `%lab`."""
    from lab.magics import register

    register(shell)
