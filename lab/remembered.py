"""What visitors brought as parameters of their own, as it stands at each hit that brings some."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import polars as pl
import pyarrow as pa

from lab.coded import Coded, polars_of
from lab.maps import Lists

_TEXTS = pl.List(pl.String)
# at: pos of the hit, which names the state. keys, values: all that the visitor brought up to then. shape: a hash of keys
_SCHEMA: dict[str, Any] = {"at": pl.Int64, "life": pl.Int64, "keys": _TEXTS, "values": _TEXTS, "shape": pl.UInt64}


class Remembered:
    """The states of all batches so far; of each visitor at least the last one.

    They lie in pieces, each less than half as large as the one before, so that little is copied again and again.
    """

    def __init__(self) -> None:
        self._pieces: list[pl.DataFrame] = []

    def at_each(self, plain: Coded) -> Lists:
        """What is remembered at each hit. plain: the hits of plain visitors as `Placing.batches` makes them."""
        requests = plain.parts["request"].select("keys", "values", shape=pl.col("keys").hash())
        lines = plain.lines.select("life", "request", "last_own", at=pl.col("pos").cast(pl.Int64))
        brings = (requests["keys"].list.len() > 0).gather(lines["request"])
        first = lines["at"][0] if lines.height else 0
        earlier = self._of(lines.filter(pl.col("last_own") < first)["last_own"].unique().sort())
        bringing = lines.filter(brings)
        bringing = bringing.with_columns(requests["shape"].gather(bringing["request"]))
        alone = _alone(bringing, earlier)
        merged = _merged(bringing.filter(~alone), bringing.filter(alone), earlier, requests)
        bringing = bringing.filter(alone)
        said = bringing.select("at", "life").hstack(requests[bringing["request"]]).select(list(_SCHEMA))
        self._add(pl.concat([said, merged]).sort("at"))
        wanted = lines.select(pl.when(brings).then("at").otherwise("last_own").alias("at"))
        return _lists(wanted, requests, bringing, [earlier, merged])

    def _of(self, places: pl.Series) -> pl.DataFrame:
        """The states of these names, which are in order."""
        found, start = [], 0
        for number, piece in enumerate(self._pieces):
            stop = (
                places.len() if number + 1 == len(self._pieces) else _before(places, self._pieces[number + 1]["at"][0])
            )
            if stop > start:
                found.append(piece[piece["at"].search_sorted(places.slice(start, stop - start))])
            start = stop
        return pl.concat(found) if found else pl.DataFrame(schema=_SCHEMA)

    def _add(self, states: pl.DataFrame) -> None:
        """Take in the states of a batch, in their order."""
        while states.height:
            states = states.filter(states["life"].is_last_distinct())
            if not self._pieces or self._pieces[-1].height > 2 * states.height:
                self._pieces.append(states)
                return
            states = pl.concat([self._pieces.pop(), states])


def _before(places: pl.Series, at: int) -> int:
    return int(places.search_sorted(at))


def _alone(bringing: pl.DataFrame, earlier: pl.DataFrame) -> pl.Series:
    """Which hits leave no more behind than they say: visitors who bring the same names, in the same order, each time."""
    before = pl.concat([frame.select("shape", last_own="at") for frame in (earlier, bringing)])
    found = bringing.join(before, on="last_own", how="left", maintain_order="left", suffix="_before")
    others = found.filter(pl.col("last_own").is_not_null() & pl.col("shape").ne_missing(pl.col("shape_before")))["life"]
    return found.select(pl.col("last_own").is_null() | ~pl.col("life").is_in(others.unique().implode())).to_series()


def _merged(again: pl.DataFrame, alone: pl.DataFrame, earlier: pl.DataFrame, requests: pl.DataFrame) -> pl.DataFrame:
    """The states at hits of visitors who had brought something else before, one by one."""
    names = again["last_own"].implode()
    told = alone.filter(pl.col("at").is_in(names))
    base = earlier.filter(pl.col("at").is_in(names))
    known = dict(zip(told["at"].to_list(), _mappings(requests[told["request"]]), strict=True))
    known.update(zip(base["at"].to_list(), _mappings(base), strict=True))
    places = again["at"].to_list()
    for at, last, new in zip(places, again["last_own"].to_list(), _mappings(requests[again["request"]]), strict=True):
        known[at] = known[last] | new
    states = [known[at] for at in places]
    flat = pl.DataFrame({
        "keys": pl.Series([name for state in states for name in state], dtype=pl.String),
        "values": pl.Series([text for state in states for text in state.values()], dtype=pl.String),
    })  # fmt: skip
    made = again.select("at", "life").hstack(_listed(flat, [len(state) for state in states]))
    return made.with_columns(shape=pl.col("keys").hash()).select(list(_SCHEMA))


def _mappings(states: pl.DataFrame) -> Iterator[dict[str, str]]:
    """keys and values of each row as a mapping."""
    names, texts = (states[name].explode(empty_as_null=False).to_list() for name in ("keys", "values"))
    start = 0
    for length in states["keys"].list.len().to_list():
        stop = start + length
        yield dict(zip(names[start:stop], texts[start:stop], strict=True))
        start = stop


def _listed(flat: pl.DataFrame, lengths: list[int]) -> pl.DataFrame:
    """Columns as columns of lists of these lengths."""
    offsets = pa.array([0, *accumulate(lengths)], pa.int64())
    return pl.DataFrame({
        name: polars_of(pa.LargeListArray.from_arrays(offsets, flat[name].to_arrow())) for name in flat.columns
    })  # fmt: skip


def _lists(wanted: pl.DataFrame, requests: pl.DataFrame, alone: pl.DataFrame, others: list[pl.DataFrame]) -> Lists:
    """The states of these names, nothing for null: those that a request says by itself, and the others."""
    known, start = [alone.select("at", row="request")], requests.height
    for states in others:
        known.append(states.select("at", row=pl.int_range(start, start + pl.len(), dtype=pl.UInt32)))
        start += states.height
    nothing = pl.DataFrame({"keys": [[]], "values": [[]]}, schema={"keys": _TEXTS, "values": _TEXTS})
    all_states = pl.concat([states.select("keys", "values") for states in (requests, *others, nothing)])
    rows = wanted.join(pl.concat(known), on="at", how="left", maintain_order="left")["row"].fill_null(start)
    return Lists.of(all_states["keys"], all_states["values"], rows)
