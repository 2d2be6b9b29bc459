"""Postbacks that the visitor's own browser delivers: handed out with the answer to a hit, confirmed by what ran."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
import redis.asyncio as aioredis

from service.archive.schemas import Attempt
from service.delivery.record import Answer, Owner, Request
from service.engine.escaping import encode_js
from service.engine.model import Postback
from service.engine.visitors import Visitor, identifier_keys, space
from service.keys import Partition
from service.scripts import script_text

AT_ONCE = 8  # snippets in one answer
AGAIN_US = 60_000_000  # a hand-out that nobody has confirmed for so long is made again
PIXEL = "pixel"

_encode = msgspec.msgpack.Encoder().encode
_postback = msgspec.msgpack.Decoder(Postback).decode
_visitor = msgspec.msgpack.Decoder(Visitor).decode

# What runs a snippet: once in a tab, and then it is confirmed. The snippets see nothing of it.
RUNNER = """(function (all) {
  var origin = new URL(document.currentScript.src).origin;
  all.forEach(function (one) {
    var seen = '', wrong = '', key = 'backtrack ran ' + one[0];
    try { seen = sessionStorage.getItem(key); sessionStorage.setItem(key, 1) } catch (off) {}
    try { if (!seen) one[2]() } catch (error) { wrong = '&error=' + encodeURIComponent(String(error).slice(0, 200)) }
    var told = origin + '/confirm?' + one[1] + wrong;
    if (!navigator.sendBeacon || !navigator.sendBeacon(told)) new Image().src = told;
  });
})(["""


def _now_us() -> int:
    return time.time_ns() // 1000


class Handed(msgspec.Struct, frozen=True):
    """A postback that is on its way to a browser. number: of the try. token: whoever knows it was handed the postback."""

    place: Partition
    postback: Postback
    number: int
    token: str


class Expired:
    """The method of the courier for what no browser has come for in time."""

    async def deliver(self, postback: Postback, owner: Owner, now_us: int) -> tuple[Request, Answer]:
        """Nothing is sent any more."""
        return Request(postback.verb, postback.url, {}, postback.body), Answer(
            "expired", error="the visitor's browser did not come, or did not confirm, in time"
        )

    async def close(self) -> None:
        """There is nothing to let go of."""


class HandOuts:
    """What waits for browsers, in the journal's Redis. now_us: the clock."""

    def __init__(
        self, connection: aioredis.Redis, places: Sequence[Partition], now_us: Callable[[], int] = _now_us
    ) -> None:
        self._now_us = now_us
        self._redis = connection
        self._places = places
        self._take = connection.register_script(script_text("delivery/browser"))
        self._settle = connection.register_script(script_text("delivery/browser_settle"))

    async def visitor(self, place: Partition, client: str, fields: dict[str, str], signed: bool) -> str:
        """The visitor to whom an event's sender may be given something, "" if to nobody.

        With a signature the owner of the strongest identifier, else the owner of the tag id that believes it.
        """
        known = fields if signed else {name: value for name, value in fields.items() if name == "tag_id"}
        owners = identifier_keys(space(client, False), known)
        found: Any = await self._redis.hmget(place.owners, owners) if owners else []
        owner = next((one.decode() for one in found if one is not None), "")
        if not owner or signed:
            return owner
        stored: Any = await self._redis.hget(place.visitors, owner)
        return owner if stored is not None and fields["tag_id"] in _visitor(stored).browsers else ""

    async def take(self, place: Partition, visitor: str, only: str = "") -> list[Handed]:
        """Hand out what waits for a visitor; each is recorded. only: of this method, and one at most."""
        token, now_us = secrets.token_hex(16), self._now_us()
        keys = [place.waiting_of(visitor), place.promises, place.due, place.tries, place.handed]
        args: list[Any] = [now_us, now_us - AGAIN_US, token, 1 if only else AT_ONCE, only]
        found: Any = await self._take(keys=keys, args=args)
        handed = [Handed(place, _postback(found[at + 1]), int(found[at]), token) for at in range(0, len(found), 2)]
        return [one for one in handed if await self._record(one, "handed_out", "handed_out" if only else "due")]

    async def confirm(self, partition: int, identity: str, token: str, error: str) -> bool:
        """A browser says what became of a hand-out. error: of the snippet, "" if it ran. False if nothing is known."""
        if not 0 <= partition < len(self._places):
            return False
        place = self._places[partition]
        stored: Any = await self._redis.hget(place.promises, identity)
        if stored is None:
            return False
        number: Any = await self._redis.hget(place.tries, identity)
        handed = Handed(place, _postback(stored), int(number or 0), token)
        return await self._record(handed, *(("script_error", "failed") if error else ("delivered", "delivered")), error)

    async def _record(self, handed: Handed, result: str, state: str, error: str = "") -> bool:
        place, postback, now_us = handed.place, handed.postback, self._now_us()
        attempt = Attempt(
            postback.id, handed.number, now_us, postback.recipient, postback.verb, postback.url, postback.body, {},
            result, 0, "", error[:200], 0, state,
        )  # fmt: skip
        keys = [
            place.promises, place.due, place.tries, place.head, place.attempts, place.dead, place.ended,
            f"{place.handed}:{postback.id}",
        ]  # fmt: skip
        args: list[Any] = [postback.id, handed.token, now_us, handed.number, state, _encode(attempt)]
        return bool(await self._settle(keys=keys, args=args))


def script_of(handed: Sequence[Handed]) -> str:
    """What a page runs: the snippets and pixels that were handed out, each once and confirmed; "" if there are none."""
    if not handed:
        return ""
    return RUNNER + ",".join(map(_act, handed)) + "]);\n"


def _act(handed: Handed) -> str:
    postback = handed.postback
    query = urlencode({"p": handed.place.number, "id": postback.id, "token": handed.token})
    snippet = f'new Image().src = "{encode_js(postback.url)}"' if postback.method == PIXEL else postback.body
    return f'["{postback.id}", "{query}", function () {{\n{snippet}\n}}]'
