"""Access logs that are JSON, one object per line: nginx with `log_format ... escape=json`, and Caddy's own.

nginx has no names of its own: those of its variables are read, with or without the prefixes people give them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from lab.formats import Format, LineReason, ParsedLine, RejectedLine, host_name, path_of, request_of

_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_EARLIEST_US, _LATEST_US = -62_135_596_800_000_000, 253_402_300_799_000_000


def _reader(read: Callable[[dict[str, Any]], ParsedLine | LineReason]) -> Callable[[bytes], ParsedLine | RejectedLine]:
    def line(raw: bytes) -> ParsedLine | RejectedLine:
        try:
            found = read(_decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError, AttributeError):
            cut = raw[:1] == b"{" and raw.rstrip()[-1:] != b"}"
            return RejectedLine(LineReason.CUT_OFF if cut else LineReason.WRONG_SHAPE)
        return found if isinstance(found, ParsedLine) else RejectedLine(found)

    return line


def _nginx(row: dict[str, Any]) -> ParsedLine | LineReason:
    request = _first(row, "request")
    if request:
        asked = request_of(request.encode())
    else:
        method, target = _first(row, "request_method", "method"), _first(row, "request_uri", "uri", "url")
        asked = (
            (method, target.encode(), _first(row, "server_protocol")) if method and target else LineReason.WRONG_SHAPE
        )
    if isinstance(asked, LineReason):
        return asked
    time_us = _time_us(_first(row, "msec", "time_iso8601", "time", "timestamp", "@timestamp", "ts"))
    user, host = _first(row, "remote_user", "user"), _first(row, "host", "http_host", "server_name")
    return _line(time_us, _first(row, "remote_addr", "client_ip", "ip"), user, asked, _first(row, "status"),
                 _first(row, "body_bytes_sent", "bytes_sent", "size"), _first(row, "http_referer", "referer", "referrer"),
                 _first(row, "http_user_agent", "user_agent"), host)  # fmt: skip


def _caddy(row: dict[str, Any]) -> ParsedLine | LineReason:
    request = row.get("request")
    if not isinstance(request, dict):
        return LineReason.WRONG_SHAPE
    method, target, protocol = _text(request.get("method")), _text(request.get("uri")), _text(request.get("proto"))
    if not method or not target:
        return LineReason.BAD_REQUEST
    headers = {name.lower(): value for name, value in (request.get("headers") or {}).items()}
    said = {name: _text(headers[name][0]) if headers.get(name) else "" for name in ("referer", "user-agent")}
    address = _text(request.get("client_ip")) or _text(request.get("remote_ip"))
    return _line(_time_us(_text(row.get("ts"))), address, _text(row.get("user_id")), (method, target.encode(), protocol),
                 _text(row.get("status")), _text(row.get("size")), said["referer"], said["user-agent"],
                 _text(request.get("host")))  # fmt: skip


def _line(
    time_us: int | None, address: str, user: str, asked: tuple[str, bytes, str], status: str, size: str, referrer: str,
    agent: str, host: str,
) -> ParsedLine | LineReason:  # fmt: skip
    if time_us is None:
        return LineReason.BAD_TIME
    if not address or not (status or "0").isdecimal() or int(status or 0) > 999:
        return LineReason.WRONG_SHAPE
    method, target, protocol = asked
    path, query = path_of(target)
    number = int(size) if size.isdecimal() and len(size) <= 18 else 0
    return ParsedLine(
        time_us, address, _given(user), method, target, path, query, protocol, int(status or 0), number,
        _given(referrer), _given(agent), host_name(host),
    )  # fmt: skip


def _given(text: str) -> str:
    return "" if text == "-" else text


def _first(row: dict[str, Any], *names: str) -> str:
    return next((text for name in names if (text := _text(row.get(name)))), "")


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, (dict, list, bool)) else str(value)


def _time_us(text: str) -> int | None:
    """Seconds since 1970 with a fraction, or ISO 8601 with a zone; None if it is neither."""
    try:
        found = int(Decimal(text) * 1_000_000)
    except (InvalidOperation, ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            return None
        found = round(moment.timestamp() * 1_000_000)
    return found if _EARLIEST_US <= found <= _LATEST_US else None


JSON_FORMATS = {
    "nginx_json": Format(
        "nginx_json",
        '{"time_iso8601":"2026-03-02T10:05:03+00:00","remote_addr":"192.0.2.7","request":"GET /a?b=c HTTP/1.1",'
        '"status":"200","body_bytes_sent":"512","http_referer":"http://x.example/","http_user_agent":"Mozilla/5.0"}',
        read=_reader(_nginx),
    ),
    "caddy_json": Format(
        "caddy_json",
        '{"ts":1772445903.25,"request":{"client_ip":"192.0.2.7","proto":"HTTP/2.0","method":"GET","host":"shop.example",'
        '"uri":"/a?b=c","headers":{"User-Agent":["Mozilla/5.0"],"Referer":["http://x.example/"]}},"size":512,"status":200}',
        read=_reader(_caddy),
    ),
}
