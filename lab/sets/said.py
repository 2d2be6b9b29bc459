"""What hits said, for the hits that matter.

`said` has a row per hit, in no order: row (of `events`) and columns such as hit_id, epoch, f_NAME per reserved name (null
if absent), p_0, p_1, ... per custom name of `Names`, params (all custom parameters as JSON) and ignored (an identifier that
came may be none). Facts ask for a few columns of many hits, postbacks for most columns of the few hits they quote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, cast

import msgspec
import polars as pl
import pyarrow as pa

from lab.log import LabError
from lab.sets.events import Source
from lab.sets.names import MADE, Names, pattern_of
from lab.sets.pages import Page
from lab.sets.reading import FIELDS, Places, Spoken
from service.engine import Event
from service.engine.model import RESERVED

BUCKET_HITS = 6_000_000  # of visitors that matter, in memory at the same time
STORE_BYTES = 1 << 30
_STORED = ("hit_id", "epoch")
_STORE = pa.RecordBatch.from_pylist(
    [], pa.schema([("hit_id", pa.string()), ("epoch", pa.int32()), ("values", pa.list_(pa.string()))])
)


class Said:
    """Reads `said`. What the hits that were asked for said stays at hand, for keep_rows hits at least of one question, and
    for more where they take less than STORE_BYTES together."""

    def __init__(self, source: Source, names: Names, events: pl.DataFrame, keep_rows: int = BUCKET_HITS) -> None:
        self._source = source
        self._names = names
        self._events = events
        self._places = source.reading.places()
        self._custom = {names.columns[name]: where for name, where in source.reading.custom(names.custom).items()}
        self._keep_rows = keep_rows
        self._lock = Lock()
        self._forget()

    @property
    def all(self) -> list[str]:
        """The columns that facts and postbacks are made of."""
        return ["hit_id", *(f"f_{name}" for name in FIELDS), *self._names.columns.values()]

    def of(self, rows: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """These columns for these rows of `events`."""
        rows = rows.unique()
        heard, values = self.heard(rows)
        quoted = _Quoted(self._source, heard, self._places, values)
        said = pl.DataFrame({"row": rows, **{name: self._column(quoted, name) for name in columns}})
        said = said.cast({"row": pl.UInt32})
        return _with_parsed(self._source, self._names, heard, said) if self._source.parsed else said

    def heard(self, rows: pl.Series) -> tuple[pl.DataFrame, pa.ListArray]:
        """row, ord, slot, link and what is stored of some rows, each named once; and the values of each."""
        with self._lock:  # until it is taken, nobody else may make room
            self._need(rows)
            kept = self._store.take(self._at.gather(rows).to_arrow())
        told = {name: self._events[name].gather(rows) for name in ("ord", "slot", "link")}
        told |= {name: pl.Series(name, pl.from_arrow(kept[name])) for name in _STORED}
        return pl.DataFrame({"row": rows, **told}), kept["values"]

    def fetch(self, rows: pl.Series) -> None:
        """Put what these hits said into the store, if it is not there."""
        with self._lock:
            self._need(rows.unique())

    @property
    def kept(self) -> int:
        """Of how many hits it is in the store what they said."""
        return int(self._store.num_rows)

    def _forget(self) -> None:
        self._store = _STORE
        self._at = pl.repeat(None, self._events.height, dtype=pl.UInt32, eager=True)  # by row its place in the store

    def _need(self, rows: pl.Series) -> None:
        """Have these rows in the store. Where it would hold too much, it holds nothing else then."""
        missing = rows.filter(self._at.gather(rows).is_null())
        if missing.is_empty():
            return
        if self.kept + missing.len() > self._keep_rows or self._store.nbytes > STORE_BYTES:
            self._forget()
            missing = rows
        self._fetch(missing)

    def _fetch(self, rows: pl.Series) -> None:
        wanted = pl.DataFrame({"row": rows, "at": self._events["at"].gather(rows)}).sort("at")
        with ThreadPoolExecutor(self._source.session.threads) as pool:
            found = pool.map(lambda sought: _of_page(self._source, *sought), self._source.pages.sought(wanted))
            store = pa.concat_tables([pa.Table.from_batches([self._store]), *found])
        batches = store.combine_chunks().to_batches()
        if len(batches) > 1:
            raise LabError(f"what {store.num_rows:,} hits say is more than 2 GB, too much at once by sets; "
                           "replay with engine='reference'")  # fmt: skip
        places = pl.int_range(self._store.num_rows, store.num_rows, dtype=pl.UInt32, eager=True)
        self._at = self._at.scatter(wanted["row"], places)
        self._store = batches[0]

    def brings(self, column: str) -> pl.Series:
        """For every row of `events` whether it brings the custom name of a column, which its pattern tells."""
        name = next(name for name, mine in self._names.columns.items() if mine == column)
        told = self._source.reading.brings(name).gather(pattern_of(self._source, self._events["slot"])).fill_null(False)
        parsed = self._source.parsed.items()
        own = [place for place, event in parsed if isinstance(event, Event) and name in event.params]
        return told | self._events["ord"].is_in(own) if own else told

    def _column(self, quoted: _Quoted, column: str) -> pl.Series:
        if column in ("hit_id", "epoch"):
            return quoted.heard[column]
        if column.startswith("f_"):
            return quoted.field(column.removeprefix("f_"))
        if column == "ignored":
            return quoted.spoken.ignored()
        if column == "params":
            return quoted.params()
        said = quoted.spoken.custom(self._custom[column], quoted.pattern)
        return _either(quoted.brought, said) if column == self._names.columns[MADE] else said


def _of_page(source: Source, page: Page, wanted: pl.DataFrame) -> pa.Table:
    """What some hits of a page said. wanted: at, sorted."""
    rows = wanted["at"] - page.base
    base, first, said = 0, 0, []
    for words in source.pages.words(page):  # its batches may end elsewhere than those of the stored columns
        end = base + len(words.starts) - 1
        last = int(rows.search_sorted(end))
        if last > first:
            lists = pa.ListArray.from_arrays(words.starts, words.values)
            said.append(lists.take((rows.slice(first, last - first) - base).to_arrow()))
        base, first = end, last
    values = pa.chunked_array(said, _STORE.schema.field("values").type)
    stored = None if source.ids is None else source.ids.of(wanted["at"])
    stored = page.take(_STORED, wanted["at"]) if stored is None else stored
    return stored.append_column("values", values)


class _Quoted:
    """What some hits said. heard: slot, link and what is stored of these hits. said: the list of values of each."""

    def __init__(self, source: Source, heard: pl.DataFrame, places: Places, said: pa.Array) -> None:
        self.heard = heard
        self.pattern = pattern_of(source, heard["slot"])
        self._patterns = source.reading.patterns
        link = heard["link"].cast(pl.UInt32, strict=False)  # what the engine's parser read has -1
        self._links = source.links.table["affiliate"].gather(link)
        self._linked = heard["link"].is_not_null()
        self._start = cast(pl.Series, pl.from_arrow(said.offsets.slice(0, len(said)))).cast(pl.UInt32)
        self._values = cast(pl.Series, pl.from_arrow(said.values))
        key = places.keys(self.pattern, heard["slot"] % max(1, len(source.reading.clients)))
        self.spoken = Spoken(places, key, self._start, self._pick)

    def _pick(self, places: pl.Series) -> pl.Series:
        return self._values.gather(places)

    def field(self, name: str) -> pl.Series:
        """A reserved name: its own value, else that of its first alias that came; null if it is absent."""
        sent = self.spoken.sent(name)
        if name == "currency":
            return sent.str.to_uppercase()
        if name not in ("event", "affiliate", "click_id") or not self._linked.any():
            return sent
        if name == "event":
            return pl.repeat("click", sent.len(), eager=True).zip_with(self._linked, sent)
        return (self._links if name == "affiliate" else self.heard["hit_id"]).zip_with(self._linked, sent)

    @property
    def brought(self) -> pl.Series:
        """The click id that came over a tracker link: the affiliate's own."""
        nothing = pl.repeat(None, self._linked.len(), dtype=pl.String, eager=True)
        return self.spoken.sent("click_id").zip_with(self._linked, nothing)

    def params(self) -> pl.Series:
        """All custom parameters as JSON."""
        return pl.Series([msgspec.json.encode(found).decode() for found in self._params()], dtype=pl.String)

    def _params(self) -> Iterator[dict[str, str]]:
        for start, pattern, brought in zip(self._start, self.pattern, self.brought, strict=True):
            names = () if pattern is None else self._patterns[pattern]
            values = self._values.slice(start, len(names)).to_list()
            made = {} if brought is None else {MADE: brought}
            yield {name: value for name, value in zip(names, values, strict=True) if name not in RESERVED} | made


def _either(first: pl.Series, other: pl.Series) -> pl.Series:
    return first.zip_with(first.is_not_null(), other)


def _with_parsed(source: Source, names: Names, heard: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """The hits that the engine's parser read say what it found."""
    mine = heard.filter(pl.col("ord").is_in(list(source.parsed)))
    known = said.join(mine.select("row", "ord"), on="row").unique("row")
    rows: list[dict[str, Any]] = []
    for row in known.iter_rows(named=True):
        event = source.parsed[row.pop("ord")]
        if isinstance(event, Event):
            made: dict[str, Any] = {f"f_{name}": event.fields.get(name) for name in FIELDS}
            made |= {column: event.params.get(name) for name, column in names.columns.items()}
            made |= {"ignored": bool(event.detail), "params": msgspec.json.encode(event.params).decode()}
            rows.append({name: made.get(name, value) for name, value in row.items()})
    by_parser = pl.DataFrame(rows, said.schema)
    return pl.concat([said.join(by_parser, on="row", how="anti"), by_parser])
