r"""Foreign access logs, line by line: each line is a parsed request or a rejection with a reason, never nothing.

Written by the rules of Apache's and nginx's own manuals: quotes inside quoted fields are escaped with a backslash, other
bytes as \xhh; `-` is an absent value; times have one second. One strict pattern per format reads the good lines; only a
line that does not fit it is looked at twice, to say what is wrong with it.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
import pyarrow as pa

from lab.log import LabError
from service.engine.document import nearest

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_HEAD_BYTES = 64 * 1024  # what is looked at to tell a text from anything else
_MAX_LINE_BYTES = 64 * 1024


class LineReason(StrEnum):
    """Why a line is no request. The set is closed."""

    EMPTY_LINE = "empty_line"
    LINE_TOO_LONG = "line_too_long"  # over 64 KiB
    WRONG_SHAPE = "wrong_shape"  # not the fields of this format
    CUT_OFF = "cut_off"  # begins as this format and ends in the middle of a field
    TRAILING_TEXT = "trailing_text"  # this format, and more behind it
    BAD_TIME = "bad_time"  # no such day, hour or zone
    NO_REQUEST = "no_request"  # the connection brought no request line: "-" or ""
    BAD_REQUEST = "bad_request"  # the request line is no HTTP: scans, TLS on a plain port
    NO_EVENT = "no_event"  # a row that names none
    BAD_CLIENT = "bad_client"  # a row whose client is missing or no name
    NOT_UTF8 = "not_utf8"  # a row of other bytes


class ParsedLine(msgspec.Struct, frozen=True, gc=False):
    """One request of a foreign log.

    time_us: microseconds since 1970, UTC. target: as it was requested, unescaped. path, query: its two sides, without
    scheme and host. protocol: "" if the line names none. host: the virtual host, "" if the format has none. status 0 and
    size 0: none. referrer, user_agent: "" if absent; bytes in them that are no UTF-8 stay readable as \\xhh.
    """

    time_us: int
    address: str
    user: str
    method: str
    target: bytes
    path: bytes
    query: bytes
    protocol: str
    status: int
    size: int
    referrer: str
    user_agent: str
    host: str = ""


class RejectedLine(msgspec.Struct, frozen=True, gc=False):
    """A line that is no request of its format, and why."""

    reason: LineReason


_QUOTED = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_TIME = rb"\[(\d\d/[A-Z][a-z]{2}/\d{4}):([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60) ([+-]\d{4})\]"
_COMMON = rb"(\S+) \S+ (\S+|\S.*?\S) " + _TIME + rb" " + _QUOTED + rb" (\d{3}|-) (\d{1,18}|-)"
_ANY_TIME = re.compile(rb'\S+ \S+ (?:\S+|\S.*?\S) \[([^]["]*)\] "')
_OPEN = re.compile(
    rb'\S+ \S+ (?:\S+|\S.*?\S) \[[^]["]*(?:\] ?(?:"[^"\\]*+(?:\\.[^"\\]*+)*+(?:\\|"( [-\d ]*( ".*)?)?)?)?)?\Z',
    re.DOTALL,
)


class Format(msgspec.Struct, frozen=True):
    """A format of access logs: its name and a sample line.

    pattern: of a whole line, unless `read` reads a line in a way of its own. quoted: how many fields stand in quotes, for
    `lab.plain`; 0 where lines are never taken apart as columns. host_first: the virtual host stands in front.
    """

    name: str
    sample: str
    pattern: re.Pattern[bytes] | None = None
    quoted: int = 0
    host_first: bool = False
    read: Callable[[bytes], ParsedLine | RejectedLine] | None = None


def _format(name: str, sample: str, pattern: bytes, quoted: int, host_first: bool = False) -> Format:
    return Format(name, sample, re.compile(pattern, re.DOTALL), quoted, host_first)


FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        _format(
            "combined",
            '192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a?b=c HTTP/1.1" 200 512 "http://x.example/" "Mozilla/5.0"',
            _COMMON + rb" " + _QUOTED + rb" " + _QUOTED,
            3,
        ),
        _format(
            "common",
            '192.0.2.7 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326',
            _COMMON,
            1,
        ),
        _format(
            "vhost_combined",
            'shop.example:443 192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 512 "-" "Mozilla/5.0"',
            rb"(\S+) " + _COMMON + rb" " + _QUOTED + rb" " + _QUOTED,
            3,
            True,
        ),
    )
}


def format_named(name: str, others: Iterable[str] = ()) -> Format:
    """The format of this name, or of a format string such as `%h %^[%d:%t %^] "%r" %s %b`, see `lab.formats_custom`.

    others: names of formats that are no access logs, for the error. Raises LabError that names the nearest one.
    """
    from lab.formats_custom import custom_format

    if "%" in name:
        return custom_format(name)
    known = all_formats()
    if name not in known:
        raise LabError(f"there is no log format {name!r}{nearest(name, (*known, *others))}")
    return known[name]


def all_formats() -> dict[str, Format]:
    """Every format that has a name."""
    from lab.formats_json import JSON_FORMATS

    return FORMATS | JSON_FORMATS


def parse_line(line: bytes, form: Format) -> ParsedLine | RejectedLine:
    """Read one line, with or without its line end. Never raises, whatever the bytes are."""
    line = line.rstrip(b"\r\n")
    if len(line) > _MAX_LINE_BYTES:
        return RejectedLine(LineReason.LINE_TOO_LONG)
    if form.read is not None:
        return form.read(line) if line.strip() else RejectedLine(LineReason.EMPTY_LINE)
    assert form.pattern is not None
    found = form.pattern.fullmatch(line)
    if found is None:
        return RejectedLine(_what_is_wrong(line, form.pattern))
    host, *groups = found.groups() if form.host_first else (b"", *found.groups())
    address, user, day, hour, minute, second, zone, request, status, size, *more = groups
    midnight_s = _midnight_s(day, zone)
    if midnight_s is None:
        return RejectedLine(LineReason.BAD_TIME)
    asked = request_of(request)
    if isinstance(asked, LineReason):
        return RejectedLine(asked)
    method, target, protocol = asked
    path, query = path_of(target)
    return ParsedLine(
        (midnight_s + int(hour) * 3600 + int(minute) * 60 + int(second)) * 1_000_000,
        _text(address),
        unescaped(user),
        method,
        target,
        path,
        query,
        protocol,
        0 if status == b"-" else int(status),
        0 if size == b"-" else int(size),
        unescaped(more[0]) if more else "",
        unescaped(more[1]) if more else "",
        host_name(_text(host)),
    )


def host_name(text: str) -> str:
    """A host in lower case without its port; "" for `-`."""
    return "" if text == "-" else _PORT.sub("", text).lower()


_PORT = re.compile(r":[0-9]{1,5}\Z")


def lines_of(path: Path) -> Iterator[bytes]:
    """The raw lines of a file, each with its line end if it has one; unpacked where the file is gzip or zstd.

    Raises LabError if the file cannot be read, is empty, is no text or is broken.
    """
    with opened(path) as file:
        yield from file


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A log file to read from its beginning, unpacked where it is gzip or zstd. Raises as `lines_of`, also later."""
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
        with _unpacked(path, magic) as file:
            _check_head(path, file.read(_HEAD_BYTES))
        with _unpacked(path, magic) as file:
            yield file
    except FileNotFoundError:
        raise LabError(f"{path} does not exist; give the path of an access log") from None
    except IsADirectoryError:
        raise LabError(f"{path} is a folder; give the path of one access log") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LabError(f"{path} is broken gzip ({error}); unpack what can be saved and import that") from None
    except OSError as error:
        if magic_is_zstd(path):
            raise LabError(f"{path} is broken zstd ({error}); unpack what can be saved and import that") from None
        raise LabError(f"{path} cannot be read: {error.strerror or error}") from None


def magic_is_zstd(path: Path) -> bool:
    """Whether a file begins as zstd does."""
    try:
        with path.open("rb") as raw:
            return raw.read(4) == _ZSTD
    except OSError:
        return False


def _unpacked(path: Path, magic: bytes) -> BinaryIO:
    if magic[:2] == _GZIP:
        return cast(BinaryIO, gzip.open(path, "rb"))
    if magic == _ZSTD:
        return io.BufferedReader(cast(io.RawIOBase, pa.input_stream(str(path), compression="zstd")), 1 << 20)
    return path.open("rb")


def _check_head(path: Path, head: bytes) -> None:
    if not head:
        raise LabError(f"{path} is empty; there is nothing to import")
    if b"\0" in head:
        raise LabError(f"{path} is no text (it holds NUL bytes); give an access log, plain or packed with gzip")


def _what_is_wrong(line: bytes, pattern: re.Pattern[bytes]) -> LineReason:
    """Why a line does not fit the pattern of its format."""
    if not line.strip():
        return LineReason.EMPTY_LINE
    if pattern.match(line):
        return LineReason.TRAILING_TEXT
    shaped = _ANY_TIME.match(line)
    if shaped and not re.fullmatch(_TIME, b"[" + shaped[1] + b"]"):
        return LineReason.BAD_TIME
    return LineReason.CUT_OFF if _OPEN.match(line) else LineReason.WRONG_SHAPE


@lru_cache(maxsize=4096)
def _midnight_s(day: bytes, zone: bytes) -> int | None:
    """Seconds since 1970 of the start of `17/May/2015` in a zone such as `+0530`; None if there is no such day or zone."""
    hours, minutes = int(zone[1:3]), int(zone[3:])
    if hours > 14 or minutes > 59:
        return None
    month = _MONTHS.get(day[3:6])
    try:
        start = datetime(int(day[7:]), month or 0, int(day[:2]), tzinfo=UTC)
    except ValueError:
        return None
    offset_s = hours * 3600 + minutes * 60
    return int(start.timestamp()) + (offset_s if zone[:1] == b"-" else -offset_s)


_MONTHS = {name: number for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
_REQUEST = re.compile(rb"([A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]*) (?=\S)(.+) (HTTP/\d(?:\.\d)?)", re.DOTALL)
_WITHOUT_PROTOCOL = re.compile(
    rb"([A-Za-z]+) (/\S*|[A-Za-z][A-Za-z0-9+.-]*://\S+)"
)  # HTTP/0.9; anything else is a scan
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


def request_of(request: bytes) -> tuple[str, bytes, str] | LineReason:
    """Method, target and protocol of a request line as it was logged."""
    if b"\\" in request:
        request = _unescape(request)
    if request in (b"-", b""):
        return LineReason.NO_REQUEST
    found = _REQUEST.fullmatch(request)
    if found is not None:
        return found[1].decode(), found[2], found[3].decode()
    found = _WITHOUT_PROTOCOL.fullmatch(request)
    return LineReason.BAD_REQUEST if found is None else (found[1].decode(), found[2], "")


def path_of(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a target, without scheme and host."""
    path, _, query = _without_host(target).partition(b"?")
    return path, query


def _without_host(target: bytes) -> bytes:
    """The path and query of a target: a proxy is asked for `http://host/path`."""
    if target[:1] == b"/":
        return target
    absolute = _ABSOLUTE.match(target)
    return target if absolute is None else target[absolute.end() :] or b"/"


_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"v": b"\v", b"f": b"\f", b'"': b'"', b"\\": b"\\"}


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(_unescaped, field)


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if len(code) == 3:
        return bytes.fromhex(code[1:].decode())
    return _LETTERS.get(code, found[0])


def unescaped(field: bytes) -> str:
    """A field as text, "" for the `-` of an absent one."""
    if field == b"-":
        return ""
    return _text(_unescape(field) if b"\\" in field else field)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
