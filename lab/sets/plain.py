"""A page to its plain hits, by the kernel, and to all others, which `scan` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lab.sets.kernel import FIELDS, Job, Kernel, address_of, texts_at, whole
from lab.sets.pages import KEYS, Page, Words, words_of
from lab.sets.patterns import Patterns, tell_patterns
from lab.sets.reading import Places
from lab.sets.sheet import Sheet
from service.engine.model import DECODER_VERSION

if TYPE_CHECKING:
    from lab.sets.events import Source

REPEATED = ("kind", "route", "path", "refusal")
COLUMNS = ("partition", "seq", "time", "decoder", "epoch", "hit_id", "params", *REPEATED)
FEW_PATHS = 1_000  # of which each is looked up, without a look at who came over it
_WAYS = {"e": 1, "c": 2}


class Parts(NamedTuple):
    """What a page holds beside the hits that the kernel wrote into the sheet. odd: rows of all others, with `at` and
    `pattern`. marks: partition and seq of entries that are no hits, where there is no sheet. words: what all rows said."""

    odd: list[pa.RecordBatch]
    marks: list[pa.RecordBatch]
    words: list[Words]


class Layout:
    """`Places`, and what else of a source stays the same from batch to batch, as the kernel reads it."""

    def __init__(self, compiled: Kernel, source: Source, places: Places) -> None:
        reading = source.reading
        levels = [places.fields[name] for name in FIELDS]
        flat = [level.cast(pl.Int16).fill_null(-1) for mine in levels for level in mine]
        self.keys = places.priced.len()
        self.first = [sum(map(len, levels[:number])) for number in range(len(levels) + 1)]
        self.places = pl.concat(flat).to_arrow()
        self.shape_of = reading.shape_of.cast(pl.Int32).to_arrow()
        self.clients = compiled.names(list(source.rulebook.clients))
        self.events = compiled.names(list(source.names))
        self.no_ids = compiled.names(sorted({word for shape in reading.shapes for word in shape[1]}))
        self.numbers: dict[str, Any] = {
            "keys": self.keys, "shapes": len(reading.shapes), "clients": len(reading.clients), "longest": reading.longest,
            "decoder": DECODER_VERSION, "click": source.names["click"],
        }  # fmt: skip
        self.cut = pa.array([], pa.int64()) if source.cuts is None else _cuts(source.cuts)


def _cuts(cuts: pl.DataFrame) -> pa.Array:
    """By partition the last sequence number that counts; one at least, so that there is a cut."""
    known = dict(cuts.iter_rows())
    return pa.array([known.get(partition, -1) for partition in range(max(known, default=0) + 1)], pa.int64())


def read_page(source: Source, page: Page, sheet: Sheet | None) -> Parts:
    """sheet: for plain hits; without a kernel there is none, and no hit is plain."""
    parts, base, compiled = Parts([], [], []), page.base, source.session.kernel
    for batch in page.batches(COLUMNS, (*REPEATED, KEYS)):
        words, names = words_of(batch["params"])
        patterns = tell_patterns(compiled, source.reading, words.starts, names)
        if compiled is not None and sheet is not None:
            odd = _Batch(source, batch, words, patterns).read(compiled, base, sheet)
        else:
            odd = pa.array(range(batch.num_rows), pa.uint32())
            parts.marks.append(_marks(batch))
        if len(odd):
            numbers = patterns.numbers.take(patterns.local.take(odd))
            at = pc.add(odd, pa.scalar(base, pa.uint32()))
            parts.odd.append(batch.take(odd).append_column("pattern", numbers).append_column("at", at))
        parts.words.append(words)
        base += batch.num_rows
    return parts


def _marks(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Entries that are no hits."""
    return batch.select(["partition", "seq"]).filter(pc.not_equal(batch["kind"].cast(pa.string()), "hit"))


class _Batch:
    """Some rows and everything that a job over them points at."""

    def __init__(self, source: Source, batch: pa.RecordBatch, words: Words, patterns: Patterns) -> None:
        self._source = source
        self._rows = batch.num_rows
        self._ids, self._words = batch["hit_id"], words
        coded = {name: as_codes(batch[name]) for name in REPEATED}
        texts = {name: coded[name].dictionary.to_pylist() for name in ("kind", "route", "refusal")}
        links = known_links(source, coded["route"], coded["path"])
        self._arrays = {
            **{name: array.indices for name, array in coded.items()},
            "hit": pa.array([int(text == "hit") for text in texts["kind"]], pa.uint8()),
            "way": pa.array([_WAYS.get(text, 0) for text in texts["route"]], pa.uint8()),
            "refused": pa.array([int(text != "") for text in texts["refusal"]], pa.uint8()),
            "link": links, "link_client": source.links.clients(), "partition": batch["partition"],
            "decoded": batch["decoder"], "epoch": batch["epoch"], "seq": batch["seq"],
            "time": batch["time"].cast(pa.int64()), "local": patterns.local,
            "pattern": patterns.numbers.fill_null(-1), "starts": words.starts,
        }  # fmt: skip

    def read(self, compiled: Kernel, base: int, sheet: Sheet) -> pa.Array:
        """Plain hits into the sheet; the rows of the others. base: the number of the first row."""
        odd = pa.allocate_buffer(4 * self._rows)
        layout = self._source.layout(compiled)  # held here as long as the kernel reads it: others may make a newer one
        job = self._job(layout, base)
        job.odd = odd.address
        sheet.open(job)
        compiled.read(job)
        return whole(pa.uint32(), job.odds, odd)

    def _job(self, layout: Layout, base: int) -> Job:
        arrays = self._arrays | {
            "places": layout.places, "shape_of": layout.shape_of, "cut": layout.cut,
        }  # fmt: skip
        job = Job(rows=self._rows, base=base, cuts=len(layout.cut), **layout.numbers)
        if self._words.values.null_count:
            job.decoder = -1  # nothing is plain
        for name, array in arrays.items():
            setattr(job, name, address_of(array))
        job.first[:] = layout.first
        job.client_names, job.event_names = layout.clients.pointer, layout.events.pointer
        job.no_ids = layout.no_ids.pointer
        job.values, job.ids = texts_at(self._words.values), texts_at(self._ids)
        return job


def as_codes(column: pa.Array) -> pa.Array:
    """A column as codes, 32 bits each, and what they stand for."""
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if coded.indices.type == pa.int32():
        return coded
    return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int32()), coded.dictionary)


def known_links(source: Source, route: pa.Array, path: pa.Array) -> pa.Array:
    """By code of a path the number of its tracker link, -1 where nobody came over one."""
    paths = path.dictionary
    if "c" not in route.dictionary.to_pylist():
        return pa.array([-1] * len(paths), pa.int32())
    if len(paths) <= FEW_PATHS:
        return pa.array([source.links.number_of(one) for one in paths.to_pylist()], pa.int32())
    linked = pc.equal(route.cast(pa.string()), "c")
    codes = pc.unique(path.indices.filter(linked)).drop_null()
    known = {code: source.links.number_of(paths[code].as_py()) for code in codes.to_pylist()}
    return pa.array([known.get(code, -1) for code in range(len(paths))], pa.int32())
