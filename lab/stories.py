"""Stories: what can be planted in traffic, by name, so that somebody who looks can find it.

Each story is about somebody, has a time, and changes one thing. Those of the traffic change or add requests and mark each
of them with their name; the others happen later on the road: a rulebook is published, a partner is down or loses what
it got. Days are counted from the start (0 is the first); where there are fewer, a story happens on the last of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

import msgspec

from lab.world import Dice, Draft, World, encode_pairs
from service.engine.rulebook import Client, Rulebook

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


class Window(msgspec.Struct, frozen=True):
    """From a time on until before another, in microseconds since the start."""

    from_us: int
    until_us: int

    def __contains__(self, offset_us: int) -> bool:
        return self.from_us <= offset_us < self.until_us


class Story(msgspec.Struct, frozen=True):
    """One story. what: in a sentence. hours: from and until, since the start of the first day. side: client or affiliate.

    place: whom it is about, counted among the rulebook's clients, or its affiliates with a tracker link. added: requests
    that it adds, as a share of all. change: what it does to the requests of one visit; add: what it adds.
    """

    name: str
    what: str
    hours: tuple[int, int]
    side: str
    place: int
    added: float = 0.0
    change: Callable[[Telling, range], None] | None = None
    add: Callable[[Telling, int], None] | None = None

    def window(self, days: int) -> Window:
        """When it happens in traffic of so many days: as planned, moved forward by whole days where it would not fit."""
        first, last = self.hours
        late_days = max(0, (last - 1) // 24 - (days - 1))
        return Window(max(0, first - 24 * late_days) * HOUR_US, (last - 24 * late_days) * HOUR_US)

    def about(self, rulebook: Rulebook, linked: Sequence[str]) -> str:
        """Whom it is about: `client:NAME` or `affiliate:NAME`. linked: the affiliates with a tracker link."""
        names = list(rulebook.clients) if self.side == "client" else list(linked) or [""]
        return f"{self.side}:{names[self.place % len(names)]}"


class Telling:
    """A story being told in one world. changed: how many requests it has marked."""

    def __init__(self, story: Story, world: World, seed: int, days: int) -> None:
        self.story, self.world = story, world
        self.window = story.window(days)
        self.who = story.about(world.rulebook, world.linked).partition(":")[2]
        self.dice = Dice(f"{seed} {story.name}")  # its own, so that one story more changes nothing in the others
        self.changed = 0

    @property
    def client(self) -> Client:
        """The client that it is about; for an affiliate's story the first one."""
        clients = self.world.rulebook.clients
        return clients[self.who] if self.who in clients else self.world.clients[0]

    def mark(self, draft: Draft) -> None:
        """Note in a request that this story has touched it."""
        draft.stories = (*draft.stories, self.story.name)
        self.changed += 1

    def visit(self, new: range) -> None:
        """Change the requests that a visit has just made."""
        if self.story.change is not None:
            self.story.change(self, new)

    def fill(self, hits: int) -> None:
        """Add the story's own requests. hits: of the whole traffic."""
        if self.story.add is not None:
            self.story.add(self, round(hits * self.story.added))


def _drop_click_ids(telling: Telling, new: range) -> None:
    """Whoever comes through the link in that time is sent on without the click id: nothing later carries it."""
    drafts, path = telling.world.drafts, f"/{quote(telling.who, safe='')}"
    clicks = set()
    for serial in new:
        draft = drafts[serial]
        if draft.note == "click" and _path_ends(draft, path) and draft.offset_us in telling.window:
            clicks.add(b"{id:%d}" % serial)
            telling.mark(draft)
        elif any(click in draft.target or click in draft.body for click in clicks):
            draft.target, draft.body = _without_click_id(draft, telling.world.rulebook)
            telling.mark(draft)


def _path_ends(draft: Draft, name: str) -> bool:
    path = draft.target.partition(b"?")[0]
    return path.startswith(b"/c/") and path.endswith(name.encode())


def _without_click_id(draft: Draft, rulebook: Rulebook) -> tuple[bytes, bytes]:
    own = {
        alias for client in rulebook.clients.values() for alias, name in client.aliases.items() if name == "click_id"
    }
    names = "|".join(re.escape(quote(name, safe="")) for name in ("click_id", *sorted(own))).encode()
    pair = re.compile(rb"(?<![^?&])(?:%s)=[^&]*&?" % names)
    path, mark, query = draft.target.partition(b"?")
    if draft.body.startswith(b"{"):
        kept = re.sub(rb'"(?:%s)":"[^"]*",?' % names, b"", draft.body)
        return draft.target, kept.replace(b",}", b"}")
    return path + mark + pair.sub(b"", query).rstrip(b"&"), pair.sub(b"", draft.body).rstrip(b"&")


def _click_like_a_bot(telling: Telling, count: int) -> None:
    """Clicks in the small hours, as regular as a clock, that look like a browser and never do anything else."""
    world, client = telling.world, telling.client
    pairs = [("sub1", "pop-7")] if "sub1" in client.params else []
    target = f"/c/{quote(client.name, safe='')}/{quote(telling.who, safe='')}?".encode() + encode_pairs(pairs)
    for at_us in _regularly(telling, count):
        world.people += 1
        headers = {"user-agent": _BROWSER, "x-forwarded-for": f"198.51.100.{telling.dice.between(240, 254)}"}
        draft = Draft(at_us, "GET", target.rstrip(b"?"), "click", world.people, headers, client=client.name)
        world.add(draft)
        telling.mark(draft)


def _regularly(telling: Telling, count: int) -> Iterator[int]:
    """So many moments in the nights of the window, at the same distance but for two seconds."""
    nights = range(telling.window.from_us, telling.window.until_us, DAY_US)
    for position, night_us in enumerate(nights):
        share = (position + 1) * count // len(nights) - position * count // len(nights)
        for number in range(share):
            yield night_us + number * _NIGHT_US // share + telling.dice.between(0, 2_000_000)


_NIGHT_US = 4 * HOUR_US
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36"


def _send_again(telling: Telling, count: int) -> None:
    """Each order of that time is sent again and again, every 15 to 25 seconds, so many times in all."""
    world, dice = telling.world, telling.dice
    orders = [draft for draft in world.drafts if _is_order(telling, draft)]
    for position, order in enumerate(orders):
        share = (position + 1) * count // len(orders) - position * count // len(orders)
        at_us = order.offset_us
        for _ in range(share):
            at_us += dice.between(15_000_000, 25_000_000)
            copy = msgspec.structs.replace(order, offset_us=at_us, note="duplicate", stories=())
            world.add(copy)
            telling.mark(copy)


def _is_order(telling: Telling, draft: Draft) -> bool:
    return draft.note == "sale" and draft.client == telling.who and draft.offset_us in telling.window


def _come_late(telling: Telling, new: range) -> None:
    """The client tells of its sales one and a half to three and a half days later, when they are confirmed."""
    drafts = telling.world.drafts
    wait_us = telling.dice.between(36, 84) * HOUR_US + telling.dice.between(0, HOUR_US)
    for serial in new:
        draft = drafts[serial]
        if draft.note in ("sale", "duplicate") and draft.client == telling.who:
            draft.offset_us += wait_us
            telling.mark(draft)


STORIES = {
    story.name: story
    for story in (
        Story(
            "dropped-click-ids", "the affiliate's tracker sends visitors on without the click id",
            (2 * 24 + 8, 4 * 24 + 8), "affiliate", 2, change=_drop_click_ids,
        ),
        Story(
            "bot-clicks", "bots that pass for browsers click at night and do nothing else",
            (24 + 1, 3 * 24 + 5), "affiliate", 1, added=0.045, add=_click_like_a_bot,
        ),
        Story(
            "duplicate-storm", "the client's server sends each order again and again with the same txid",
            (2 * 24 + 11, 2 * 24 + 21), "client", 1, added=0.03, add=_send_again,
        ),
        Story(
            "late-conversions", "the client tells of its sales days later, when they are confirmed",
            (0, 7 * 24), "client", 2, change=_come_late,
        ),
        Story(
            "rule-change", "another rulebook is published in mid-week",
            (3 * 24 + 12, 7 * 24), "client", 0,
        ),
        Story(
            "lost-postbacks", "the partner answers 200 and loses what it got",
            (4 * 24 + 6, 4 * 24 + 18), "affiliate", 0,
        ),
        Story(
            "outage", "the recipient's server answers 503, so its postbacks arrive late",
            (5 * 24 + 17, 5 * 24 + 21), "client", 0,
        ),
    )
}  # fmt: skip
IN_TRAFFIC = tuple(story.name for story in STORIES.values() if story.change or story.add)
