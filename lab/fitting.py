"""From a log to its profile: counted, not modelled; see `lab.profile.Profile` for what is kept and what is not."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby, pairwise

import polars as pl

from lab.fitting_values import Row, money, orders, quantiles, values
from lab.log import LabError, Log, given_log
from lab.profile import WEEK_HOURS, Profile, Step, Wait, Way

MOST_VISITORS = 50_000  # looked at in a larger log, chosen by the last digits of their ids
MOST_STEPS = 256  # of one visitor; who did more counts as several
LONG = 8  # steps of a way that has waits of its own
_HOUR_US = 3_600_000_000
_MONDAY_US = 4 * 24 * _HOUR_US  # 1970-01-05
_ROUTES = {"c": "c", "e.gif": "e.gif", "e.js": "e.gif"}  # what a browser sends is sent as an image
_BOT = r"(?i)bot\b|crawl|spider|slurp"


def fit(log: Log) -> Profile:
    """What is typical of a log: when visitors come, from whom, what they do, how long it takes, and with which values.

    Counted are accepted hits that are no tests, and from the duplicates how often something is sent again. A visitor
    whose first hits are not in the log begins with what is there. Of a log with more than `MOST_VISITORS` a sample is
    looked at. Raises LabError for a log without any accepted event.

        profile = lab.fit(lab.open("datasets/tables"))

    >>> lab.fit(log).hits
    1748
    """
    rows = _rows(given_log(log))
    if not rows:
        raise LabError(f"{log.path} has no accepted event, so there is nothing to fit; open a log with some traffic")
    decided = log.decisions.select(
        pl.len().alias("hits"), (pl.col("verdict") == "rejected").mean().alias("rejected"),
        (pl.col("time").max() - pl.col("time").min()).dt.total_seconds().alias("seconds"),
        pl.col("visitor").filter(~pl.col("test"), pl.col("visitor") != "").n_unique().alias("visitors"),
    ).collect().row(0, named=True)  # fmt: skip
    visitors = [list(group) for _, group in groupby(rows, lambda row: (row["visitor"], row["part"]))]
    days = decided["seconds"] / 86_400
    return Profile(
        source=str(log.path), rules=_rules(log), hits=decided["hits"], days=days, visitors=decided["visitors"],
        rejected=decided["rejected"], arrivals=_arrivals(visitors, days >= 6.5), ways=_ways(visitors),
        waits=_waits(visitors), values=values(log, visitors), money=money(rows), orders=orders(log, rows),
    )  # fmt: skip


def _rows(log: Log) -> list[Row]:
    """The events in the order of visitor and log: what they said, and how."""
    from lab.funnel import Way as Asked  # who belongs to whom in the end is the funnel's knowledge

    asked = Asked(log, None, None, "", None)
    events = asked.owned(asked.all_events().select(
        "visitor", "time", "partition", "seq", "event", "client", "hit_id", "fields",
    ).collect())  # fmt: skip
    share = MOST_VISITORS / max(1, events["visitor"].n_unique())
    if share < 1:
        digits = pl.col("visitor").str.slice(-4).str.to_integer(base=16, strict=False).fill_null(0)
        events = events.filter(digits < share * 65_536)
    said = log.hits.select("hit_id", "route", "user_agent", "flags", own=pl.col("params")).collect()
    joined = events.join(said, on="hit_id", how="left", maintain_order="left").sort(
        "visitor", "time", "partition", "seq"
    )
    bot = pl.col("user_agent").str.contains(_BOT) | pl.col("flags").list.contains("bot")
    place = pl.int_range(pl.len()).over("visitor")
    joined = joined.with_columns(
        bot=bot.fill_null(False), part=place // MOST_STEPS, time_us=pl.col("time").dt.epoch("us")
    )
    kept = ["visitor", "part", "time_us", "client", "event", "fields", "route", "bot", "own"]
    return joined.select(kept).to_dicts()


def _rules(log: Log) -> str:
    found = log.rulebooks.sort("time").select("text").collect()["text"]
    return str(found[-1]) if len(found) else ""


def _step(row: Row) -> Step:
    fields = dict(row["fields"] or ())
    route = _ROUTES.get(row["route"] or "", "e")
    ids = "".join(short for name, short in _IDS if fields.get(name)) if route != "c" else ""
    return Step(row["event"], route, fields.get("affiliate", ""), ids)


_IDS = (("uid", "u"), ("tag_id", "t"), ("click_id", "c"))


def _arrivals(visitors: list[list[Row]], whole_week: bool) -> tuple[float, ...]:
    hours = Counter((group[0]["time_us"] - _MONDAY_US) // _HOUR_US % WEEK_HOURS for group in visitors)
    if whole_week:
        return tuple(float(hours[hour]) for hour in range(WEEK_HOURS))
    by_day: Counter[int] = Counter()
    for hour, count in hours.items():
        by_day[hour % 24] += count
    return tuple(by_day[hour % 24] / 7 for hour in range(WEEK_HOURS))


def _ways(visitors: list[list[Row]]) -> tuple[Way, ...]:
    went: dict[tuple[str, tuple[Step, ...], bool], list[list[Row]]] = defaultdict(list)
    for group in visitors:
        went[group[0]["client"], tuple(map(_step, group)), bool(group[0]["bot"])].append(group)
    ordered = sorted(went.items(), key=lambda item: (-len(item[1]), repr(item[0])))
    return tuple(
        Way(*key, len(groups), _waits(groups) if len(key[1]) > LONG else ()) for key, groups in ordered
    )  # fmt: skip


def _waits(visitors: list[list[Row]]) -> tuple[Wait, ...]:
    seconds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for group in visitors:
        for before, row in pairwise(group):
            lag_s = (row["time_us"] - before["time_us"]) / 1e6
            seconds[row["client"], before["event"], row["event"]].append(lag_s)
    return tuple(Wait(*key, quantiles(found), len(found)) for key, found in sorted(seconds.items()))
