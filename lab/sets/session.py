"""One DuckDB connection with bounds on threads and memory, and the few ways to talk to it."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from types import TracebackType
from typing import Any

import duckdb
import polars as pl

from lab.sets.kernel import kernel

MEMORY_GB = 1.5  # what DuckDB may take before it writes to disk; frames of Polars come on top
THREADS = 2


class Session:
    """A connection of its own, closed and its temporary files removed at the end of `with`. kernel: see there."""

    def __init__(self, memory_gb: float = MEMORY_GB, threads: int = THREADS, compiled: bool = True) -> None:
        self.kernel = kernel() if compiled else None
        self.threads = threads
        self._memory_gb = memory_gb
        self._folder = tempfile.TemporaryDirectory(prefix="backtrack-sets-")
        self._connection = duckdb.connect(
            config={
                "memory_limit": f"{memory_gb}GB", "threads": threads, "temp_directory": self._folder.name,
            }
        )  # fmt: skip
        # every join is written with the table to build on at its right; guessed sizes of Parquet files turned them round
        self._connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")

    def another(self) -> Session:
        """One for a piece of the work, that goes on beside others."""
        return Session(self._memory_gb / self.threads, max(1, self.threads // 2))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._connection.close()
        self._folder.cleanup()

    def run(self, query: str) -> None:
        """Run a statement to its end."""
        self._connection.execute(query).fetchall()

    def rows(self, query: str) -> list[Any]:
        """All rows of a query as tuples."""
        found: list[Any] = self._connection.execute(query).fetchall()
        return found

    def frame(self, query: str) -> pl.DataFrame:
        """The result of a query as a frame."""
        found = pl.from_arrow(self._connection.sql(query).to_arrow_table())
        assert isinstance(found, pl.DataFrame)
        return found

    def put(self, name: str, frame: pl.DataFrame) -> None:
        """Keep a frame as a table, in place of an older one of this name."""
        self._connection.register("incoming", frame.to_arrow())
        self.run(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM incoming")
        self._connection.unregister("incoming")

    def make(self, name: str, query: str) -> None:
        """Keep the result of a query as a table, in place of an older one of this name."""
        self.run(f"CREATE OR REPLACE TEMP TABLE {name} AS {query}")


def text(value: str) -> str:
    """A text as a literal of SQL. A zero byte, which ends a query early, is added by `chr`."""
    quoted = "'" + value.replace("'", "''") + "'"
    return quoted if "\0" not in quoted else "(" + quoted.replace("\0", "' || chr(0) || '") + ")"


def number(value: Decimal | int) -> str:
    """A number of a condition as a literal: 18 digits before, 9 behind the point."""
    return f"CAST('{Decimal(value):f}' AS DECIMAL(27, 9))"
