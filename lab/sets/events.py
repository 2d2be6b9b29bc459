"""The hits of a log as one narrow frame, a row per hit: what decides whom a hit belongs to and whether it counts.

What columns cannot tell as the engine's parser does is read by the parser itself, hit by hit; such hits are rare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pyarrow as pa

from lab.log import LabError
from lab.sets.kernel import Kernel
from lab.sets.pages import KEEP_BYTES, Page, Pages
from lab.sets.plain import Layout, read_page
from lab.sets.reading import Reading
from lab.sets.scan import SLICE, Scan, identity, sale, salt_of
from lab.sets.session import Session
from lab.sets.sheet import EVENTS, Ids, Sheet
from lab.sets.spans import PLACE, Span, spans_of
from service.archive.schemas import entry_of
from service.engine import Entry, Event, Hit, Rejection, parse
from service.engine.rulebook import BROWSER_EVENTS, Affiliate, Rulebook, Webhook

if TYPE_CHECKING:
    from lab.log import Log

# what no decision reads is not fetched
ENTRY_COLUMNS = (
    "partition", "epoch", "seq", "time", "hit_id", "route", "method", "path", "query", "body", "content_type", "refusal",
    "flags",
)  # fmt: skip
_UNREAD = {"kind": "hit", "address": "", "user_agent": "", "referrer": "", "rulebook_id": ""}

FEW_ODD = 1 << 15  # of a page, so few that they are not worth a reading of their own
MAX_EVENTS = 32_767  # that a rulebook names: as far as 16 bits count
_LINK = {"cid": pl.Int32, "affiliate": pl.String, "reason": pl.String}


class Links:
    """Every tracker link that occurs, as the engine reads its path: there are few."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self._cids = {name: cid for cid, name in enumerate(rulebook.clients)}
        self._numbers: dict[bytes, int] = {}
        self._paths: list[bytes] = []
        self._rows: list[tuple[int | None, str | None, str | None]] = []
        self._lock = Lock()
        self._table = pl.DataFrame(schema=_LINK)
        self._clients = pa.array([], pa.int32())

    def number_of(self, path: bytes) -> int:
        """The number of a link, from 0."""
        with self._lock:
            if path not in self._numbers:
                self._numbers[path] = len(self._rows)
                self._paths.append(path)
                self._rows.append(self._read(path))
            return self._numbers[path]

    def _read(self, path: bytes) -> tuple[int | None, str | None, str | None]:
        found = parse(Hit("0" * 32, 0, "c", "GET", path, b""), self._rulebook)
        if isinstance(found, Rejection):
            return None, None, str(found.reason)
        return self._cids[found.client], found.fields["affiliate"], None

    def path(self, number: int) -> bytes:
        """The path of a link."""
        with self._lock:
            return self._paths[number]

    def clients(self) -> pa.Array:
        """By number the cid, -1 for none."""
        with self._lock:
            if len(self._clients) < len(self._rows):
                self._clients = pa.array([-1 if cid is None else cid for cid, _, _ in self._rows], pa.int32())
            return self._clients

    @property
    def table(self) -> pl.DataFrame:
        """By number cid, affiliate and reason of all links that are known now."""
        with self._lock:
            if self._table.height < len(self._rows):
                self._table = pl.DataFrame(self._rows, _LINK, orient="row")
            return self._table


class Source:
    """The hits of a log that one rulebook decides: which files, which partitions up to which entry.

    also: further rulebooks that read hits alike; their events have numbers, too. cuts: partition and last seq, None where
    everything counts. others: after `read_events`, how often each valid event came that no rulebook names.
    """

    def __init__(
        self, session: Session, log: Log, rulebook: Rulebook, partitions: list[int], also: Sequence[Rulebook] = (),
        keep_bytes: int = KEEP_BYTES,
    ) -> None:  # fmt: skip
        self.session = session
        self.rulebook = rulebook
        self.reading = Reading(rulebook)
        named = sorted({name for book in (rulebook, *also) for name in _event_names(book)})
        if len(named) > MAX_EVENTS:
            raise LabError(f"{len(named):,} event names are too many for the set engine, which numbers {MAX_EVENTS:,}; "
                           "replay with engine='reference'")  # fmt: skip
        self.names = {name: number for number, name in enumerate(named)}
        self.cids = {name: cid for cid, name in enumerate(rulebook.clients)}
        self.links = Links(rulebook)
        self.others: Counter[str] = Counter()
        self.spans: list[Span] = []  # after `read_events`: of all entries, cut or not
        self._layout: Layout | None = None
        self._lock = Lock()
        self.parsed: dict[int, Event | Rejection] = {}  # by ord: hits that the engine's parser had to read
        self.ids: Ids | None = None  # after `read_events` with a kernel
        self.pages = Pages(log.files("hits"), keep_bytes)
        cuts = log.cuts.filter(pl.col("partition").is_in(partitions))
        everything = cuts.height == log.cuts.height and not cuts["beyond"].sum()
        whole = everything and log.as_of is None  # what came later than `as_of` is not beyond a cut
        self.cuts = None if whole else cuts.select("partition", "seq")

    def hashes(self, texts: pl.Series) -> pl.Series:
        """64 bits for each text: by the kernel, where there is one, as for the hits that it reads."""
        compiled = self.session.kernel
        return texts.hash() if compiled is None else compiled.hashes(texts)

    def layout(self, compiled: Kernel) -> Layout:
        """What the kernel reads of this source, with all patterns that are known now."""
        with self._lock:
            places = self.reading.places()
            if self._layout is None or self._layout.keys < places.priced.len():
                self._layout = Layout(compiled, self, places)
            return self._layout

    def count_others(self, others: Counter[str]) -> None:
        """Add to `others`."""
        with self._lock:
            self.others.update(others)

    def decided_by(self, rulebook: Rulebook) -> Source:
        """The same hits for another rulebook that reads them alike."""
        other = copy(self)
        other.rulebook = rulebook
        return other

    def requests(self, hits: pl.DataFrame) -> pl.DataFrame:
        """ord and `ENTRY_COLUMNS` of some hits, in log order. hits: with a column at."""
        ord_ = pl.col("partition").cast(pl.Int64) * PLACE + pl.col("seq")
        found = self.pages.rows(ENTRY_COLUMNS, hits["at"].unique().sort())
        return pl.concat(found).with_columns(ord=ord_).sort("ord")

    def entries(self, hits: pl.DataFrame) -> list[tuple[int, Entry]]:
        """(ord, entry) of some hits, in log order: what the engine's own code needs. hits: with a column at."""
        return entries_of(self.requests(hits)) if hits.height else []


def entries_of(requests: pl.DataFrame) -> list[tuple[int, Entry]]:
    """(ord, entry) of each. requests: see `Source.requests`."""
    rows = requests.iter_rows(named=True)
    return [(row["ord"], entry_of(row | _UNREAD | {"received_at": row["time"]})) for row in rows]


def _event_names(rulebook: Rulebook) -> list[str]:
    """Events that the rulebook says anything about, and those that most hits bring: they need no look at their letters."""
    names = {"click", *BROWSER_EVENTS}
    for trigger in rulebook.triggers:
        names |= {trigger.on, *trigger.after}
        if trigger.when is not None:
            names |= trigger.when.events | {last_event(name) for name in trigger.when.names}
        if trigger.payout is not None:
            names.add(last_event(trigger.payout.of))
    names |= {last_event(name) for webhook in webhooks_of(rulebook) for name in webhook.looked_up}
    return sorted(names - {""})


def webhooks_of(rulebook: Rulebook) -> Iterator[Webhook]:
    """Every endpoint of a rulebook, whatever its method."""
    for owner in (*rulebook.clients.values(), *rulebook.affiliates.values()):
        overrides = owner.overrides.values() if isinstance(owner, Affiliate) else ()
        for holder in (owner, *overrides):
            values = (getattr(holder, name) for name in holder.__struct_fields__)
            yield from (value for value in values if isinstance(value, Webhook))


def last_event(name: str) -> str:
    """The event of a name such as `last.sale.amount`, "" for other names."""
    return name.removeprefix("last.").rpartition(".")[0] if name.startswith("last.") else ""


def read_events(source: Source, ordered: bool = True) -> pl.DataFrame:
    """All hits in the columns of `EVENTS`, each once, sorted by ord if they shall be ordered."""
    source.others.clear()
    compiled = source.session.kernel
    sheet = None if compiled is None else Sheet(compiled, source.pages.height)
    with ThreadPoolExecutor(source.session.threads) as pool:
        scans = list(pool.map(lambda page: _scanned(source, page, sheet), source.pages))
    frames = [frame for found in scans for frame in found.events]
    frames += _by_columns(source, [batch for found in scans for batch in found.odd])
    if sheet is None:
        events = pl.concat([pl.DataFrame(schema=EVENTS), *frames], rechunk=True)
        marks = [mark for found in scans for mark in found.marks]
        source.spans = spans_of(pl.concat([events["ord"], *marks]).sort())
    else:
        for frame in frames:
            sheet.put(frame)
        events, source.spans, source.ids = sheet.events(), sheet.spans(), sheet.ids
    del scans, frames
    events = _read_the_rest(source, events)
    once = all(span.distinct == span.stored for span in source.spans)
    return events if once and not ordered else _in_order(events)


class _Scanned(NamedTuple):
    """A page. events: hits that stand in no sheet yet. odd: hits that are not read yet. marks: the places of other entries,
    where there is no sheet."""

    events: list[pl.DataFrame]
    odd: list[pa.RecordBatch]
    marks: list[pl.Series]


def _scanned(source: Source, page: Page, sheet: Sheet | None) -> _Scanned:
    """Where few hits of a page are odd, they are left to be read together with those of other pages."""
    parts = read_page(source, page, sheet)
    source.pages.keep(page, parts.words)
    marks = [pl.DataFrame(pl.from_arrow(one)) for one in parts.marks]
    places = [one["partition"].cast(pl.Int64) * PLACE + one["seq"] for one in marks]
    if sum(batch.num_rows for batch in parts.odd) < FEW_ODD:
        return _Scanned([], parts.odd, places)
    return _Scanned(list(_by_columns(source, parts.odd)), [], places)


def _by_columns(source: Source, odd: list[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
    """The events among rows that the kernel has left. Counts, too, how often each valid event came that has no number."""
    if not odd:
        return
    rows = pa.Table.from_batches(odd).unify_dictionaries().combine_chunks().to_batches()[0]
    for first in range(0, rows.num_rows, SLICE):
        scan = Scan(source, rows.slice(first, SLICE))
        source.count_others(scan.others)
        yield scan.events


def _in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Sorted by ord, each once."""
    if not _rises(events["ord"]):
        events = events.sort("ord")
    return events if _rises(events["ord"]) else events.unique("ord", keep="first", maintain_order=True)


def _rises(places: pl.Series) -> bool:
    return bool((places.slice(1) > places.head(max(0, places.len() - 1))).all())


def _read_the_rest(source: Source, events: pl.DataFrame) -> pl.DataFrame:
    """Hits that columns do not tell, by the engine's parser."""
    unread = events.filter(~pl.col("read")).unique("ord").sort("ord")
    if unread.is_empty():
        return events
    entries = source.entries(unread)
    source.parsed = {place: parse(_hit(entry), source.rulebook) for place, entry in entries}
    rows = [_row(source, place, entry, source.parsed[place]) for place, entry in entries]
    found = pl.DataFrame(rows, _PARSED, orient="row")
    salt, valid = found["salt"], found["reason"].is_null()
    nowhere = pl.repeat(False, found.height, eager=True)
    read = found.with_columns(
        *(identity(source, found[name], salt, valid).alias(name) for name in ("uid", "tag", "click")),
        x=sale(source, found["txid"], found["event"], nowhere, salt, valid),
        slot=pl.lit(None, pl.Int32), read=pl.lit(False), at=unread["at"],
    )  # fmt: skip
    events = events.filter(~pl.col("ord").is_in(unread["ord"].implode()))
    return pl.concat([events, read.select(pl.col(name).cast(kind) for name, kind in EVENTS.items())])


_PARSED = {
    "ord": pl.Int64, "t": pl.Int64, "salt": pl.UInt64, "cid": pl.Int32, "event": pl.String, "ev": pl.Int16,
    "uid": pl.String, "tag": pl.String, "click": pl.String, "txid": pl.String, "test": pl.Boolean,
    "link": pl.Int32, "reason": pl.String,
}  # fmt: skip


def _hit(entry: Entry) -> Hit:
    assert entry.hit is not None
    return entry.hit


def _row(source: Source, place: int, entry: Entry, found: Event | Rejection) -> tuple[Any, ...]:
    link = -1 if _hit(entry).route == "c" else None  # its words are the parser's, too
    if isinstance(found, Rejection):
        return (place, entry.time_us, *[None] * 8, False, link, str(found.reason))
    cid = list(source.rulebook.clients).index(found.client)
    names = ("uid", "tag_id", "click_id", "txid")
    return (
        place, entry.time_us, salt_of(entry.partition, cid), cid, found.name, source.names.get(found.name),
        *map(found.fields.get, names), found.test, link, None,
    )  # fmt: skip
