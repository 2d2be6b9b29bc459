"""The road of a log through the set engine, for the partitions that one rulebook decides: one list of steps.

events -> duplicates -> people -> candidates -> views -> said -> facts -> stages      plain visitors, by sets
                                           \\-> whole through the reference engine     hard ones
both halves -> caps -> postbacks
"""

from __future__ import annotations

from operator import itemgetter

import msgspec
import polars as pl

from lab.sets.candidates import chosen_rows
from lab.sets.certificate import Certificate, check
from lab.sets.duplicates import find_duplicates
from lab.sets.events import Source, read_events
from lab.sets.facts import Asked, find_facts
from lab.sets.hard import Decided, decide_whole
from lab.sets.people import People, split
from lab.sets.render import tell
from lab.sets.said import read_said, with_too_many_names
from lab.sets.session import Session
from lab.sets.stages import ask, over_cap
from lab.sets.unite import reached_by_sets, reached_whole, stop_capped, without_capped
from service.engine import Event, State, parse, process

_PLAIN = """
SELECT row, label, e.ord, e.t, coalesce(NOT d.duplicate, true) AS counted, remember,
       e.ord IN (SELECT ord FROM unsure) OR coalesce(d.unsure, false) AS unsure
FROM chosen JOIN events AS e ON e.rowid = chosen.row JOIN clients USING (cid) LEFT JOIN twice AS d USING (ord)
"""


class Decision(msgspec.Struct):
    """What was decided.

    outcomes: (ord, epoch, outcome) in log order, of all hits or of those on which something fired. tally: (verdict, reason)
    -> hits. certificate: see there.
    """

    outcomes: list[Decided]
    tally: dict[tuple[str, str], int]
    certificate: Certificate


def decide(source: Source, everything: bool, sample_hits: int) -> Decision:
    """Run all steps."""
    session, rulebook = source.session, source.rulebook
    read_events(source)
    find_duplicates(session)
    people = People(session)
    present = set(session.rows("SELECT DISTINCT cid, event FROM events WHERE reason IS NULL AND NOT test"))
    cids = {name: cid for cid, name in enumerate(rulebook.clients)}
    triggers = [(n, t) for n, t in enumerate(rulebook.triggers) if (cids[t.client], t.on) in present]
    session.put("chosen", chosen_rows(session, people, rulebook, [t for _, t in triggers], everything))
    views, hard, absorbed = split(people, session.frame(_PLAIN))
    session.put("views", views)
    read_said(source)
    hard = pl.concat([hard, _put_aside(source)])
    tests = session.frame("SELECT ord FROM events WHERE test AND reason IS NULL")
    whole = decide_whole(source, pl.concat([hard, tests]))
    asked_for = Asked(rulebook, [trigger for _, trigger in triggers])
    find_facts(session, asked_for)
    asked = ask(session, asked_for, triggers)
    lost = over_cap(pl.concat([reached_by_sets(asked), reached_whole(whole, rulebook)]), rulebook.triggers)
    capped = set(lost.iter_rows())
    details, owners = _details(source, everything), _absorbed(session, absorbed)
    told = list(tell(session, rulebook, stop_capped(asked, lost), details, owners, everything))
    sampled = check(source, {place: outcome for place, _, outcome in told}, capped, sample_hits, everything)
    kept = [(place, epoch, without_capped(outcome, place, capped, rulebook)) for place, epoch, outcome in whole]
    told += [one for one in kept if everything or one[2].fired]
    told += _rejected(source) if everything else []
    tally = _tally(session, whole)
    visitors = views.filter("speaks")["view"].n_unique()
    return Decision(
        sorted(told, key=itemgetter(0)), tally, Certificate(sum(tally.values()), visitors, len(whole), *sampled)
    )


def _put_aside(source: Source) -> pl.DataFrame:
    """Groups with more names than a visitor remembers leave the plain ones. ord of their hits."""
    many = with_too_many_names(source)
    if many.is_empty():
        return pl.DataFrame(schema={"ord": pl.Int64})
    session = source.session
    session.put("many", many)
    hard = session.frame("SELECT DISTINCT ord FROM views SEMI JOIN many USING (label)")
    session.make("views", "SELECT * FROM views ANTI JOIN many USING (label)")
    return hard


def _details(source: Source, everything: bool) -> dict[int, str]:
    """By ord, which identifiers were none, in the words of the engine's parser."""
    if not everything:
        return {}
    places = source.session.frame("SELECT ord FROM said WHERE ignored AND ord IN (SELECT ord FROM views)")
    found = {}
    for place, entry in source.entries(places):
        assert entry.hit is not None
        event = parse(entry.hit, source.rulebook)
        if isinstance(event, Event):
            found[place] = event.detail
    return found


def _absorbed(session: Session, absorbed: pl.DataFrame) -> dict[int, list[str]]:
    session.put("absorbed", absorbed)
    found: dict[int, list[str]] = {}
    for place, hit_id in session.rows("SELECT a.ord, s.hit_id FROM absorbed AS a JOIN said AS s ON s.ord = a.side"):
        found.setdefault(place, []).append(hit_id)
    return found


def _rejected(source: Source) -> list[Decided]:
    """Rejections need no state: the engine itself says all about them."""
    places = source.session.frame("SELECT ord FROM events WHERE reason IS NOT NULL")
    return [(place, e.epoch, process(e, State(), source.rulebook)) for place, e in source.entries(places)]


def _tally(session: Session, whole: list[Decided]) -> dict[tuple[str, str], int]:
    session.put("whole", pl.DataFrame({"ord": [place for place, _, _ in whole]}, {"ord": pl.Int64}))
    query = (
        "SELECT CASE WHEN reason IS NOT NULL THEN 'rejected' WHEN duplicate THEN 'duplicate' ELSE 'accepted' END, "
        "coalesce(reason, ''), count(*) FROM events LEFT JOIN twice USING (ord) ANTI JOIN whole USING (ord) GROUP BY ALL"
    )
    tally = {(verdict, reason): hits for verdict, reason, hits in session.rows(query)}
    for _, _, outcome in whole:
        key = outcome.verdict, outcome.reason
        tally[key] = tally.get(key, 0) + 1
    return tally
