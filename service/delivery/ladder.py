"""What an answer means and when the next try is: rules as data.

Source of the ladder: Standard Webhooks. Success is 2xx; a redirect is a failure; 408, 425, 429, 5xx and everything that
goes wrong on the network is tried again; every other answer is final.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from service.engine.rulebook import MAIL

LADDER_S = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.2
RETRY_AFTER_MAX_S = 86_400
RETRIED_STATUS = frozenset({408, 425, 429})

DELIVERED, RETRY, FINAL, WAITS = "delivered", "retry", "final", "waits"

# result classes of an attempt: what is done next
RESULTS = {
    "delivered": DELIVERED,
    "redirect": FINAL,  # never followed: it could lead to an address that nobody checked
    "refused": FINAL,  # 4xx but the ones above
    "gone": FINAL,  # 410
    "busy": RETRY,  # 408, 425, 429
    "server_error": RETRY,  # 5xx and what is no status of HTTP
    "timeout": RETRY,
    "connection": RETRY,  # refused, reset, broken off
    "tls": RETRY,  # certificates get renewed
    "name": RETRY,  # the name does not resolve
    "address": FINAL,  # the guard refused the address
    "no_secret": RETRY,  # the variable that holds the recipient's secret is not set
    "mail_server": RETRY,  # the operator's own: not there, TLS or login failed, or it broke off
    "unknown": RETRY,  # the delivering process died before it could tell
    "handed_out": WAITS,  # a browser was given it: a redirect is the end, a script confirms what ran
    "script_error": FINAL,  # the snippet ran into an error in the browser
    "expired": FINAL,  # no browser came for it, or none confirmed it, in time
}

# what a result says about its recipient: it is well, it fails, or it wants nothing more; the others say nothing
CLASSES_OF_HEALTH = {
    "delivered": "ok", "redirect": "ok", "refused": "ok", "gone": "gone", "server_error": "failed", "timeout": "failed",
    "connection": "failed", "tls": "failed", "name": "failed",
}  # fmt: skip


def health_of(verb: str, result: str) -> str:
    """What a try says about its recipient, "" for nothing. A mail goes to a server of ours, whatever theirs does."""
    return "" if verb == MAIL else CLASSES_OF_HEALTH.get(result, "")


def classify(status: int) -> str:
    """The result class of an answer."""
    if 200 <= status < 300:
        return "delivered"
    if 300 <= status < 400:
        return "redirect"
    if status == 410:
        return "gone"
    if status in RETRIED_STATUS:
        return "busy"
    return "refused" if 400 <= status < 500 else "server_error"


def next_due_us(tries: int, now_us: int, retry_after_s: int | None = None) -> int:
    """When to try again after `tries` tries, 0 if that was the last. At least as late as the recipient asked for."""
    if tries >= len(LADDER_S):
        return 0
    wait_s = LADDER_S[tries] * random.uniform(1 - JITTER, 1 + JITTER)
    if retry_after_s is not None:
        wait_s = max(wait_s, min(retry_after_s, RETRY_AFTER_MAX_S))
    return now_us + int(wait_s * 1_000_000)


def retry_after_s(value: str | None, now_us: int) -> int | None:
    """Seconds asked for by a `Retry-After` in either form of RFC 9110, None if there is none that can be read."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return int(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, int((moment - datetime.fromtimestamp(now_us / 1e6, UTC)).total_seconds()))
