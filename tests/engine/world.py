"""What the tests of the engine share: a rulebook out of a few lines, hits out of a few words, a world that runs them."""

from __future__ import annotations

from collections.abc import Iterable

from service.engine import EMPTY, Entry, Event, Hit, Outcome, Rejection, Rulebook, State, load, parse, process

START_US = 1_700_000_000_000_000  # 2023-11-14T22:13:20Z
SECOND_US = 1_000_000
DAY_S = 86_400

CLIENT = """
[client.acme]
params = ["country", "sub1"]
private = ["email"]
aliases = { subid = "click_id", clickid = "click_id", payout = "amount", customer = "uid" }
webhook = "https://acme.example/et"
"""
AFFILIATES = """
[affiliate.bestodds]
params = ["sub1"]
webhook = "https://bestodds.example/pb?s={sub1}&e={event}"

[affiliate.clickhub]
webhook = "https://clickhub.example/in"
"""
SIMPLE = CLIENT + AFFILIATES


def book(*triggers: str, client: str = CLIENT, affiliates: str = AFFILIATES) -> Rulebook:
    """A rulebook of acme with these triggers: each the body of a [[trigger]] without client; `on` is sale by default."""
    return load(client + affiliates + "".join(_trigger(number, body) for number, body in enumerate(triggers, 1)))


def _trigger(number: int, body: str) -> str:
    keys = {line.partition("=")[0].strip() for line in body.splitlines()}
    text = f'\n[[trigger]]\nclient = "acme"\n{body}\n'
    text += "" if "name" in keys else f'name = "t{number}"\n'
    return text + ("" if "on" in keys else 'on = "sale"\n')


def hit(
    query: str | bytes = "", *, route: str = "e", path: bytes = b"/e", body: bytes = b"", content_type: str = "",
    refusal: str = "", flags: tuple[str, ...] = (), number: int = 1,
) -> Hit:  # fmt: skip
    """A hit with the id `number`."""
    data = query.encode() if isinstance(query, str) else query
    method = "POST" if body else "GET"
    return Hit(f"{number:032x}", START_US, route, method, path, data, body, content_type, refusal=refusal, flags=flags)


def read(query: str | bytes, rulebook: Rulebook | None = None, *, body: bytes = b"", content_type: str = "") -> Event:
    """The event of a valid hit of acme."""
    prefix = b"client=acme&event=sale&"
    data = prefix + (query.encode() if isinstance(query, str) else query)
    event = parse(hit(data, body=body, content_type=content_type), rulebook or load(SIMPLE))
    assert isinstance(event, Event), event
    return event


def refuse(bad: Hit, rulebook: Rulebook | None = None) -> Rejection:
    """The rejection of a hit that is not valid."""
    rejection = parse(bad, rulebook or load(SIMPLE))
    assert isinstance(rejection, Rejection), rejection
    return rejection


def entry(seq: int, sent: Hit, time_us: int | None = None) -> Entry:
    """The journal entry of a hit; one second passes per entry unless told otherwise."""
    return Entry(0, 1, seq, START_US + seq * SECOND_US if time_us is None else time_us, sent)


class World:
    """A partition that runs: state, rulebook, and the next sequence number."""

    def __init__(self, rulebook: Rulebook = EMPTY) -> None:
        self.rulebook = rulebook if rulebook is not EMPTY else load(SIMPLE)
        self.state = State()
        self.seq = 0
        self.now_s = 0

    def send(self, words: str, *, at_s: int | None = None) -> Outcome:
        """Process `event name=value ...` of acme at second `at_s` (one later than the last if not told)."""
        event, *pairs = words.split(" ")
        return self.run(hit("&".join([f"client=acme&event={event}", *pairs]), number=self.seq + 1), at_s=at_s)

    def click(self, affiliate: str = "bestodds", query: str = "", *, at_s: int | None = None) -> Outcome:
        """Follow a tracker link of acme; the click id is the hit's id."""
        link = hit(query, route="c", path=f"/c/acme/{affiliate}".encode(), number=self.seq + 1)
        return self.run(link, at_s=at_s)

    def run(self, sent: Hit, *, at_s: int | None = None) -> Outcome:
        """Process any hit."""
        self.seq += 1
        self.now_s = self.now_s + 1 if at_s is None else at_s
        return process(entry(self.seq, sent, START_US + self.now_s * SECOND_US), self.state, self.rulebook)

    def send_all(self, lines: Iterable[str]) -> list[Outcome]:
        """Process several in turn."""
        return [self.send(line) for line in lines]


def fired(outcome: Outcome) -> list[str]:
    """Names of the triggers that fired."""
    return [firing.trigger for firing in outcome.fired]
