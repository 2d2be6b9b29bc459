"""Hits to events: the pinned Parquet files become one narrow frame, a row per hit in log order.

What SQL cannot decide as the engine's parser does is read by the parser itself, hit by hit; such hits are rare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import polars as pl

from lab.sets.reading import Reading, value_at
from lab.sets.session import Session, text, texts
from service.archive.schemas import entry_of
from service.engine import Entry, Event, Hit, Rejection, parse
from service.engine.model import DECODER_VERSION
from service.engine.rulebook import BROWSER_EVENTS, Affiliate, Rulebook, Webhook

if TYPE_CHECKING:
    from lab.log import Log

PLACE = 1 << 44  # sequence numbers below one partition
GROUP = 1 << 20  # clients below one partition
LEARNED_ROWS = 20_000  # of a file, to learn the patterns of most hits
LEARNED_FILES = 8
FEW = 50  # names that stand in a query itself, which is quicker than to join them
FEW_NEW = (
    2_000  # hits with names in an unknown order that are read one by one; for more, all hits are looked at once more
)

# what no decision reads is not fetched
ENTRY_COLUMNS = (
    "partition", "epoch", "seq", "time", "kind", "hit_id", "time AS received_at", "route", "method", "path", "query",
    "body", "content_type", "'' AS address", "'' AS user_agent", "'' AS referrer", "refusal", "flags", "'' AS rulebook_id",
)  # fmt: skip

# ord: place in the log, partition and seq in one number. t: log time in microseconds. cid: position of the client in the
# rulebook. ev: number of an event that the rulebook names, null for others. uid, tag, click: hashes of (value, client), and
# x of (txid, event, client), null if absent; 64 bits, so that among ten million values two meet once in 300,000 logs.
# link: number of the tracker link it came over, null for none. reason: of the rejection, null if it is a valid event.
# slot: see `Reading.slots`.
# read: whether it was read by SQL, and not by the engine's parser.
EVENTS: dict[str, Any] = {
    "ord": pl.Int64, "t": pl.Int64, "cid": pl.Int32, "ev": pl.Int16, "uid": pl.UInt64, "tag": pl.UInt64,
    "click": pl.UInt64, "x": pl.UInt64, "test": pl.Boolean, "link": pl.Int32, "reason": pl.String,
    "slot": pl.Int32, "read": pl.Boolean,
}  # fmt: skip


class Source:
    """The hits of a log that one rulebook decides: which files, which partitions up to which entry.

    also: further rulebooks that read hits alike; their events have numbers, too.
    """

    def __init__(
        self, session: Session, log: Log, rulebook: Rulebook, partitions: list[int], also: Sequence[Rulebook] = ()
    ) -> None:
        self.session = session
        self.rulebook = rulebook
        self.reading = Reading(rulebook)
        named = sorted({name for book in (rulebook, *also) for name in _event_names(book)})
        self.names = {name: number for number, name in enumerate(named)}
        self.parsed: dict[int, Event | Rejection] = {}  # by ord: hits that the engine's parser had to read
        self._paths = log.files("hits")
        self._files = "[" + ", ".join(map(text, self._paths)) + "]"
        cuts = log.cuts.filter(pl.col("partition").is_in(partitions))
        everything = cuts.height == log.cuts.height and not cuts["beyond"].sum()
        self._whole = everything and log.as_of is None  # what came later than `as_of` is not beyond a cut
        session.put("cuts", cuts.select("partition", "seq"))
        session.put("clients", pl.DataFrame({"name": list(rulebook.clients)}, {"name": pl.String}))
        session.put("names", pl.DataFrame(list(self.names.items()), {"name": pl.String, "ev": pl.Int16}, orient="row"))
        session.put("links", self._links())
        self._learn()

    def decided_by(self, rulebook: Rulebook) -> Source:
        """The same hits for another rulebook that reads them alike."""
        other = copy(self)
        other.rulebook = rulebook
        return other

    def hits(self, columns: str, where: str = "true", join: str = "") -> str:
        """A query over the hits, cut; `ord` is there beside the columns of the table. join: more tables, beside `h`."""
        cut = (
            "JOIN (SELECT partition AS cut_partition, seq AS cut_seq FROM cuts) AS cut "
            "ON h.partition = cut.cut_partition AND h.seq <= cut.cut_seq"
        )
        return (
            f"SELECT {columns} FROM (SELECT *, CAST(partition AS BIGINT) * {PLACE} + seq AS ord "
            f"FROM read_parquet({self._files}, hive_partitioning = false) WHERE kind = 'hit') AS h "
            f"{'' if self._whole else cut} {join} WHERE {where}"
        )

    def read(self, columns: str) -> str:
        """A query over all hits with what `Reading` asks for in reach."""
        reading = self.reading
        self.session.put("slots", reading.slots())
        few = len(reading.clients) <= FEW
        clients = texts([client.name for client in reading.clients]) if few else "SELECT name FROM clients"
        hits = self.hits(
            "h.*, route = 'c' AS linked, map_values(params) AS v, hash(map_keys(params)) AS k, l.link, l.linked_affiliate, "
            f"l.linked_reason, CASE WHEN route = 'c' THEN l.linked_client ELSE {_CLIENT} END AS client",
            join="LEFT JOIN links AS l ON CASE WHEN h.route = 'c' THEN h.path END = l.path",
        )
        known = f"s.slot IS NOT NULL OR h.client IN ({clients}) AS known"
        said = (
            f"SELECT h.*, s.slot, s.cid, s.shape, {reading.values()}, {known} FROM ({hits}) AS h "
            "LEFT JOIN slots AS s ON s.k = h.k AND s.client = h.client"
        )
        heard = f"SELECT *, {reading.field('event')} AS event FROM ({said})"
        if len(self.names) > FEW:
            return f"SELECT {columns} FROM ({heard}) AS h LEFT JOIN names ON h.event = names.name"
        cases = " ".join(f"WHEN {text(name)} THEN {number}" for name, number in self.names.items())
        return f"SELECT {columns} FROM (SELECT *, CAST(CASE event {cases} END AS SMALLINT) AS ev FROM ({heard}))"

    def read_again(self, columns: str, heard: pl.DataFrame, custom: list[str]) -> str:
        """The same over the hits in `heard` (ord, row, slot, link), which are known by now.

        custom: names whose values shall be p_0, p_1, ...
        """
        session, reading = self.session, self.reading
        session.put("heard", heard)
        session.put("slots", reading.slots(custom))
        hits = self.hits(
            'h.*, map_values(params) AS v, heard."row", heard.slot, heard.link, heard.link IS NOT NULL AS linked',
            join="JOIN heard ON heard.ord = h.ord",
        )
        places = "".join(", " + value_at(f"p_{number}") for number in range(len(custom)))
        return (
            f"SELECT {columns} FROM (SELECT h.*, s.shape, l.linked_affiliate, {reading.values()}{places} "
            f"FROM ({hits}) AS h LEFT JOIN slots AS s ON s.slot = h.slot LEFT JOIN links AS l ON l.link = h.link)"
        )

    def entries(self, places: pl.Series) -> list[tuple[int, Entry]]:
        """(ord, entry) of these places, in log order: what the engine's own code needs."""
        self.session.put("wanted_places", places.unique().to_frame("ord"))
        columns = ", ".join(ENTRY_COLUMNS)
        query = self.hits(f"ord, {columns}", "ord IN (SELECT ord FROM wanted_places)")
        rows = self.session.frame(f"SELECT DISTINCT ON (ord) * FROM ({query}) ORDER BY ord").iter_rows(named=True)
        return [(row["ord"], entry_of(row)) for row in rows]

    def _links(self) -> pl.DataFrame:
        """Every path of a tracker link that occurs, as the engine reads it: there are few."""
        rows: list[dict[str, Any]] = []
        for (path,) in self.session.rows(self.hits("DISTINCT h.path", "route = 'c'")):
            found = parse(Hit("0" * 32, 0, "c", "GET", path, b""), self.rulebook)
            row: dict[str, Any] = {"path": path, "link": len(rows)}
            if isinstance(found, Rejection):
                row["linked_reason"] = found.reason
            else:
                row |= {"linked_client": found.client, "linked_affiliate": found.fields["affiliate"]}
            rows.append(row)
        schema = {
            "path": pl.Binary, "link": pl.Int32, "linked_client": pl.String, "linked_affiliate": pl.String,
            "linked_reason": pl.String,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema)

    def _learn(self) -> None:
        """The patterns of the first hits of some files; `read_events` finds out whether there are more."""
        step = max(1, len(self._paths) // LEARNED_FILES)
        for path in self._paths[::step]:
            first = f"SELECT params FROM read_parquet({text(path)}) WHERE kind = 'hit' LIMIT {LEARNED_ROWS}"
            self.reading.learn(self.session.rows(_PATTERNS.format(hits=first)))

    def learn_the_rest(self) -> None:
        """The patterns of all hits."""
        self.reading.learn(self.session.rows(_PATTERNS.format(hits=self.hits("params"))))


# it comes first nearly always, and a look at one place is quicker than a search
_CLIENT = "(CASE WHEN map_keys(params)[1] = 'client' THEN map_values(params)[1] ELSE params['client'] END)"
_PATTERNS = (
    "SELECT k, any_value(names) FROM (SELECT hash(map_keys(params)) AS k, map_keys(params) AS names FROM ({hits})) "
    "WHERE names IS NOT NULL GROUP BY k"
)


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
    events = _scan(source)
    if events["new"].sum() > FEW_NEW:
        source.learn_the_rest()
        events = _scan(source)
    events = events.with_columns(read=pl.col("read") & ~pl.col("new")).drop("new")
    events = _read_the_rest(source, events)
    return events if not ordered and _rises(events["ord"].sort()) else _in_order(events)


def _scan(source: Source) -> pl.DataFrame:
    reading = source.reading
    fields = {"uid": "uid", "tag": "tag_id", "click": "click_id", "txid": "txid"}
    columns = (
        f"ord, epoch_us(time) AS t, cid, ev, event, CAST(partition AS BIGINT) * {GROUP} + cid AS grp, "
        + "".join(f"{reading.field(name)} AS {column}, " for column, name in fields.items())
        + f"coalesce({reading.field('test')} = '1', false) AS test, link, {reading.reason()} AS reason, slot, "
        f"refusal <> '' OR (len(v) > 0 AND decoder = {DECODER_VERSION}) AS read, slot IS NULL AND known AS new"
    )
    return source.session.frame(_HASHED.format(more=", slot, read, new", read=source.read(columns)))


def _hashed(columns: str, given: str) -> str:
    return f"CASE WHEN {given} IS NOT NULL AND reason IS NULL THEN hash({columns}, grp) END"


_HASHED = (
    "SELECT ord, t, cid, ev, " + ", ".join(f"{_hashed(name, name)} AS {name}" for name in ("uid", "tag", "click"))
    + f", {_hashed('txid, event', 'txid')} AS x, test, link, reason{{more}} FROM ({{read}})"
)  # fmt: skip


def _in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Sorted by ord, each once."""
    if not _rises(events["ord"]):
        events = events.sort("ord")
    return events if _rises(events["ord"]) else events.unique("ord", keep="first", maintain_order=True)


def _rises(places: pl.Series) -> bool:
    return bool((places.slice(1) > places.head(max(0, places.len() - 1))).all())


def _read_the_rest(source: Source, events: pl.DataFrame) -> pl.DataFrame:
    """Hits without parameters: a bare tracker link is read already, all others by the engine's parser."""
    unread = events.filter(~pl.col("read"))["ord"]
    if unread.is_empty():
        return events
    bare = f"cardinality(params) = 0 AND octet_length(query) = 0 AND octet_length(body) = 0 AND decoder = {DECODER_VERSION}"
    found = source.session.frame(source.hits("ord", bare))["ord"]
    unread = unread.filter(~unread.is_in(found.implode()))
    entries = source.entries(unread)
    source.parsed = {place: parse(_hit(entry), source.rulebook) for place, entry in entries}
    rows = [_row(source, place, entry, source.parsed[place]) for place, entry in entries]
    session = source.session
    session.put("parsed", pl.DataFrame(rows, _PARSED, orient="row"))
    read = session.frame(_HASHED.format(more="", read="SELECT * FROM parsed"))
    events = events.with_columns(read=pl.lit(True)).filter(~pl.col("ord").is_in(unread.implode()))
    read = read.with_columns(slot=pl.lit(None), read=pl.lit(False)).select(
        pl.col(name).cast(events.schema[name]) for name in events.columns
    )
    return pl.concat([events, read])


_PARSED = {
    "ord": pl.Int64, "t": pl.Int64, "grp": pl.Int64, "cid": pl.Int32, "event": pl.String, "ev": pl.Int16,
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
        place, entry.time_us, entry.partition * GROUP + cid, cid, found.name, source.names.get(found.name),
        *map(found.fields.get, names), found.test, link, None,
    )  # fmt: skip
