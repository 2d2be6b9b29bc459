"""Recognition by sets: which hits belong together, who of them is plain, and what each of their hits can see.

A hit points at the first hit that brought one of its identifiers; following the pointers leads to a root, the hit that made
the visitor. Roots that meet on one hit form a group. A group is plain

- if it has one root: nobody was ever absorbed, or
- if each further root is a *side*: a visitor without a uid whose hits stand together, right before the hit on which the
  first visitor absorbs it. A returning user who comes over a new tracker link is one: the click is a visitor of its own
  until the next hit names both.

and if it has at most one uid, nobody in it was forgotten, and it keeps within the bounds of the engine. All others are hard
and go whole through the reference engine.

`views` says what can be seen: each row is a hit within one visitor's past, `speaks` where the hit is decided in it. The
hits of a side are decided in a view of their own and seen, silently, by the visitor that absorbs them.
"""

from __future__ import annotations

import polars as pl

from lab.sets.session import Session
from service.engine.visitors import HISTORY

_KINDS = ("u", "g", "c")  # uid, tag_id, click_id: the first hit with this one


class People:
    """places: ord of every row of `events`. pointers: row, ord, and u, g, c. roots, labels: for every row the row of the
    root of its visitor, and the smallest root of its group."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pointers = _pointers(session)
        self.places = self.pointers["ord"]
        first = pl.min_horizontal(*_KINDS).fill_null(pl.col("row"))
        self.roots = _follow(self.pointers.select(first).to_series())
        self.linking = self._linking()
        self.labels = self._labels()

    def _linking(self) -> pl.DataFrame:
        """Rows on which visitors meet: row and, per kind, the root of the identifier's owner."""
        several = pl.sum_horizontal(pl.col(kind).is_not_null() for kind in _KINDS) > 1
        rows = self.pointers.filter(several)
        owners = rows.select("row", *(self.roots.gather(rows[kind]).alias(kind) for kind in _KINDS))
        return owners.filter(pl.min_horizontal(*_KINDS) != pl.max_horizontal(*_KINDS))

    def _labels(self) -> pl.Series:
        """Roots that meet get the smallest of their rows."""
        parent: dict[int, int] = {}

        def find(root: int) -> int:
            while (above := parent.get(root, root)) != root:
                parent[root] = parent.get(above, above)
                root = above
            return root

        for owners in self.linking.select(_KINDS).unique().iter_rows():
            met = sorted({find(owner) for owner in owners if owner is not None})
            for other in met[1:]:
                parent[other] = met[0]
        if not parent:
            return self.roots
        representative = pl.arange(0, self.pointers.height, eager=True)
        moved = list(parent)
        representative = representative.scatter(moved, [find(root) for root in moved])
        return representative.gather(self.roots)


def _pointers(session: Session) -> pl.DataFrame:
    """row (position in `events`), ord, t, and per kind the row of the first hit with the same identifier."""
    for name, column in (("fu", "uid"), ("fg", "tag"), ("fc", "click")):
        session.make(
            name,
            f"SELECT grp, {column}, min(rowid) AS first FROM events WHERE {column} IS NOT NULL AND NOT test GROUP BY ALL",
        )
    frame = session.frame(
        "SELECT e.rowid AS row, e.ord, fu.first AS u, fg.first AS g, fc.first AS c FROM events AS e "
        "LEFT JOIN fu ON e.grp = fu.grp AND e.uid = fu.uid AND NOT e.test "
        "LEFT JOIN fg ON e.grp = fg.grp AND e.tag = fg.tag AND NOT e.test "
        "LEFT JOIN fc ON e.grp = fc.grp AND e.click = fc.click AND NOT e.test"
    )
    return frame if frame["row"].is_sorted() else frame.sort("row")


def _follow(pointers: pl.Series) -> pl.Series:
    """Where the pointers lead in the end; each points at an earlier row or at itself."""
    while True:
        further = pointers.gather(pointers)
        if further.equals(pointers):
            return pointers
        pointers = further


def split(people: People, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Plain and hard among the groups of `rows`.

    rows: row, ord, t, label, counted, unsure, remember of all hits of the groups in question. Returns (views, hard,
    absorbed): views has view and label (ord of their roots), ord, speaks; hard has the ord of its hits; absorbed has the
    ord of the hit and `side`, the ord of the root of the visitor that it absorbs.
    """
    rows = rows.join(people.pointers.drop("ord"), on="row")  # which may change the order of the rows
    rows = rows.with_columns(root=people.roots.gather(rows["row"]))
    groups = rows.group_by("label").agg(
        hits=pl.len(),
        counted=pl.col("counted").sum(),
        span=pl.col("t").max() - pl.col("t").min(),
        uids=pl.col("u").drop_nulls().n_unique(),
        unsure=pl.col("unsure").any(),
        several=(pl.col("root") != pl.col("label")).any(),
        remember=pl.col("remember").first(),
    )
    hard = groups.filter((pl.col("uids") > 1) | pl.col("unsure") | (pl.col("counted") > HISTORY))
    long = groups.filter(pl.col("span") > pl.col("remember")).join(hard, on="label", how="anti")
    forgotten = _forgotten(rows.join(long.select("label", "several"), on="label"))
    hard_labels = pl.concat([hard["label"], forgotten])
    several = groups.filter("several", ~pl.col("label").is_in(hard_labels.implode()))
    crowd = rows.join(several.select("label"), on="label", how="semi").sort("label", "row")
    tangled, sides = _sides(crowd, people.linking)
    hard_labels = pl.concat([hard_labels, tangled])
    plain = rows.join(hard_labels.to_frame("label"), on="label", how="anti")
    sides = sides.join(hard_labels.to_frame("label"), on="label", how="anti")
    hard_rows = rows.join(hard_labels.to_frame("label"), on="label", how="semi").select("ord")
    places = people.places
    last = sides.filter("last")
    absorbed = pl.DataFrame({"ord": places.gather(last["absorbed_on"]), "side": places.gather(last["side"])})
    return _views(plain, sides, places), hard_rows, absorbed


def _forgotten(rows: pl.DataFrame) -> pl.Series:
    """Labels with somebody who may have been forgotten: a pause beyond `remember`; with several roots, any span."""
    paused = rows.sort("label", "row").filter(
        pl.col("several") | (pl.col("t") - pl.col("t").shift(1).over("label") > pl.col("remember"))
    )
    return paused["label"].unique()


def _sides(crowd: pl.DataFrame, linking: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """Of groups with several roots: labels of those that are no row of sides, and the rows of the sides.

    crowd: rows of such groups, sorted by label and row. Sides: label, row, ord, side (its root), absorbed_on, last.
    """
    crowd = crowd.with_columns(place=pl.int_range(pl.len()).over("label"))
    meetings = linking.join(crowd.select("row", "label", "place", first_u="u", first_g="g"), on="row")
    met = (
        meetings.unpivot(on=list(_KINDS), index=["row", "label", "place"], value_name="side")
        .drop_nulls("side")
        .filter(pl.col("side") != pl.col("label"))
        .group_by("label", "side")
        .agg(pl.col("row").min().alias("absorbed_on"))
    )
    alone = crowd.join(linking.select("row"), on="row", how="anti").rename({"root": "side"})
    before = alone.join(met, on=["label", "side"]).filter(pl.col("row") < pl.col("absorbed_on"))
    sizes = before.group_by("label", "side").agg(own=pl.len(), known=pl.col("u").is_not_null().any())
    judged = (
        met.join(sizes, on=["label", "side"], how="left")
        .join(crowd.select("label", side="row", start="place"), on=["label", "side"], how="left")
        .join(meetings.rename({"row": "absorbed_on"}).drop("label"), on="absorbed_on")
    )
    known_uid = pl.col("u").is_not_null() & (pl.col("first_u") < pl.col("absorbed_on"))
    by_tag = pl.col("g").is_not_null() & (pl.col("first_g") < pl.col("absorbed_on")) & (pl.col("g") != pl.col("side"))
    good = (
        (pl.col("own") == pl.col("place") - pl.col("start")) & ~pl.col("known")
        & (known_uid & (pl.col("u") != pl.col("side")) | by_tag)
    )  # fmt: skip
    tangled = judged.filter(~good.fill_null(False))["label"].unique()
    last = pl.col("row") == pl.col("row").max().over("label", "side")
    return tangled, before.select("label", "row", "ord", "side", "absorbed_on", last=last)


def _views(plain: pl.DataFrame, sides: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
    own = sides.select("row", pl.col("side").alias("view"), "label", speaks=pl.lit(True))
    main = plain.join(sides.select("row", "side"), on="row", how="left").select(
        "row", pl.col("label").alias("view"), "label", speaks=pl.col("side").is_null()
    )
    views = pl.concat([main, own])
    return views.select(*(places.gather(views[name]).alias(name) for name in ("view", "label")),
                        places.gather(views["row"]).alias("ord"), "speaks")  # fmt: skip
