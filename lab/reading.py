"""All lines or rows of foreign files: the parsed ones go on, the rejected ones to the table `rejected`."""

from __future__ import annotations

import glob
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from deltalake import write_deltalake

from lab.blocks import Rejected
from lab.coded import Coded
from lab.log import LabError
from lab.placing import Placing
from service.archive.schemas import TABLE_VERSION

THREADS = 2  # blocks read, or batches written, at the same time

_REJECTED = pa.schema([("line", pa.int64()), ("reason", pa.string()), ("raw", pa.binary())])


class Reading:
    """What was read so far: lines, parsed, moved, reasons of the rejected ones and `sample`, a hundred of these."""

    def __init__(self, folder: Path) -> None:
        self.lines = self.parsed = self.moved = 0
        self.reasons: Counter[str] = Counter()
        self.sample: list[bytes] = []
        self._folder = folder
        self._latest_us = -(1 << 62)
        _write_rejected(folder, ())

    def read(self, found: Iterable[tuple[Coded, list[Rejected], int]], placing: Placing) -> None:
        """Take everything in. found: lines in the columns of `placing.WIDE`, rejected lines and how many lines these are;
        lines are numbered from 1 in each."""
        for coded, rejected, lines in found:
            if rejected:
                self._reject([(self.lines + line, reason, raw) for line, reason, raw in rejected])
            if coded.height:
                self._count(coded.lines["time_us"])
                placing.add(coded.with_lines(coded.lines.with_columns(pl.col("line") + self.lines)))
            self.lines += lines

    def _count(self, times: pl.Series) -> None:
        self.parsed += times.len()
        latest = times.cum_max().shift(1).fill_null(self._latest_us).clip(lower_bound=self._latest_us)
        self.moved += int((times < latest).sum())
        self._latest_us = max(self._latest_us, int(times.max()))  # type: ignore[arg-type]

    def _reject(self, rejected: list[Rejected]) -> None:
        self.reasons.update(reason for _, reason, _ in rejected)
        self.sample += [raw for _, _, raw in rejected[: 100 - len(self.sample)]]
        _write_rejected(self._folder, rejected)


def _write_rejected(folder: Path, rejected: Iterable[tuple[int, str, bytes]]) -> None:
    rows = [{"line": line, "reason": reason, "raw": raw} for line, reason, raw in rejected]
    write_deltalake(
        str(folder / "rejected"),
        pa.Table.from_pylist(rows, schema=_REJECTED),
        mode="append",
        name="rejected",
        description=f"backtrack table rejected, version {TABLE_VERSION}",
    )


def ahead(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """What the work makes of each item, in their order, with few items on their way at the same time."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def sources_of(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files meant, sorted by name. Raises LabError for a pattern that nothing matches."""
    given = [path] if isinstance(path, str | Path) else list(path)
    found: list[Path] = []
    for one in given:
        if any(mark in str(one) for mark in "*?[") and not Path(one).exists():
            matching = sorted(Path(name) for name in glob.glob(str(one), recursive=True) if Path(name).is_file())  # noqa: PTH207
            if not matching:
                raise LabError(
                    f"{one} matches no file; give the path of an access log, or a pattern such as 'logs/*.gz'"
                )
            found += matching
        else:
            found.append(Path(one))
    return found
