"""A generated day of postbacks, cleanly delivered and received, and the defects that a test plants in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from lab.journal import Published, Rows, rows_of
from lab.traffic import generate
from service.archive.schemas import microseconds, table
from service.archive.tables import append

Receipt = dict[str, Any]

_AFFILIATE = (
    "?sub={sub1}&tx={txid}&who={visitor}&sum={payout}&cur={payout_currency}&amount={amount}&at={time}&id={postback_id}"
)
RULES = f"""
[client.acme]
params = ["sub1", "country"]
webhook = "http://acme.example/in{_AFFILIATE}&country={{country}}"
[client.bolt]
params = ["sub1", "country"]
webhook = "http://bolt.example/events"
[affiliate.best]
webhook = "http://best.example/pb{_AFFILIATE}"
[affiliate.hub]
webhook = "http://hub.example/s2s{_AFFILIATE}"
""" + "".join(
    f"""
[[trigger]]
name = "{event}-{client}"
client = "{client}"
on = "{event}"
{'payout = { percent = "25", of = "amount" }' if event == "sale" else 'payout = { fixed = "2.00", currency = "EUR" }'}
to = ["client", "affiliate"]
"""
    for client in ("acme", "bolt")
    for event in ("click", "registration", "sale", "login", "pageview")
)


class Day:
    """The rows of the tables, and what the partner received: one receipt per delivered postback, in the order of time."""

    def __init__(self, hits: int, seed: int = 7) -> None:
        self.rows: Rows = rows_of(generate(RULES, hits, seed), [Published(0, RULES)], seed)
        self.receipts: list[Receipt] = [_receipt(row) for row in self.rows["attempts"] if row["state"] == "delivered"]
        self.receipts.sort(key=lambda receipt: receipt["time_us"])
        self.recipients = {row["postback_id"]: row["recipient"] for row in self.rows["postbacks"]}

    def store(self, folder: Path) -> tuple[Path, Path]:
        """Write the tables and the partner's record."""
        for name, rows in self.rows.items():
            append(folder / "tables", name, table(name, rows))
        record = folder / "received.jsonl"
        record.write_text("".join(json.dumps(receipt) + "\n" for receipt in self.receipts), encoding="utf-8")
        return folder / "tables", record

    def never_promised(self, postback_id: str) -> None:
        """Take a postback out of the tables and out of the record: this side lost it."""
        for name in ("postbacks", "attempts"):
            self.rows[name] = [row for row in self.rows[name] if row["postback_id"] != postback_id]
        self.receipts = [receipt for receipt in self.receipts if id_of(receipt) != postback_id]


def _receipt(row: dict[str, Any]) -> Receipt:
    parts = urlsplit(row["url"])
    return {
        "time_us": microseconds(row["time"]) + 2_000, "method": row["verb"], "path": parts.path, "query": parts.query,
        "headers": {"webhook-id": row["postback_id"]}, "body": row["body"], "status": 200,
    }  # fmt: skip


def id_of(receipt: Receipt) -> str:
    return str(receipt["headers"]["webhook-id"])


def said(receipt: Receipt) -> dict[str, str]:
    return dict(parse_qsl(receipt["query"], keep_blank_values=True))


def say(receipt: Receipt, **values: str) -> None:
    """Change parameters of the query."""
    both = said(receipt) | values
    receipt["query"] = "&".join(f"{name}={quote(value, safe='')}" for name, value in both.items())


Plant = Callable[[Day, list[Receipt]], None]


def _literal_macro(_: Day, some: list[Receipt]) -> None:
    for receipt, macro in zip(some, ("{sub1}", "{{sub1}}", "[sub1]", "%sub1%", "#sub1#") * len(some), strict=False):
        say(receipt, sub=macro)


def _swapped(_: Day, some: list[Receipt]) -> None:
    inside = len(some) - len(some) // 4 * 2  # the rest changes places in pairs
    for receipt in some[:inside]:
        values = said(receipt)
        say(receipt, tx=values["who"], who=values["tx"])
    others = some[inside:]
    for one, other in zip(others[: len(others) // 2], others[len(others) // 2 :], strict=False):
        mine, theirs = said(one)["who"], said(other)["who"]
        say(one, who=theirs)
        say(other, who=mine)


def _truncated(_: Day, some: list[Receipt]) -> None:
    for receipt in some:
        say(receipt, who=said(receipt)["who"][:20])


def _double_encoded(_: Day, some: list[Receipt]) -> None:
    for receipt in some:
        say(receipt, at=quote(said(receipt)["at"], safe=""))


def _number_format(_: Day, some: list[Receipt]) -> None:
    for receipt in some:
        say(receipt, sum=said(receipt)["sum"].rstrip("0").rstrip("."))


def _time_zone(_: Day, some: list[Receipt]) -> None:
    for receipt in some:
        moment = datetime.fromisoformat(said(receipt)["at"]) + timedelta(hours=2)
        say(receipt, at=moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def _currency(_: Day, some: list[Receipt]) -> None:
    for receipt in some:
        say(receipt, cur="USD" if said(receipt)["cur"] != "USD" else "EUR")


def _lost_there(day: Day, some: list[Receipt]) -> None:
    lost = {id_of(receipt) for receipt in some}
    day.receipts = [receipt for receipt in day.receipts if id_of(receipt) not in lost]


def _lost_here(day: Day, some: list[Receipt]) -> None:
    for receipt in some:
        day.never_promised(id_of(receipt))


def _doubled(day: Day, some: list[Receipt]) -> None:
    for receipt in some:
        again = id_of(receipt)[::-1]
        query = receipt["query"].replace(id_of(receipt), again)
        day.receipts.append(receipt | {"query": query, "headers": {"webhook-id": again}})


def _wrong_recipient(_: Day, some: list[Receipt]) -> None:
    for receipt in some:
        receipt["path"] = "/s2s" if receipt["path"] != "/s2s" else "/pb"


def _late(_: Day, some: list[Receipt]) -> None:
    for receipt in some:
        receipt["time_us"] += 7_200_000_000


# defect, the receipts it can be planted in, how
PLANTS: dict[str, tuple[Callable[[dict[str, str]], bool], Plant]] = {
    "literal_macro": (lambda values: "sub" in values, _literal_macro),
    "swapped": (lambda values: bool(values.get("tx")), _swapped),
    "truncated": (lambda values: len(values.get("who", "")) == 32, _truncated),
    "double_encoded": (lambda values: ":" in values.get("at", ""), _double_encoded),
    "number_format": (lambda values: bool(re.search(r"\.\d*0$", values.get("sum", ""))), _number_format),
    "time_zone": (lambda values: ":" in values.get("at", ""), _time_zone),
    "currency": (lambda values: bool(values.get("cur")), _currency),
    "missing_there": (lambda values: "id" in values, _lost_there),
    "missing_here": (lambda values: "id" in values, _lost_here),
    "doubled": (lambda values: "id" in values, _doubled),
    "wrong_recipient": (lambda values: "id" in values, _wrong_recipient),
    "late": (lambda values: "id" in values, _late),
}


def plant(day: Day, each: int) -> dict[str, set[str]]:
    """Plant every defect in so many postbacks of its own, spread over the day; answers with the ids by defect."""
    used: set[str] = set()
    planted: dict[str, set[str]] = {}
    for defect, (fits, change) in PLANTS.items():
        chosen = list(_spread(day, each, used, fits))
        assert len(chosen) == each, f"the day has only {len(chosen)} postbacks for {defect}"
        planted[defect] = {id_of(receipt) for receipt in chosen}
        used |= planted[defect]
        change(day, chosen)
    return planted


def _spread(day: Day, each: int, used: set[str], fits: Callable[[dict[str, str]], bool]) -> Iterator[Receipt]:
    able = [receipt for receipt in day.receipts if id_of(receipt) not in used and fits(said(receipt))]
    return iter(able[:: max(1, len(able) // each)][:each])
