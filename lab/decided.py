"""Placed requests to rows of `hits` and `decisions`: what the engine would decide, batch by batch.

The rulebook of an import has one client and no trigger, so that a decision is the visitor and the remembered parameters.
Plain visitors are decided as columns, those with parameters of their own by merging these; hard ones by the engine itself.
Tests hold all of it to a replay.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from lab.maps import mapped, no_maps
from lab.placing import LASTING
from service.archive.schemas import SCHEMAS, decision_row, table
from service.engine import Entry, Hit, Rulebook, State, process
from service.engine.model import DECODER_VERSION

PARTITION, EPOCH = 0, 1
# what a hit says beside its own parameters, and the columns of `placing.WIDE` that hold it
FIELDS = {"client": "client", "event": "event", "tag_id": "tag"}
MADE_UP = {
    "path": "path_text",
    "status": "status",
    "method": "method",
    "referrer_host": "referrer_host",
    "host": "host",
}
KINDS: dict[str, Any] = {name: dict(pl.DataFrame(SCHEMAS[name].empty_table()).schema) for name in ("hits", "decisions")}


class Decided(msgspec.Struct, frozen=True):
    """A batch of hits with what had to be found out in log order; `hits` and `decisions` may be made at any time.

    of_requests: they were made of requests, and say what is made up of these. plain: the hits of plain visitors, with all
    that is remembered of them beside what is made up as the lists kept_keys and kept_values. by_engine: the decisions of
    the others.
    """

    frame: pl.DataFrame
    plain: pl.DataFrame
    by_engine: list[pa.Table]
    rulebook_id: str
    of_requests: bool

    def hits(self) -> pl.DataFrame:
        """Rows of the table `hits`."""
        frame = self.frame
        said = FIELDS | MADE_UP if self.of_requests else {"client": "client", "event": "event"}
        return _rows(
            "hits", frame, kind="hit", route="import", body=b"", content_type="", refusal="", decoder=DECODER_VERSION,
            received_at=_TIME, flags=_NO_TEXTS, rulebook_id=None,
            params=mapped(_taken(frame, said), frame["keys"], frame["values"]),
        )  # fmt: skip

    def decisions(self) -> pl.DataFrame:
        """Rows of the table `decisions`."""
        frame = self.plain
        kept = _taken(frame, MADE_UP) | {name: frame[f"last_{name}"] for name in LASTING}
        found = _rows(
            "decisions", frame, verdict="accepted", reason="", detail="", affiliate="", test=False,
            rulebook_id=self.rulebook_id, fields=mapped(_taken(frame, FIELDS)),
            params=mapped(kept, frame["kept_keys"], frame["kept_values"]), absorbed=_NO_TEXTS, conflicts=_NO_TEXTS,
            fired=pl.lit([], KINDS["decisions"]["fired"]), not_fired=no_maps(frame.height),
        )  # fmt: skip
        if not self.by_engine:
            return found
        return pl.concat([found, *map(pl.DataFrame, self.by_engine)]).sort("seq")


_SOME = 10_000  # decisions of the engine that are Python values at the same time


def _taken(frame: pl.DataFrame, names: dict[str, str]) -> dict[str, pl.Series]:
    return {name: frame[column] for name, column in names.items()}


_TIME = pl.col("time_us").cast(pl.Datetime("us", "UTC"))
_NO_TEXTS = pl.lit([], pl.List(pl.String))


def _rows(name: str, frame: pl.DataFrame, **values: Any) -> pl.DataFrame:
    """Rows of a table: what stands in the frame, and these values or columns."""
    values |= {"partition": PARTITION, "epoch": EPOCH, "time": _TIME, "day": _TIME.dt.strftime("%Y-%m-%d")}
    texts = (str, bytes, int, type(None))
    made = {column: pl.lit(value) if isinstance(value, texts) else value for column, value in values.items()}
    kinds = KINDS[name]
    return frame.select(*(column for column in kinds if column not in made), **made).select(list(kinds)).cast(kinds)


class Deciding:
    """Batches in log order; the counts of all of them. visitors: how many there are."""

    def __init__(self, rulebook: Rulebook, of_requests: bool) -> None:
        self.rulebook, self._of_requests = rulebook, of_requests
        self.verdicts: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self._plain_visitors = 0
        self._hard_visitors: set[str] = set()
        self._state = State()  # of the hard visitors
        self._remembered: dict[int, dict[str, str]] = {}  # of those with parameters of their own, by life

    @property
    def visitors(self) -> int:
        """How many there are."""
        return self._plain_visitors + len(self._hard_visitors)

    def decide(self, frame: pl.DataFrame) -> Decided:
        """What has to be found out in log order. frame: as `Placing.batches` makes it."""
        plain = self._with_memory(frame.filter(~pl.col("hard")))
        self.verdicts["accepted"] += plain.height
        for event, count in plain["event"].value_counts().iter_rows():
            self.events[event] += count
        self._plain_visitors += int(plain["new_visitor"].sum())
        hard = frame.filter("hard")
        by_engine = [table("decisions", self._by_engine(some)) for some in hard.iter_slices(_SOME)]
        return Decided(frame, plain, by_engine, self.rulebook.id, self._of_requests)

    def _with_memory(self, plain: pl.DataFrame) -> pl.DataFrame:
        """The frame with kept_keys and kept_values: the visitor's own parameters as they stand at each hit.

        Only hits that bring some change anything: these are merged one by one, the others take the last state over.
        """
        earlier = plain.filter(pl.col("last_own") < pl.col("pos").first()).select("last_own", "life").unique()
        states = States(earlier["last_own"].to_list())
        for life in earlier["life"]:
            states.add(self._remembered[life])
        bringing = plain.filter(pl.col("keys").list.len() > 0)
        states.places += bringing["pos"].to_list()
        for life, keys, values in bringing.select("life", "keys", "values").iter_rows():
            known = self._remembered.setdefault(life, {})
            known.update(zip(keys, values, strict=True))
            states.add(known)
        found = plain.join(states.frame(), on="last_own", how="left", maintain_order="left")
        return found.with_columns(pl.col("kept_keys", "kept_values").fill_null([]))

    def _by_engine(self, hard: pl.DataFrame) -> list[dict[str, Any]]:
        rows = []
        columns = ("seq", "time_us", "hit_id", "method", "path", "query", "address", "user_agent", "referrer")
        for seq, time_us, hit_id, method, path, query, address, agent, referrer in hard.select(columns).iter_rows():
            hit = Hit(
                hit_id, time_us, "import", method, path, query, address=address, user_agent=agent, referrer=referrer
            )
            outcome = process(Entry(PARTITION, EPOCH, seq, time_us, hit), self._state, self.rulebook)
            self.verdicts[outcome.verdict] += 1
            if outcome.verdict == "accepted":
                self.events[outcome.event] += 1
                self._hard_visitors.add(outcome.visitor)
                self._hard_visitors -= set(outcome.absorbed)
            rows.append(decision_row(PARTITION, EPOCH, outcome))
        return rows


class States:
    """What visitors had brought at some hits. places: pos of these, in the order of `add`."""

    def __init__(self, places: list[int]) -> None:
        self.places = places
        self._names: list[str] = []
        self._texts: list[str] = []
        self._ends = [0]

    def add(self, known: dict[str, str]) -> None:
        """One more state."""
        self._names += known
        self._texts += known.values()
        self._ends.append(len(self._names))

    def frame(self) -> pl.DataFrame:
        """last_own, kept_keys, kept_values."""
        ends = pa.array(self._ends, pa.int64())
        lists = (
            pl.Series(pa.LargeListArray.from_arrays(ends, pa.array(flat, pa.large_string())), dtype=pl.List(pl.String))
            for flat in (self._names, self._texts)
        )
        kept = dict(zip(("kept_keys", "kept_values"), lists, strict=True))
        return pl.DataFrame({"last_own": pl.Series(self.places, dtype=pl.Int64)} | kept)
