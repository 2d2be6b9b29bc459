"""What visitors do: they come through an affiliate, look around, register, log in, buy, and some come back another way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

import msgspec

from lab.world import BOT_AGENT, CURRENCIES, SHARES, Draft, Quality, World, encode_pairs
from service.engine.rulebook import Client


class Visit:
    """One person at one client, from the first click on; `now_us` moves on with everything they do."""

    def __init__(self, world: World, client: Client, affiliate: str, at_us: int) -> None:
        self.world, self.client, self.affiliate, self.now_us = world, client, affiliate, at_us
        self.dice = world.dice
        world.people += 1
        self.visitor = world.people
        self.tag_id = self.dice.hexadecimal(16)
        self.uid = ""
        self.click_id = ""
        self.country = [pair for pair in world.values(client, ["country"]) if "country" in client.params]
        self.headers = world.headers(referrer=f"https://{affiliate}.example/go" if affiliate else "")
        self.sale_params = [name for name in sorted(client.params) if name not in ("country", "sub1", "sub2", "device")]

    def wait(self, low_s: int, high_s: int) -> None:
        """Let time pass."""
        self.now_us += self.dice.lag_us(low_s, high_s)

    def arrive(self, linked: bool = True, note: str = "click", extra: Sequence[tuple[str, str]] = ()) -> None:
        """Click on the affiliate's link; the click id is what the service will answer. Unlinked: the tag tells of it."""
        names = [name for name in ("sub1", "sub2", "device") if name in self.client.params]
        pairs = [*self.world.values(self.client, names), *self.country, *extra]
        if not linked:
            origin = [("affiliate", self.affiliate)] if self.affiliate else []
            self.by_image("click", [*origin, *pairs], note)
            return
        if self.dice.chance(0.5):
            own = f"{self.affiliate[:2]}-{self.dice.hexadecimal(10)}"
            pairs.append(("click_id", "{click_id}" if self.dice.chance(SHARES["macro"]) else own))
        path = f"/c/{quote(self.client.name, safe='')}/{quote(self.affiliate, safe='')}"
        target = path.encode() + (b"?" + encode_pairs(pairs) if pairs else b"")
        self.click_id = self._add("GET", target, note)

    def by_image(self, event: str, pairs: Sequence[tuple[str, str]], note: str) -> None:
        """An event from the page's `<img>`, where the client lets browsers send it; else from server to server."""
        known = [("client", self.client.name), ("event", event), ("tag_id", self.tag_id)]
        if self.click_id and self.dice.chance(0.8):
            known.append(("click_id", self.click_id))
        path = b"/e.gif?" if event in self.client.browser_events else b"/e?"
        target = path + encode_pairs([*known, *pairs])
        self._add("GET", target, note)

    def browse(self) -> None:
        """Look at some pages."""
        for _ in range(self.dice.between(1, 3)):
            self.wait(1, 120)
            page = [("page", self.dice.pick(("/", "/offers", "/about", "/help?topic=1&lang=de")))]
            if self.dice.chance(0.7):
                self.by_image("pageview", page, "image")
            else:
                self.say("pageview", page, "pageview")

    def register(self) -> None:
        """Become known: from here on the visitor carries a uid."""
        self.wait(20, 1_800)
        self.uid = f"{self.client.name[:2]}-{100_000 + self.visitor}"
        extra = [("email", f"{self.uid}@mail.example")] if "email" in self.client.private else []
        self.say("registration", [*self.country, *extra, ("tag_id", self.tag_id)], "registration")
        if self.dice.chance(0.25):
            self.wait(5, 300)
            self.say("newsletter", [("topic", self.dice.pick(("weekly", "offers")))], "step")

    def log_in(self) -> None:
        """Log in, sometimes more than once, and get on."""
        for _ in range(self.dice.between(1, 2)):
            self.wait(300, 14_400)
            self.say("login", [], "login")
        if self.dice.chance(0.3):
            self.wait(60, 3_600)
            self.say("level_up", [("level", str(self.dice.between(2, 9)))], "step")

    def buy(self, note: str = "sale", extra: Sequence[tuple[str, str]] = ()) -> None:
        """Buy something; the client's server tells of it, now and then twice."""
        self.wait(60, 10_800)
        self.world.orders += 1
        txid = f"{self.client.name[:1].upper()}-{500_000 + self.world.orders}"
        custom = self.world.values(self.client, self.sale_params)
        self.say("sale", [("txid", txid), *self._money(), *custom, *extra], note)
        if note == "sale" and self.dice.chance(SHARES["duplicate"]):
            sent = self.world.drafts[-1]
            self.wait(1, 900)
            self.world.add(msgspec.structs.replace(sent, offset_us=self.now_us, note="duplicate"))

    def _money(self) -> list[tuple[str, str]]:
        currency = self.dice.weighted([name for name, _ in CURRENCIES], [weight for _, weight in CURRENCIES])
        cents = self.dice.lag_us(5, 600) // 10_000
        amount = str(cents // 100 * 100) if currency == "JPY" else f"{cents // 100}.{cents % 100:02d}"
        return [("amount", amount.removesuffix(".00")), ("currency", currency)]

    def say(self, event: str, pairs: Sequence[tuple[str, str]], note: str) -> None:
        """An event from server to server: in a query, a form or JSON, in Backtrack's words or in the client's own."""
        known = [("client", self.client.name), ("event", event), *self._identifiers()]
        pairs = [*known, *pairs]
        if self.dice.chance(0.2):
            pairs.append(("ts", str((self.world.start_us + self.now_us) // 1_000_000)))
        if self.dice.chance(SHARES["alias"]):
            own = {name: alias for alias, name in self.client.aliases.items()}
            pairs = [(own.get(name, name), value) for name, value in pairs]
        if self.dice.chance(SHARES["json"]):
            self._post("application/json", _json(pairs), note)
            return
        if self.dice.chance(SHARES["repeated"]):
            pairs = [(pairs[-1][0], "overwritten"), *pairs]
        if self.dice.chance(SHARES["form"]):
            self._post("application/x-www-form-urlencoded", encode_pairs(pairs, form=True), note)
            return
        target = b"/e?" + encode_pairs(pairs)
        self._add("GET", target, note)

    def _identifiers(self) -> list[tuple[str, str]]:
        if not self.uid:
            return [("click_id", self.click_id)] if self.click_id else [("tag_id", self.tag_id)]
        if self.click_id and self.dice.chance(0.6):
            return [("uid", self.uid), ("click_id", self.click_id)]
        return [("uid", self.uid)]

    def _post(self, content_type: str, body: bytes, note: str) -> None:
        self._add("POST", b"/e", note, body, content_type)

    def _add(self, method: str, target: bytes, note: str, body: bytes = b"", content_type: str = "") -> str:
        client = self.client.name
        draft = Draft(self.now_us, method, target, note, self.visitor, self.headers, body, content_type, client)
        return self.world.add(draft)


def _json(pairs: Iterable[tuple[str, str]]) -> bytes:
    """A JSON object; amounts and times as numbers in the form they were written in."""
    numbers = ("amount", "revenue", "payout", "ts", "level")
    return msgspec.json.encode({
        name: msgspec.Raw(value.encode()) if name in numbers else value for name, value in pairs
    })  # fmt: skip


def run_visit(world: World, at_us: int) -> None:
    """One visitor's whole story, or a bot's."""
    visit = Visit(world, world.client(), world.affiliate(), at_us)
    dice, quality = world.dice, world.qualities[visit.affiliate]
    if dice.chance(quality.bots):
        _bot(visit, quality)
        return
    visit.arrive(quality.linked)
    visit.browse()
    buys = dice.chance(quality.buys)
    if buys and dice.chance(SHARES["guest"]):
        visit.buy()
    elif dice.chance(quality.registers):
        visit.register()
        _stay(visit, buys)


def _stay(visit: Visit, buys: bool) -> None:
    """What registered visitors do."""
    visit.log_in()
    for _ in range(visit.dice.between(1, 3) if buys else 0):
        visit.buy()
    if buys and visit.dice.chance(0.6):
        visit.log_in()
    if visit.dice.chance(SHARES["returning"]):
        _return(visit)
    if visit.dice.chance(SHARES["second_person"]):
        visit.click_id = ""
        visit.uid += "-b"
        visit.wait(600, 7_200)
        visit.say("registration", [*visit.country, ("tag_id", visit.tag_id)], "registration")


def _return(visit: Visit) -> None:
    """Come back another way; the history stays, the new click's parameters count."""
    visit.wait(1_800, 21_600)
    visit.affiliate = visit.world.affiliate()
    visit.arrive(visit.world.qualities[visit.affiliate].linked)
    visit.wait(10, 600)
    visit.by_image("pageview", [("page", "/welcome-back")], "image")
    visit.log_in()
    if visit.dice.chance(0.4):
        visit.buy()


def _bot(visit: Visit, quality: Quality) -> None:
    """A bot tastes the link some times and does nothing else."""
    visit.headers = visit.world.headers((BOT_AGENT,))
    for _ in range(visit.dice.between(1, 4)):
        visit.arrive(quality.linked)
        visit.wait(1, 30)


def try_out(world: World, at_us: int) -> None:
    """Somebody tries the links out: three hits that count for nobody, the last a test by its click id alone."""
    affiliate = next(name for name in world.affiliates if world.qualities[name].linked or not name)
    visit = Visit(world, world.client(), affiliate, at_us)
    linked = world.qualities[affiliate].linked
    extra = [("test", "1")]
    visit.arrive(linked, "test", extra)
    visit.wait(5, 60)
    visit.buy("test", extra)
    visit.wait(5, 60)
    visit.say("login", [] if linked else extra, "test")
