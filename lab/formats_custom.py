r"""A format string in GoAccess's mini language, for access logs of any other form: `%h %^[%d:%t %^] "%r" %s %b "%R" "%u"`.

| specifier | meaning |
|---|---|
| `%d`, `%t`, `%x` | date, time, or both in one: see below |
| `%h`, `%v`, `%e` | address, virtual host, user |
| `%r`, `%m`, `%U`, `%q`, `%H` | request line; or method, path (with or without query), query, protocol |
| `%s`, `%b`, `%R`, `%u` | status, size, referrer, user agent |
| `%^` | anything, passed over |
| `%%` | a percent sign |

A date is `17/May/2015` or `2015-05-17`, a time `10:05:03` with an optional fraction, `%x` seconds since 1970, ISO 8601, or
`17/May/2015:10:05:03 +0200`. A date and time without a zone are UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from lab.defects import time_of
from lab.formats import Format, LineReason, ParsedLine, RejectedLine, host_name, path_of, request_of, unescaped
from lab.log import LabError

_KNOWN = "dtxhvermUqHsbRu"
_FIELD = re.compile(r"%(.)")


_ANY_TIME = rb"[0-9A-Za-z/:.,-]+(?: [0-9][0-9:.]+)?(?: ?[+-][0-9]{2}:?[0-9]{2})?"


def custom_format(text: str) -> Format:
    """The format of a format string. Raises LabError that names what is wrong with it."""
    names = [found[1] for found in _FIELD.finditer(text)]
    for name in names:
        if name not in f"{_KNOWN}^%":
            raise LabError(
                f"format {text!r}: there is no %{name}; there are {', '.join('%' + one for one in _KNOWN)}, %^"
            )
        if name in _KNOWN and names.count(name) > 1:
            raise LabError(f"format {text!r}: %{name} stands there twice")
    if not ("x" in names or {"d", "t"} <= set(names)):
        raise LabError(f"format {text!r} has no time: add %x, or %d and %t")
    if "h" not in names or not ("r" in names or {"m", "U"} <= set(names)):
        raise LabError(f"format {text!r} needs the address %h and the request: %r, or %m and %U")
    pattern = re.compile(_pattern(text), re.DOTALL)
    return Format(text, text, read=_reader(pattern))


def _pattern(text: str) -> bytes:
    parts, last = [], 0
    for found in _FIELD.finditer(text):
        parts.append(re.escape(text[last : found.start()].encode()))
        quoted = text[found.start() - 1 : found.start()] == '"' and text[found.end() : found.end() + 1] == '"'
        parts.append(_field(found[1], quoted))
        last = found.end()
    return b"".join(parts) + re.escape(text[last:].encode())


def _field(name: str, quoted: bool) -> bytes:
    if name == "%":
        return b"%"
    inner = rb'[^"\\]*+(?:\\.[^"\\]*+)*+' if quoted else {"r": b".+?", "u": b".*?", "x": _ANY_TIME}.get(name, rb"\S*?")
    return inner.replace(rb"\S*?", b".*?") if name == "^" else b"(?P<" + name.encode() + b">" + inner + b")"


def _reader(pattern: re.Pattern[bytes]) -> Callable[[bytes], ParsedLine | RejectedLine]:
    def read(line: bytes) -> ParsedLine | RejectedLine:
        found = pattern.fullmatch(line)
        if found is None:
            return RejectedLine(LineReason.WRONG_SHAPE)
        fields = {name: value for name, value in found.groupdict().items() if value is not None}
        parsed = _line(fields)
        return RejectedLine(parsed) if isinstance(parsed, LineReason) else parsed

    return read


def _line(fields: dict[str, bytes]) -> ParsedLine | LineReason:
    text = {name: unescaped(value) for name, value in fields.items() if name not in "rmUqH"}
    time_us = _time_us(text)
    if time_us is None:
        return LineReason.BAD_TIME
    if "r" in fields:
        asked = request_of(fields["r"])
    else:
        query = b"?" + fields["q"].removeprefix(b"?") if fields.get("q") not in (None, b"", b"-") else b""
        asked = fields["m"].decode(errors="replace"), fields["U"] + query, fields.get("H", b"").decode(errors="replace")
    if isinstance(asked, LineReason):
        return asked
    status, size = text.get("s", ""), text.get("b", "")
    if not text["h"] or (status and not (status.isdecimal() and len(status) == 3)):
        return LineReason.WRONG_SHAPE
    method, target, protocol = asked
    return ParsedLine(
        time_us, text["h"], text.get("e", ""), method, target, *path_of(target), protocol, int(status or 0),
        int(size) if size.isdecimal() and len(size) <= 18 else 0, text.get("R", ""), text.get("u", ""),
        host_name(text.get("v", "")),
    )  # fmt: skip


def _time_us(text: dict[str, str]) -> int | None:
    said = text["x"] if "x" in text else f"{text['d']} {text['t']}"
    for form in ("%d/%b/%Y:%H:%M:%S %z", "%d/%b/%Y %H:%M:%S", "%d/%b/%Y %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f"):
        try:
            moment = datetime.strptime(said.strip("[]"), form)  # noqa: DTZ007 -- UTC below where it names no zone
            break
        except ValueError:
            continue
    else:
        found = time_of(said) if not re.fullmatch(r"[0-9]{10}\.[0-9]{1,6}", said) else None
        if found is None and re.fullmatch(r"[0-9]{10}\.[0-9]{1,6}", said):
            seconds, _, fraction = said.partition(".")
            return int(seconds) * 1_000_000 + int(fraction.ljust(6, "0"))
        if not isinstance(found, datetime):
            return None
        moment = found
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)
