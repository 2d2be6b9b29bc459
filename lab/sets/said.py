"""What hits said, for the hits that matter: a second scan of the table, because parameters are wide.

`said`: ord, hit_id, epoch, a column per reserved name (`f_uid`, ...), params (a map that holds the custom parameters and
perhaps reserved names beside them), brought (the id that came over a tracker link: the parameter `affiliate_click_id`
then, null otherwise), ignored (an identifier that came may be none).
"""

from __future__ import annotations

from typing import Any

import polars as pl

from lab.sets.events import Source
from lab.sets.reading import FIELDS
from lab.sets.session import text
from service.engine import Event
from service.engine.visitors import MAX_REMEMBERED

MADE = "affiliate_click_id"

_SAID: dict[str, Any] = {
    "ord": pl.Int64, "hit_id": pl.String, "epoch": pl.Int32, **{f"f_{name}": pl.String for name in FIELDS},
    "params": pl.List(pl.Struct({"key": pl.String, "value": pl.String})), "brought": pl.String, "ignored": pl.Boolean,
}  # fmt: skip


def own(name: str) -> str:
    """A custom parameter of the hit itself, as SQL over `said` under the name s."""
    plain = f"s.params[{text(name)}]"
    return f"coalesce(s.brought, {plain})" if name == MADE else plain


def read_said(source: Source) -> None:
    """Make `said` for the hits in `views`."""
    reading, session = source.reading, source.session
    fields = ", ".join(f"{reading.field(name)} AS f_{name}" for name in FIELDS)
    brought = f"CASE WHEN route = 'c' THEN {reading.sent('click_id')} END"
    session.make("heard", "SELECT DISTINCT ord FROM views")
    columns = f"ord, hit_id, epoch, {fields}, params, {brought} AS brought, {reading.ignored()} AS ignored"
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
            params = [{"key": name, "value": value} for name, value in event.params.items()]
            rows.append((place, hit_id, epoch, *map(event.fields.get, FIELDS), params, None, bool(event.detail)))
    session.put("parsed_said", pl.DataFrame(rows, _SAID, orient="row"))
    session.run("DELETE FROM said WHERE ord IN (SELECT ord FROM parsed_said)")
    session.run("INSERT INTO said SELECT * REPLACE (map_from_entries(params) AS params) FROM parsed_said")


def with_too_many_names(source: Source) -> pl.DataFrame:
    """label of groups that may bring more names than a visitor remembers; reserved names are counted too, to be safe."""
    return source.session.frame(
        "WITH many AS (SELECT label FROM views JOIN said USING (ord) GROUP BY label "
        f"HAVING sum(cardinality(params) + 1) > {MAX_REMEMBERED}) "
        "SELECT label FROM (SELECT label, unnest(map_keys(params)) AS name FROM views JOIN said USING (ord) "
        f"WHERE label IN (SELECT label FROM many)) GROUP BY label HAVING count(DISTINCT name) >= {MAX_REMEMBERED}"
    )
