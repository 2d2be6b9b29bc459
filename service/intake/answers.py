"""What the intake answers: one line, JSON if asked for, an image or a redirect, always with the same headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from service.engine.model import Event, Hit, Reason, Rejection
from service.engine.rulebook import Rulebook
from service.engine.templates import encode_url
from service.intake.capture import METHODS

Header = tuple[bytes, bytes]

# the smallest transparent GIF89a: header, 1x1 screen, two colours, graphic control with transparency, one pixel, trailer
GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
TEXT: Header = (b"content-type", b"text/plain; charset=utf-8")
JSON: Header = (b"content-type", b"application/json")
NDJSON: Header = (b"content-type", b"application/x-ndjson")
IMAGE: Header = (b"content-type", b"image/gif")
SCRIPT: Header = (b"content-type", b"text/javascript; charset=utf-8")
# pages of every origin may send events and read what became of them
FOR_PAGES: list[Header] = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"content-type"),
    (b"access-control-expose-headers", b"x-hit-id, x-reason"),
    (b"access-control-max-age", b"86400"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"x-content-type-options", b"nosniff"),
]
NO_STORE: Header = (b"cache-control", b"no-store")
NOT_STORED = "not_stored"
ADDRESS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986, 2.2; what else a raw macro brought is encoded, or no header could carry it


class Answer(msgspec.Struct, frozen=True):
    """Status, headers and body of an answer."""

    status: int
    headers: list[Header]
    body: bytes


def answer(
    hit: Hit, parsed: Event | Rejection, as_json: bool, rulebook: Rulebook, stored: bool, leads: Event | None = None
) -> Answer:
    """The answer to a hit that was (or could not be) stored. leads: a click that is refused and led on all the same."""
    reason = parsed.reason if isinstance(parsed, Rejection) else ""
    headers = [NO_STORE, (b"x-hit-id", hit.id.encode())] if stored else [NO_STORE]
    if not stored:
        headers.append((b"x-reason", NOT_STORED.encode()))
    elif reason:
        headers.append((b"x-reason", reason.encode()))
    click = leads or parsed
    if hit.route == "c" and isinstance(click, Event):
        location = landing(hit, click, rulebook)
        if location:
            return Answer(302, [*headers, TEXT, (b"location", location.encode())], f"{location}\n".encode())
    status = 503 if not stored else 422 if reason else 200
    if stored and reason == Reason.BAD_METHOD:
        status = 405
        headers.append((b"allow", ", ".join(METHODS[hit.route]).encode()))
    if hit.route == "e.gif":
        return Answer(status, [*headers, *FOR_PAGES, IMAGE], GIF)
    if hit.route == "e.js":
        return Answer(status, [*headers, *FOR_PAGES, SCRIPT], b"")
    document = describe(hit, parsed, stored)
    if as_json:
        return Answer(status, [*headers, JSON], msgspec.json.encode(document) + b"\n")
    return Answer(status, [*headers, TEXT], line(document))


def batch_answer(told: Sequence[tuple[Hit, Event | Rejection, bool]], as_json: bool) -> Answer:
    """The answer to a batch: a line per line of it, in its order, the same as each had got alone.

    told: hit, what it says, whether it is stored. If nothing could be stored at all, 503: the sender may come again.
    """
    documents = [describe(hit, parsed, stored) for hit, parsed, stored in told]
    counts = Counter(document["result"] for document in documents)
    headers = [NO_STORE, (b"x-stored", b"%d" % counts["stored"]), (b"x-rejected", b"%d" % counts["rejected"])]
    if counts[NOT_STORED]:
        headers += [(b"x-reason", NOT_STORED.encode()), (b"x-not-stored", b"%d" % counts[NOT_STORED])]
    status = 503 if counts[NOT_STORED] == len(documents) else 200
    if as_json:
        return Answer(status, [*headers, NDJSON], b"".join([msgspec.json.encode(one) + b"\n" for one in documents]))
    return Answer(status, [*headers, TEXT], b"".join(map(line, documents)))


def line(document: dict[str, str]) -> bytes:
    """What happened in one line of text."""
    said = " ".join(value for name, value in document.items() if name != "detail")
    detail = document.get("detail", "")
    return f"{said}{': ' if detail else ''}{detail}\n".encode()


def describe(hit: Hit, parsed: Event | Rejection, stored: bool) -> dict[str, str]:
    """What happened, in the order in which it is said."""
    if not stored:
        return {"result": NOT_STORED, "detail": "hits cannot be stored at the moment; send it again"}
    if isinstance(parsed, Rejection):
        return {"result": "rejected", "id": hit.id, "reason": parsed.reason, "detail": parsed.detail}
    return {"result": "stored", "id": hit.id, "client": parsed.client, "event": parsed.name}


class _Values:
    def __init__(self, event: Event) -> None:
        self._event = event

    def value(self, name: str) -> str | None:
        return self._event.fields.get(name) or self._event.params.get(name.removeprefix("param."))


def landing(hit: Hit, event: Event, rulebook: Rulebook) -> str:
    """Where a tracker link leads: the client's page with the new click id; the link's own parameters are kept.

    "" if the client has no page, or the values led to a host that is not the client's.
    """
    client = rulebook.clients[event.client]
    if client.landing is None:
        return ""
    address = client.landing.render(_Values(event), encode_url).text
    if not may_lead_to(address, client.hosts):
        return ""
    target = urlsplit(address)
    named = {name for name, _ in parse_qsl(target.query, keep_blank_values=True)}
    kept = {name: value for name, value in event.params.items() if name not in named and name != "affiliate_click_id"}
    query = "&".join(part for part in (target.query, urlencode(kept)) if part)
    return quote(urlunsplit(target._replace(query=query)), safe=ADDRESS)


def may_lead_to(address: str, hosts: Sequence[str]) -> bool:
    """Whether a redirect may go there: http or https, one of the hosts, and no user or backslash before it, by which a
    browser could find another host in the same text."""
    try:
        target = urlsplit(address)
        _ = target.port
    except ValueError:  # values that make no address
        return False
    clean = not any(sign in target.netloc for sign in "@\\")
    return clean and target.scheme in ("http", "https") and target.hostname in hosts
