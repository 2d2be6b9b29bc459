"""Requests that no person made: bots by the name they give themselves, and pages that a browser fetches ahead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

# What calls itself a bot, and the previews and checks that do not say the word. `cubot` is a maker of telephones.
_BOTS = re.compile(
    r"(?<!cu)bot\b|crawl|spider|slurp|archiver|facebookexternalhit|facebookcatalog|mediapartners-google|feedfetcher"
    r"|google-inspectiontool|bingpreview|whatsapp/|skypeuripreview|embedly|vkshare|lighthouse|pingdom|gtmetrix",
    re.IGNORECASE,
)
# Sec-Purpose is the standard (Fetch, `prefetch;prerender`); the others are what older browsers send
AHEAD_HEADERS = frozenset({b"sec-purpose", b"purpose", b"x-purpose", b"x-moz"})
_AHEAD = (b"prefetch", b"prerender", b"preview")


@lru_cache(maxsize=8192)
def is_bot(user_agent: str) -> bool:
    """Whether it names itself a bot. Who hides is not found by this."""
    return _BOTS.search(user_agent) is not None


def is_ahead(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the browser fetches what nobody has visited yet."""
    return any(headers[name].strip().lower().startswith(_AHEAD) for name in AHEAD_HEADERS & headers.keys())
