"""What is no error in a rulebook and still looks wrong: each finding with its rule, line, key and remedy.

A warning is certain: this never happens, this is sent in clear. A note is worth a look. RULES is the whole list.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

import msgspec

from service.engine.certainty import constant_parts, evaluate, operands_of, parsed, tests_of
from service.engine.conditions import Node
from service.engine.document import Lines, Path, dotted
from service.engine.lint_parties import Found, no_client, no_endpoint, plain_http, shared_secret, unused_parameter
from service.engine.parse import NUMBER
from service.engine.rulebook import Rulebook, Trigger
from service.engine.visitors import HISTORY
from service.engine.words import as_written, listed, moment, whole_span

WARNING, NOTE = "warning", "note"
KNOWN_EVENTS = (
    "pageview", "click", "login", "registration", "first_deposit", "deposit", "qualified", "sale", "refund", "lead",
    "install", "subscription",
)  # fmt: skip
_ALIKE = 0.84  # how close two event names are before one looks like a slip of the other


class Finding(msgspec.Struct, frozen=True):
    """One thing that looks wrong. level: `warning` or `note`. key: dotted path; line: 1-based, 0 if unknown."""

    level: str
    rule: str
    key: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.level}: {self.key}: {self.message} [{self.rule}]"


def lint(rulebook: Rulebook, now_us: int | None = None) -> tuple[Finding, ...]:
    """Everything that looks wrong, in the order of the lines. now_us: to find triggers whose time is over."""
    found = [
        (level, name, path, message)
        for name, (level, rule) in RULES.items()
        for path, message in rule(rulebook, now_us)
    ]
    lines = Lines(rulebook.text) if found else None
    findings = [
        Finding(level, name, dotted(path), message, lines.of(path) if lines else 0)
        for level, name, path, message in found
    ]
    return tuple(sorted(findings, key=lambda finding: finding.line))


Rule = Callable[[Rulebook, "int | None"], Iterator[Found]]


def _triggers(rulebook: Rulebook) -> Iterator[tuple[Path, Trigger]]:
    for number, trigger in enumerate(rulebook.triggers):
        yield ("trigger", number), trigger


def _never_fires(rulebook: Rulebook, now_us: int | None) -> Iterator[Found]:
    for path, trigger in _triggers(rulebook):
        if trigger.paused:
            yield (*path, "paused"), f"{trigger.name} is paused and never fires; take paused out to switch it on"
        if now_us is not None and trigger.until_us <= now_us:
            yield (
                (*path, "until"),
                f"{trigger.name} ended at {moment(trigger.until_us)}; move until, or drop the trigger",
            )
        if trigger.sample == 100:
            yield (*path, "sample"), f"all visitors are held back, so {trigger.name} never fires; write less than 100"
        if len(trigger.after) > HISTORY:
            many = f"{len(trigger.after)} steps, and a visitor's last {HISTORY} events are kept"
            yield (*path, "after"), f"{trigger.name} has {many}, so it never fires; write fewer steps"
        if "affiliate" in trigger.to and not rulebook.affiliates:
            yield (*path, "to"), f"{trigger.name} posts to affiliates and there is none; add [affiliate.NAME]"


def _constant_condition(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    for path, trigger in _triggers(rulebook):
        for part in constant_parts(trigger, rulebook):
            always = "always" if part.holds else "never"
            if part.whole and not part.holds:
                what = f"the condition never holds, so {trigger.name} never fires; correct it"
            elif part.whole:
                what = "the condition always holds; drop it, or ask what was meant"
            else:
                what = f"{as_written(part.node)} {always} holds here; correct it or drop it"
            yield (*path, "when"), what


def _number_as_text(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    for path, test in _tests(rulebook):
        texts = [
            part[1] for part in test[1:] if isinstance(part, tuple) and part[0] == "text" and NUMBER.match(part[1])
        ]
        asked = [operand[1] for operand in operands_of(test) if operand in _NUMBERS]
        if texts and asked:
            yield (
                (*path, "when"),
                f'{asked[0]} is compared with the text "{texts[0]}", so 20 and 20.00 differ; drop the quotes',
            )


_NUMBERS = (("name", "amount"), ("name", "last.sale.amount"))


def _tests(rulebook: Rulebook) -> Iterator[tuple[Path, Node]]:
    for path, trigger in _triggers(rulebook):
        if trigger.when is not None:
            for test in tests_of(parsed(trigger.when.text)):
                yield path, test


def _missing_and_not(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    for path, trigger in _triggers(rulebook):
        if trigger.when is None:
            continue
        node = parsed(trigger.when.text)
        asked = {test[1] for test in tests_of(node) if test[0] == "exists"}
        for inverse in _inverses(node):
            tests = [test for test in tests_of(inverse[1]) if test[0] != "exists"]
            names = {o[1]: None for test in tests for o in operands_of(test) if _can_be_missing(o)}
            names = {name: None for name in names if name not in asked}
            if names and not evaluate(inverse[1], dict.fromkeys(tests_of(inverse[1]), False)):
                known = " and ".join(f"exists({name})" for name in names)
                yield (
                    (*path, "when"),
                    f"{as_written(inverse)} also holds where {listed(names, 'or')} is missing; "
                    f"add {known} if it should not",
                )


def _inverses(node: Node) -> Iterator[Node]:
    if node[0] == "inverse":
        yield node
    if node[0] in ("either", "both", "inverse"):
        for child in node[1:]:
            yield from _inverses(child)


def _can_be_missing(operand: Node) -> bool:
    return operand[0] == "name" and operand[1] not in ("client", "event", "time", "hit_id", "visitor")


def _unheard_event(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    """An event that is named once and looks like a slip of another. Any sender may bring any event: no more is known."""
    named: dict[str, int] = {}
    for trigger in rulebook.triggers:
        for event in dict.fromkeys(_events(trigger)):
            named[event] = named.get(event, 0) + 1
    allowed = [event for client in rulebook.clients.values() for event in sorted(client.browser_events)]
    for path, trigger in _triggers(rulebook):
        for key, events in (("on", (trigger.on,)), ("after", trigger.after), ("when", _asked(trigger))):
            for event in events:
                if named[event] == 1 and event not in KNOWN_EVENTS and event not in allowed:
                    other = _similar(event, [*KNOWN_EVENTS, *allowed, *(name for name in named if name != event)])
                    if other:
                        yield (
                            (*path, key),
                            f"nothing else here names the event {event!r}; did you mean {other!r}?",
                        )


def _events(trigger: Trigger) -> tuple[str, ...]:
    return (trigger.on, *trigger.after, *_asked(trigger))


def _asked(trigger: Trigger) -> tuple[str, ...]:
    return tuple(sorted(trigger.when.events)) if trigger.when is not None else ()


def _similar(event: str, others: list[str]) -> str:
    plain = event.lower()
    for other in others:
        if other.lower() == plain:
            return other
    return next(iter(difflib.get_close_matches(plain, others, n=1, cutoff=_ALIKE)), "")


def _own_event_as_step(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    for path, trigger in _triggers(rulebook):
        if trigger.on in trigger.after:
            yield (
                (*path, "after"),
                f"{trigger.on!r} is both the event and a step: the step means an earlier {trigger.on}, "
                f"so the first {trigger.on} of a visitor never fires {trigger.name}",
            )


def _longer_than_memory(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    for client in rulebook.clients.values():
        if client.click_window_us > client.remember_us:
            yield (
                ("client", client.name, "click_window"),
                f"click_window ({whole_span(client.click_window_us)}) is longer than remember "
                f"({whole_span(client.remember_us)}): who stays away longer than that is forgotten, with the click; "
                "make remember at least as long",
            )
    for path, trigger in _triggers(rulebook):
        known = rulebook.clients.get(trigger.client)
        if known is not None and trigger.within_us > known.remember_us:
            yield (
                (*path, "within"),
                f"within ({whole_span(trigger.within_us)}) is longer than client {known.name} remembers a visitor "
                f"({whole_span(known.remember_us)}): who stays away longer than that is forgotten, with the steps; "
                "make remember at least as long",
            )


def _once_with_sample(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    for path, trigger in _triggers(rulebook):
        if trigger.once == "visitor" and 0 < trigger.sample < 100:
            yield (
                (*path, "sample"),
                f"the hold-back is by visitor, so {trigger.sample} % of them never get their one firing, not later either",
            )


def _same_trigger(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    own = {key for affiliate in rulebook.affiliates.values() for key in affiliate.overrides}
    seen: dict[object, Trigger] = {}
    for path, trigger in _triggers(rulebook):
        if trigger.paused or (trigger.client, trigger.name) in own:
            continue
        when = trigger.when.text if trigger.when is not None else ""
        alike = msgspec.structs.replace(trigger, name="", when=None), when
        first = seen.setdefault(alike, trigger)
        if first is not trigger:
            yield (
                (*path, "name"),
                f"{trigger.name} does exactly what {first.name} does, so each event is posted twice; drop one",
            )


RULES: dict[str, tuple[str, Rule]] = {
    "no_client": (WARNING, no_client),
    "never_fires": (WARNING, _never_fires),
    "constant_condition": (WARNING, _constant_condition),
    "number_as_text": (WARNING, _number_as_text),
    "unheard_event": (NOTE, _unheard_event),
    "no_endpoint": (WARNING, no_endpoint),
    "plain_http": (WARNING, plain_http),
    "longer_than_memory": (WARNING, _longer_than_memory),
    "unused_parameter": (WARNING, unused_parameter),
    "same_trigger": (WARNING, _same_trigger),
    "shared_secret": (WARNING, shared_secret),
    "missing_and_not": (NOTE, _missing_and_not),
    "own_event_as_step": (NOTE, _own_event_as_step),
    "once_with_sample": (NOTE, _once_with_sample),
}
