"""What hits said, for the hits that matter: a second scan of the table, because parameters are wide.

`said`: ord, hit_id, epoch, fields (reserved names, sorted), own (custom parameters), ignored (an identifier that came may
be none). Both maps are as `parse` makes them.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from lab.sets.events import Source
from lab.sets.reading import FIELDS
from lab.sets.session import text
from service.engine import Event
from service.engine.visitors import MAX_REMEMBERED

_MAP: Any = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))
_SAID: dict[str, Any] = {
    "ord": pl.Int64, "hit_id": pl.String, "epoch": pl.Int32, "fields": _MAP, "own": _MAP, "ignored": pl.Boolean,
}  # fmt: skip


def read_said(source: Source) -> None:
    """Make `said` for the hits in `views`."""
    reading, session = source.reading, source.session
    pairs = ", ".join(f"{{'key': {text(name)}, 'value': {reading.field(name)}}}" for name in FIELDS)
    fields = f"map_from_entries(list_filter([{pairs}], lambda entry: entry.value IS NOT NULL))"
    session.make("heard", "SELECT DISTINCT ord FROM views")
    columns = f"ord, hit_id, epoch, {fields} AS fields, {reading.custom()} AS own, {reading.ignored()} AS ignored"
    session.make("said", source.read(columns, join="SEMI JOIN heard ON heard.ord = h.ord"))
    if source.parsed:
        _add_parsed(source)


def _add_parsed(source: Source) -> None:
    """The hits that the engine's parser read say what it found."""
    session = source.session
    session.put("by_parser", pl.DataFrame({"ord": list(source.parsed)}, {"ord": pl.Int64}))
    known = session.rows("SELECT ord, hit_id, epoch FROM said SEMI JOIN by_parser USING (ord)")
    rows = []
    for place, hit_id, epoch in known:
        event = source.parsed[place]
        if isinstance(event, Event):
            rows.append((place, hit_id, epoch, _entries(event.fields), _entries(event.params), bool(event.detail)))
    session.put("parsed_said", pl.DataFrame(rows, _SAID, orient="row"))
    session.run("DELETE FROM said WHERE ord IN (SELECT ord FROM parsed_said)")
    session.run(
        "INSERT INTO said SELECT ord, hit_id, epoch, map_from_entries(fields), map_from_entries(own), ignored "
        "FROM parsed_said"
    )


def _entries(pairs: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in pairs.items()]


def with_too_many_names(source: Source) -> pl.DataFrame:
    """label of groups that bring more names than a visitor remembers."""
    return source.session.frame(
        "WITH many AS (SELECT label FROM views JOIN said USING (ord) GROUP BY label "
        f"HAVING sum(cardinality(own)) > {MAX_REMEMBERED}) "
        "SELECT label FROM (SELECT label, unnest(map_keys(own)) AS name FROM views JOIN said USING (ord) "
        f"WHERE label IN (SELECT label FROM many)) GROUP BY label HAVING count(DISTINCT name) > {MAX_REMEMBERED}"
    )
