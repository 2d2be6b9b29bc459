"""The body of `POST /e/batch`: newline-delimited JSON, a hit per line.

A line is logged like a request of its own that brought the line as its JSON body; the query of the request goes with every
line, so `client` may stand there once. Empty lines are no lines. A body that is over a bound, broken or cut off by
the sender is one hit, refused as a whole: none of its lines counts.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import msgspec

from service.engine.model import Hit, Reason
from service.engine.parse import MAX_BODY_BYTES
from service.intake.capture import BODY_CUT, DISCONNECTED
from service.intake.ids import new_hit_id

MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_LINES = 1000

_GZIP = 16 + zlib.MAX_WBITS


class BadBatchError(Exception):
    """A batch that is refused as a whole."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason.value
        self.detail = detail

    def whole(self, request: Hit) -> Hit:
        """The request as one hit that is refused, with what a hit keeps of its body."""
        cut = (BODY_CUT,) if len(request.body) > MAX_BODY_BYTES and BODY_CUT not in request.flags else ()
        body = request.body[:MAX_BODY_BYTES]
        return msgspec.structs.replace(request, body=body, refusal=self.reason, flags=(*request.flags, *cut))


def lines_of(body: bytes, request: Hit, encoding: bytes) -> tuple[bytes, list[bytes]]:
    """The body unpacked, and its lines. request: the whole request as a hit. Raises BadBatchError."""
    if request.refusal:
        what = "the sender went away in the middle" if DISCONNECTED in request.flags else "refused"
        raise BadBatchError(Reason(request.refusal), what)
    if BODY_CUT in request.flags:
        raise _too_long(f"the body has more than {MAX_BATCH_BYTES} bytes")
    plain = _unpacked(body, encoding.strip().lower())
    lines = [line for line in map(bytes.strip, plain.split(b"\n")) if line]
    if not lines:
        raise BadBatchError(Reason.INVALID_BODY, "the batch has no line; send a JSON object per line")
    if len(lines) > MAX_BATCH_LINES:
        raise _too_long(f"the batch has {len(lines)} lines, at most {MAX_BATCH_LINES} are taken")
    if len(lines) * len(request.query) > MAX_BATCH_BYTES:
        raise _too_long(f"the query goes with each of {len(lines)} lines and is too long for that")
    return plain, lines


def hits_of(lines: list[bytes], request: Hit) -> Iterator[Hit]:
    """A hit per line, in their order."""
    for line in lines:
        flags = (*request.flags, BODY_CUT) if len(line) > MAX_BODY_BYTES else request.flags
        yield Hit(
            new_hit_id(request.received_at_us), request.received_at_us, request.route, request.method, request.path,
            request.query, line[:MAX_BODY_BYTES], "application/json", request.address, request.user_agent,
            request.referrer, "", flags,
        )  # fmt: skip


def _too_long(detail: str) -> BadBatchError:
    return BadBatchError(Reason.BATCH_TOO_LONG, detail)


def _unpacked(body: bytes, encoding: bytes) -> bytes:
    """The body without its content encoding, never more than the bound."""
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip"):
        shown = encoding[:40].decode("latin-1")
        raise BadBatchError(Reason.INVALID_BODY, f"the content-encoding {shown!r} is not read; send gzip or none")
    unpacker = zlib.decompressobj(_GZIP)
    try:
        plain = unpacker.decompress(body, MAX_BATCH_BYTES + 1)
    except zlib.error as error:
        raise BadBatchError(Reason.INVALID_BODY, f"the body is no gzip: {error}") from None
    if len(plain) > MAX_BATCH_BYTES:
        raise _too_long(f"the body unpacks to more than {MAX_BATCH_BYTES} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise BadBatchError(Reason.INVALID_BODY, "the body is cut, or more than one gzip stream")
    return plain
