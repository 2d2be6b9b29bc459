"""What changed between two rulebooks, in sentences that somebody who runs campaigns understands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from service.engine.conditions import Condition, syntax
from service.engine.difference_words import (
    AFFILIATE_WORDS,
    CLIENT_WORDS,
    TRIGGER_WORDS,
    Words,
    cap_in_words,
    payout_in_words,
)
from service.engine.rulebook import Endpoints, Rulebook, Trigger, Webhook
from service.engine.templates import Template
from service.engine.words import in_words, listed, whole_span


class Change(msgspec.Struct, frozen=True):
    """One change. client: whose it is, "" for an affiliate's own. subject: `trigger first-deposit`. says: in words.

    key: the key of the rulebook that changed; `new`, `gone` or `renamed` for a whole table.
    """

    client: str
    subject: str
    key: str
    says: str

    def __str__(self) -> str:
        return f"{self.subject[:1].upper()}{self.subject[1:]} {self.says}"


def difference(old: Rulebook, new: Rulebook) -> tuple[Change, ...]:
    """Every change from the old rulebook to the new one, by client: the client, its triggers; then the affiliates.

    Empty if the rules are the same, however they are written.
    """
    changes: list[Change] = []
    for name in _names(old.clients, new.clients):
        changes += _tables("client", name, _pick(old.clients, name), _pick(new.clients, name), CLIENT_WORDS, name)
        changes += _triggers(name, old, new)
    for name in _names(old.affiliates, new.affiliates):
        before, after = _pick(old.affiliates, name), _pick(new.affiliates, name)
        changes += _tables("affiliate", name, before, after, AFFILIATE_WORDS, "")
    return tuple(changes)


def lines(changes: Iterable[Change]) -> Iterator[str]:
    """The changes as lines, grouped by client."""
    group: str | None = None
    for change in changes:
        if change.client != group:
            group = change.client
            yield f"Client {group}" if group else "Affiliates"
        yield f"  {change}"


def _names(old: Iterable[str], new: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*old, *new]))


def _pick(group: dict[str, Any], name: str) -> list[Any]:
    return [group[name]] if name in group else []


def _tables(kind: str, name: str, before: list[Any], after: list[Any], words: Words, client: str) -> Iterator[Change]:
    subject = f"{kind} {name}"
    if not before:
        yield Change(client, subject, "new", "is new.")
    elif not after:
        lost = "its hits are rejected from then on" if kind == "client" else "its events fire nothing for it any more"
        yield Change(client, subject, "gone", f"is gone: {lost}.")
    else:
        yield from _fields(subject, before[0], after[0], words, client)


def _fields(subject: str, before: Any, after: Any, words: Words, client: str) -> Iterator[Change]:
    for field in msgspec.structs.fields(before):
        old, new = _field(before, field.name), _field(after, field.name)
        if old == new:
            continue
        key = KEYS.get(field.name, field.name.removesuffix("_us"))
        for says in words[field.name](old, new):
            yield Change(client, subject, key, f"{says}.")


KEYS = {"title": "name", "from_us": "from", "until_us": "until", "overrides": "for"}


def _field(table: Any, name: str) -> Any:
    """A field as it compares: templates by their text, conditions by their meaning."""
    value = dict(zip(table.__struct_fields__, msgspec.structs.astuple(table), strict=True))[name]
    if isinstance(value, Template):
        return value.source
    if isinstance(value, Webhook):
        return value.words
    if isinstance(value, Condition):
        return syntax(value.text)
    if isinstance(value, dict):  # in order, since the first alias counts
        return tuple((key, _endpoint(inner)) for key, inner in value.items())
    return value


def _endpoint(value: Any) -> Any:
    if isinstance(value, Endpoints):
        others = [one.words for one in (value.javascript, value.pixel, value.email) if one is not None]
        return " and ".join([value.webhook.words, *others] if value.webhook is not None else others) or None
    return value


# triggers


def _triggers(client: str, old: Rulebook, new: Rulebook) -> Iterator[Change]:
    before = {trigger.name: trigger for trigger in old.triggers if trigger.client == client}
    after = {trigger.name: trigger for trigger in new.triggers if trigger.client == client}
    renamed = _renamed(before, after)
    for name in _names(before, after):
        subject = f"trigger {name}"
        if name in renamed:
            says = f"is called {renamed[name]} now. Caps, once and the hold-back begin anew, and postback ids change."
            yield Change(client, subject, "renamed", says)
        elif name in renamed.values():
            continue
        elif name not in before:
            yield Change(client, subject, "new", f"is new: {describe(after[name])}.")
        elif name not in after:
            yield Change(client, subject, "gone", f"is gone: it fires on {before[name].on} no more.")
        else:
            yield from _fields(subject, before[name], after[name], TRIGGER_WORDS, client)


def _renamed(before: dict[str, Trigger], after: dict[str, Trigger]) -> dict[str, str]:
    """Old name to new name of triggers that are the same otherwise."""
    found: dict[str, str] = {}
    for name, trigger in before.items():
        if name not in after:
            alike = [other.name for other in after.values() if other.name not in before and _same(trigger, other)]
            if alike and alike[0] not in found.values():
                found[name] = alike[0]
    return found


def _same(one: Trigger, other: Trigger) -> bool:
    names = [field.name for field in msgspec.structs.fields(one) if field.name != "name"]
    return all(_field(one, name) == _field(other, name) for name in names)


def describe(trigger: Trigger) -> str:
    """A trigger in one sentence."""
    parts = [f"fires on {trigger.on}"]
    if trigger.after:
        parts[0] += f" after {' then '.join(trigger.after)}"
    if trigger.within_us:
        parts[0] += f" within {whole_span(trigger.within_us)}"
    if trigger.when is not None:
        parts.append(f"if {in_words(syntax(trigger.when.text))}")
    if trigger.once == "visitor":
        parts.append("once per visitor")
    if trigger.sample:
        parts.append(f"with {trigger.sample} % of the visitors held back")
    if trigger.cap is not None:
        parts.append(f"at most {cap_in_words(trigger.cap)}")
    if trigger.payout is not None:
        parts.append(f"for {payout_in_words(trigger.payout)}")
    parts.append(f"posting to {listed(trigger.to)}")
    return ", ".join(parts) + (" (paused)" if trigger.paused else "")
