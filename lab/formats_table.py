"""The rows of CSV and Parquet files as events: each row is parsed or rejected with a reason.

A column is one of our names (`mapping.COLUMN`) or a custom parameter. What nobody says is told by the names that people use
for it. An empty value is an absent one. Times are ISO 8601 or counts since 1970 (s, ms or microseconds).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from lab.blocks import Rejected
from lab.formats import LineReason
from lab.log import LabError
from lab.mapping import LogMap
from lab.partner_record import NAMES
from lab.table_files import LINE, RAW, Chunk, chunks_of
from service.archive.schemas import microseconds
from service.engine.model import RESERVED

_KNOWN: dict[str, tuple[str, ...]] = {
    "time": ("event_time", *NAMES["time"], "occurred_at"),
    "client": ("client",),
    "event": ("event", "event_name", "event_type", "et", "type", "goal", "goal_id", "event_id", "status", "cnv_status"),
    "uid": ("uid", "user_id", "userid", "customer_id", "player_id"),
    "tag_id": ("tag_id", "visitor_id", "anonymous_id", "cookie_id"),
    "click_id": NAMES["click_id"],
    "txid": NAMES["txid"],
    "amount": (*NAMES["amount"], *NAMES["payout"]),
    "currency": NAMES["currency"],
    "affiliate": ("affiliate", "aff_id", "affid", "affiliate_id", "pid"),
    "test": ("test",),
}


_CLIENT = r"^[A-Za-z0-9_.-]{1,64}$"
_SECONDS = re.compile(r"-?[0-9]{1,10}(?:\.[0-9]+)?|[0-9]{13}|[0-9]{16}")


class Rows:
    """The rows of some files; afterwards `content`, a SHA-256 over all bytes, and what its columns were taken for.

    columns: their name to ours, of those that are not custom parameters. clients: whose rows there are. bad_time: the first
    time that was none.
    """

    def __init__(self, paths: list[Path], form: str, mapped: LogMap) -> None:
        self._paths, self._form, self._map = paths, form, mapped
        self._content = hashlib.sha256()
        self.columns: dict[str, str] = {}
        self.clients: dict[str, None] = {}
        self.bad_time = ""

    @property
    def content(self) -> str:
        """64 hex digits."""
        return self._content.hexdigest()

    def __iter__(self) -> Iterator[tuple[pl.DataFrame, list[Rejected], int]]:
        """Frames of rows with the rejected ones and how many there are; rows are numbered from 1 in each.

        Columns: line, time_us, client, event, and texts by our names and the custom ones; null is absent. Raises LabError
        for a file that cannot be read and for columns that do not fit it.
        """
        for path in self._paths:
            for chunk in chunks_of(path, self._form, self._content):
                ours = self._ours(path, chunk)
                reason = self._reason(ours)
                bad = ours.select(LINE, RAW).filter(reason.is_not_null()).rows()
                rejected = [(line, why, raw) for (line, raw), why in zip(bad, reason.drop_nulls(), strict=True)]
                good = ours.filter(reason.is_null()).drop(RAW).rename({LINE: "line"})
                self.clients |= dict.fromkeys(good["client"].unique(maintain_order=True))
                yield good, sorted([*rejected, *chunk.rejected]), chunk.rows

    def _ours(self, path: Path, chunk: Chunk) -> pl.DataFrame:
        """The rows by our names, with time_us, client and event, null where there is none or none that can be."""
        theirs = [name for name in chunk.frame.columns if name not in (LINE, RAW)]
        columns = columns_of(path, theirs, self._map)
        self.columns |= {name: ours for name, ours in columns.items() if ours and ours in _KNOWN}
        frame = chunk.frame.select(LINE, RAW, *(
            pl.when(pl.col(name) != "").then(name).alias(ours) for name, ours in columns.items() if ours
        ))  # fmt: skip
        client = pl.col("client") if "client" in frame.columns else pl.lit(self._map.client)
        event = pl.col("event") if "event" in frame.columns else pl.lit(None, pl.String)
        return frame.with_columns(
            time_us=self._times(frame["time"]), client=pl.when(client.str.contains(_CLIENT)).then(client),
            event=pl.coalesce(event, pl.lit(self._map.event or None, pl.String)),
        )  # fmt: skip

    def _reason(self, ours: pl.DataFrame) -> pl.Series:
        """Why a row is none, null if it is one."""
        late = ours.filter(pl.col("time_us").is_null())["time"]
        if not self.bad_time and late.len():
            self.bad_time = str(late[0] or "")
        reasons = {"time_us": LineReason.BAD_TIME, "event": LineReason.NO_EVENT, "client": LineReason.BAD_CLIENT}
        return ours.select(pl.coalesce(
            pl.when(pl.col(name).is_null()).then(pl.lit(reason.value)) for name, reason in reasons.items()
        )).to_series()  # fmt: skip

    def _times(self, texts: pl.Series) -> pl.Series:
        """Microseconds since 1970, null where a text is no time."""
        known, zone = texts.unique(), ZoneInfo(self._map.zone)
        times = pl.DataFrame({"time": known, "time_us": [_moment_us(text, zone) for text in known]},
                             schema={"time": pl.String, "time_us": pl.Int64})  # fmt: skip
        return texts.to_frame("time").join(times, on="time", how="left", maintain_order="left", nulls_equal=True)[
            "time_us"
        ]


def _moment_us(text: str | None, zone: ZoneInfo) -> int | None:
    """What a text means: ISO 8601, in `zone` if it names none, or a count since 1970."""
    text = (text or "").strip()
    try:
        if _SECONDS.fullmatch(text):
            whole, _, fraction = text.partition(".")
            number = int(whole) if len(whole) > 11 else int(whole) * 1_000_000 + int(fraction[:6].ljust(6, "0") or 0)
            return number * 1000 if len(whole) == 13 else number
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
        if moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment.replace(tzinfo=None):
            return None  # the clock jumped over it
    return microseconds(moment.astimezone(UTC))


def columns_of(path: Path, theirs: list[str], mapped: LogMap) -> dict[str, str]:
    """Their columns to the names that they come in under, "" for one to leave out.

    Raises LabError that names a column which is not there or is missing, and how to say which one it is.
    """
    listed = ", ".join(theirs)
    for name in mapped.columns:
        if name not in theirs:
            raise LabError(f"{path} has no column {name!r}; its columns are {listed}")
    found = dict(mapped.columns)
    for ours, names in _KNOWN.items():
        if ours not in found.values():
            plain = {name.strip().lower().replace(" ", "_"): name for name in theirs if name not in found}
            told = next((plain[name] for name in names if name in plain), None)
            if told is not None:
                found[told] = ours
    for ours in ("time",) if mapped.event else ("time", "event"):
        if ours not in found.values():
            raise LabError(
                f"{path}: no column is known as {ours} among {listed}; name it, as in --column {theirs[0]}={ours}"
            )
    return {name: found[name] if name in found else _custom(name) for name in theirs}


def _custom(name: str) -> str:
    """The name of a custom parameter, out of the way of ours."""
    return f"q_{name}" if name.removeprefix("q_") in (*RESERVED, "time", "time_us", "line") else name
