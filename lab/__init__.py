"""The lab: the past, opened as tables, decided again, compared with what was sent.

log       a folder of tables, pinned and cut at what is committed in all
replay    the log through the engine again         digest    one number for all outcomes
verify    what should have been sent against what was sent
funnel    how visitors move through the steps      explain   what became of one hit, and why
live      a service inside a notebook              magics    %%rulebook, %%trigger, %replay, %lab

    import lab

    log = lab.open("var/tables")
    run = log.replay()                   # as logged; or log.replay("rules.toml")
    run.counts                           # every result is a Polars frame
    log.verify()
    log.funnel("click", "registration", "sale", within="30d", by="affiliate")
"""

from lab.live import live
from lab.log import LabError, Log, open

__all__ = ["LabError", "Log", "live", "open"]
