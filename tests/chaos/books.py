"""The books: what was answered, what the tables say, what the counters say, what the engine says; compared."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import polars as pl

import lab
from service.counts_command import compared, read_counts, recounted
from service.servers import client
from service.settings import Settings
from tests.chaos.faults import Lost
from tests.chaos.load import Ledger


class Findings(msgspec.Struct):
    """What is wrong, each as a number; `given_up` is what an older file and the archive did not have, and no fault."""

    lost: int = 0
    gaps: int = 0
    decided_twice: int = 0
    undecided: int = 0
    counters_different: int = 0
    digest_different: int = 0
    given_up: int = 0
    epochs: int = 0

    @property
    def faults(self) -> int:
        """Whether anything is wrong."""
        return (
            self.lost
            + self.gaps
            + self.decided_twice
            + self.undecided
            + self.counters_different
            + self.digest_different
        )


def compare(settings: Settings, ledger: Ledger, losses: Iterable[Lost], replay: bool) -> Findings:
    """Compare everything. replay: also decide the whole log again, by partitions and epochs."""
    log = lab.open(settings.tables_path)
    hits = log.hits.filter(pl.col("kind") == "hit").select("hit_id").collect()["hit_id"]
    decisions = log.decisions.select("hit_id").collect()["hit_id"]
    missing = ledger.acknowledged - set(hits)
    given_up = missing & set().union(*losses)
    with client(settings.journal_url, 30) as connection:
        live = read_counts(connection, settings.partitions)
    return Findings(
        lost=len(missing - given_up),
        gaps=log.gaps().height,
        decided_twice=(len(decisions) - decisions.n_unique()) + (len(hits) - hits.n_unique()),
        undecided=len(set(hits) ^ set(decisions)) + int(log.cuts["beyond"].sum()),
        counters_different=len(compared(live, recounted(settings))),
        digest_different=int(replay and log.replay().digest != log.digest()),
        given_up=len(given_up),
        epochs=log.hits.filter(pl.col("kind") == "epoch").select(pl.col("epoch").n_unique()).collect().item(),
    )
