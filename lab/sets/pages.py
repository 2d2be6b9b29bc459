"""The pinned Parquet files, row group by row group, as Arrow arrays. What hits said stays in memory while there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import NamedTuple, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from service.archive.schemas import SCHEMAS

KEEP_BYTES = 1 << 30  # of what hits said, in memory; the rest is read again when it is asked for
BATCH_ROWS = 1 << 16
KEYS = "params.key_value.key"
_PARAMS = SCHEMAS["hits"].field("params").type


class Words(NamedTuple):
    """What the rows of a batch said. starts: for each row where its values begin, and where the last one's end."""

    starts: pa.Array
    values: pa.Array


class Page:
    """A row group. base: the number of its first row among the rows of all pages. words: what the rows of each batch said,
    if there was room."""

    def __init__(self, path: str, group: int, base: int, height: int) -> None:
        self.path = path
        self.group = group
        self.base = base
        self.height = height
        self.words: list[Words] | None = None

    def batches(self, columns: Sequence[str], dictionaries: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """These columns of all rows, some thousand rows at a time: what is made of them on the way stays in the processor's
        cache. dictionaries: those in which each different value shall stand once."""
        with pq.ParquetFile(self.path, memory_map=True, pre_buffer=False, read_dictionary=list(dictionaries)) as file:
            yield from file.iter_batches(BATCH_ROWS, row_groups=[self.group], columns=list(columns), use_threads=False)

    def take(self, columns: Sequence[str], at: pl.Series) -> pa.Table:
        """These columns of some rows. at: their numbers among the rows of all pages, sorted."""
        rows, parts, base, first = at - self.base, list[pa.RecordBatch](), 0, 0
        schema = None
        for batch in self.batches(columns):
            schema, end = batch.schema, base + batch.num_rows
            last = int(rows.search_sorted(end))
            if last > first:
                parts.append(batch.take((rows.slice(first, last - first) - base).to_arrow()))
            base, first = end, last
        return pa.Table.from_batches(parts, schema)


class Pages:
    """All row groups of some files, in their order."""

    def __init__(self, paths: Sequence[str], keep_bytes: int = KEEP_BYTES) -> None:
        self._pages: list[Page] = []
        self._room = keep_bytes
        self._lock = Lock()
        base = 0
        self._files: list[tuple[str, int]] = []  # and the number of the row after its last
        for path in paths:
            with pq.ParquetFile(path) as file:
                heights = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            for group, height in enumerate(heights):
                self._pages.append(Page(path, group, base, height))
                base += height
            self._files.append((path, base))
        self.height = base

    def __iter__(self) -> Iterator[Page]:
        return iter(self._pages)

    def keep(self, page: Page, words: list[Words]) -> None:
        """Hold what a page said, if there is room."""
        size = sum(some.values.nbytes + some.starts.nbytes for some in words)
        with self._lock:
            kept = size <= self._room
            self._room -= size if kept else 0
        page.words = words if kept else None

    def words(self, page: Page) -> Iterator[Words]:
        """What a page said, batch by batch."""
        return iter(page.words or (words_of(batch["params"])[0] for batch in page.batches(["params"], [KEYS])))

    def column(self, name: str, at: pl.Series) -> pl.Series:
        """A column of some rows. at: their numbers, sorted."""
        found = [page.take([name], hits["at"]) for page, hits in self.sought(at.to_frame("at"))]
        return cast(pl.Series, pl.from_arrow(pa.concat_tables(found)[name]))

    def rows(self, columns: Sequence[str], at: pl.Series) -> Iterator[pl.DataFrame]:
        """These columns of few rows, file by file. at: their numbers, sorted. Polars reads texts that it hardly needs at
        half the cost."""
        first = base = 0
        for path, end in self._files:
            last = int(at.search_sorted(end))
            mine = at.slice(first, last - first) - base
            if mine.len():
                file = pl.scan_parquet(path, glob=False, hive_partitioning=False, row_index_name="at")
                yield file.filter(pl.col("at").is_in(mine.implode())).select(columns).collect()
            first, base = last, end

    def sought(self, hits: pl.DataFrame) -> list[tuple[Page, pl.DataFrame]]:
        """Each page with those of some hits that lie in it. hits: sorted by `at`."""
        edges = pl.Series([*(page.base for page in self._pages), 1 << 32], dtype=pl.Int64)
        places = hits["at"].cast(pl.Int64).search_sorted(edges, side="left").to_list()
        spans = zip(self._pages, places, places[1:], strict=False)
        return [(page, hits.slice(first, last - first)) for page, first, last in spans if last > first]


def words_of(params: pa.Array) -> tuple[Words, pa.Array]:
    """What the maps of a column hold, and their names: a dictionary."""
    if not pa.types.is_map(params.type):
        params = params.cast(_PARAMS)
    keys = params.keys
    if not pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_encode()
    return Words(params.offsets, params.items), keys
