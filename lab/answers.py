"""What is planted in the sample week, counted from the plan and not by looking: the answers that a notebook has to find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from lab.check import LATE_US
from lab.journal import Published, Rows, hit_ids
from lab.stories import STORIES, Window
from lab.traffic import Request
from service.archive.schemas import microseconds, moment
from service.engine import Rulebook, load

Answer = dict[str, Any]  # who, what, begins, ends (UTC), notebook, see, and counts


class Week(msgspec.Struct, frozen=True):
    """The sample week: what was sent, the rows of its tables, and the rulebooks. lost: postbacks that the partner lost."""

    requests: Sequence[Request]
    rows: Rows
    published: Sequence[Published]
    seed: int
    start_us: int
    days: int
    linked: Sequence[str]
    lost: Sequence[dict[str, Any]]

    @property
    def rulebook(self) -> Rulebook:
        """The one in force at the start."""
        return load(self.published[0].text)

    def window(self, name: str) -> Window:
        """When a story happens, in microseconds since 1970."""
        planned = STORIES[name].window(self.days)
        return Window(self.start_us + planned.from_us, self.start_us + planned.until_us)

    def who(self, name: str) -> str:
        """Whom a story is about."""
        return STORIES[name].about(self.rulebook, self.linked)


# where each story is told, and the shortest way to see it
TOLD = {
    "dropped-click-ids": ("1-explore-funnels", 'log.funnel("click", "registration", by="affiliate").trend'),
    "bot-clicks": ("1-explore-funnels", 'log.funnel("click", "pageview", by="sub1")'),
    "late-conversions": ("1-explore-funnels", 'log.funnel("click", "sale", client="cozy").times'),
    "rule-change": ("2-replay-a-day", 'log.hits.filter(pl.col("kind") == "rulebook")'),
    "duplicate-storm": ("4-verify-postbacks", 'log.decisions.filter(pl.col("verdict") == "duplicate")'),
    "lost-postbacks": ("4-verify-postbacks", 'log.verify("bestodds.csv", recipient="affiliate:bestodds")'),
    "outage": ("4-verify-postbacks", "log.verify()"),
}  # fmt: skip


def answers(week: Week) -> dict[str, Answer]:
    """Every story with its answers."""
    decided = {row["hit_id"]: row for row in week.rows["decisions"]}
    ids = hit_ids(week.requests, week.seed, week.start_us)
    sent = [(request, decided[hit_id]) for request, hit_id in zip(week.requests, ids, strict=True)]
    counts = {
        "dropped-click-ids": _dropped(sent),
        "bot-clicks": {"clicks": len(_of(sent, "bot-clicks"))},
        "duplicate-storm": _storm(sent),
        "late-conversions": _late(sent),
        "rule-change": _change(week),
        "lost-postbacks": _lost(week),
        "outage": {"late_postbacks": len(_late_postbacks(week))},
    }
    return {name: _told(week, name) | found for name, found in counts.items()}


Sent = Sequence[tuple[Request, dict[str, Any]]]


def _told(week: Week, name: str) -> Answer:
    window, (notebook, see) = week.window(name), TOLD[name]
    return {
        "who": week.who(name), "what": STORIES[name].what, "begins": moment(window.from_us),
        "ends": moment(window.until_us), "notebook": notebook, "see": see,
    }  # fmt: skip


def _of(sent: Sent, story: str) -> list[tuple[Request, dict[str, Any]]]:
    return [(request, row) for request, row in sent if story in request.stories]


def _dropped(sent: Sent) -> Answer:
    """Clicks in that time, and what their visitors did later that belongs to nobody now."""
    clicks = [request for request, _ in _of(sent, "dropped-click-ids") if request.note == "click"]
    since = {request.visitor: request.offset_us for request in reversed(clicks)}
    orphans = [
        row["event"] for request, row in sent
        if request.offset_us > since.get(request.visitor, request.offset_us)
        and row["verdict"] == "accepted" and not row["affiliate"]
    ]  # fmt: skip
    return {
        "clicks": len(clicks), "registrations": orphans.count("registration"), "sales": orphans.count("sale"),
    }  # fmt: skip


def _storm(sent: Sent) -> Answer:
    """The orders that were sent again, and all their copies, also one that would have come without the storm."""
    orders = {(row["client"], dict(row["fields"])["txid"]) for _, row in _of(sent, "duplicate-storm")}
    copies = [row for _, row in sent if row["verdict"] == "duplicate"]
    return {
        "duplicates": sum((row["client"], dict(row["fields"]).get("txid")) in orders for row in copies),
        "orders": len(orders),
    }  # fmt: skip


def _late(sent: Sent) -> Answer:
    return {"sales": sum(row["verdict"] == "accepted" for _, row in _of(sent, "late-conversions"))}


def _change(week: Week) -> Answer:
    before, after = (load(one.text).id for one in week.published)
    fired = [
        (row["rulebook_id"], firing["trigger"])
        for row in week.rows["decisions"] if not row["test"] for firing in row["fired"]
    ]  # fmt: skip
    return {
        "rulebooks": [before, after],
        "first_deposits_before": fired.count((before, "first-deposit")),
        "first_deposits_after": fired.count((after, "first-deposit")),
    }


def _lost(week: Week) -> Answer:
    euros = [Decimal(row["payout"]) for row in week.lost if row["currency"] == "EUR"]
    return {"postbacks": len(week.lost), "euros": str(sum(euros, Decimal()))}


def _late_postbacks(week: Week) -> set[str]:
    """Postbacks that got through later than `lab.verify` allows."""
    due: dict[str, datetime] = {row["postback_id"]: row["time"] for row in week.rows["postbacks"]}
    return {
        row["postback_id"] for row in _delivered(week.rows)
        if microseconds(row["time"]) - microseconds(due[row["postback_id"]]) > LATE_US
    }  # fmt: skip


def _delivered(rows: Rows) -> Iterable[dict[str, Any]]:
    return (row for row in rows["attempts"] if row["state"] == "delivered")


def toml(found: dict[str, Answer]) -> str:
    """The answers as a TOML document."""
    lines = ["# The stories in the tables and their answers; written by python -m lab.samples, checked by the tests."]
    for name, answer in found.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in answer.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, str) and '"' in value and "'" not in value:
        return f"'{value}'"
    return msgspec.json.encode(value).decode()


def markdown(found: dict[str, Answer]) -> str:
    """The answers as a Markdown table."""
    lines = ["| story | who | when (UTC) | what | answers | how to see it |", "|---|---|---|---|---|---|"]
    for name, answer in found.items():
        when = f"{answer['begins']:%a %H:%M} to {answer['ends']:%a %H:%M}"
        counts = {key: value for key, value in answer.items() if key not in _TEXTS}
        told = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in counts.items())
        lines.append(
            f"| {name} | {answer['who']} | {when} | {answer['what']} | {told} "
            f"| `{answer['see']}`; notebook {answer['notebook']} |"
        )
    return "\n".join(lines)


_TEXTS = ("who", "what", "begins", "ends", "notebook", "see")


def _plain(value: Any) -> str:
    return " then ".join(f"`{one}`" for one in value) if isinstance(value, list) else str(value)
