"""Duplicates by sets: a hit with the (partition, client, event, txid) of an earlier accepted one, within `remember` of it.

`twice`: ord, duplicate, earlier (log time of the last accepted hit before it with the same key, null if none), unsure
(the key is shared with a hit whose space only the engine can tell). Only keys that occur more than once are there. Whose
hits they are does not matter, so this can be known before anybody is recognised.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import polars as pl

from lab.sets.session import Session

_COLUMNS = {"ord": pl.Int64, "duplicate": pl.Boolean, "earlier": pl.Int64, "unsure": pl.Boolean}


def find_duplicates(session: Session) -> None:
    """Make the tables `minted` (grp, click of test clicks), `unsure` (ord) and `twice`."""
    session.make("minted", "SELECT DISTINCT grp, click FROM events WHERE test AND linked AND reason IS NULL")
    session.make(
        "unsure", "SELECT ord FROM events SEMI JOIN minted USING (grp, click) WHERE NOT test AND reason IS NULL"
    )
    session.make(
        "repeated",
        "WITH keys AS (SELECT grp, event, txid FROM events WHERE txid IS NOT NULL AND NOT test "
        "GROUP BY ALL HAVING count(*) > 1) "
        "SELECT e.ord, e.t, e.grp, e.event, e.txid, c.remember, e.ord IN (SELECT ord FROM unsure) AS doubtful "
        "FROM events AS e JOIN keys USING (grp, event, txid) JOIN clients AS c USING (cid) WHERE NOT e.test",
    )
    session.make(
        "twice",
        "SELECT ord, ord <> first_ord AS duplicate, CASE WHEN ord <> first_ord THEN first_t END AS earlier, unsure, "
        "last_t - first_t > remember AS long, grp, event, txid, t, remember FROM (SELECT *, min(ord) OVER k AS first_ord, "
        "arg_min(t, ord) OVER k AS first_t, max(t) OVER k AS last_t, bool_or(doubtful) OVER k AS unsure FROM repeated "
        "WINDOW k AS (PARTITION BY grp, event, txid))",
    )
    chains = _follow_chains(session)
    session.make("twice", "SELECT ord, duplicate, earlier, unsure FROM twice WHERE NOT long")
    if chains.height:
        session.put("chains", chains)
        session.run("INSERT INTO twice SELECT * FROM chains")


def _follow_chains(session: Session) -> pl.DataFrame:
    """Keys that outlive `remember`: each hit is measured from the last accepted one, so one goes from hit to hit."""
    rows = session.rows(
        "SELECT grp, event, txid, ord, t, remember, unsure FROM twice WHERE long ORDER BY grp, event, txid, ord"
    )
    found: list[tuple[int, bool, int | None, bool]] = []
    for _, members in groupby(rows, itemgetter(0, 1, 2)):
        accepted: int | None = None
        for _, _, _, place, time_us, remember_us, unsure in members:
            duplicate = accepted is not None and time_us - accepted <= remember_us
            found.append((place, duplicate, accepted, unsure))
            accepted = accepted if duplicate else time_us
    return pl.DataFrame(found, _COLUMNS, orient="row")
