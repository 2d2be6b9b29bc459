"""The road of a log through the set engine, for the partitions that one rulebook decides: one list of steps.

ground -> candidates -> views      and then, bucket by bucket of visitors, by sets:
                          |        said -> facts -> stages -> letters, or outcomes told one by one
                          +-> hard ones, whole, through the reference engine
both halves -> caps
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import msgspec
import polars as pl

from lab.sets.candidates import all_rows, chosen_rows
from lab.sets.certificate import Certificate, Check
from lab.sets.events import Source, last_event
from lab.sets.facts import Asked, Finder, asked_hits, find_facts
from lab.sets.ground import Ground, judged, mask
from lab.sets.hard import Decided, lift_caps
from lab.sets.hard import decide as reference
from lab.sets.letters import FIRINGS, LETTERS, Letters
from lab.sets.past import Past
from lab.sets.people import split
from lab.sets.said import BUCKET_HITS
from lab.sets.scan import GROUP
from lab.sets.session import Session
from lab.sets.spans import PLACE
from lab.sets.stages import REACHED, ask, over_cap
from lab.sets.stored import Known
from lab.sets.tell import tell
from lab.sets.unite import firings_of, letters_of, reached_whole, stop_capped, without_capped
from service.engine import Rulebook, State, process

WORTHWHILE = 50_000  # hits for which a bucket of their own saves time


class Decision(msgspec.Struct):
    """What was decided.

    outcomes: (ord, epoch, outcome) of all hits in log order, None unless they were wanted. letters, firings: see
    `lab.sets.letters`. tally: (verdict, reason) -> hits. certificate: see there.
    """

    outcomes: list[Decided] | None
    letters: pl.DataFrame
    firings: pl.DataFrame
    tally: dict[tuple[str, str], int]
    certificate: Certificate


def decide(ground: Ground, rulebook: Rulebook, sample_hits: int) -> Decision:
    """Run all steps. rulebook: one of those that the ground was laid for."""
    return _Road(ground, rulebook, sample_hits).walk()


class _Road:
    """What is known so far; a field is there once the step has run that finds it out."""

    def __init__(self, ground: Ground, rulebook: Rulebook, sample_hits: int) -> None:
        self.ground = ground
        self.source = ground.source.decided_by(rulebook)
        self.session: Session = ground.source.session
        self.rulebook = rulebook
        self.everything = ground.everything
        self.sample_hits = sample_hits
        self.cids = {name: cid for cid, name in enumerate(rulebook.clients)}
        self.events, self.twice, self.counted = ground.events, ground.twice, ground.counted
        self.names, self.said = ground.names, ground.said
        self.triggers = ground.triggers(rulebook)

    def walk(self) -> Decision:
        source, rulebook = self.source, self.rulebook
        views, hard, absorbed = self._recognise()
        tests = self.events.select(pl.col("test") & pl.col("reason").is_null()).to_series().arg_true().cast(pl.UInt32)
        check = Check(source, self.events, views, self.sample_hits)
        apart, earlier = pl.concat([hard, tests]), self._earlier()
        self.asked_for = Asked(trigger for _, trigger in self.triggers)
        # sets work outside the interpreter, the engine in it
        with ThreadPoolExecutor(1 + self.session.threads) as pool:
            if views.height + apart.len() <= BUCKET_HITS:
                self.said.fetch(pl.concat([views["row"], apart]))
            by_engine = pool.submit(self._by_engine, apart, check, earlier)
            pieces = list(pool.map(self._by_sets, _buckets(views, self.session.threads)))
            whole, sample = by_engine.result()
        asked = pl.concat([piece.asked for piece in pieces])
        lost = over_cap(pl.concat([self._reached(asked), reached_whole(whole, rulebook)]), rulebook.triggers)
        letters, firings = self._written(pieces, whole, lost)
        outcomes = (
            self._told(pieces, stop_capped(asked, self._rows(lost)), absorbed, whole, lost) if self.everything else None
        )
        check.compare(sample, outcomes, letters, lost, earlier)
        tally = self._tally(whole)
        visitors = views.filter("speaks")["view"].n_unique()
        certificate = Certificate(self.ground.hits, visitors, len(whole), check.hits, check.visitors)
        return Decision(outcomes, letters, firings, tally, certificate)

    def _recognise(self) -> tuple[pl.DataFrame, pl.Series, pl.DataFrame]:
        """The views of plain visitors, the rows of hard ones, and who is absorbed on which row."""
        events, ground = self.events, self.ground
        people = ground.people
        if self.everything:
            rows = all_rows(events, people)
        else:
            triggers = [trigger for _, trigger in self.triggers]
            rows = chosen_rows(events, people, self.source.names, self.rulebook, triggers, ground.doubtful)
        doubtful = pl.concat([ground.doubtful, self.names.wide(self.source, events).cast(pl.UInt32)])
        row = rows["row"]
        rows = rows.with_columns(
            t=events["t"].gather(row), counted=self.counted.gather(row),
            unsure=mask(events.height, doubtful, True).gather(row),
            remember=ground.remember.gather(events["cid"].gather(row)),
        )  # fmt: skip
        return split(people, rows)

    def _by_engine(self, apart: pl.Series, check: Check, earlier: dict[int, int]) -> tuple[list[Decided], list[Known]]:
        """The hard ones, decided; and the sample."""
        decided = reference(self.ground.known(apart), earlier, lift_caps(self.rulebook))
        return decided, check.sample(self.ground.known(check.rows))

    def _by_sets(self, views: pl.DataFrame) -> _Piece:
        """One bucket: what it was asked, and in a lean run what is posted."""
        with self.session.another() as session:
            return self._piece(session, views)

    def _piece(self, session: Session, views: pl.DataFrame) -> _Piece:
        codes = self.source.names
        past = self._past(views)
        triggers = [trigger for _, trigger in self.triggers]
        finder = Finder(past, asked_hits(past, triggers, self.cids, codes), self.names, codes)
        facts = find_facts(finder, self.asked_for, self.rulebook)
        asked = ask(session, facts, self.asked_for, self.rulebook, self.triggers, codes)
        if self.everything:
            return _Piece(asked, past, None, None)
        fired = asked.filter(pl.col("stage").is_null())
        fired = fired.with_columns(ord=self.events["ord"].gather(fired["row"]))
        short = past.only(fired["view"])
        on = short.frame.select(pl.col("speaks") & pl.col("row").is_in(fired["row"].unique().implode())).to_series()
        writer = Letters(session, self.rulebook, Finder(short, on, self.names, codes), self.said)
        letters, firings = writer.write(fired)
        return _Piece(fired.select(asked.columns), None, letters, firings)

    def _past(self, views: pl.DataFrame) -> Past:
        events, row = self.events, views["row"]
        columns = {name: events[name].gather(row) for name in ("ev", "cid", "t")}
        if self.everything:
            said = self.said.of(row, [*self.said.all, "epoch", "params", "ignored"])
        else:
            asked = self.asked_for.columns(self.names)
            said = self.said.of(row.filter(self._quoted(row, columns["ev"], asked)), asked)
        return Past(views.with_columns(counted=self.counted.gather(row), **columns), said, self.said.brings)

    def _quoted(self, row: pl.Series, ev: pl.Series, columns: list[str]) -> pl.Series:
        """Which rows may say something that is asked: a field is asked of an event, a custom name of those who bring it."""
        if self.asked_for.visitor:
            return pl.repeat(True, row.len(), eager=True)
        triggers = {trigger.on for _, trigger in self.triggers}
        events = triggers | {"click"} | {last_event(name) for name in self.asked_for.values} - {""}
        codes = [code for name, code in self.source.names.items() if name in events]
        found = ev.is_in(pl.Series(codes, dtype=ev.dtype).implode()).fill_null(False)
        for column in columns:
            if column in self.names.columns.values():
                found = found | self.said.brings(column).gather(row)
        return found

    def _places(self, rows: pl.Series) -> pl.Series:
        return self.events["ord"].gather(rows)

    def _rows(self, lost: pl.DataFrame) -> pl.DataFrame:
        """number and row instead of number and ord."""
        rows = self.events.select("ord").with_row_index("row").join(lost, on="ord")
        return rows.select(pl.col("number").cast(pl.Int32), pl.col("row").cast(pl.UInt32))

    def _earlier(self) -> dict[int, int]:
        """By ord, the log time of the accepted hit with the same txid, where that is known."""
        known = self.twice.filter(pl.col("earlier").is_not_null() & ~pl.col("unsure"))
        return dict(zip(self._places(known["row"]).to_list(), known["earlier"].to_list(), strict=True))

    def _reached(self, asked: pl.DataFrame) -> pl.DataFrame:
        """Plain events that reach the cap, in the columns of `REACHED`."""
        through = asked.filter(pl.col("stage").is_null())
        place = self._places(through["row"])
        made = through.with_columns(
            ord=place,
            grp=place // PLACE * GROUP + through["cid"],
            test=pl.lit(False),
            affiliate=pl.col("affiliate").fill_null(""),
        )
        return made.select(pl.col(name).cast(kind) for name, kind in REACHED.items())

    def _written(
        self, pieces: list[_Piece], whole: list[Decided], lost: pl.DataFrame
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Letters and firings of both halves without what a cap stops. In a full run the outcomes have them."""
        if self.everything:
            return pl.DataFrame(schema=LETTERS), pl.DataFrame(schema=FIRINGS)
        letters = pl.concat(
            [piece.letters for piece in pieces if piece.letters is not None] + [pl.DataFrame(schema=LETTERS)]
        )
        firings = pl.concat(
            [piece.firings for piece in pieces if piece.firings is not None] + [pl.DataFrame(schema=FIRINGS)]
        )
        if lost.height:
            capped = set(lost.iter_rows())
            whole = [(place, epoch, without_capped(out, place, capped, self.rulebook)) for place, epoch, out in whole]
            stopped = lost.select(pl.col("number").cast(pl.Int32), "ord")
            letters = letters.join(stopped, on=["number", "ord"], how="anti")
            firings = firings.join(stopped, on=["number", "ord"], how="anti")
        return pl.concat([letters, letters_of(whole)]), pl.concat([firings, firings_of(whole)])

    def _told(
        self,
        pieces: list[_Piece],
        asked: pl.DataFrame,
        absorbed: pl.DataFrame,
        whole: list[Decided],
        lost: pl.DataFrame,
    ) -> list[Decided]:
        """Every outcome, in log order."""
        capped = set(lost.iter_rows())
        told = [
            (place, epoch, without_capped(outcome, place, capped, self.rulebook)) for place, epoch, outcome in whole
        ]
        for piece in pieces:
            assert piece.past is not None
            everywhere = pl.repeat(True, piece.past.frame.height, eager=True)
            finder = Finder(piece.past, everywhere, self.names, self.source.names)
            told += tell(finder, self.events, self.rulebook, asked, self._details(finder), _absorbed(finder, absorbed))
        return sorted(told + _rejected(self.source, self.events), key=itemgetter(0))

    def _details(self, finder: Finder) -> dict[int, str]:
        """By row, which identifiers were none, in the words of the engine's parser."""
        rows = finder.hits["row"].filter(finder.own("ignored")).unique()
        rows_of = dict(zip(self._places(rows).to_list(), rows.to_list(), strict=True))
        hits = self.ground.known(rows)
        return {rows_of[place]: event.detail for place, _, event in hits}

    def _tally(self, whole: list[Decided]) -> dict[tuple[str, str], int]:
        """(verdict, reason) -> hits: as sets judge all of them, but for those that went through the reference engine."""
        tally = dict(self.ground.judged)
        places = pl.Series([place for place, _, _ in whole], dtype=pl.Int64)
        mine = self.events["ord"].is_in(places.implode())
        for key, hits in judged(self.events.filter(mine), self.counted.filter(mine)).items():
            tally[key] -= hits
        for _, _, outcome in whole:
            key = outcome.verdict, outcome.reason
            tally[key] = tally.get(key, 0) + 1
        return {key: hits for key, hits in tally.items() if hits}


class _Piece(msgspec.Struct):
    """What one bucket gave. asked: in a lean run only what got through."""

    asked: pl.DataFrame
    past: Past | None
    letters: pl.DataFrame | None
    firings: pl.DataFrame | None


def _buckets(views: pl.DataFrame, threads: int) -> list[pl.DataFrame]:
    """Whole groups, by a hash of their label, so many that each fits into memory, and where it pays one for each thread."""
    count = max(-(-views.height * threads // BUCKET_HITS), min(threads, views.height // WORTHWHILE))
    if count <= 1:
        return [views]
    mine = views["label"].hash() % count
    return [views.filter(mine == number) for number in range(count)]


def _absorbed(finder: Finder, absorbed: pl.DataFrame) -> dict[int, list[str]]:
    """By row, the ids of the visitors that are absorbed there."""
    first = dict(zip(finder.hits["row"].to_list(), finder.own("hit_id").to_list(), strict=True))
    found: dict[int, list[str]] = {}
    for row, side in absorbed.select("row", "side").iter_rows():
        if side in first:
            found.setdefault(row, []).append(first[side])
    return found


def _rejected(source: Source, events: pl.DataFrame) -> list[Decided]:
    """Rejections need no state: the engine itself says all about them."""
    hits = events.filter(pl.col("reason").is_not_null())
    return [(place, e.epoch, process(e, State(), source.rulebook)) for place, e in source.entries(hits)]
