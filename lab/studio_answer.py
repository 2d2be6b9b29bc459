"""What a draft would have done: how often it fires, by affiliate and in money, and where the others stop.

Plain visitors are decided by the set engine's stages over `Hits`; hard ones by the reference engine; both meet before
the cap.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from math import sqrt
from time import perf_counter
from typing import Any

import msgspec
import polars as pl

from lab.sets.hard import lift_caps
from lab.sets.spans import PLACE
from lab.sets.stages import ask
from lab.studio_caps import FIRED, capped
from lab.studio_draft import Draft
from lab.studio_event import Hits
from lab.studio_ground import Asked, Ground
from service.engine import Event, Rulebook, Stage, State, process
from service.engine.rulebook import Trigger, index_triggers
from service.engine.triggers import payout_of
from service.engine.visitors import space, txid_key

STAGES = tuple(stage.value for stage in Stage if stage is not Stage.EVENT)
KEPT = {True: 12, False: 4}  # kinds of events whose hits are kept, in the sample and whole
Stopped = Callable[[], bool]  # whether a newer draft is waiting

# a row per event that the trigger was asked about. place: in the log; row: of `Ground.events`, null for a hard visitor;
# stage: where it stopped, or fired; weight: how many hits of the log it stands for
_ROWS: dict[str, Any] = {
    "place": pl.Int64, "row": pl.UInt32, "label": pl.UInt32, "t": pl.Int64, "affiliate": pl.String, "stage": pl.String,
    "payout": pl.String, "currency": pl.String, "weight": pl.Float64,
}  # fmt: skip


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a draft would have done on the log. Tests are left out.

    draft, trigger, rulebook: what was asked. exact: every visitor was asked, else one in `share`. asked: counted events of
    the trigger's kind. fired: how many fire; margin: how far off that may be (95 %), 0 if exact. stages: stage, stopped,
    left, in the engine's order, the last is `fired`. affiliates: affiliate, firings, payout, currency, most firings first.
    money: by currency. visitors: for whom it fires. rows: every event asked, in the columns of `_ROWS`. seconds: how long
    it took.

    >>> answer = studio.result
    >>> answer.affiliates.columns
    ['affiliate', 'firings', 'payout', 'currency']
    >>> answer.stages.columns
    ['stage', 'stopped', 'left']
    """

    draft: Draft
    trigger: Trigger
    rulebook: Rulebook
    exact: bool
    share: int
    asked: int
    fired: int
    margin: int
    visitors: int
    stages: pl.DataFrame
    affiliates: pl.DataFrame
    money: dict[str, Decimal]
    rows: pl.DataFrame
    seconds: float

    @property
    def certainty(self) -> str:
        """`exact`, or how the sample was drawn and how far off it may be.

        >>> answer.certainty
        'exact'
        """
        return "exact" if self.exact else f"sampled 1 in {self.share}, ± {self.margin:,}"

    @property
    def firings(self) -> pl.DataFrame:
        """partition, seq, time, affiliate, payout, currency of each event on which it fires, in log order.

        >>> answer.firings.columns
        ['partition', 'seq', 'time', 'affiliate', 'payout', 'currency']
        """
        fired = self.rows.filter(pl.col("stage") == FIRED).sort("place")
        return fired.select(
            partition=(pl.col("place") // PLACE).cast(pl.Int32), seq=pl.col("place") % PLACE,
            time=pl.from_epoch("t", time_unit="us").dt.replace_time_zone("UTC"),
            affiliate="affiliate", payout="payout", currency="currency",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.draft.name}: fires {self.fired:,} times of {self.asked:,} {self.draft.on} ({self.certainty})"


class Asking:
    """Answers drafts over one ground; keeps what the last few kinds of events needed."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._hits: dict[tuple[str, str, bool], Hits] = {}
        self._hard_hits: dict[tuple[str, str, bool], list[Asked]] = {}

    def hits(self, trigger: Trigger, drawn: bool) -> Hits:
        """The hits of a trigger's event."""
        key = trigger.client, trigger.on, drawn
        if key not in self._hits:
            kept = [one for one in self._hits if one[2] == drawn]
            if len(kept) >= KEPT[drawn]:
                del self._hits[kept[0]]
            self._hits[key] = Hits(self.ground, trigger, drawn)
        return self._hits[key]

    def warm(self, client: str, drawn: bool, stopped: Stopped) -> None:
        """Get ready for a client's other events, the most frequent first; left early for a newer draft."""
        kinds = self.ground.kinds.filter(pl.col("client") == client)["event"].to_list()
        for event in kinds[: KEPT[drawn] - 1]:
            if stopped():
                return
            self.hits(Trigger("~", client, event), drawn)

    def answer(
        self, draft: Draft, trigger: Trigger, rulebook: Rulebook, exact: bool = True,
        stopped: Stopped = lambda: False,
    ) -> Answer | None:  # fmt: skip
        """What the draft would have done; None if it was stopped on the way.

        trigger, rulebook: the draft as it was compiled, and the rulebook that holds it.
        """
        started = perf_counter()
        drawn = not exact and self.ground.share > 1
        if trigger.client not in self.ground.cids:
            return None
        hits = self.hits(trigger, drawn)
        if stopped():
            return None
        rows = self._plain(hits, trigger, rulebook)
        hard = None if stopped() else self._hard(trigger, rulebook, drawn, stopped)
        if hard is None:
            return None
        rows = capped(pl.concat([rows, hard]), trigger, self.ground.share if drawn else 1)
        return _told(draft, trigger, rulebook, rows, not drawn, self.ground.share if drawn else 1, started)

    def _plain(self, hits: Hits, trigger: Trigger, rulebook: Rulebook) -> pl.DataFrame:
        asked, facts = hits.facts(trigger, rulebook)
        ground = self.ground
        found = ask(ground.session, facts, asked, rulebook, [(0, trigger)], ground.codes)
        places = ground.events["ord"].gather(found["row"])
        fired = found["stage"].is_null()
        found = found.with_columns(place=places, weight=pl.lit(1.0), stage=pl.col("stage").fill_null(FIRED))
        paid = _paid(trigger, hits, found["row"].filter(fired))
        found = found.with_columns(
            pl.repeat(None, found.height, dtype=pl.String, eager=True).scatter(fired.arg_true(), paid[name]).alias(name)
            for name in ("payout", "currency")
        )
        return found.select(pl.col(name).cast(kind) for name, kind in _ROWS.items())

    def _hard(self, trigger: Trigger, rulebook: Rulebook, drawn: bool, stopped: Stopped) -> pl.DataFrame | None:
        """The hard visitors' events, by the reference engine with the draft as its only trigger and without its cap."""
        alone = lift_caps(only(rulebook, trigger))
        states: dict[int, State] = {}
        rows = []
        for number, hit in enumerate(self._concerned(trigger, drawn)):
            if number % 256 == 0 and stopped():
                return None
            outcome = process(hit.entry, state_for(states, hit), alone, hit.parsed)
            if outcome.verdict != "accepted" or outcome.test or (outcome.client, outcome.event) != (
                trigger.client, trigger.on,
            ):  # fmt: skip
                continue
            firing = outcome.fired[0] if outcome.fired else None
            stage = FIRED if firing else outcome.not_fired.get(trigger.name, FIRED)
            paid = (firing.payout, firing.currency) if firing else ("", "")
            rows.append((hit.place, None, hit.label, hit.entry.time_us, outcome.affiliate or None, stage, *paid, 1.0))
        return pl.DataFrame(rows, _ROWS, orient="row")

    def _concerned(self, trigger: Trigger, drawn: bool) -> list[Asked]:
        """Requests of the hard visitors with such an event, and test clicks: the ids they mint make others a test."""
        key = trigger.client, trigger.on, drawn
        if key not in self._hard_hits:
            mine = [hit for hit in self.ground.hard if hit.parsed.client == trigger.client]
            asked = {hit.label for hit in mine if isinstance(hit.parsed, Event) and hit.parsed.name == trigger.on}
            chosen = asked & self.ground.drawn_hard if drawn else asked
            self._hard_hits[key] = [hit for hit in mine if hit.label in chosen or _mints(hit)]
        return self._hard_hits[key]


def only(rulebook: Rulebook, trigger: Trigger) -> Rulebook:
    """The rulebook with no other trigger."""
    alone = (trigger,)
    return Rulebook(
        rulebook.id, rulebook.text, rulebook.clients, rulebook.affiliates, alone, index_triggers(alone)
    )  # fmt: skip


def state_for(states: dict[int, State], hit: Asked) -> State:
    """The state of the hit's partition, with the transaction that an earlier hit of somebody else may have made."""
    state = states.setdefault(hit.entry.partition, State())
    if hit.earlier_us is not None and isinstance(hit.parsed, Event):
        key = txid_key(space(hit.parsed.client, False), hit.parsed)
        if key is not None:
            state.put_txid(key, hit.earlier_us)
    return state


def _mints(hit: Asked) -> bool:
    return (
        isinstance(hit.parsed, Event) and hit.parsed.test and hit.entry.hit is not None and hit.entry.hit.route == "c"
    )


def _paid(trigger: Trigger, hits: Hits, rows: pl.Series) -> pl.DataFrame:
    """row, payout, currency of these rows, in their order; each different sum is worked out once, by the engine."""
    payout = trigger.payout
    if payout is None or payout.fixed is not None:
        amount, currency = payout_of(payout, _Sum({}))
        return pl.DataFrame({"row": rows}).with_columns(payout=pl.lit(amount), currency=pl.lit(currency))
    values = hits.values(rows, dict.fromkeys((payout.of, "currency")))
    values = pl.DataFrame({"row": rows, "base": values[payout.of], "code": values["currency"]})
    sums = values.select("base", "code").unique()
    made = [payout_of(payout, _Sum({payout.of: base, "currency": code})) for base, code in sums.iter_rows()]
    if len(made) == 1:
        return values.select("row", payout=pl.lit(made[0][0]), currency=pl.lit(made[0][1]))
    known = sums.with_columns(
        pl.Series("payout", [amount for amount, _ in made], pl.String),
        pl.Series("currency", [code for _, code in made], pl.String),
    )
    return values.join(
        known, on=["base", "code"], how="left", nulls_equal=True, maintain_order="left"
    ).select("row", "payout", "currency")  # fmt: skip


class _Sum:
    """The facts that a payout asks."""

    def __init__(self, values: dict[str, str | None]) -> None:
        self._values = values

    def value(self, name: str) -> str | None:
        return self._values.get(name)


def _told(
    draft: Draft, trigger: Trigger, rulebook: Rulebook, rows: pl.DataFrame, exact: bool, share: int, started: float
) -> Answer:
    fired = rows.filter(pl.col("stage") == FIRED)
    asked, total = round(rows["weight"].sum()), round(fired["weight"].sum())
    per_visitor = fired.group_by("label").agg(pl.col("weight").sum())["weight"]
    # where nobody was drawn, up to three may be behind it (95 %)
    spread = 0.0 if exact else float((per_visitor * per_visitor).sum()) * (1 - 1 / share)
    margin = 0 if exact else max(round(1.96 * sqrt(spread)), 3 * share)
    affiliates = _by_affiliate(fired)
    money = affiliates.filter(pl.col("payout").is_not_null()).group_by("currency").agg(pl.col("payout").sum())
    return Answer(
        draft=draft, trigger=trigger, rulebook=rulebook, exact=exact, share=share, asked=asked, fired=total, margin=margin,
        visitors=round(per_visitor.len() * share), stages=_stages(rows, trigger), affiliates=affiliates,
        money=dict(sorted(money.iter_rows())), rows=rows, seconds=perf_counter() - started,
    )  # fmt: skip


def _by_affiliate(fired: pl.DataFrame) -> pl.DataFrame:
    paid = pl.col("payout").replace("", None).cast(pl.Decimal(38, 4))
    worth = (paid.cast(pl.Float64) * pl.col("weight")).cast(pl.Decimal(38, 2))
    sampled = (fired["weight"] != 1.0).any()
    found = fired.group_by(pl.col("affiliate").fill_null(""), pl.col("currency").fill_null("")).agg(
        firings=pl.col("weight").sum().round().cast(pl.Int64),
        payout=pl.when(paid.count() > 0).then((worth if sampled else paid).sum().cast(pl.Decimal(38, 4))),
    )
    found = found.select("affiliate", "firings", "payout", "currency")
    return found.sort(["firings", "affiliate"], descending=[True, False])


def _stages(rows: pl.DataFrame, trigger: Trigger) -> pl.DataFrame:
    """stage, stopped, left: only stages that can stop this trigger, then `fired`."""
    stopped = dict(rows.group_by("stage").agg(pl.col("weight").sum()).iter_rows())
    left = rows["weight"].sum()
    found = []
    for stage in STAGES:
        here = stopped.get(stage, 0.0)
        left -= here
        found.append((stage, round(here), round(left)))
    found.append((FIRED, 0, round(stopped.get(FIRED, 0.0))))
    return pl.DataFrame(found, {"stage": pl.String, "stopped": pl.Int64, "left": pl.Int64}, orient="row")
