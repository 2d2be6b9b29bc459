"""What a partner says it got, in a form of its own: a CSV export or an access log, without our ids in headers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path

import msgspec

from lab.defects import time_of
from lab.log import LabError
from lab.parameters import Request, parameters

# names that partners use for what we call so: the first of a column's names that is known tells what it holds
NAMES: dict[str, tuple[str, ...]] = {
    "postback_id": ("postback_id", "webhook_id", "webhook-id", "pb_id", "postback", "id"),
    "txid": ("txid", "tx", "tid", "transaction_id", "transactionid", "order_id", "orderid", "order", "oid", "action_id",
             "conversion_unique_id"),
    "click_id": ("click_id", "clickid", "cid", "subid", "sid", "cnv_id", "click", "extid", "affiliate_click_id"),
    "payout": ("payout", "sum", "commission", "cnv_payout"),
    "amount": ("amount", "revenue", "sale_amount", "order_sum", "value"),
    "currency": ("currency", "cur", "cnv_currency", "payout_currency"),
    "event": ("event", "et", "type", "goal", "event_id", "ev"),
    "time": ("time", "timestamp", "date", "datetime", "received_at", "created_at", "ts"),
}  # fmt: skip
_MEANING = {name: meaning for meaning, names in NAMES.items() for name in names}


class Received(msgspec.Struct, frozen=True):
    """One request or row of a partner's record.

    where: `line 12`. time_us: 0 if it says none. request: None for a row of a CSV file. values: by the partner's own names.
    meanings: its names for what we call postback_id, txid, click_id, payout, amount, currency, event.
    """

    where: str
    time_us: int
    request: Request | None
    values: dict[str, str]
    meanings: dict[str, str]

    def meant(self, meaning: str) -> str:
        """The value of what we call so, "" if there is none."""
        return next(
            (self.values[name] for name, what in self.meanings.items() if what == meaning and self.values.get(name)), ""
        )


def meaning_of(name: str) -> str:
    """What a partner's parameter or column is by its name, "" if it is not known. Case and blanks do not count."""
    return _MEANING.get(name.strip().lower().replace(" ", "_"), "")


def read_csv(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Received]:
    """The rows of a CSV file with a head line. columns: the partner's column to our name, where the name does not tell.

    Separators `,`, `;` and tabs are told apart. Raises LabError for a file that is none, or an unknown column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            separator = max(",;\t", key=head.count)
            rows = csv.DictReader(file, delimiter=separator, strict=True)
            names = [name for name in rows.fieldnames or [] if name]
            meanings = _meanings(path, names, columns or {})
            for row in rows:
                values = {name: (row[name] or "").strip() for name in names}
                time = next((values[name] for name, what in meanings.items() if what == "time"), "")
                yield Received(f"line {rows.line_num}", _time_us(time), None, values, meanings)
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}; give the partner's export") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabError(f"{path} cannot be read as CSV: {error}; give the partner's export with a head line") from None


def _meanings(path: Path, names: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    for theirs in columns:
        if theirs not in names:
            raise LabError(f"{path} has no column {theirs!r}; its columns are {', '.join(names)}")
    found = {name: columns.get(name) or meaning_of(name) for name in names}
    if not any(found.values()):
        raise LabError(f"{path}: no column is known among {', '.join(names)}; name them, as in --column subid=click_id")
    return found


def read_access_log(path: Path, format: str) -> Iterator[Received]:
    """The requests of an access log in a format of `lab.formats`."""
    from lab.formats import ParsedLine, format_named, lines_of, parse_line

    form = format_named(format)
    for number, line in enumerate(lines_of(path), 1):
        found = parse_line(line, form)
        if isinstance(found, ParsedLine):
            text = (found.path.decode(errors="replace"), found.query.decode(errors="replace"))
            request = Request(found.method, "", *text)
            values = parameters(request)
            meanings = {name: meaning_of(name) for name in values}
            yield Received(f"line {number}", found.time_us, request, values, meanings)


def _time_us(text: str) -> int:
    found = time_of(text)
    if found is None:
        return 0
    if isinstance(found, datetime):
        return int(found.timestamp() * 1_000_000)
    assert isinstance(found, date)
    return 0  # a day alone says nothing about being late
