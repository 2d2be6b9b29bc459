"""What is typical of a log: a profile, fitted by `lab.fit`, that `lab.simulate` makes another log of.

It holds counts, shares and quantiles. No identifier, no address, no time of a single hit; of a parameter only values that
at least `lab.fitting.SHARED_BY` visitors had.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from lab.log import LabError
from lab.show import html_block, html_table, plural

if TYPE_CHECKING:
    from lab.charts import Chart

WEEK_HOURS = 168
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
QUANTILES = 64  # steps between the lowest and the highest value

Key = tuple[str, str, str]


class Step(msgspec.Struct, frozen=True):
    """One event of a visitor. route: c, e or e.gif. affiliate: its own. ids: those it names: uid, tag id, click id."""

    event: str
    route: str
    affiliate: str
    ids: str  # of u, t and c


class Wait(msgspec.Struct, frozen=True):
    """The time between two events of a visitor, one right after the other. seconds: quantiles. seen: how often."""

    client: str
    before: str
    event: str
    seconds: tuple[float, ...]
    seen: int


class Way(msgspec.Struct, frozen=True):
    """What some visitors did, one event after the other. bot: they called themselves bots. visitors: how many.

    waits: on a long way the waits of just these visitors, whose haste may be their own; none on a short one.
    """

    client: str
    steps: tuple[Step, ...]
    bot: bool
    visitors: int
    waits: tuple[Wait, ...] = ()


class Values(msgspec.Struct, frozen=True):
    """What a parameter of an event holds. share: of the events that have it. known: value to count; other: rarer ones.

    steady: share of a visitor's values that are as the one before.
    """

    client: str
    event: str
    name: str
    share: float
    known: dict[str, int]
    other: int
    steady: float


class Money(msgspec.Struct, frozen=True):
    """Amounts of an event in one currency. share: of the events. amounts: quantiles. places: digits behind the point."""

    client: str
    event: str
    currency: str
    share: float
    amounts: tuple[float, ...]
    places: int


class Orders(msgspec.Struct, frozen=True):
    """Events with a txid. share: of the events. again: share of these that were sent again; copies, waits_s: quantiles."""

    client: str
    event: str
    share: float
    again: float
    copies: tuple[float, ...]
    waits_s: tuple[float, ...]


class Profile(msgspec.Struct, frozen=True):
    """What is typical of a log. Made by `lab.fit`; the frames say it to people.

    source: the log. rules: text of its last rulebook. hits, days (from the first to the last hit), visitors: of the log.
    rejected: share of its hits. arrivals: how many visitors came first in each hour of the week, from Monday 00:00 UTC;
    of a log shorter than a week each hour of the day, seven times. ways: kinds of visits with their steps; waits: spans
    between events in seconds; values: of the parameters; money: amounts by currency; orders: how transactions are named.

        profile = lab.fit(lab.open("datasets/tables"))
        profile.mix                                       # which client's visitors come from whom
        log = lab.simulate(profile, day="2026-03-16", hits=2_000)

    >>> profile = lab.fit(log)
    >>> profile.hits, profile.visitors > 0
    (1748, True)
    """

    source: str
    rules: str
    hits: int
    days: float
    visitors: int
    rejected: float
    arrivals: tuple[float, ...]
    ways: tuple[Way, ...]
    waits: tuple[Wait, ...]
    values: tuple[Values, ...]
    money: tuple[Money, ...]
    orders: tuple[Orders, ...]

    @property
    def curve(self) -> pl.DataFrame:
        """When visitors come. Columns: hour (0 to 167, of the week), day (Mon to Sun), hour_of_day, share (of all).

        >>> profile.curve.columns
        ['hour', 'day', 'hour_of_day', 'share']
        """
        total = sum(self.arrivals) or 1.0
        hours = range(WEEK_HOURS)
        return pl.DataFrame({
            "hour": hours, "day": [DAYS[hour // 24] for hour in hours], "hour_of_day": [hour % 24 for hour in hours],
            "share": [weight / total for weight in self.arrivals],
        })  # fmt: skip

    @property
    def mix(self) -> pl.DataFrame:
        """Whose visitors come from whom. Columns: client, affiliate (of the first event), visitors, share, bots (share).

        >>> profile.mix.columns
        ['client', 'affiliate', 'visitors', 'share', 'bots']
        """
        found: Counter[tuple[str, str]] = Counter()
        bots: Counter[tuple[str, str]] = Counter()
        for way in self.ways:
            found[way.client, way.steps[0].affiliate] += way.visitors
            bots[way.client, way.steps[0].affiliate] += way.visitors * way.bot
        total = found.total() or 1
        rows = [(*key, count, count / total, bots[key] / count) for key, count in found.most_common()]
        schema = {"client": pl.String, "affiliate": pl.String, "visitors": pl.Int64, "share": pl.Float64,
                  "bots": pl.Float64}  # fmt: skip
        return pl.DataFrame(rows, schema=schema, orient="row")

    @property
    def events(self) -> pl.DataFrame:
        """What they do. Columns: client, event, events, share (of all).

        >>> profile.events.columns
        ['client', 'event', 'events', 'share']
        """
        found: Counter[tuple[str, str]] = Counter()
        for way in self.ways:
            for step in way.steps:
                found[way.client, step.event] += way.visitors
        total = found.total() or 1
        rows = [(*key, count, count / total) for key, count in found.most_common()]
        schema = {"client": pl.String, "event": pl.String, "events": pl.Int64, "share": pl.Float64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    @property
    def lags(self) -> pl.DataFrame:
        """How long they take. Columns: client, before, event, seen, then seconds: p10, p50, p90. Most frequent first.

        >>> profile.lags.columns
        ['client', 'before', 'event', 'seen', 'p10', 'p50', 'p90']
        """
        rows = [
            (wait.client, wait.before, wait.event, wait.seen, *(quantile(wait.seconds, q) for q in (0.1, 0.5, 0.9)))
            for wait in self.waits
        ]
        schema = {"client": pl.String, "before": pl.String, "event": pl.String, "seen": pl.Int64, "p10": pl.Float64,
                  "p50": pl.Float64, "p90": pl.Float64}  # fmt: skip
        return pl.DataFrame(rows, schema=schema, orient="row").sort("seen", descending=True, maintain_order=True)

    def chart(self) -> Chart:
        """When visitors come, hour by hour of the week.

        >>> profile.chart().frame.columns
        ['hour', 'day', 'hour_of_day', 'share']
        """
        from lab.profile_chart import curve_chart

        return curve_chart(self)

    def save(self, path: str | Path) -> Path:
        """Write the profile as JSON, to be read by `lab.Profile.read`.

        >>> profile.save(folder / "profile.json").name
        'profile.json'
        """
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        return Path(path)

    @staticmethod
    def read(path: str | Path) -> Profile:
        """Read what `save` has written. Raises LabError for a file that is none.

        >>> lab.Profile.read(profile.save(folder / "profile.json")) == profile
        True
        """
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=Profile)
        except OSError as error:
            raise LabError(f"{path} cannot be read: {error.strerror}; give a profile that was saved") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LabError(f"{path} is no profile: {error}; fit one with lab.fit(log) and save it") from None

    @property
    def sentence(self) -> str:
        """What it was fitted from, in one line.

        >>> profile.sentence.startswith("Profile of")
        True
        """
        return (
            f"Profile of {self.source}: {plural(self.visitors, 'visitor')} with {plural(self.hits, 'hit')} in "
            f"{self.days:.1f} days, {100 * self.rejected:.1f} % rejected"
        )

    def __repr__(self) -> str:
        from lab.funnel import text_table

        return f"{self.sentence}\n{text_table(self.mix)}"

    def _repr_html_(self) -> str:
        from lab.funnel import duration_text

        words = pl.col("p10", "p50", "p90").map_elements(duration_text, pl.String)
        tables = (
            ("Who comes from whom", self.mix.rename({"bots": "share_of_bots"})), ("What they do", self.events),
            ("How long they take", self.lags.with_columns(words)),
        )  # fmt: skip
        return html_block(self.sentence, *(html_table(frame, title, limit=8) for title, frame in tables))


def quantile(points: tuple[float, ...], share: float) -> float:
    """The value below which this share lies, between the two nearest quantiles."""
    place = share * (len(points) - 1)
    low = min(int(place), len(points) - 2) if len(points) > 1 else 0
    high = min(low + 1, len(points) - 1)
    return points[low] + (points[high] - points[low]) * (place - low)
