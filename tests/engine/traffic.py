"""A small log for the tests of the engine: one seed, one sequence of hits. Arithmetic only: the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator

from service.engine import Entry, load
from tests.engine.world import DAY_S, START_US, hit

RULES = """
[client.acme]
params = ["country", "sub1"]
private = ["email"]
aliases = { subid = "click_id", order = "txid" }
attribution = "first_click"
remember = "40d"
webhook = "https://acme.example/et"
test_webhook = "https://staging.acme.example/et?e={event}&m={email|sha256}"

[affiliate.bestodds]
webhook = "https://bestodds.example/pb?s={sub1|default:-}&p={payout}&c={first.country}&l={last.login.ts}&n={nothing!}"
params = ["nothing"]

[affiliate.clickhub]
webhook = "https://clickhub.example/in"

[[trigger]]
name = "lead"
client = "acme"
on = "registration"
after = ["click"]
within = "20d"
once = "visitor"
payout = { fixed = "2.00", currency = "EUR" }
to = ["affiliate", "client"]

[[trigger]]
name = "sale"
client = "acme"
on = "sale"
when = '(amount >= 20 and country in ["DE", "AT"]) or count("sale") > 1 or not sub1 matches "^[a-m]"'
cap = { per = "affiliate", every = "day", count = 1 }
payout = { percent = "7.5", of = "amount" }
to = ["client"]

[[trigger]]
name = "back"
client = "acme"
on = "login"
when = 'since("login") > 3d or since("click") < 1d'
sample = 50
to = ["client", "affiliate"]
"""
RULEBOOK = load(RULES)
EVENTS = ("click", "login", "registration", "sale", "sale", "login", "pageview", "bad event", "")


class Dice:
    """A linear congruential generator: no more chance is needed, and no less is wanted."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, bound: int) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % bound


def log(seed: int, hits: int) -> Iterator[Entry]:
    """Entries of one partition: visitors who come back under several identifiers, tests, duplicates, broken hits."""
    dice = Dice(seed)
    time_us = START_US
    for seq in range(1, hits + 1):
        time_us += dice.below(DAY_S // 3) * dice.below(2) * 1_000_000 + dice.below(1000)
        if dice.below(4) == 0:
            path = f"/c/acme/{('bestodds', 'clickhub', 'nobody')[dice.below(3)]}".encode()
            yield Entry(0, 1, seq, time_us, hit(_extras(dice, seq), route="c", path=path, number=seq))
        else:
            query = f"client=acme&event={EVENTS[dice.below(len(EVENTS))]}&{_identifiers(dice, seq)}{_extras(dice, seq)}"
            yield Entry(0, 1, seq, time_us, hit(query, number=seq))


def _identifiers(dice: Dice, seq: int) -> str:
    uid = f"uid=u{dice.below(20)}&" if dice.below(2) else ""
    tag = f"tag_id=t{dice.below(30)}&" if dice.below(2) else ""
    return uid + tag + (f"subid={max(1, seq - dice.below(40)):032x}&" if dice.below(2) else "")


def _extras(dice: Dice, seq: int) -> str:
    parts = [
        f"country={('DE', 'AT', 'FR')[dice.below(3)]}", f"sub1={'abxyz'[dice.below(5)]}%20{dice.below(9)}",
        f"amount={dice.below(60)}.{dice.below(100):02d}&currency={('EUR', 'jpy', 'KWD', 'EUR', 'x')[dice.below(5)]}",
        f"order=o{seq - dice.below(30)}", "test=1", f"email=m{dice.below(9)}@x.example", f"p{dice.below(300)}=%C3%A9",
        "x=%FF", f"ts={seq}",
    ]  # fmt: skip
    return "&".join(part for part in parts if dice.below(8) < (1 if part in ("test=1", "x=%FF") else 4))
