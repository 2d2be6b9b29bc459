"""The answers to pages: a page's hit waits briefly for its outcome, and is given what waits for its visitor.

Tracking says on a channel which hits of browsers it has decided. Whoever does not hear it in time is answered without it;
what came too late is given out with the visitor's next hit.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import quote

import redis.asyncio as aioredis

from service import keys
from service.delivery.browser import PIXEL, HandOuts, script_of
from service.engine.model import Event
from service.engine.parse import BROWSER_ROUTES, SIGNED
from service.engine.partition import partition_of
from service.engine.rulebook import Rulebook
from service.intake.answers import ADDRESS, Answer
from service.intake.examine import Found
from service.settings import Settings

log = logging.getLogger("backtrack.intake")

ID_BYTES = 32
AGAIN_S = 0.5  # after the channel was lost
LISTEN_S = 5.0

Waiting = asyncio.Future[None]


class Pages:
    """Answers pages. connection: of the journal."""

    def __init__(self, settings: Settings, connection: aioredis.Redis) -> None:
        self._wait_s = settings.browser_wait_ms / 1000
        self._places = keys.partitions(settings.partitions)
        self._redis = connection
        self.hand_outs = HandOuts(connection, self._places)
        self._waiting: dict[str, Waiting] = {}

    def expect(self, found: Found, rulebook: Rulebook) -> Waiting | None:
        """To be called before the hit is stored: what is told of its outcome, None if nothing can wait for its page."""
        hit, event, _ = found
        if hit.route not in BROWSER_ROUTES or not isinstance(event, Event) or event.client not in rulebook.in_browsers:
            return None
        if event.test or not (SIGNED in hit.flags or "tag_id" in event.fields):
            return None
        waiting = self._waiting[hit.id] = asyncio.get_running_loop().create_future()
        return waiting

    def forget(self, hit_id: str) -> None:
        """Nobody waits for this hit any more."""
        self._waiting.pop(hit_id, None)

    async def answer(self, found: Found, waiting: Waiting, plain: Answer) -> Answer:
        """The plain answer, or one with what waits for the visitor. Takes little longer than the wait that is set."""
        hit, event, _ = found
        try:
            await asyncio.wait([waiting], timeout=self._wait_s)
            async with asyncio.timeout(self._wait_s + 1):
                return await self._given(hit.route, event, SIGNED in hit.flags, plain)
        except Exception as error:  # the hit is stored and must be answered, whatever happens here
            log.warning("nothing was handed out to hit %s: %s %s", hit.id, type(error).__name__, error)
            return plain
        finally:
            self.forget(hit.id)

    async def _given(self, route: str, event: Any, signed: bool, plain: Answer) -> Answer:
        place = self._places[partition_of(event.client, len(self._places))]
        visitor = await self.hand_outs.visitor(place, event.client, event.fields, signed)
        if not visitor:
            return plain
        if route == "e.js":
            handed = await self.hand_outs.take(place, visitor)
            return Answer(plain.status, plain.headers, script_of(handed).encode()) if handed else plain
        handed = await self.hand_outs.take(place, visitor, PIXEL)
        if not handed:
            return plain
        location = quote(handed[0].postback.url, safe=ADDRESS).encode()
        return Answer(302, [*plain.headers, (b"location", location)], plain.body)

    async def listen(self) -> None:
        """Hear which hits were decided, for ever."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(keys.DECIDED)
                    while True:
                        self._tell(await channel.get_message(timeout=LISTEN_S))
            except Exception as error:
                log.debug("the channel of decisions is lost: %s", error)
                await asyncio.sleep(AGAIN_S)

    def _tell(self, message: Any) -> None:
        data: bytes = message["data"] if message else b""
        for at in range(0, len(data), ID_BYTES):
            waiting = self._waiting.get(data[at : at + ID_BYTES].decode())
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
