"""The versioned set of clients, affiliates and triggers, as the engine uses it. Its id is the hash of its text."""

from __future__ import annotations

import hashlib
from decimal import Decimal

import msgspec

from service.engine.conditions import Condition
from service.engine.model import Stage
from service.engine.templates import Macro, Template

DAY_US = 86_400_000_000
FOREVER_US = 253_402_300_799_000_000  # the last second of the year 9999

NOT_AN_ID = ("null", "undefined", "none", "nan", "0", "-", "NULL", "None", "NaN")
BROWSER_EVENTS = ("pageview", "click", "login", "registration")


MAIL = "MAIL"  # the verb of postbacks by e-mail
_BODIES = {"json": "JSON", "mail": "the mail"}


class Webhook(msgspec.Struct, frozen=True):
    """How to call an endpoint. verb: GET or POST; "" for JavaScript, with the snippet as body; MAIL for e-mail, with the
    mail as JSON of subject, text and html as body and the address as a mailto: URL.

    body: a form or JSON; None with POST: the event as JSON.

    headers: lower-case names; a value is plain, or `env:NAME` for a variable of the worker. Derived: macros of address and
    body, looked_up as in a template.
    """

    url: Template
    verb: str
    body: Template | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    macros: tuple[Macro, ...] = ()
    looked_up: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = (self.url,) if self.body is None else (self.url, self.body)
        msgspec.structs.force_setattr(self, "macros", tuple([macro for one in both for macro in one.macros]))
        msgspec.structs.force_setattr(self, "looked_up", tuple([name for one in both for name in one.looked_up]))

    @property
    def whole_event(self) -> bool:
        """Whether the event is posted as JSON."""
        return self.verb == "POST" and self.body is None

    @property
    def words(self) -> str:
        """All of it as one text that compares: the address alone where that says everything."""
        if not self.verb and self.body is not None:
            return self.body.source
        plain = self.body is None and self.verb == ("GET" if self.url.macros else "POST")
        parts = [self.url.source if plain else f"{self.verb} {self.url.source}"]
        if self.body is not None:
            parts.append(f"with {_BODIES.get(self.body.context, 'the form')} {self.body.source}")
        if self.headers:
            parts.append("with " + ", ".join([f"{name}: {value}" for name, value in sorted(self.headers.items())]))
        return " ".join(parts)


SPAN_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}


def apart_us(rate: str) -> int:
    """Microseconds between two calls at a rate such as `50/s`, 0 without one."""
    count, _, unit = rate.partition("/")
    return SPAN_US[unit] // int(count) if rate else 0


class Client(msgspec.Struct, frozen=True):
    """The company whose site visitors act on. Durations in microseconds.

    secret: `env:NAME`, two of them with a space between during a rotation. rate: of calls, such as `50/s`, "" for none.
    params: declared custom parameters. private: names whose values never go to an affiliate, closed over the aliases.
    addresses: networks that server-to-server routes take events from, () for all. browser: names whose values browsers get.
    """

    name: str
    title: str = ""
    landing: Template | None = None
    hosts: tuple[str, ...] = ()
    params: frozenset[str] = frozenset()
    private: frozenset[str] = frozenset({"uid"})
    aliases: dict[str, str] = msgspec.field(default_factory=dict)
    not_an_id: frozenset[str] = frozenset(NOT_AN_ID)
    browser_events: frozenset[str] = frozenset(BROWSER_EVENTS)
    remember_us: int = 90 * DAY_US
    attribution: str = "last_click"
    click_window_us: int = 30 * DAY_US
    webhook: Webhook | None = None
    test_webhook: Webhook | None = None
    secret: str = ""
    rate: str = ""
    sig_secret: str = ""
    addresses: tuple[str, ...] = ()
    bots: str = "keep"
    browser: frozenset[str] = frozenset()
    javascript: Webhook | None = None
    pixel: Webhook | None = None
    email: Webhook | None = None


def close_private(private: frozenset[str], aliases: dict[str, str]) -> frozenset[str]:
    """Private names and every other name that carries the same value: aliases of them, and what they are aliases of."""
    reserved = private | {name for alias, name in aliases.items() if alias in private}
    return reserved | {alias for alias, name in aliases.items() if name in reserved}


class Endpoints(msgspec.Struct, frozen=True):
    """Where an affiliate wants its postbacks; a more specific one overrides."""

    webhook: Webhook | None = None
    javascript: Webhook | None = None
    pixel: Webhook | None = None
    email: Webhook | None = None


class Affiliate(msgspec.Struct, frozen=True):
    """The partner that sends the visitors. `overrides`: endpoints by (client, trigger), trigger "" for all of a client."""

    name: str
    title: str = ""
    params: frozenset[str] = frozenset()
    webhook: Webhook | None = None
    test_webhook: Webhook | None = None
    overrides: dict[tuple[str, str], Endpoints] = msgspec.field(default_factory=dict)
    secret: str = ""
    rate: str = ""
    javascript: Webhook | None = None
    pixel: Webhook | None = None
    email: Webhook | None = None


BROWSER_METHODS = frozenset({"javascript", "pixel"})  # delivered by the visitor's browser


def endpoint_for(method: str, owner: Client | Affiliate | Endpoints) -> Webhook | None:
    """The endpoint of a party for a method."""
    if method == "webhook":
        return owner.webhook
    if method == "email":
        return owner.email
    return owner.javascript if method == "javascript" else owner.pixel


class Cap(msgspec.Struct, frozen=True):
    """At most `count` firings per affiliate or trigger in every hour, day or month (UTC), or in total."""

    per: str
    every: str
    count: int


class Payout(msgspec.Struct, frozen=True):
    """What a firing is worth: a fixed sum, or a percentage of a numeric value."""

    fixed: Decimal | None = None
    currency: str = ""
    percent: Decimal = Decimal(0)
    of: str = "amount"


class Trigger(msgspec.Struct, frozen=True):
    """A rule: when it fires and what is posted back, by which one method."""

    name: str
    client: str
    on: str
    after: tuple[str, ...] = ()
    within_us: int = 0
    when: Condition | None = None
    sample: int = 0
    once: str = "always"
    cap: Cap | None = None
    payout: Payout | None = None
    method: str = "webhook"
    to: tuple[str, ...] = ("client",)
    paused: bool = False
    from_us: int = 0
    until_us: int = FOREVER_US


def stages_of(trigger: Trigger) -> tuple[str, ...]:
    """The stages that can stop this trigger at all, in their order; `event` is settled by the rulebook's index."""
    able = {
        Stage.INACTIVE: trigger.paused or trigger.from_us > 0 or trigger.until_us < FOREVER_US,
        Stage.RECIPIENT: "affiliate" in trigger.to,
        Stage.STEPS: bool(trigger.after),
        Stage.CONDITION: trigger.when is not None,
        Stage.SAMPLE: trigger.sample > 0,
        Stage.ONCE: trigger.once == "visitor",
        Stage.CAP: trigger.cap is not None,
    }
    return tuple([stage.value for stage in Stage if able.get(stage)])


class Rulebook(msgspec.Struct, frozen=True):
    """A compiled rulebook. `on` finds the triggers of a client and an event, in the order of the document.

    asked: derived from `on`, each trigger with the stages that can stop it, so that no hit asks the others. in_browsers:
    derived, clients with triggers that are delivered by browsers.
    """

    id: str
    text: str
    clients: dict[str, Client]
    affiliates: dict[str, Affiliate]
    triggers: tuple[Trigger, ...]
    on: dict[tuple[str, str], tuple[Trigger, ...]]
    asked: dict[tuple[str, str], tuple[tuple[Trigger, tuple[str, ...]], ...]] = msgspec.field(default_factory=dict)
    in_browsers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        asked = {
            key: tuple([(trigger, stages_of(trigger)) for trigger in triggers]) for key, triggers in self.on.items()
        }
        msgspec.structs.force_setattr(
            self, "asked", asked
        )  # a new dict: a replaced rulebook must not fill the old one's
        in_browsers = frozenset([one.client for one in self.triggers if one.method in BROWSER_METHODS])
        msgspec.structs.force_setattr(self, "in_browsers", in_browsers)


def rulebook_id(text: str) -> str:
    """The id of a rulebook: the first 16 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def index_triggers(triggers: tuple[Trigger, ...]) -> dict[tuple[str, str], tuple[Trigger, ...]]:
    """Triggers by (client, event)."""
    found: dict[tuple[str, str], list[Trigger]] = {}
    for trigger in triggers:
        found.setdefault((trigger.client, trigger.on), []).append(trigger)
    return {key: tuple(value) for key, value in found.items()}


EMPTY = Rulebook(rulebook_id(""), "", {}, {}, (), {})
