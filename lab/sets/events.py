"""Hits to events: the pinned Parquet files become one narrow table, a row per hit in log order.

`events`: ord (place in the log: partition and seq in one number), t (log time in microseconds), grp (partition and client
in one number), cid (position of the client in the rulebook), event, uid, tag, click, txid, amount, test, linked (came over
a tracker link), reason (of the rejection, null if it is a valid event). What SQL cannot decide as the engine's parser does
is read by the parser itself, hit by hit; such hits are rare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from lab.sets.reading import Reading
from lab.sets.session import Session, text
from service.archive.schemas import entry_of
from service.engine import Entry, Event, Hit, Rejection, Rulebook, parse
from service.engine.model import DECODER_VERSION

if TYPE_CHECKING:
    from lab.log import Log

PLACE = 1 << 44  # sequence numbers below one partition
GROUP = 1 << 20  # clients below one partition

ENTRY_COLUMNS = (
    "partition", "epoch", "seq", "time", "kind", "hit_id", "received_at", "route", "method", "path", "query", "body",
    "content_type", "address", "user_agent", "referrer", "refusal", "flags", "rulebook_id",
)  # fmt: skip


class Source:
    """The hits of a log that one rulebook decides: which files, which partitions up to which entry."""

    def __init__(self, session: Session, log: Log, rulebook: Rulebook, partitions: list[int]) -> None:
        self.session = session
        self.rulebook = rulebook
        self.reading = Reading(rulebook)
        self.parsed: dict[int, Event | Rejection] = {}  # by ord: hits that the engine's parser had to read
        self._files = "[" + ", ".join(map(text, log.files("hits"))) + "]"
        cuts = log.cuts.filter(pl.col("partition").is_in(partitions)).select("partition", "seq")
        session.put("cuts", cuts)
        shapes = {shape: number for number, shape in enumerate(self.reading.shapes)}
        session.put("clients", _clients(self.reading, shapes))
        session.put("links", self._links())

    def hits(self, columns: str, where: str = "true", join: str = "") -> str:
        """A query over the hits, cut; `ord` is there beside the columns of the table. join: more tables, beside `h`."""
        return (
            f"SELECT {columns} FROM (SELECT *, CAST(partition AS BIGINT) * {PLACE} + seq AS ord "
            f"FROM read_parquet({self._files}, hive_partitioning = false) WHERE kind = 'hit') AS h "
            f"JOIN (SELECT partition AS cut_partition, seq AS cut_seq FROM cuts) AS cut "
            f"ON h.partition = cut.cut_partition AND h.seq <= cut.cut_seq {join} WHERE {where}"
        )

    def read(self, columns: str, join: str = "") -> str:
        """A query over the hits with what `Reading` asks for in reach: client, cid, shape, tracker link, parameters.

        columns: made with `reading` before, so that it knows which parameters to look up.
        """
        event, client = self.reading.field("event"), self.reading.param("client")
        hits = self.hits(
            f"h.*, l.linked_client, l.linked_affiliate, l.linked_reason, {self.reading.looked_up()}",
            join="LEFT JOIN links AS l ON h.route = 'c' AND h.path = l.path " + join,
        )
        named = f"SELECT *, CASE WHEN route = 'c' THEN linked_client ELSE {client} END AS client FROM ({hits})"
        known = f"SELECT a.*, c.cid, c.shape FROM ({named}) AS a LEFT JOIN clients AS c ON a.client = c.name"
        return f"SELECT {columns} FROM (SELECT *, {event} AS event FROM ({known}))"

    def entries(self, places: pl.DataFrame) -> list[tuple[int, Entry]]:
        """(ord, entry) of the places in column ord, in log order: what the engine's own code needs."""
        self.session.put("wanted_places", places.select("ord").unique())
        columns = ", ".join(f"h.{name}" for name in ENTRY_COLUMNS)
        query = self.hits(f"ord, {columns}", "ord IN (SELECT ord FROM wanted_places)")
        rows = self.session.frame(f"{query} ORDER BY ord").iter_rows(named=True)
        return [(row["ord"], entry_of(row)) for row in rows]

    def _links(self) -> pl.DataFrame:
        """Every path of a tracker link that occurs, as the engine reads it: there are few."""
        rows: list[dict[str, Any]] = []
        for (path,) in self.session.rows(self.hits("DISTINCT h.path", "route = 'c'")):
            found = parse(Hit("0" * 32, 0, "c", "GET", path, b""), self.rulebook)
            row: dict[str, Any] = {"path": path}
            if isinstance(found, Rejection):
                row["linked_reason"] = found.reason
            else:
                row |= {"linked_client": found.client, "linked_affiliate": found.fields["affiliate"]}
            rows.append(row)
        schema = {
            "path": pl.Binary, "linked_client": pl.String, "linked_affiliate": pl.String, "linked_reason": pl.String,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema)


def _clients(reading: Reading, shapes: dict[Any, int]) -> pl.DataFrame:
    from lab.sets.reading import shape_of

    rows = [
        (client.name, cid, shapes[shape_of(client)], client.remember_us) for cid, client in enumerate(reading.clients)
    ]
    return pl.DataFrame(
        rows, {"name": pl.String, "cid": pl.Int32, "shape": pl.Int32, "remember": pl.Int64}, orient="row"
    )


def read_events(source: Source) -> None:
    """Make the table `events`, sorted by ord, so that the row id counts the places."""
    session, reading = source.session, source.reading
    columns = (
        f"ord, epoch_us(time) AS t, CAST(partition AS BIGINT) * {GROUP} + cid AS grp, cid, event, "
        f"{reading.field('uid')} AS uid, {reading.field('tag_id')} AS tag, {reading.field('click_id')} AS click, "
        f"{reading.field('txid')} AS txid, {reading.field('amount')} AS amount, "
        f"coalesce({reading.field('test')} = '1', false) AS test, route = 'c' AS linked, {reading.reason()} AS reason, "
        f"refusal = '' AND (cardinality(params) = 0 OR decoder <> {DECODER_VERSION}) AS unread"
    )
    valid = ", ".join(f"CASE WHEN reason IS NULL THEN {name} END AS {name}" for name in ("uid", "tag", "click", "txid"))
    session.make("events", f"SELECT * REPLACE ({valid}) FROM ({source.read(columns)})")
    _read_the_rest(source)
    if session.rows("SELECT 1 FROM (SELECT ord - lag(ord, 1, -1) OVER () AS step FROM events) WHERE step <= 0 LIMIT 1"):
        session.make("events", "SELECT DISTINCT ON (ord) * FROM events ORDER BY ord")


def _read_the_rest(source: Source) -> None:
    """Hits without parameters: a bare tracker link is read already, all others by the engine's parser."""
    session = source.session
    if not session.rows("SELECT 1 FROM events WHERE unread LIMIT 1"):
        return
    bare = f"octet_length(query) = 0 AND octet_length(body) = 0 AND decoder = {DECODER_VERSION}"
    session.make("bare", source.hits("ord", f"cardinality(params) = 0 AND {bare}"))
    session.run("UPDATE events SET unread = false WHERE unread AND ord IN (SELECT ord FROM bare)")
    places = session.frame("SELECT ord FROM events WHERE unread")
    cids = {client.name: cid for cid, client in enumerate(source.reading.clients)}
    entries = source.entries(places)
    source.parsed = {place: parse(_hit(entry), source.rulebook) for place, entry in entries}
    if entries:
        rows = [_row(place, entry, source.parsed[place], cids) for place, entry in entries]
        session.put("parsed", pl.DataFrame(rows, _PARSED, orient="row"))
        session.make(
            "events",
            "SELECT * EXCLUDE (unread) FROM events WHERE NOT unread UNION ALL SELECT * FROM parsed ORDER BY ord",
        )


_PARSED = {
    "ord": pl.Int64, "t": pl.Int64, "grp": pl.Int64, "cid": pl.Int32, "event": pl.String, "uid": pl.String,
    "tag": pl.String, "click": pl.String, "txid": pl.String, "amount": pl.String, "test": pl.Boolean,
    "linked": pl.Boolean, "reason": pl.String,
}  # fmt: skip


def _hit(entry: Entry) -> Hit:
    assert entry.hit is not None
    return entry.hit


def _row(place: int, entry: Entry, found: Event | Rejection, cids: dict[str, int]) -> tuple[Any, ...]:
    linked = _hit(entry).route == "c"
    if isinstance(found, Rejection):
        return (place, entry.time_us, *[None] * 8, False, linked, str(found.reason))
    cid, fields = cids[found.client], found.fields
    names = ("uid", "tag_id", "click_id", "txid", "amount")
    return (
        place, entry.time_us, entry.partition * GROUP + cid, cid, found.name, *map(fields.get, names), found.test,
        linked, None,
    )  # fmt: skip
