"""Seeded traffic: visitors who come through affiliates of different quality, and everything that goes wrong beside them.

The same rulebook, hits, seed, start and days give the same requests on every machine: only `random()` of the seeded
generator is used, and no function of the mathematics library. `world` holds the shares and values, `visits` what visitors
do, `trouble` the broken requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from lab.stories import DAY_US, IN_TRAFFIC, STORIES, Telling
from lab.trouble import break_something
from lab.visits import run_visit, try_out
from lab.world import SHARES, Dice, Draft, World
from service.engine import Hit, Rulebook, load
from service.engine.document import nearest

SAMPLE_START_US = 1_772_409_600_000_000  # 2026-03-02T00:00Z, a Monday
PLACEHOLDER = re.compile(rb"\{id:([0-9]+)\}")

# when visitors arrive: weight of each hour of the day, UTC
HOURS = (3, 2, 1, 1, 1, 2, 3, 5, 6, 7, 7, 7, 8, 7, 6, 6, 7, 8, 10, 12, 13, 11, 8, 5)


class TrafficError(ValueError):
    """Traffic that cannot be made. The message names the value and the remedy."""


class Crowd(Protocol):
    """Who comes, when, and what they do. broken, tests: shares of all hits."""

    broken: float
    tests: float

    def arrival_us(self, dice: Dice, start_us: int, days: int) -> int:
        """When somebody arrives, in microseconds since the start."""

    def visit(self, world: World, at_us: int) -> None:
        """Add what one visitor does from then on."""


class Invented:
    """The crowd that nobody has seen: shares and qualities of `lab.world`, visits of `lab.visits`."""

    broken = SHARES["broken"]
    tests = SHARES["test"]

    def arrival_us(self, dice: Dice, start_us: int, days: int) -> int:
        """Any day, an hour by its weight, any moment of it."""
        day, hour = dice.between(0, days - 1), dice.weighted(range(24), HOURS)
        return (day * 24 + hour) * 3_600_000_000 + dice.between(0, 3_599_999_999)

    def visit(self, world: World, at_us: int) -> None:
        """One visitor's whole story, or a bot's."""
        run_visit(world, at_us)


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request of the traffic, ready to be sent once its placeholders are filled (`fill`).

    offset_us: planned time since the start. target: path and query as the bytes go on the wire, `{id:N}` standing for the
    hit id of request N of the same list (always an earlier one). note: what it is: click, registration, login, sale,
    pageview, image, step, duplicate, test, or broken:REASON. visitor: requests of one visitor go one after the other.
    stories: the planted ones that touched it (`lab.stories`).
    """

    offset_us: int
    method: str
    target: bytes
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = {}
    note: str = ""
    visitor: int = 0
    stories: tuple[str, ...] = ()

    @property
    def refers_to(self) -> tuple[int, ...]:
        """Indices of the earlier requests whose hit id this one needs."""
        return tuple(int(match) for match in PLACEHOLDER.findall(self.target + b" " + self.body))


def generate(
    rulebook: str | Rulebook, hits: int = 5000, seed: int = 7, start_us: int = SAMPLE_START_US, days: int = 1,
    stories: Sequence[str] = (), crowd: Crowd | None = None,
) -> list[Request]:  # fmt: skip
    """Exactly `hits` requests over `days` days, in the order of their offsets.

    rulebook: its text or itself; its clients, affiliates, parameters and aliases shape the traffic. start_us: what the
    requests believe to be the time of offset 0. stories: names in `lab.stories.IN_TRAFFIC`, planted in it. crowd: who
    comes; an invented one if None, a fitted one for `lab.simulate`.
    Raises TrafficError, and RulebookError for a text with problems.
    """
    book = load(rulebook) if isinstance(rulebook, str) else rulebook
    if hits < 1 or days < 1:
        raise TrafficError(f"hits={hits}, days={days}: traffic has at least 1 hit on 1 day")
    if not book.clients:
        raise TrafficError("the rulebook has no client, so there is nothing to visit; add [client.NAME]")
    world = World(book, Dice(seed), start_us)
    tellings = [Telling(STORIES[_known(name)], world, seed, days) for name in stories]
    people = Invented() if crowd is None else crowd
    for _ in range(round(hits * people.tests / 3)):
        try_out(world, people.arrival_us(world.dice, start_us, days))
    for _ in range(round(hits * people.broken)):
        break_something(world, people.arrival_us(world.dice, start_us, days))
    _fill(world, people, hits - sum(round(hits * telling.story.added) for telling in tellings), days, tellings)
    for telling in tellings:
        telling.fill(hits)
    _fill(world, people, hits, days, tellings)
    return _numbered(world.drafts, hits)


def _known(name: str) -> str:
    if name not in IN_TRAFFIC:
        raise TrafficError(f"there is no story {name!r} that traffic can tell{nearest(name, IN_TRAFFIC)}")
    return name


def _fill(world: World, people: Crowd, hits: int, days: int, tellings: Sequence[Telling]) -> None:
    """Visits, until so many requests lie within the days."""
    span_us = days * DAY_US
    inside = sum(draft.offset_us < span_us for draft in world.drafts)
    while inside < hits:
        before = len(world.drafts)
        people.visit(world, people.arrival_us(world.dice, world.start_us, days))
        for telling in tellings:
            telling.visit(range(before, len(world.drafts)))
        inside += sum(draft.offset_us < span_us for draft in world.drafts[before:])


def _numbered(drafts: list[Draft], hits: int) -> list[Request]:
    """Drafts in the order of time; references by order of creation become references by index."""
    order = sorted(range(len(drafts)), key=lambda serial: (drafts[serial].offset_us, serial))[:hits]
    index = {serial: position for position, serial in enumerate(order)}

    def renumber(data: bytes) -> bytes:
        return PLACEHOLDER.sub(lambda match: b"{id:%d}" % index[int(match.group(1))], data)

    return [
        Request(
            draft.offset_us, draft.method, renumber(draft.target), renumber(draft.body), draft.content_type,
            draft.headers, draft.note, draft.visitor, draft.stories,
        )
        for draft in map(drafts.__getitem__, order)
    ]  # fmt: skip


def fill(request: Request, ids: Mapping[int, str] | Sequence[str]) -> tuple[bytes, bytes]:
    """Target and body with the hit ids in place of the placeholders. ids: hit id by index of the request."""

    def put(match: re.Match[bytes]) -> bytes:
        return ids[int(match.group(1))].encode()

    return PLACEHOLDER.sub(put, request.target), PLACEHOLDER.sub(put, request.body)


def to_hit(request: Request, hit_id: str, received_at_us: int, ids: Mapping[int, str] | Sequence[str]) -> Hit:
    """The hit that the intake would log for this request: the way of the lab, without a service."""
    target, body = fill(request, ids)
    path, _, query = target.partition(b"?")
    headers = request.headers
    return Hit(
        hit_id, received_at_us, _route(path), request.method, path, query, body, request.content_type,
        headers.get("x-forwarded-for", ""), headers.get("user-agent", ""), headers.get("referer", ""),
    )  # fmt: skip


def _route(path: bytes) -> str:
    return path.split(b"/")[1].decode()
