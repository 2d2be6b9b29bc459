"""What waits for browsers, in a real journal: committed with its firing, handed out, confirmed, or expired."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import pytest
import redis
import redis.asyncio as aioredis

from service import keys
from service.archive.schemas import Attempt
from service.delivery.browser import AGAIN_US, Handed, HandOuts, script_of
from service.delivery.courier import Courier
from service.engine import Entry, State, load, process
from service.scripts import Script
from service.settings import Settings
from service.tracking.store import Recording, commit_args, commit_keys
from tests.service.hits import a_hit
from tests.waiting import until

RULES = load("""
[client.acme]
browser = ["amount"]
javascript = "run('{amount}')"
pixel = "https://acme.example/p.gif?{amount}"

[[trigger]]
name = "snippet"
client = "acme"
on = "login"
method = "javascript"

[[trigger]]
name = "pixel"
client = "acme"
on = "sale"
method = "pixel"
""")
PLACE = keys.partitions(1)[0]
NOW_US = 1_800_000_000_000_000
KEEP_S = 3_600
TAG = "t" * 32
_T = TypeVar("_T")
_attempt = msgspec.msgpack.Decoder(Attempt).decode


class Past:
    """Hits of acme, each a second later, decided and committed."""

    def __init__(self, journal: redis.Redis, start_us: int = NOW_US) -> None:
        self.journal = journal
        self.start_us = start_us
        self._state = State()
        self._seq = 0
        self._commit = Script(journal, "tracking/commit")
        journal.set(PLACE.fence, 1)

    def live(self, words: str) -> None:
        """One more hit."""
        state = Recording()
        state.owners, state.visitors = self._state.owners, self._state.visitors
        entry = Entry(0, 1, self._seq + 1, self.start_us, a_hit(f"client=acme&{words}"))
        outcome = process(entry, state, RULES)
        head = [1, 2_000, self._seq, 1, entry.seq, "book", entry.time_us]
        self._commit(commit_keys(PLACE), [*head, *commit_args(state, [(1, outcome)], PLACE, KEEP_S)])
        self._seq += 1

    def results(self) -> list[tuple[int, str, str]]:
        """number, result and state of all tries."""
        items: Any = self.journal.xrange(PLACE.attempts)
        found = [_attempt(fields[b"a"]) for _, fields in items]
        return [(one.number, one.result, one.state) for one in found]


@pytest.fixture
def past(journal: redis.Redis) -> Past:
    return Past(journal)


def ask(settings: Settings, work: Callable[[HandOuts], Awaitable[_T]], after_us: int = 0) -> _T:
    """Ask at a moment."""

    async def main() -> _T:
        connection = aioredis.Redis.from_url(settings.journal_url)
        try:
            return await work(HandOuts(connection, [PLACE], lambda: NOW_US + after_us))
        finally:
            await connection.aclose()

    return asyncio.run(main())


def take(settings: Settings, after_us: int = 0, only: str = "", tag: str = TAG) -> list[Handed]:
    """What the browser with this tag id is given."""

    async def work(hand_outs: HandOuts) -> list[Handed]:
        visitor = await hand_outs.visitor(PLACE, "acme", {"tag_id": tag}, False)
        return await hand_outs.take(PLACE, visitor, only) if visitor else []

    return ask(settings, work, after_us)


def names(handed: list[Handed]) -> list[str]:
    return [one.postback.trigger for one in handed]


def confirm(settings: Settings, handed: Handed, error: str = "") -> bool:
    return ask(settings, lambda hand_outs: hand_outs.confirm(0, handed.postback.id, handed.token, error))


def test_what_was_handed_out_comes_again_alone_until_it_is_confirmed(past: Past, settings: Settings) -> None:
    # given two snippets
    past.live(f"event=login&amount=1&tag_id={TAG}")
    past.live(f"event=login&amount=2&tag_id={TAG}")
    # when both are handed out and nobody confirms, then none comes again for a minute, and then one at a time
    first = take(settings)
    assert [one.postback.body for one in first] == ["run('1')", "run('2')"]
    assert take(settings, AGAIN_US - 1) == []
    (again,) = take(settings, AGAIN_US)
    assert (again.number, again.postback.body) == (2, "run('1')")
    # and a new one goes before it
    past.live(f"event=login&amount=3&tag_id={TAG}")
    assert [one.postback.body for one in take(settings, 3 * AGAIN_US)] == ["run('3')"]
    # and a confirmation with the newest token alone ends it
    assert not confirm(settings, first[0]) and confirm(settings, again) and not confirm(settings, again)
    assert past.results()[-1] == (2, "delivered", "delivered")
    assert past.journal.hget(PLACE.promises, again.postback.id) is None


def test_a_redirect_gives_pixels_only_and_ends_them(past: Past, settings: Settings) -> None:
    past.live(f"event=login&amount=1&tag_id={TAG}")
    past.live(f"event=sale&amount=2&tag_id={TAG}")
    assert names(take(settings, only="pixel")) == ["pixel"]
    assert past.results() == [(1, "handed_out", "handed_out")]
    assert take(settings, only="pixel") == [] and names(take(settings)) == ["snippet"]


def test_an_error_of_a_snippet_is_kept_with_its_postback(past: Past, settings: Settings) -> None:
    past.live(f"event=login&amount=1&tag_id={TAG}")
    (handed,) = take(settings)
    assert confirm(settings, handed, "ReferenceError: run is not defined")
    assert past.results()[-1] == (1, "script_error", "failed")
    assert past.journal.zscore(PLACE.dead, handed.postback.id) and past.journal.hget(PLACE.promises, handed.postback.id)
    assert take(settings, AGAIN_US) == []


def test_visitors_that_become_one_wait_in_one_list(past: Past, settings: Settings) -> None:
    # given something that waits for somebody known by a click alone
    past.live(f"event=login&amount=1&click_id={'c' * 20}")
    assert take(settings) == []
    # when a browser brings the click id, having been somebody else before
    past.live(f"event=pageview&tag_id={TAG}")
    past.live(f"event=pageview&tag_id={TAG}&click_id={'c' * 20}")
    # then it is given it
    assert names(take(settings)) == ["snippet"]
    assert len(list(past.journal.scan_iter(f"{PLACE.waiting}:*"))) == 1


def test_what_a_tag_id_that_is_not_believed_has_fired_waits_for_nobody(past: Past, settings: Settings) -> None:
    past.live(f"event=pageview&uid=u1&tag_id={TAG}")
    past.live(f"event=login&uid=u1&tag_id={'s' * 32}")
    assert take(settings) == take(settings, tag="s" * 32) == []


def test_what_has_expired_is_given_to_nobody(past: Past, settings: Settings) -> None:
    past.live(f"event=login&amount=1&tag_id={TAG}")
    assert take(settings, KEEP_S * 1_000_000) == []
    assert past.results() == []


def test_the_courier_says_that_it_has_expired(journal: redis.Redis, settings: Settings) -> None:
    # given a snippet whose time is over
    past = Past(journal, NOW_US - 365 * 86_400_000_000)
    past.live(f"event=login&amount=1&tag_id={TAG}")
    # when a courier comes by
    asyncio.run(Courier(msgspec.structs.replace(settings, partitions=1), lambda: bool(past.results())).run(20))
    # then that is recorded, and nothing was sent
    until(past.results, "the record")
    assert past.results() == [(1, "expired", "failed")]


def test_a_script_is_nothing_where_nothing_waits_and_its_parts_are_quoted(past: Past, settings: Settings) -> None:
    assert script_of([]) == ""
    past.live(f"event=sale&amount=2&tag_id={TAG}")
    handed = take(settings)
    script = script_of(handed)
    assert re.search(r'new Image\(\)\.src = "https\\u003a\\u002f\\u002facme[\\u0-9a-zA-Z]+"\n', script)
    assert f'["{handed[0].postback.id}", "p=0&id={handed[0].postback.id}&token={handed[0].token}"' in script
