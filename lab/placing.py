"""The lines of an import in their order, in a DuckDB with bounds: sorted stably by (time, line), numbered, each with the
visitor it belongs to.

A visitor is a tag id (address and user agent) as long as it is not forgotten; its id is that of its first hit. Whatever the
engine might see otherwise (a hit it may reject, a visitor with more names than are remembered) is `hard` and is left to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

MEMORY_GB = 1.0
BATCH_ROWS = 120_000
_NAMES = 190  # a few below what the engine remembers


class Placing:
    """A connection of its own with the table `wide`, closed and its files removed at the end of `with`."""

    def __init__(self, folder: Path, memory_gb: float = MEMORY_GB) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix=".placing-")
        config: Any = {"memory_limit": f"{memory_gb}GB", "threads": 2, "temp_directory": self._folder.name}
        self._connection = duckdb.connect(config=config)
        self._made = False

    def __enter__(self) -> Placing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._connection.close()
        self._folder.cleanup()

    def add(self, frame: pl.DataFrame) -> None:
        """Take in the requests of a block: the columns of `blocks.SCHEMA` and `foreign_columns.ADDED`."""
        self._connection.register("incoming", frame.to_arrow())
        select = "SELECT *, substr(sha256(address || chr(10) || user_agent), 1, 32) AS tag FROM incoming"
        self._run(f"INSERT INTO wide {select}" if self._made else f"CREATE TEMP TABLE wide AS {select}")
        self._connection.unregister("incoming")
        self._made = True

    def place(self, remember_us: int) -> None:
        """Number the hits from 2, behind the rulebook, and find their visitors."""
        self._run(
            """
            CREATE TEMP TABLE hard AS SELECT tag FROM wide GROUP BY tag HAVING bool_or(unsure)
            UNION SELECT tag FROM (SELECT tag, unnest(keys) AS name FROM wide WHERE len(keys) > 0)
            GROUP BY tag HAVING count(DISTINCT name) > """
            + str(_NAMES)
        )
        self._run(f"""
            CREATE TEMP TABLE placed AS
            WITH numbered AS (
              SELECT line, time_us, tag, referrer_host, host, len(keys) AS own,
                row_number() OVER (ORDER BY time_us, line) + 1 AS seq FROM wide
            ), gaps AS (
              SELECT *, CAST(coalesce(time_us - lag(time_us) OVER visits > {remember_us}, false) AS INT) AS fresh
              FROM numbered
              WINDOW visits AS (PARTITION BY tag ORDER BY seq)
            ), lives AS (
              SELECT *, sum(fresh) OVER (PARTITION BY tag ORDER BY seq) AS life FROM gaps
            )
            SELECT line, seq, first_value(line) OVER life AS first_line,
              last_value(nullif(referrer_host, '') IGNORE NULLS) OVER so_far AS last_referrer_host,
              last_value(nullif(host, '') IGNORE NULLS) OVER so_far AS last_host,
              max(own) OVER (PARTITION BY tag, life) > 0 AS own_params, tag IN (SELECT tag FROM hard) AS hard FROM lives
            WINDOW life AS (PARTITION BY tag, life ORDER BY seq),
              so_far AS (PARTITION BY tag, life ORDER BY seq ROWS UNBOUNDED PRECEDING)
        """)

    def figures(self) -> dict[str, Any]:
        """hits, ties, visitor_ties, first_us, last_us."""
        (found,) = self._rows("""
            SELECT count(*), min(time_us), max(time_us),
              coalesce((SELECT sum(n) FROM (SELECT count(*) AS n FROM wide GROUP BY time_us) WHERE n > 1), 0),
              coalesce((SELECT sum(n) FROM (SELECT count(*) AS n FROM wide GROUP BY time_us, tag) WHERE n > 1), 0) FROM wide
        """)
        names = ("hits", "first_us", "last_us", "ties", "visitor_ties")
        return {name: int(value or 0) for name, value in zip(names, found, strict=True)}

    def batches(self, client: str, content: str) -> Iterator[pa.Table]:
        """The hits in their order: all columns, with hit_id, visitor, query and params as the engine would read them."""
        identity = f"substr(sha256('{content} ' || CAST({{}} AS VARCHAR)), 1, 32)"
        quoted = "'" + client.replace("'", "''") + "'"
        found = self._connection.sql(f"""
            SELECT p.seq, w.time_us, {identity.format("w.line")} AS hit_id, {identity.format("p.first_line")} AS visitor,
              p.first_line = w.line AS new_visitor, w.event, w.tag, w.method, w.path, w.address, w.user_agent, w.referrer,
              p.own_params, p.hard,
              w.keys, w.values,
              encode('client=' || {quoted} || '&event=' || replace(w.event, ':', '%3A') || '&tag_id=' || w.tag || w.made_up)
                || CASE WHEN octet_length(w.own) > 0 THEN encode('&') || w.own ELSE w.own END AS query,
              ['client', 'event', 'tag_id', 'path', 'status', 'method']
                || CASE WHEN w.referrer_host <> '' THEN ['referrer_host'] ELSE [] END
                || CASE WHEN w.host <> '' THEN ['host'] ELSE [] END || w.keys AS names,
              [{quoted}, w.event, w.tag, w.path_text, CAST(w.status AS VARCHAR), w.method]
                || CASE WHEN w.referrer_host <> '' THEN [w.referrer_host] ELSE [] END
                || CASE WHEN w.host <> '' THEN [w.host] ELSE [] END || w.values AS texts,
              CASE WHEN p.last_host IS NULL THEN [] ELSE ['host'] END || ['method', 'path']
                || CASE WHEN p.last_referrer_host IS NULL THEN [] ELSE ['referrer_host'] END || ['status'] AS kept_names,
              CASE WHEN p.last_host IS NULL THEN [] ELSE [p.last_host] END || [w.method, w.path_text]
                || CASE WHEN p.last_referrer_host IS NULL THEN [] ELSE [p.last_referrer_host] END
                || [CAST(w.status AS VARCHAR)] AS kept_texts
            FROM placed AS p JOIN wide AS w USING (line) ORDER BY p.seq
        """)
        for batch in found.to_arrow_reader(BATCH_ROWS):
            yield pa.Table.from_batches([batch])

    def _run(self, query: str) -> None:
        self._connection.execute(query).fetchall()

    def _rows(self, query: str) -> list[Any]:
        found: list[Any] = self._connection.execute(query).fetchall()
        return found
