"""How recipients are doing: runs of failures pause one, probes reopen it. All workers share it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import redis.asyncio as aioredis

from service import keys
from service.archive.schemas import Attempt
from service.delivery.email import MAILTO
from service.delivery.ladder import health_of
from service.engine.escaping import encode_text
from service.engine.model import Postback, PostbackState
from service.engine.rulebook import MAIL
from service.scripts import script_text
from service.settings import Settings

log = logging.getLogger("backtrack.delivery")

LONGEST_PROBE_US = 3_600_000_000
_encode = msgspec.msgpack.Encoder().encode


class Health:
    """What is known of the recipients; `look` renews it."""

    def __init__(self, connection: aioredis.Redis, settings: Settings) -> None:
        self._redis = connection
        self._settings = settings
        self._health = connection.register_script(script_text("delivery/health"))
        self._probe = connection.register_script(script_text("delivery/probe"))
        self._permits = connection.register_script(script_text("delivery/permits"))
        self.paused: frozenset[str] = frozenset()
        self.waiting: frozenset[str] = frozenset()  # recipients with somebody in their room
        self.to_probe: tuple[str, ...] = ()
        self._failing: frozenset[str] = frozenset()

    async def look(self, now_us: int) -> None:
        """Who is paused, who fails, for whom something waits, whose next probe is due; in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hkeys(keys.PAUSED)
        pipeline.hkeys(keys.FAILING)
        pipeline.smembers(keys.ROOMS)
        pipeline.zrangebyscore(keys.PROBES, "-inf", now_us)
        paused, failing, waiting, to_probe = await pipeline.execute()
        self.paused, self._failing = _names(paused), _names(failing)
        self.waiting = _names(waiting)
        self.to_probe = tuple(sorted(_names(to_probe) & self.waiting))

    async def may_probe(self, recipient: str, lease_us: int) -> bool:
        """Whether this courier is the one to try a paused recipient now."""
        return bool(await self._probe(keys=[keys.PROBES, keys.PAUSED], args=[recipient, lease_us]))

    async def permits(self, recipient: str, apart_us: int, wanted: int) -> int:
        """How many calls the recipient's rate allows now."""
        return int(await self._permits(keys=[keys.RATES], args=[recipient, apart_us, wanted])) if wanted else 0

    async def note(self, attempts: Sequence[Attempt], now_us: int) -> list[str]:
        """Draw the conclusions of some tries. Returns the recipients that were paused or reopened by them."""
        pipeline = self._redis.pipeline(transaction=False)
        noted: list[Attempt] = []
        for attempt in attempts:
            what = health_of(attempt.verb, attempt.result)
            bad_before = attempt.recipient in self._failing or attempt.recipient in self.paused
            if what and (what != "ok" or bad_before) and attempt.recipient != keys.OPERATOR_NAME:
                noted.append(attempt)
                await self._note(attempt, what, now_us, pipeline)
        if not noted:
            return []
        self._failing |= {attempt.recipient for attempt in noted}  # until the next look
        changed = []
        for attempt, said in zip(noted, await pipeline.execute(), strict=True):
            if said:
                changed.append(attempt.recipient)
                one = {attempt.recipient}
                self.paused = self.paused | one if said == b"paused" else self.paused - one
                log.warning("%s is %s: %s", attempt.recipient, said.decode(), _reason(attempt))
        return changed

    async def _note(self, attempt: Attempt, what: str, now_us: int, client: Any) -> None:
        settings = self._settings
        notices = [
            part for kind in ("paused", "reopened") for part in (*self._notices(kind, attempt, now_us), "/")
        ]  # fmt: skip
        args = [
            attempt.recipient, what, settings.pause_failures, settings.pause_ms * 1000, settings.probe_ms * 1000,
            LONGEST_PROBE_US, _reason(attempt), *notices,
        ]  # fmt: skip
        place = keys.OPERATOR
        names = [keys.FAILING, keys.FAILING_SINCE, keys.PAUSED, keys.PROBES, place.promises, place.due]
        await self._health(keys=names, args=args, client=client)

    def _notices(self, kind: str, attempt: Attempt, now_us: int) -> list[Any]:
        """Postbacks to the operator as id and postback, one for each way in which the operator wants to be told."""
        document = {"type": f"recipient.{kind}", "recipient": attempt.recipient, "reason": _reason(attempt),
                    "postback_id": attempt.postback_id, "time_us": now_us}  # fmt: skip
        webhook, email = self._settings.operator_webhook, self._settings.operator_email
        found: list[Any] = []
        if webhook:
            found += _notice(document, "webhook", "POST", webhook, msgspec.json.encode(document).decode())
        if email:
            found += _notice(document, "email", MAIL, MAILTO + quote(email, safe="@"), _mail(document))
        return found


def _notice(document: dict[str, Any], method: str, verb: str, url: str, body: str) -> list[Any]:
    """A notice as its id and postback. Each way to tell has an id of its own."""
    identity = hashlib.sha256(f"{method}\x1f{body}".encode()).hexdigest()[:32]
    notice = Postback(
        identity, "", 0, document["time_us"], "", "", "", document["type"], keys.OPERATOR_NAME, method,
        PostbackState.DUE.value, verb, url, body,
    )  # fmt: skip
    return [identity, _encode(notice)]


def _mail(document: dict[str, Any]) -> str:
    """The same as a mail: one line for each thing that is said. What a recipient answered cannot add one."""
    what = "is paused" if document["type"] == "recipient.paused" else "is called again"
    lines = [f"{name}: {encode_text(str(value))}\n" for name, value in document.items()]
    return msgspec.json.encode({"subject": f"{document['recipient']} {what}", "text": "".join(lines)}).decode()


def _reason(attempt: Attempt) -> str:
    return f"{attempt.result} {attempt.status or ''} {attempt.error}".replace("  ", " ").strip()[:300]


def _names(found: Any) -> frozenset[str]:
    return frozenset(name.decode() for name in found)
