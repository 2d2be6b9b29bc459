r"""Plain lines of an access log taken apart by a reader of CSV: with `"` between the columns and no quoting at all.

Plain is a line of printable ASCII without a backslash in which quotes stand around the request, and around referrer and
user agent where the format has them. What comes again and again is held to the patterns once per distinct value.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from lab.coded import Coded, distinct, polars_of
from lab.formats import Format, _midnight_s, host_name

_LONG = 8_000  # bytes of a value that the parser of one line had better look at
_MANY_BYTES = 1 << 30  # of a block; the reader counts in 32 bits
_STAMP = 29  # bytes of `[17/May/2015:10:05:03 +0000] `, in front of the request

_WORD = r"[!-\[\]-~]+"
_QUIET = r"^[ !#-\[\]-~]*$"
_REQUEST = r"^(?P<method>[A-Za-z]+) (?P<target>/[!#-\[\]-~]*) HTTP/[0-9](?:\.[0-9])?$"
_TIME = r"^\[([0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60) [+-][0-9]{4})\] $"
_ASCII = bytes(range(128)) + b"\x01" * 128
_AGAIN = pa.dictionary(pa.int32(), pa.string())


class _Field(msgspec.Struct, frozen=True):
    """A column: the number of the value of each line, and what these values say; null in the first column if not plain."""

    numbers: pl.Series
    known: pl.DataFrame

    @classmethod
    def of(cls, column: pa.Array, read: Callable[[pl.Series], pl.DataFrame]) -> _Field:
        """read: what values mean; null stands for one that is too long."""
        coded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
        text = polars_of(coded.dictionary)
        long = text.str.len_bytes() > _LONG
        if long.any():
            text = text.set(long, None)
        return cls(polars_of(coded.indices).cast(pl.UInt32), read(text))

    @classmethod
    def absent(cls, name: str, lines: int) -> _Field:
        """A field that the format has not."""
        return cls(pl.repeat(0, lines, dtype=pl.UInt32, eager=True), pl.DataFrame({name: [""]}))


def plain_lines(block: bytes, form: Format) -> tuple[Coded, int] | None:
    """The plain lines in the columns of `blocks.SCHEMA`, and how many lines there are; None where none can be plain."""
    if not form.quoted or len(block) > _MANY_BYTES:
        return None
    read, odd = _columns(_readable(block), 2 * form.quoted + 1)
    fields, good = _fields(read, form)
    for field in fields.values():
        there = field.known.to_series(0).is_not_null()
        if not there.all():
            good &= there.gather(field.numbers)
    total = good.len() + len(odd)
    line = pl.int_range(1, total + 1, dtype=pl.Int64, eager=True)
    if odd:
        line = line.filter(~line.is_in(pl.Series(odd, dtype=pl.Int64).implode()))
    return _coded(fields, line, good), total


def _readable(block: bytes) -> bytes:
    """The block as ASCII with no line end but newlines: the reader finds the same lines, and odd ones are not plain."""
    if not block.isascii():
        block = block.translate(_ASCII)
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\x01") if b"\r" in block else block


def _columns(block: bytes, many: int) -> tuple[list[pa.Array], list[int]]:
    """What stands between the quotes, and the numbers (from 1) of the lines with more or fewer of them."""
    names, odd = [str(number) for number in range(many)], list[int]()

    def note(row: csv.InvalidRow) -> str:
        odd.append(row.number)
        return "skip"

    found = csv.read_csv(
        pa.BufferReader(block),
        csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names),
        csv.ParseOptions(
            delimiter='"', quote_char=False, double_quote=False, escape_char=False, ignore_empty_lines=False,
            invalid_row_handler=note,
        ),
        csv.ConvertOptions(
            column_types={name: _AGAIN if name in "135" else pa.string() for name in names},
            null_values=[], strings_can_be_null=False, check_utf8=False,
        ),
    )  # fmt: skip
    return [column.combine_chunks() for column in found.columns], odd


def _fields(read: list[pa.Array], form: Format) -> tuple[dict[str, _Field], pl.Series]:
    """All that has a meaning, and which lines are plain in the rest."""
    head, clock = _apart(read[0], -_STAMP)
    status, size = _apart(read[2], 5)
    found = {
        "head": _Field.of(head, _hosts_and_addresses if form.host_first else _addresses),
        "time": _Field.of(clock, _times), "request": _Field.of(read[1], _requests), "status": _Field.of(status, _statuses),
    }  # fmt: skip
    if form.quoted == 1:
        absent = {name: _Field.absent(name, len(head)) for name in ("referrer", "user_agent")}
        return found | absent, polars_of(_numbers(size))
    blank = pc.and_(pc.equal(read[4], " "), pc.equal(read[6], ""))
    size, last = _apart(size, -1)
    blank = pc.and_(blank, pc.equal(last, " "))
    found |= {"referrer": _Field.of(read[3], _quiet), "user_agent": _Field.of(read[5], _quiet)}
    return found, polars_of(pc.and_(blank, _numbers(size)))


def _apart(text: pa.Array, at: int) -> tuple[pa.Array, pa.Array]:
    """ASCII texts cut in two by bytes: no characters have to be counted."""
    raw = text.view(pa.binary())
    return pc.binary_slice(raw, 0, at).view(pa.string()), pc.binary_slice(raw, at, _MANY_BYTES).view(pa.string())


def _numbers(size: pa.Array) -> pa.Array:
    """Whether it is a size: `512` or `-`."""
    good = pc.or_(pc.ascii_is_decimal(size), pc.equal(size, "-"))
    return pc.and_(good, pc.less_equal(pc.binary_length(size), 18))


def _addresses(text: pl.Series) -> pl.DataFrame:
    """Of `192.0.2.7 - - `."""
    return pl.DataFrame({"address": text.str.extract(rf"^({_WORD}) {_WORD} {_WORD} $")}).with_columns(host=pl.lit(""))


def _hosts_and_addresses(text: pl.Series) -> pl.DataFrame:
    """Of `shop.example:443 192.0.2.7 - - `."""
    found = text.str.extract_groups(rf"^(?P<host>{_WORD}) (?P<address>{_WORD}) {_WORD} {_WORD} $").struct.unnest()
    known = found["host"].drop_nulls().unique()
    named = pl.Series([host_name(host) for host in known], dtype=pl.String)
    return found.select("address", pl.col("host").replace_strict(known, named, default="", return_dtype=pl.String))


def _times(text: pl.Series) -> pl.DataFrame:
    """Of `[17/May/2015:10:05:03 +0000] `, microseconds since 1970; null also where there is no such day or zone."""
    stamps = text.str.extract(_TIME)
    days = stamps.str.slice(0, 11) + stamps.str.slice(21, 5)
    named = days.drop_nulls().unique()
    midnights = pl.Series([_midnight_s(day[:11].encode(), day[11:].encode()) for day in named], dtype=pl.Int64)
    midnight = days.replace_strict(named, midnights, default=None, return_dtype=pl.Int64)
    hour, minute, second = (stamps.str.slice(start, 2).cast(pl.Int64) for start in (12, 15, 18))
    return pl.DataFrame({"time_us": (midnight + hour * 3600 + minute * 60 + second) * 1_000_000})


def _requests(text: pl.Series) -> pl.DataFrame:
    """Of `GET /a?b=c HTTP/1.1`."""
    target = pl.col("target").str.splitn("?", 2)
    found = text.str.extract_groups(_REQUEST).struct.unnest()
    return found.select(
        "method", target.struct.field("field_0").cast(pl.Binary).alias("path"),
        target.struct.field("field_1").fill_null("").cast(pl.Binary).alias("query"),
    )  # fmt: skip


def _statuses(text: pl.Series) -> pl.DataFrame:
    """Of ` 200 `."""
    return pl.DataFrame({"status": text.str.extract(r"^ ([0-9]{3}) $").cast(pl.Int16)})


def _quiet(text: pl.Series) -> pl.DataFrame:
    """A referrer or user agent, "" for `-`."""
    said = pl.when(pl.col("text") == "-").then(pl.lit("")).otherwise("text")
    return text.to_frame("text").select(pl.when(pl.col("text").str.contains(_QUIET)).then(said).alias("said"))


def _coded(fields: dict[str, _Field], line: pl.Series, good: pl.Series) -> Coded:
    """Requests by what was asked, status and host; people by address and user agent."""
    every = good.all()
    at = {name: field.numbers if every else field.numbers.filter(good) for name, field in fields.items()}
    known = {name: field.known for name, field in fields.items()}
    hosts, host = distinct(known["head"]["host"].fill_null(""))
    asked = _together([
        (at["request"], known["request"].height), (at["status"], known["status"].height),
        (hosts.gather(at["head"]), host.len()),
    ])  # fmt: skip
    whose = _together([(at["head"], known["head"].height), (at["user_agent"], known["user_agent"].height)])
    request, people = known["request"][asked[1]], known["head"].select("address")[whose[1]]
    status = known["status"]["status"].gather(asked[2])
    return Coded(
        pl.DataFrame({
            "line": line if every else line.filter(good), "time_us": known["time"]["time_us"].gather(at["time"]),
            "request": asked[0], "person": whose[0], "origin": at["referrer"],
        }),
        {
            "request": request.with_columns(status, host.gather(asked[3]).alias("host")),
            "person": people.with_columns(known["user_agent"].to_series().gather(whose[2]).alias("user_agent")),
            "origin": known["referrer"].to_series().fill_null("").to_frame("referrer"),
        },
    )  # fmt: skip


def _together(columns: list[tuple[pl.Series, int]]) -> list[pl.Series]:
    """Which distinct row of some columns of numbers (each below the given one) a line has, and the columns of these."""
    key = columns[0][0].cast(pl.UInt64)
    for numbers, many in columns[1:]:
        key = key * max(many, 1) + numbers
    rows, keys = distinct(key)
    found = []
    for _, many in reversed(columns[1:]):
        found.append((keys % max(many, 1)).cast(pl.UInt32))
        keys = keys // max(many, 1)
    return [rows, keys.cast(pl.UInt32), *reversed(found)]
