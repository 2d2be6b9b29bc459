"""The versioned set of clients, affiliates and triggers, as the engine uses it. Its id is the hash of its text."""

from __future__ import annotations

import hashlib
from decimal import Decimal

import msgspec

from service.engine.conditions import Condition
from service.engine.model import Stage
from service.engine.templates import Template

DAY_US = 86_400_000_000
FOREVER_US = 253_402_300_799_000_000  # the last second of the year 9999

NOT_AN_ID = ("null", "undefined", "none", "nan", "0", "-", "NULL", "None", "NaN")
BROWSER_EVENTS = ("pageview", "click", "login", "registration")


class Client(msgspec.Struct, frozen=True):
    """The company whose site visitors act on. Durations in microseconds.

    params: declared custom parameters. private: names whose values never go to an affiliate, closed over the aliases.
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
    webhook: Template | None = None
    test_webhook: Template | None = None
    secret: str = ""


def close_private(private: frozenset[str], aliases: dict[str, str]) -> frozenset[str]:
    """Private names and every other name that carries the same value: aliases of them, and what they are aliases of."""
    reserved = private | {name for alias, name in aliases.items() if alias in private}
    return reserved | {alias for alias, name in aliases.items() if name in reserved}


class Endpoints(msgspec.Struct, frozen=True):
    """Where an affiliate wants its postbacks; a more specific one overrides."""

    webhook: Template | None = None


class Affiliate(msgspec.Struct, frozen=True):
    """The partner that sends the visitors. `overrides`: endpoints by (client, trigger), trigger "" for all of a client."""

    name: str
    title: str = ""
    params: frozenset[str] = frozenset()
    webhook: Template | None = None
    test_webhook: Template | None = None
    overrides: dict[tuple[str, str], Endpoints] = msgspec.field(default_factory=dict)
    secret: str = ""


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

    asked: derived from `on`, each trigger with the stages that can stop it, so that no hit asks the others.
    """

    id: str
    text: str
    clients: dict[str, Client]
    affiliates: dict[str, Affiliate]
    triggers: tuple[Trigger, ...]
    on: dict[tuple[str, str], tuple[Trigger, ...]]
    asked: dict[tuple[str, str], tuple[tuple[Trigger, tuple[str, ...]], ...]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        asked = {
            key: tuple([(trigger, stages_of(trigger)) for trigger in triggers]) for key, triggers in self.on.items()
        }
        msgspec.structs.force_setattr(
            self, "asked", asked
        )  # a new dict: a replaced rulebook must not fill the old one's


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
