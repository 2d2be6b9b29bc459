"""Hits to events, in the columns of `EVENTS`, column by column: all those that are not plain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import polars as pl
import pyarrow as pa

from lab.sets.pages import words_of
from lab.sets.plain import REPEATED, as_codes, known_links
from lab.sets.reading import Spoken, reasons
from lab.sets.spans import PLACE
from service.engine.model import DECODER_VERSION

if TYPE_CHECKING:
    from lab.sets.events import Source

GROUP = 1 << 20  # clients below one partition
SLICE = 1 << 17  # hits that are looked at together
ODD = 0x9E3779B97F4A7C15  # the golden ratio in 64 bits: it spreads small numbers


class Scan:
    """Rows of pages that were read. events: the hits among them; others: how often each valid event came that has no
    number. rows: `plain.COLUMNS`, at (the number of the row) and pattern."""

    def __init__(self, source: Source, rows: pa.RecordBatch) -> None:
        self.others: Counter[str] = Counter()
        self._source = source
        coded = {name: as_codes(rows[name]) for name in REPEATED}
        self._texts = {name: coded[name].dictionary.to_pylist() for name in ("kind", "route", "refusal")}
        self._links = cast(pl.Series, pl.from_arrow(known_links(source, coded["route"], coded["path"])))
        self._places = source.reading.places()
        words, _ = words_of(rows["params"])
        self._values = cast(pl.Series, pl.from_arrow(words.values))
        self.events = self._events(self._wanted(_flat(rows, coded, words.starts)))

    def _is(self, rows: pl.DataFrame, column: str, *texts: str) -> pl.Series:
        """Where a column has one of these texts."""
        known = self._texts[column]
        codes = [code for code, text in enumerate(known) if text in texts]
        if len(codes) == len(known):
            return pl.repeat(True, rows.height, eager=True)
        return rows[column] == codes[0] if len(codes) == 1 else rows[column].is_in(codes)

    def _wanted(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Only hits, and only those before the cut."""
        hits = self._is(rows, "kind", "hit")
        rows = rows if hits.all() else rows.filter(hits)
        if self._source.cuts is None:
            return rows
        cut = self._source.cuts.select("partition", cut="seq")
        rows = rows.join(cut, on="partition", how="inner", maintain_order="left")
        return rows.filter(pl.col("seq") <= pl.col("cut")).drop("cut")

    def _events(self, rows: pl.DataFrame) -> pl.DataFrame:
        source, links = self._source, self._source.links.table
        linked = self._is(rows, "route", "c")
        link = self._links.gather(rows["path"])
        link = link.zip_with(linked & (link >= 0).fill_null(False), _nothing(rows.height, pl.Int32))
        came = self._pick(rows["start"] + self._places.client(rows["pattern"]))
        cid = links["cid"].gather(link).zip_with(linked, _numbers(came, source.cids))
        key = self._places.keys(rows["pattern"], cid)
        said = Spoken(self._places, key, rows["start"], self._pick)
        event = said.sent("event")
        click = pl.repeat(source.names["click"], rows.height, dtype=pl.Int32, eager=True)
        ev = click.zip_with(linked, _numbers(event, source.names))
        refused = ~self._is(rows, "refusal", "")
        here = rows.select(
            "at", "start", "route", "refusal", client=came, cid=cid, event=event, ev=ev, link=link,
            linked=linked, refused=refused,
        )  # fmt: skip
        reason = self._reason(here, said, self._places.priced.gather(key))
        salt = (rows["partition"].cast(pl.UInt64) * GROUP + cid.cast(pl.UInt64)) * ODD
        valid = reason.is_null()
        txid = said.sent("txid")
        click_id = rows["hit_id"].zip_with(linked, said.sent("click_id"))
        self._count_others(event, ev, valid)
        return pl.DataFrame({
            "ord": rows["partition"].cast(pl.Int64) * PLACE + rows["seq"], "t": rows["t"], "cid": cid,
            "ev": ev.cast(pl.Int16),
            "uid": identity(source, said.sent("uid"), salt, valid),
            "tag": identity(source, said.sent("tag_id"), salt, valid),
            "click": identity(source, click_id, salt, valid), "x": sale(source, txid, event, linked, salt, valid),
            "test": (said.sent("test") == "1").fill_null(False), "link": link, "reason": reason.cast(pl.Categorical),
            "slot": (rows["pattern"] * len(source.reading.clients)).cast(pl.Int32) + cid,
            "read": refused | self._readable(rows), "at": rows["at"],
        })  # fmt: skip

    def _pick(self, places: pl.Series) -> pl.Series:
        return self._values.gather(places)

    def _reason(self, here: pl.DataFrame, said: Spoken, priced: pl.Series) -> pl.Series:
        """Why hits are rejected; of most it can be seen at a glance that they are not."""
        found = _nothing(here.height, pl.String)
        glance = ~here["refused"] & here["ev"].is_not_null() & ~priced & self._is(here, "route", "e", "c")
        glance = glance & here["cid"].is_not_null()  # so it came over no link that is wrong
        rows = (~glance.fill_null(False)).arg_true()
        if rows.is_empty():
            return found
        some, further = here[rows], said.only(rows)
        some = some.with_columns(
            route=self._text("route", some["route"]), refusal=self._text("refusal", some["refusal"]),
            linked_reason=self._source.links.table["reason"].gather(some["link"]),
            client=pl.when("linked").then(pl.lit("")).otherwise("client"),
            event=pl.when("linked").then(pl.lit("click")).otherwise("event"),
            shape=self._source.reading.shape_of.gather(some["cid"]),
            amount=further.sent("amount"), currency=further.sent("currency"), signed=self._signed(some),
        )  # fmt: skip
        return found.scatter(rows, reasons(some, self._source.reading.shapes))

    def _text(self, column: str, codes: pl.Series) -> pl.Series:
        return pl.Series(self._texts[column], dtype=pl.String).gather(codes)

    def _signed(self, some: pl.DataFrame) -> pl.Series:
        """Where the intake found a valid signature; it matters to browsers only."""
        nowhere = pl.repeat(False, some.height, eager=True)
        rows = self._is(some, "route", "e.gif", "e.js").arg_true()
        if rows.is_empty():
            return nowhere
        flags = self._source.pages.column("flags", some["at"].gather(rows))
        signed = flags.list.contains("signed").fill_null(False)
        return nowhere.scatter(rows, signed)

    def _readable(self, rows: pl.DataFrame) -> pl.Series:
        """Where parameters say all: they were decoded as today, or there was nothing to decode."""
        decoded = (rows["decoder"] == DECODER_VERSION) & rows["pattern"].is_not_null()
        bare = (rows["count"] == 0).arg_true()
        if bare.is_empty():
            return decoded
        at = rows["at"].gather(bare)
        lengths = [self._source.pages.column(name, at).bin.size() for name in ("query", "body")]
        empty = (lengths[0] + lengths[1]).fill_null(1) == 0
        return decoded & ~pl.repeat(False, rows.height, eager=True).scatter(bare, ~empty)

    def _count_others(self, event: pl.Series, ev: pl.Series, valid: pl.Series) -> None:
        others = event.filter(valid & ev.is_null())
        if others.len():
            self.others.update(dict(others.value_counts().iter_rows()))


def _flat(rows: pa.RecordBatch, coded: Mapping[str, pa.Array], starts: pa.Array) -> pl.DataFrame:
    """at, pattern, partition, seq, t, decoder, hit_id, codes, start and count of values."""
    columns = {name: pl.from_arrow(rows[name]) for name in ("at", "partition", "seq", "decoder", "hit_id")}
    columns |= {name: cast(pl.Series, pl.from_arrow(codes.indices)).cast(pl.UInt32) for name, codes in coded.items()}
    begins = cast(pl.Series, pl.from_arrow(starts)).cast(pl.UInt32)
    start = begins.head(begins.len() - 1)
    pattern = cast(pl.Series, pl.from_arrow(rows["pattern"])).cast(pl.UInt32)
    time = pl.from_arrow(rows["time"].cast(pa.int64()))
    return pl.DataFrame({**columns, "pattern": pattern, "t": time, "start": start, "count": begins.slice(1) - start})


def _numbers(texts: pl.Series, known: dict[str, int]) -> pl.Series:
    """The number of each text, null for those that have none."""
    return texts.replace_strict(list(known), list(known.values()), default=None, return_dtype=pl.Int32)


def salt_of(partition: int, cid: int) -> int:
    """What sets apart the same value of different clients."""
    return (partition * GROUP + cid) * ODD % 2**64


def identity(source: Source, values: pl.Series, salt: pl.Series, valid: pl.Series) -> pl.Series:
    """64 bits for a value of a client, null for none and in what is no valid event."""
    there = valid & values.is_not_null()
    return (source.hashes(values) + salt).zip_with(there, _nothing(values.len(), pl.UInt64))


def sale(
    source: Source, txid: pl.Series, event: pl.Series, linked: pl.Series, salt: pl.Series, valid: pl.Series
) -> pl.Series:
    """64 bits for a transaction of an event of a client."""
    found = _nothing(txid.len(), pl.UInt64)
    rows = (valid & txid.is_not_null()).arg_true()
    if rows.is_empty():
        return found
    events = pl.repeat("click", rows.len(), eager=True).zip_with(linked.gather(rows), event.gather(rows))
    made = (source.hashes(txid.gather(rows)) * ODD + source.hashes(events)) * ODD + salt.gather(rows)
    return found.scatter(rows, made)


def _nothing(length: int, kind: type[pl.DataType]) -> pl.Series:
    return pl.repeat(None, length, dtype=kind, eager=True)
