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

from service.engine.visitors import HISTORY

KINDS = ("uid", "tag", "click")  # in order of strength
# of rows of `events`: view and label (the roots of the visitor and of its group), row, speaks
VIEWS = {"view": pl.UInt32, "label": pl.UInt32, "row": pl.UInt32, "speaks": pl.Boolean}


class People:
    """Over the rows of `events`; each row is named by its number.

    first: per kind of identifier, the first row with the same one. roots, labels: for every row the root of its visitor,
    and the smallest root of its group. linking: rows on which visitors meet, and per kind the root of the owner.
    """

    def __init__(self, events: pl.DataFrame) -> None:
        self.first = {kind: _first_with(events, kind) for kind in KINDS}
        frame = pl.DataFrame(self.first)
        first = pl.min_horizontal(*KINDS).fill_null(pl.int_range(pl.len(), dtype=pl.UInt32))
        self.roots = _follow(frame.select(first).to_series())
        self.linking = self._linking(frame)
        self.labels = self._labels()

    def _linking(self, first: pl.DataFrame) -> pl.DataFrame:
        several = pl.sum_horizontal(pl.col(kind).is_not_null() for kind in KINDS) > 1
        apart = pl.min_horizontal(*KINDS) != pl.max_horizontal(*KINDS)  # most bring what came together before
        rows = first.lazy().with_row_index("row").filter(several, apart).collect()
        owners = rows.select("row", *(self.roots.gather(rows[kind]).alias(kind) for kind in KINDS))
        return owners.filter(pl.min_horizontal(*KINDS) != pl.max_horizontal(*KINDS))

    def _labels(self) -> pl.Series:
        """Roots that meet get the smallest of their rows."""
        parent: dict[int, int] = {}

        def find(root: int) -> int:
            while (above := parent.get(root, root)) != root:
                parent[root] = parent.get(above, above)
                root = above
            return root

        for owners in self.linking.select(KINDS).unique().iter_rows():
            met = sorted({find(owner) for owner in owners if owner is not None})
            for other in met[1:]:
                parent[other] = met[0]
        if not parent:
            return self.roots
        moved = list(parent)
        representative = pl.int_range(self.roots.len(), dtype=pl.UInt32, eager=True)
        representative = representative.scatter(moved, pl.Series([find(root) for root in moved], dtype=pl.UInt32))
        return representative.gather(self.roots)


def _first_with(events: pl.DataFrame, kind: str) -> pl.Series:
    """For every row the first row with the same identifier of this kind, null without one and for tests."""
    rows = events.lazy().select(pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"), kind, "test")
    mine = rows.filter(pl.col(kind).is_not_null() & ~pl.col("test")).select("row", first=pl.col("row").min().over(kind))
    found = mine.collect()
    nothing = pl.repeat(None, events.height, dtype=pl.UInt32, eager=True)
    return nothing.scatter(found["row"], found["first"]).rename(kind)


def _follow(pointers: pl.Series) -> pl.Series:
    """Where the pointers lead in the end; each points at an earlier row or at itself."""
    while True:
        further = pointers.gather(pointers)
        if (further == pointers).all():
            return pointers
        pointers = further


def split(people: People, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series, pl.DataFrame]:
    """Plain and hard among whole groups.

    rows: label, row, t, counted, unsure, remember of all hits of the groups in question, sorted by label and row. Returns
    (views, hard, absorbed): views in the columns of `VIEWS`, sorted by view and row; the rows of hard ones; absorbed has
    row and `side`, the root of the visitor that it absorbs.
    """
    rows = rows.with_columns(
        root=people.roots.gather(rows["row"]), **{kind: people.first[kind].gather(rows["row"]) for kind in KINDS}
    )
    groups = rows.lazy().group_by("label").agg(
        counted=pl.col("counted").sum(),
        span=pl.col("t").last() - pl.col("t").first(),
        uids=(pl.col("uid").min() != pl.col("uid").max()).fill_null(False),
        unsure=pl.col("unsure").any(),
        several=pl.col("root").max() != pl.col("label").first(),
        remember=pl.col("remember").first(),
    ).with_columns(hard=pl.col("uids") | pl.col("unsure") | (pl.col("counted") > HISTORY)).collect()  # fmt: skip
    paused = groups.filter(~pl.col("hard"), pl.col("span") > pl.col("remember")).select("label", "several")
    hard = [groups.filter("hard")["label"], _forgotten(rows.join(paused, on="label", maintain_order="left"))]
    several = (
        groups.filter("several", ~pl.col("hard"))
        .select("label")
        .join(hard[1].to_frame("label"), on="label", how="anti")
    )
    crowd = rows.join(several, on="label", how="semi", maintain_order="left")
    tangled, sides = _sides(crowd, people.linking)
    hard_labels = pl.concat([*hard, tangled]).to_frame("label")
    plain = rows.select("label", "row").join(hard_labels, on="label", how="anti", maintain_order="left")
    hard_rows = rows.select("label", "row").join(hard_labels, on="label", how="semi")["row"]
    sides = sides.join(hard_labels, on="label", how="anti")
    absorbed = sides.filter("last").select(row="absorbed_on", side="side")
    return _views(plain, sides), hard_rows, absorbed


def _forgotten(rows: pl.DataFrame) -> pl.Series:
    """Labels with somebody who may have been forgotten: a pause beyond `remember`; with several roots, any span."""
    paused = pl.col("t") - pl.col("t").shift(1).over("label") > pl.col("remember")
    return rows.filter(pl.col("several") | paused)["label"].unique()


def _sides(crowd: pl.DataFrame, linking: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """Of groups with several roots: labels of those that are no row of sides, and the rows of the sides.

    crowd: rows of such groups, sorted by label and row. Sides: label, row, side (its root), absorbed_on, last.
    """
    crowd = crowd.with_columns(place=pl.int_range(pl.len()).over("label"))
    firsts = {kind: f"first_{kind}" for kind in KINDS}
    meetings = linking.join(crowd.select("row", "label", "place", *KINDS).rename(firsts), on="row")
    met = (
        meetings.unpivot(on=list(KINDS), index=["row", "label", "place"], value_name="side")
        .drop_nulls("side")
        .filter(pl.col("side") != pl.col("label"))
        .group_by("label", "side")
        .agg(pl.col("row").min().alias("absorbed_on"))
    )
    alone = crowd.join(linking.select("row"), on="row", how="anti").rename({"root": "side"})
    before = alone.join(met, on=["label", "side"]).filter(pl.col("row") < pl.col("absorbed_on"))
    sizes = before.group_by("label", "side").agg(own=pl.len(), known=pl.col("uid").is_not_null().any())
    judged = (
        met.join(sizes, on=["label", "side"], how="left")
        .join(crowd.select("label", side="row", start="place"), on=["label", "side"], how="left")
        .join(meetings.rename({"row": "absorbed_on"}).drop("label"), on="absorbed_on")
    )
    known_uid = pl.col("uid").is_not_null() & (pl.col("first_uid") < pl.col("absorbed_on"))
    known_tag = pl.col("tag").is_not_null() & (pl.col("first_tag") < pl.col("absorbed_on"))
    good = (
        (pl.col("own") == pl.col("place") - pl.col("start")) & ~pl.col("known")
        & (known_uid & (pl.col("uid") != pl.col("side")) | known_tag & (pl.col("tag") != pl.col("side")))
    )  # fmt: skip
    tangled = judged.filter(~good.fill_null(False))["label"].unique()
    last = pl.col("row") == pl.col("row").max().over("label", "side")
    return tangled, before.select("label", "row", "side", "absorbed_on", last=last)


def _views(plain: pl.DataFrame, sides: pl.DataFrame) -> pl.DataFrame:
    """The views of plain groups, sorted. plain: label and row, sorted."""
    if sides.is_empty():
        return plain.select(view="label", label="label", row="row", speaks=pl.lit(True))
    own = sides.select(view="side", label="label", row="row", speaks=pl.lit(True))
    main = plain.join(sides.select("row", "side"), on="row", how="left", maintain_order="left").select(
        view="label", label="label", row="row", speaks=pl.col("side").is_null()
    )
    return pl.concat([main, own]).sort("view", "row")
