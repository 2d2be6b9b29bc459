"""Postbacks by sets: for each firing and each recipient the address and the body, as the engine renders them.

What SQL says with the same bytes, it says: addresses with percent-encoded macros, and the event as JSON where no value
needs an escape. All others, which are few, go through the engine's own code with the same values.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from lab.sets.facts import Asked, Finder, visitors
from lab.sets.said import Said
from lab.sets.session import Session
from lab.sets.spans import PLACE
from lab.sets.spelling import JSON_FIELDS, OURS, Form, Spelling, full_name, verb
from service.engine import Event, Visitor
from service.engine.model import RESERVED, Postback
from service.engine.postbacks import endpoint, fire
from service.engine.rulebook import Rulebook
from service.engine.triggers import Facts, payout_of
from service.engine.visitors import EventStat, Remembered

MAX_FORMS = 400  # addresses that one query spells out

# place: of the postback in its outcome
LETTERS: dict[str, Any] = {
    "ord": pl.Int64, "number": pl.Int32, "place": pl.Int32, "id": pl.String, "hit_id": pl.String, "t": pl.Int64,
    "client": pl.String, "affiliate": pl.String, "trigger": pl.String, "event": pl.String, "recipient": pl.String,
    "method": pl.String, "state": pl.String, "verb": pl.String, "url": pl.String, "body": pl.String,
    "missing": pl.List(pl.String), "payout": pl.String, "currency": pl.String, "test": pl.Boolean,
}  # fmt: skip

FIRINGS: dict[str, Any] = {
    "ord": pl.Int64, "number": pl.Int32, "client": pl.String, "affiliate": pl.String, "trigger": pl.String,
    "currency": pl.String, "payout": pl.String, "postbacks": pl.Int64,
}  # fmt: skip


class Letters:
    """Writes the postbacks of firings. finder: over the hits on which something fired. said: reads what they quote, None
    where the finder has it all."""

    def __init__(self, session: Session, rulebook: Rulebook, finder: Finder, said: Said | None) -> None:
        self._session = session
        self._rulebook = rulebook
        self._finder = finder
        self._said = said
        self._forms: dict[tuple[str, frozenset[str]], Form] = {}
        self._columns: dict[str, str] = {}  # name -> column of the table `found`

    def write(self, fired: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """(letters, firings): in the columns of `LETTERS` and `FIRINGS`. fired: number, row, ord, t, cid, affiliate."""
        if fired.is_empty():
            return pl.DataFrame(schema=LETTERS), pl.DataFrame(schema=FIRINGS)
        kinds = self._kinds(fired)
        values = self._values(kinds)
        fired = self._with_payouts(fired, values)
        session = self._session
        session.put("found", values)
        session.put("kinds", kinds)
        session.put("fired", fired)
        made = session.frame(self._query()).with_columns(pl.col("affiliate").fill_null(""))
        odd = made.filter("odd")
        rest = self._by_engine(fired.join(odd, on=["number", "row"], how="semi"), values)
        rest = rest.filter(pl.col("id").is_in(odd["id"].implode()))
        plain = made.lazy().filter(~pl.col("odd")).select(pl.col(name).cast(kind) for name, kind in LETTERS.items())
        letters = pl.concat([plain.collect(), rest])
        return letters, self._firings(fired)

    def _firings(self, fired: pl.DataFrame) -> pl.DataFrame:
        triggers = self._rulebook.triggers
        known = pl.DataFrame(
            [(n, triggers[n].client, triggers[n].name, len(triggers[n].to)) for n in fired["number"].unique()],
            {"number": pl.Int32, "client": pl.String, "trigger": pl.String, "postbacks": pl.Int64}, orient="row",
        )  # fmt: skip
        firings = fired.join(known, on="number").with_columns(pl.col("affiliate").fill_null(""))
        return firings.select(pl.col(name).cast(kind) for name, kind in FIRINGS.items())

    def _kinds(self, fired: pl.DataFrame) -> pl.DataFrame:
        """number and affiliate of the firings, and per recipient: place, recipient, form, client."""
        rows = []
        for number, affiliate in fired.select("number", "affiliate").unique().iter_rows():
            trigger = self._rulebook.triggers[number]
            client = self._rulebook.clients[trigger.client]
            for place, role in enumerate(trigger.to):
                known = self._rulebook.affiliates.get(affiliate) if role == "affiliate" else None
                hidden = client.private if role == "affiliate" else frozenset()
                webhook = endpoint(trigger, client, known, False)
                key = (webhook.words if webhook is not None else "", hidden)
                form = self._forms.setdefault(key, Form(len(self._forms), webhook, hidden))
                recipient = f"affiliate:{affiliate}" if role == "affiliate" else f"client:{client.name}"
                rows.append(
                    (
                        number,
                        affiliate or "",
                        number * 2 + place,
                        recipient,
                        form.number,
                        client.name,
                        trigger.name,
                        trigger.on,
                        trigger.method,
                    )
                )
        names = ("number", "partner", "place", "recipient", "form", "client", "trigger", "event", "method")
        kinds = dict.fromkeys(names, pl.String()) | dict.fromkeys(("number", "place", "form"), pl.Int32())
        return pl.DataFrame(rows, kinds, orient="row")

    def _values(self, kinds: pl.DataFrame) -> pl.DataFrame:
        """Per hit: row, hit_id, visitor and what the forms ask, in columns of `_columns`."""
        wanted: set[str] = set()
        for form in self._forms.values():
            if form.webhook is None:
                continue
            wanted |= {macro.name for macro in form.webhook.macros}
            if form.webhook.whole_event:
                wanted |= {*JSON_FIELDS, *(f"param.{name}" for name in self._finder.names.custom)}
        for number in kinds["number"].unique():
            payout = self._rulebook.triggers[number].payout
            wanted |= {payout.of, "currency"} if payout is not None and payout.fixed is None else set()
        names = sorted({full_name(name) for name in wanted - {*OURS, "client", "event", "time"}})
        self._columns = {name: f"v{number}" for number, name in enumerate(names)}
        if self._said is not None:
            self._finder.past.hears(self._said.of(self._finder.sources(names), self._quoted(names)))
        found = self._finder.values(names)
        made = [value.rename(column) for value, column in zip(found, self._columns.values(), strict=True)]
        fixed = [self._finder.own("hit_id").rename("hit_id"), visitors(self._finder).rename("visitor")]
        return pl.DataFrame([self._finder.hits["row"], *fixed, *made])

    def _quoted(self, names: list[str]) -> list[str]:
        """The columns of `said` that these names are picked from."""
        asked = Asked(())
        for name in names:
            asked.value(name)
        return sorted({"hit_id", *asked.columns(self._finder.names)})

    def _with_payouts(self, fired: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
        """The firings with payout and currency: each different sum is worked out once, by the engine."""
        paid = []
        for (number,), mine in fired.group_by("number", maintain_order=True):
            payout = self._rulebook.triggers[int(number)].payout
            if payout is None or payout.fixed is not None:
                amount, currency = payout_of(payout, _Sum({}))
                paid.append(mine.with_columns(payout=pl.lit(amount), currency=pl.lit(currency)))
                continue
            names = {"base": self._columns[full_name(payout.of)], "money": self._columns["currency"]}
            mine = mine.join(values.select("row", **{k: pl.col(c) for k, c in names.items()}), on="row", how="left")
            sums = mine.select("base", "money").unique()
            made = [payout_of(payout, _Sum({payout.of: base, "currency": money})) for base, money in sums.iter_rows()]
            known = sums.with_columns(
                pl.Series("payout", [amount for amount, _ in made], pl.String),
                pl.Series("currency", [code for _, code in made], pl.String),
            )
            paid.append(mine.join(known, on=["base", "money"], how="left", nulls_equal=True).drop("base", "money"))
        return pl.concat(paid)

    def _query(self) -> str:
        spelled = [form for form in self._forms.values() if form.by_sql][:MAX_FORMS]

        def by_form(write: Any, otherwise: str) -> str:
            cases = " ".join(f"WHEN {form.number} THEN {sql}" for form in spelled if (sql := write(form)) is not None)
            return f"CASE form {cases} ELSE {otherwise} END" if cases else otherwise

        numbers = ", ".join(str(form.number) for form in spelled) or "-1"
        spelling = Spelling(self._columns, self._finder.names.custom)
        columns = ", ".join((
            'f.ord, f.number, place, id, hit_id, f.t, client, f.affiliate, "trigger", event, recipient, "method"',
            f"{by_form(spelling.state, 'NULL')} AS state", f"{by_form(verb, repr(''))} AS verb",
            f"{by_form(spelling.url, repr(''))} AS url", f"{by_form(spelling.body, repr(''))} AS body",
            f"{by_form(spelling.missing, 'CAST([] AS VARCHAR[])')} AS missing", "payout, currency, false AS test",
            f"form NOT IN ({numbers}) OR \"method\" <> 'webhook' OR {by_form(spelling.odd, 'false')} AS odd",
            'f."row"',
        ))  # fmt: skip
        identity = 'left(sha256(hit_id || chr(31) || "trigger" || chr(31) || recipient), 32) AS id'
        joined = (
            'SELECT f.*, k.place, k.recipient, k.form, k.client, k."trigger", k.event, k."method", v.* EXCLUDE ("row"), '
            f"{identity} FROM fired AS f JOIN kinds AS k ON f.number = k.number AND coalesce(f.affiliate, '') = k.partner "
            'JOIN found AS v ON v."row" = f."row"'
        )
        return f"SELECT {columns} FROM ({joined}) AS f"

    def _by_engine(self, fired: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
        """All postbacks of these firings by the engine's own code."""
        if fired.is_empty():
            return pl.DataFrame(schema=LETTERS)
        hits = {row["row"]: row for row in values.join(fired.select("row"), on="row", how="semi").iter_rows(named=True)}
        rows = []
        for firing in fired.iter_rows(named=True):
            facts = self._facts(firing, hits[firing["row"]])
            _, postbacks = fire(self._rulebook.triggers[firing["number"]], facts, self._rulebook, False)
            number = firing["number"]
            rows += [row_of(firing["ord"], number, number * 2 + place, one) for place, one in enumerate(postbacks)]
        return pl.DataFrame(rows, LETTERS, orient="row")

    def _facts(self, firing: dict[str, Any], hit: dict[str, Any]) -> Facts:
        """What the engine's templates ask, out of the columns."""
        trigger = self._rulebook.triggers[firing["number"]]
        known = {name: hit[column] for name, column in self._columns.items() if hit[column] is not None}
        fields = {name: value for name, value in known.items() if name in RESERVED}
        fields |= {"client": trigger.client, "event": trigger.on}
        params = {name.removeprefix("param."): value for name, value in known.items() if name.startswith("param.")}
        visitor = Visitor(hit["visitor"])
        for name, value in known.items():
            scope, _, rest = name.partition(".")
            if scope == "first":
                visitor.params[rest] = Remembered("", 0, value, 0)
            elif scope == "last":
                name, _, field = rest.rpartition(".")
                visitor.events.setdefault(name, EventStat(1, 0, 0, 0, {})).fields[field] = value
        event = Event(trigger.client, trigger.on, dict(sorted(fields.items())), {})
        params = dict(sorted(params.items()))
        return Facts(
            event, visitor, firing["affiliate"] or "", params, hit["hit_id"], firing["ord"] % PLACE, firing["t"]
        )


class _Sum:
    """The facts that a payout asks."""

    def __init__(self, values: dict[str, str | None]) -> None:
        self._values = values

    def value(self, name: str) -> str | None:
        return self._values.get(name)


def row_of(ord_: int, number: int, place: int, postback: Postback) -> tuple[Any, ...]:
    """A postback in the columns of `LETTERS`. number: of its trigger."""
    p = postback
    return (
        ord_, number, place, p.id, p.hit_id, p.time_us, p.client, p.affiliate, p.trigger, p.event, p.recipient, p.method,
        p.state, p.verb, p.url, p.body, list(p.missing), p.payout, p.currency, p.test,
    )  # fmt: skip
