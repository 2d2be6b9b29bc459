"""From a request of a foreign log to the hit that the same visitor would have sent to the intake.

What is made up is made up visibly: the query carries the reserved names that an intake request would have, `path`,
`status`, `method`, `referrer_host` and (of a virtual host) `host` as custom parameters, and behind them the request's own
parameters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote_plus, unquote_to_bytes

import re2

from lab.formats import ParsedLine
from lab.log import LabError
from service.engine import Hit
from service.engine.model import RESERVED
from service.engine.parse import EVENT_NAME, MAX_VALUE

MADE_UP = ("path", "status", "method", "referrer_host", "host")
_TAKEN = frozenset((*RESERVED, *MADE_UP))

Events = Mapping[str, str] | Iterable[tuple[str, str]]


class Naming:
    """Which event a request is. Own rules first, in their order, on requests that succeeded; then the built-in ones.

    events: event name and pattern (RE2, searched in the decoded path); a pattern may begin with a method and a blank, as
    in `POST ^/login$`. Raises LabError for a name that is no event name and for a pattern that is not RE2.

    Built in: `error` (status 400 and up), `submit` (POST, PUT, PATCH, DELETE), then of GET and HEAD `feed`, `robots`,
    `asset`, `download`, else `pageview`; `other` for the rest.
    """

    def __init__(self, events: Events | None = None) -> None:
        pairs = events.items() if isinstance(events, Mapping) else events or ()
        self._rules = [_rule(name, pattern) for name, pattern in pairs]

    def event_of(self, line: ParsedLine, path: str) -> str:
        """The event of a request; path: as `text_of` reads it."""
        return self.event_named(path, line.method, line.status, _FEED_QUERY.search(line.query) is not None)

    @property
    def own(self) -> bool:
        """Whether there are own rules."""
        return bool(self._rules)

    def event_named(self, path: str, asked: str, status: int, feed: bool) -> str:
        """The event of a request. asked: its method; feed: whether the query asks for one."""
        if status >= 400:
            return "error"
        for name, method, pattern in self._rules:
            if method in ("", asked) and pattern.search(path):
                return name
        if asked in ("POST", "PUT", "PATCH", "DELETE"):
            return "submit"
        if asked not in ("GET", "HEAD") or status < 200:
            return "other"
        if feed:
            return "feed"
        return next((name for name, pattern in _BUILT_IN if pattern.search(path)), "pageview")


_FEED_QUERY = re.compile(rb"(?:^|&)(?:flav|feed|format|type)=(?:rss|atom)", re.IGNORECASE)
_BUILT_IN = (
    ("feed", re.compile(r"(?:/|\.)(?:rss|atom|rdf|feed)(?:\.xml)?/?$", re.IGNORECASE)),
    ("robots", re.compile(r"^/(?:robots|ads|humans)\.txt$|^/sitemap[^/]*\.xml|^/\.well-known/", re.IGNORECASE)),
    ("asset", re.compile(r"\.(?:css|m?js|map|png|jpe?g|gif|ico|svg|webp|avif|bmp|woff2?|ttf|otf|eot)$", re.IGNORECASE)),
    ("download", re.compile(
        r"\.(?:pdf|zip|gz|tgz|bz2|xz|zst|tar|7z|rar|jar|war|exe|msi|dmg|deb|rpm|apk|iso|img|bin|docx?|xlsx?|pptx?|odt|csv"
        r"|mp3|mp4|ogg|webm|avi|mov|swf)$", re.IGNORECASE)),
)  # fmt: skip
_WITH_METHOD = re.compile(r"([A-Z]+) +(.+)", re.DOTALL)


def _rule(name: str, pattern: str) -> tuple[str, str, re.Pattern[str]]:
    if not EVENT_NAME.match(name):
        raise LabError(f"event {name!r} is no event name; use 1 to 64 of A-Z a-z 0-9 _ . : / -")
    named = _WITH_METHOD.fullmatch(pattern)
    method, pattern = (named[1], named[2]) if named else ("", pattern)
    options = re2.Options()
    options.log_errors = False
    try:
        return name, method, re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise LabError(f"event {name}: {pattern!r} is no regular expression of RE2: {reason}") from None


def hit_of(line: ParsedLine, hit_id: str, client: str, naming: Naming) -> Hit:
    """The hit of a parsed line, of route "import"; its path is the requested one, its query that of an intake request."""
    path = text_of(line.path)
    made_up = {
        "client": client,
        "event": naming.event_of(line, path),
        "tag_id": visitor_tag(line.address, line.user_agent),
        "path": path[:MAX_VALUE],
        "status": str(line.status),
        "method": line.method,
    }
    host = host_of(line.referrer)
    if host:
        made_up["referrer_host"] = host[:MAX_VALUE]
    if line.host:
        made_up["host"] = line.host[:MAX_VALUE]
    query = "&".join(f"{name}={quote_plus(value, safe='/')}" for name, value in made_up.items()).encode()
    if line.query:
        query += b"&" + own_query(line.query)
    return Hit(
        hit_id, line.time_us, "import", line.method, line.path, query,
        address=line.address, user_agent=line.user_agent, referrer=line.referrer,
    )  # fmt: skip


def visitor_tag(address: str, user_agent: str) -> str:
    """The tag id of a request that carries none: a hash of address and user agent.

    An approximation: people behind one address with the same browser become one visitor, and somebody whose address
    changes becomes two.
    """
    return hashlib.sha256(f"{address}\n{user_agent}".encode()).hexdigest()[:32]


def own_query(query: bytes) -> bytes:
    """A request's own query so that every hit can be decoded and no made-up name is overwritten.

    A name that is taken gets `q_` in front (so does `q_...` of a taken name: nothing collides). Bytes that are no UTF-8
    become the text `%E9`.
    """
    parts = []
    for part in query.split(b"&"):
        if not part:
            continue
        name, equals, value = part.partition(b"=")
        parts.append(_own_name(name) + equals + _decodable(value))
    return b"&".join(parts)


def own_name(name: str) -> str:
    """The name under which a request's own parameter comes in."""
    return _own_name(name.encode()).decode()


def _own_name(name: bytes) -> bytes:
    plain = text_of(name.replace(b"+", b" "))
    bare = plain
    while bare.startswith("q_"):
        bare = bare[2:]
    return (b"q_" if bare in _TAKEN else b"") + _decodable(name)


def _decodable(data: bytes) -> bytes:
    if data.isascii() and b"%" not in data:
        return data
    plain = unquote_to_bytes(data.replace(b"+", b" "))
    try:
        plain.decode()
    except UnicodeDecodeError:
        return quote_plus(_percent_text(plain)).encode()
    return data


def text_of(data: bytes) -> str:
    """Percent-encoded bytes as text; bytes that are no UTF-8 stay as `%E9`."""
    return _percent_text(unquote_to_bytes(data))


_LONE = re.compile("[\udc80-\udcff]")


def _percent_text(data: bytes) -> str:
    text = data.decode(errors="surrogateescape")
    return text if text.isascii() else _LONE.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text)


_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[0-9A-Fa-f:.]+\]|[^/?#:\s]*)")


def host_of(referrer: str) -> str:
    """The host of a referrer in lower case, without user and port; "" if it names none."""
    found = _HOST.match(referrer)
    return found[1].lower() if found else ""
