"""What every journal promises. Each implementation passes this suite: see test_journal.py."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from service.engine import Hit
from service.intake.journal import Journal
from tests.service.hits import a_hit

Opened = AbstractAsyncContextManager[Journal]


class JournalSuite:
    """Subclasses give `open_journal` and `read`."""

    def open_journal(self) -> Opened:
        """An empty journal that takes hits."""
        raise NotImplementedError

    def read(self, journal: Journal, partition: int) -> list[Hit]:
        """What the journal holds, in its order."""
        raise NotImplementedError

    def run(self, body: Callable[[Journal], Awaitable[None]]) -> None:
        """Run a test's body on a fresh journal."""

        async def go() -> None:
            async with self.open_journal() as journal:
                await body(journal)

        asyncio.run(go())

    def test_a_hit_is_kept_as_it_came(self) -> None:
        async def body(journal: Journal) -> None:
            # given a hit with bytes that are no text
            hit = Hit(
                "01", 5, "c", "POST", b"/c/\xff", b"a=%ff&b=\x80", b"\x00{", "x/y", "::1", "ü", "r", "bad_path", ("f",)
            )
            # when it is appended
            await journal.append(3, hit)
            # then it is there, equal in every field, and nowhere else
            assert self.read(journal, 3) == [hit]
            assert self.read(journal, 4) == []

        self.run(body)

    def test_hits_that_wait_for_each_other_keep_their_order(self) -> None:
        async def body(journal: Journal) -> None:
            # given hits
            hits = [a_hit(f"n={number}") for number in range(20)]
            # when each is appended after the answer to the one before
            for hit in hits:
                await journal.append(0, hit)
            # then the journal has them in this order
            assert self.read(journal, 0) == hits

        self.run(body)

    def test_hits_of_one_moment_are_all_kept_once_in_the_order_of_their_calls(self) -> None:
        async def body(journal: Journal) -> None:
            # given more hits than one batch takes, for three partitions
            hits = [(number % 3, a_hit(f"n={number}")) for number in range(700)]
            # when all are appended at once
            await asyncio.gather(*(journal.append(partition, hit) for partition, hit in hits))
            # then every partition has its own, once, in order
            for partition in range(3):
                assert self.read(journal, partition) == [hit for place, hit in hits if place == partition]

        self.run(body)

    def test_a_caller_that_goes_away_takes_no_hit_with_it(self) -> None:
        async def body(journal: Journal) -> None:
            # given two hits under way
            one, other = a_hit("n=1"), a_hit("n=2")
            first = asyncio.ensure_future(journal.append(0, one))
            second = asyncio.ensure_future(journal.append(0, other))
            await asyncio.sleep(0)  # both have begun
            # when the first caller is cancelled
            first.cancel()
            await second
            # then both are kept
            assert Counter(hit.id for hit in self.read(journal, 0)) == Counter([one.id, other.id])

        self.run(body)
