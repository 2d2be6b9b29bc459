"""A rulebook text to a rulebook: every key of the format is read here, and everything wrong is reported at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from service.engine.conditions import UNITS_S, Condition, compile_condition
from service.engine.document import Lines, Path, dotted, nearest, read_toml
from service.engine.errors import ConditionError, Problem, RulebookError, TemplateError
from service.engine.model import RESERVED
from service.engine.parse import CURRENCY, EVENT_NAME, NUMBER
from service.engine.postbacks import POSTBACK_NAMES
from service.engine.rulebook import (
    BROWSER_EVENTS,
    DAY_US,
    FOREVER_US,
    NOT_AN_ID,
    Affiliate,
    Cap,
    Client,
    Endpoints,
    Payout,
    Rulebook,
    Trigger,
    close_private,
    index_triggers,
    rulebook_id,
)
from service.engine.templates import Template, compile_template

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_:-]{0,63}\Z")
SECRET = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*\Z")
METHODS = ("webhook", "email", "javascript", "pixel")
MAX_DURATION_US = 36_525 * DAY_US
DELIVERED_METHODS = ("webhook",)
OF_THE_HIT = frozenset({"time", "hit_id", "visitor"})  # known wherever an event is asked
MADE_PARAMS = frozenset({"affiliate_click_id"})  # a custom parameter that every client has: /c makes it
DERIVED = OF_THE_HIT | MADE_PARAMS | POSTBACK_NAMES
NOT_REMEMBERED = DERIVED - MADE_PARAMS | frozenset(RESERVED)

CLIENT_KEYS = frozenset({
    "name", "landing", "hosts", "params", "private", "aliases", "not_an_id", "browser_events", "remember",
    "attribution", "click_window", "webhook", "test_webhook", "secret",
})  # fmt: skip
AFFILIATE_KEYS = frozenset({"name", "params", "webhook", "test_webhook", "secret", "for"})
TRIGGER_KEYS = frozenset({
    "name", "client", "on", "after", "within", "when", "sample", "once", "cap", "payout", "method", "to", "paused",
    "from", "until",
})  # fmt: skip


@lru_cache(maxsize=32)
def load(text: str, source: str = "rulebook") -> Rulebook:
    """Compile a rulebook text. Raises RulebookError with all problems, each with line, key and a remedy."""
    document = read_toml(text, source)
    reader = _Reader(document)
    rulebook = reader.read(text)
    if reader.problems:
        lines = Lines(text)
        raise RulebookError(
            [Problem(dotted(path), message, lines.of(path)) for path, message in reader.problems],
            source,
            rulebook,
        )
    return rulebook


class _Reader:
    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.problems: list[tuple[Path, str]] = []
        self.clients: dict[str, Client] = {}
        self.affiliates: dict[str, Affiliate] = {}
        self.checked: dict[tuple[tuple[str, ...], str, tuple[str, ...], bool], list[str]] = {}

    def wrong(self, path: Path, message: str) -> None:
        self.problems.append((path, message))

    def read(self, text: str) -> Rulebook:
        self._only_known((), self.document, frozenset({"client", "affiliate", "trigger"}))
        for name, table in self._tables("client"):
            self.clients[name] = self._client(name, table)
        for name, table in self._tables("affiliate"):
            self.affiliates[name] = self._affiliate(name, table)
        triggers = self._triggers()
        self._check_overrides({(trigger.client, trigger.name) for trigger in triggers})
        self._check_macros(triggers)
        return Rulebook(rulebook_id(text), text, self.clients, self.affiliates, triggers, index_triggers(triggers))

    # tables

    def _tables(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        group = self.document.get(kind, {})
        if not isinstance(group, dict):
            self.wrong((kind,), f"write [{kind}.NAME] with a name of its own")
            return []
        found = []
        for name, table in group.items():
            if not NAME.match(name):
                self.wrong((kind, name), f"{name!r} is no name: use 1 to 64 letters, digits, _ . -")
            elif not isinstance(table, dict):
                self.wrong((kind, name), f"write [{kind}.{name}] as a table")
            else:
                found.append((name, table))
        return found

    def _client(self, name: str, table: dict[str, Any]) -> Client:
        path: Path = ("client", name)
        self._only_known(path, table, CLIENT_KEYS)
        landing = self._url(path, table, "landing")
        hosts = self._names(path, table, "hosts")
        if landing is not None and not hosts:
            hosts = (_host(landing.source),)
        aliases = self._aliases(path, table)
        return Client(
            name,
            self._text(path, table, "name"),
            landing,
            hosts,
            frozenset(self._declared(path, table)),
            close_private(frozenset({"uid", *self._parameters(path, table, "private")}), aliases),
            aliases,
            frozenset(self._names(path, table, "not_an_id", NOT_AN_ID)),
            frozenset(
                self._event(path, "browser_events", event)
                for event in self._names(path, table, "browser_events", BROWSER_EVENTS)
            ),
            self._duration(path, table, "remember", 90 * DAY_US),
            self._choice(path, table, "attribution", ("last_click", "first_click"), "last_click"),
            self._duration(path, table, "click_window", 30 * DAY_US),
            self._url(path, table, "webhook"),
            self._url(path, table, "test_webhook"),
            self._secret(path, table),
        )

    def _aliases(self, path: Path, table: dict[str, Any]) -> dict[str, str]:
        aliases = self._table(path, table, "aliases")
        for alias, name in aliases.items():
            key = (*path, "aliases", alias)
            if name == "client":
                self.wrong(key, "client has no alias: the request must name it")
            elif name not in RESERVED:
                self.wrong(key, f"{name!r} is no reserved name{nearest(str(name), RESERVED)}")
            elif alias in RESERVED:
                self.wrong(key, f"{alias!r} is a reserved name itself and cannot be an alias")
        return {alias: str(name) for alias, name in aliases.items()}

    def _declared(self, path: Path, table: dict[str, Any]) -> tuple[str, ...]:
        """The custom parameters. One that is called like a name of ours would be hidden by it."""
        names = self._parameters(path, table, "params")
        for name in names:
            if name in RESERVED:
                self.wrong((*path, "params"), f"{name!r} is a reserved name and needs no declaration; drop it")
            elif name in DERIVED - MADE_PARAMS:
                self.wrong(
                    (*path, "params"), f"{name!r} is a name of ours; drop it, it is always there as param.{name}"
                )
        return names

    def _affiliate(self, name: str, table: dict[str, Any]) -> Affiliate:
        path: Path = ("affiliate", name)
        self._only_known(path, table, AFFILIATE_KEYS)
        overrides: dict[tuple[str, str], Endpoints] = {}
        for client, inner in self._table(path, table, "for").items():
            key: Path = (*path, "for", client)
            if not isinstance(inner, dict):
                self.wrong(key, f"write [affiliate.{name}.for.{client}] as a table")
                continue
            if client not in self.clients:
                self.wrong(key, f"there is no client {client!r}{nearest(client, self.clients)}")
            for trigger, deeper in inner.items():
                if isinstance(deeper, dict):
                    self._only_known((*key, trigger), deeper, frozenset({"webhook"}))
                    overrides[client, trigger] = Endpoints(self._url((*key, trigger), deeper, "webhook"))
            flat = {k: v for k, v in inner.items() if not isinstance(v, dict)}
            self._only_known(key, flat, frozenset({"webhook"}))
            if flat:
                overrides[client, ""] = Endpoints(self._url(key, flat, "webhook"))
        return Affiliate(
            name,
            self._text(path, table, "name"),
            frozenset(self._declared(path, table)),
            self._url(path, table, "webhook"),
            self._url(path, table, "test_webhook"),
            overrides,
            self._secret(path, table),
        )

    def _triggers(self) -> tuple[Trigger, ...]:
        tables = self.document.get("trigger", [])
        if not isinstance(tables, list):
            self.wrong(("trigger",), "write each trigger under its own [[trigger]]")
            return ()
        triggers: list[Trigger] = []
        seen: dict[str, int] = {}
        for number, table in enumerate(tables):
            path: Path = ("trigger", number)
            if not isinstance(table, dict):
                self.wrong(path, "write each trigger under its own [[trigger]]")
                continue
            trigger = self._trigger(path, table)
            if trigger.name in seen:
                self.wrong((*path, "name"), f"{trigger.name!r} is the name of trigger {seen[trigger.name] + 1} already")
            elif trigger.name:
                seen[trigger.name] = number
            triggers.append(trigger)
        return tuple(triggers)

    def _trigger(self, path: Path, table: dict[str, Any]) -> Trigger:
        self._only_known(path, table, TRIGGER_KEYS)
        name = self._text(path, table, "name")
        if not NAME.match(name):
            self.wrong(
                (*path, "name"),
                f"{name!r} is no name: use 1 to 64 letters, digits, _ . -" if name else "a trigger needs a name",
            )
        client = self._text(path, table, "client")
        if client not in self.clients:
            self.wrong((*path, "client"), f"there is no client {client!r}{nearest(client, self.clients)}")
        after = tuple(self._event(path, "after", event) for event in self._names(path, table, "after"))
        from_us, until_us = self._moment(path, table, "from", 0), self._moment(path, table, "until", FOREVER_US)
        if until_us <= from_us:
            self.wrong((*path, "until"), "until is not after from, so the trigger would never be active")
        within_us = self._duration(path, table, "within", 0)
        if within_us and not after:
            self.wrong(
                (*path, "within"), "within is the age of the first step, and there is no step; add after = [...]"
            )
        return Trigger(
            name,
            client,
            self._event(path, "on", self._text(path, table, "on")),
            after,
            within_us,
            self._condition(path, table, client),
            self._percent(path, table, "sample"),
            self._choice(path, table, "once", ("visitor", "always"), "always"),
            self._cap(path, table),
            self._payout(path, table, client),
            self._method(path, table),
            self._to(path, table),
            self._flag(path, table, "paused"),
            from_us,
            until_us,
        )

    def _method(self, path: Path, table: dict[str, Any]) -> str:
        method = table.get("method", "webhook")
        if isinstance(method, list):
            self.wrong((*path, "method"), f"a trigger has exactly one method, not {' and '.join(map(repr, method))}")
            return "webhook"
        method = self._choice(path, table, "method", METHODS, "webhook")
        if method not in DELIVERED_METHODS:
            self.wrong((*path, "method"), f"{method} is not delivered by this version yet; use webhook")
        return method

    def _to(self, path: Path, table: dict[str, Any]) -> tuple[str, ...]:
        to = self._names(path, table, "to", ("client",))
        for recipient in to:
            if recipient not in ("client", "affiliate"):
                self.wrong((*path, "to"), f"{recipient!r}: a recipient is client or affiliate")
        if len(set(to)) < len(to):
            self.wrong((*path, "to"), "a recipient is named twice; it gets one postback per firing")
        if not to:
            self.wrong((*path, "to"), "a trigger without a recipient posts nothing; write client, affiliate or both")
        client = self.clients.get(str(table.get("client", "")))
        if "client" in to and client is not None and client.webhook is None:
            self.wrong(
                (*path, "to"), f"client {client.name} has no webhook to post to; add webhook to [client.{client.name}]"
            )
        return to

    def _condition(self, path: Path, table: dict[str, Any], client: str) -> Condition | None:
        text = self._text(path, table, "when")
        if not text:
            return None
        try:
            condition = compile_condition(text)
        except ConditionError as error:
            self.wrong((*path, "when"), str(error))
            return None
        if client not in self.clients:
            return condition  # one problem is enough
        known = self._known_names(client, ()) - POSTBACK_NAMES
        for name in sorted(condition.names):
            if not _is_known(name, known):
                self.wrong((*path, "when"), f"{name!r} is no parameter of client {client}{nearest(name, known)}")
        return condition

    def _cap(self, path: Path, table: dict[str, Any]) -> Cap | None:
        if "cap" not in table:
            return None
        cap = self._table(path, table, "cap")
        path = (*path, "cap")
        self._only_known(path, cap, frozenset({"per", "every", "count"}))
        count = cap.get("count")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            self.wrong((*path, "count"), f"{count!r}: a cap counts from 1 up")
            count = 1
        per = self._choice(path, cap, "per", ("affiliate", "trigger"), "trigger")
        return Cap(per, self._choice(path, cap, "every", ("hour", "day", "month", "total"), "day"), count)

    def _payout(self, path: Path, table: dict[str, Any], client: str) -> Payout | None:
        if "payout" not in table:
            return None
        payout = self._table(path, table, "payout")
        path = (*path, "payout")
        self._only_known(path, payout, frozenset({"fixed", "percent", "of", "currency"}))
        currency = self._text(path, payout, "currency")
        if currency and not CURRENCY.match(currency):
            self.wrong((*path, "currency"), f"{currency!r} is no currency: use three capital letters such as EUR")
        if ("fixed" in payout) == ("percent" in payout):
            self.wrong(path, "a payout is either fixed or percent")
            return None
        if "fixed" in payout:
            if not currency:
                self.wrong(path, 'a fixed payout needs its currency, such as currency = "EUR"')
            if "of" in payout:
                self.wrong((*path, "of"), "a fixed payout is of nothing; drop of, or write percent")
            return Payout(self._decimal(path, payout, "fixed"), currency)
        of = self._text(path, payout, "of") or "amount"
        known = self._known_names(client, ()) - POSTBACK_NAMES
        if client in self.clients and not _is_known(of, known):
            self.wrong((*path, "of"), f"{of!r} is no parameter of client {client}{nearest(of, known)}")
        return Payout(None, currency, self._decimal(path, payout, "percent"), of)

    # macros

    def _check_overrides(self, known: set[tuple[str, str]]) -> None:
        for affiliate in self.affiliates.values():
            for client, trigger in affiliate.overrides:
                if trigger and (client, trigger) not in known:
                    names = [name for owner, name in known if owner == client]
                    path = ("affiliate", affiliate.name, "for", client, trigger)
                    self.wrong(path, f"client {client} has no trigger {trigger!r}{nearest(trigger, names)}")

    def _check_macros(self, triggers: tuple[Trigger, ...]) -> None:
        """Each template against what the client's triggers can give it; the same pair is looked at once."""
        for client in self.clients.values():
            path: Path = ("client", client.name)
            for key, template in (("webhook", client.webhook), ("test_webhook", client.test_webhook)):
                self._macros((*path, key), template, client, (), False)
            self._landing(client)
        served = {trigger.client for trigger in triggers if "affiliate" in trigger.to}
        everybody = sorted(served & self.clients.keys())
        right: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
        for affiliate in self.affiliates.values():
            path = ("affiliate", affiliate.name)
            extra = tuple(sorted(affiliate.params))
            for key, template in (("webhook", affiliate.webhook), ("test_webhook", affiliate.test_webhook)):
                if template is None or ((names := _names_in(template)), extra) in right:
                    continue  # with thousands of affiliates, another one asked for the same names already
                before = len(self.problems)
                for name in everybody:
                    self._macros((*path, key), template, self.clients[name], extra, True)
                if len(self.problems) == before:
                    right.add((names, extra))
            for (owner, trigger), endpoints in affiliate.overrides.items():
                if owner in served and owner in self.clients:
                    deeper = (*path, "for", owner, *([trigger] if trigger else []), "webhook")
                    self._macros(deeper, endpoints.webhook, self.clients[owner], extra, True)

    def _landing(self, client: Client) -> None:
        if client.landing is None:
            return
        path = ("client", client.name, "landing")
        known = frozenset(RESERVED) | MADE_PARAMS | client.params | client.private
        for macro in client.landing.macros:
            if macro.name not in known and not macro.name.startswith("param."):
                self._once(path, f"{{{macro.name}}} is not known at the tracker link{nearest(macro.name, known)}")
        host = _host(client.landing.source)
        if host not in client.hosts:
            self.wrong(("client", client.name, "hosts"), f"the landing page's host {host!r} is not among the hosts")

    def _macros(
        self, path: Path, template: Template | None, client: Client, extra: tuple[str, ...], foreign: bool
    ) -> None:
        if template is None:
            return
        names = _names_in(template)
        key = (names, client.name, extra, foreign)
        if key not in self.checked:  # most templates ask for the same names
            self.checked[key] = self._wrong_macros(names, client, extra, foreign)
        for message in self.checked[key]:
            self._once(path, message)

    def _wrong_macros(self, names: tuple[str, ...], client: Client, extra: tuple[str, ...], foreign: bool) -> list[str]:
        known = self._known_names(client.name, extra)
        messages = []
        for name in names:
            base = name.partition(".")[2] if name.startswith(("first.", "param.")) else name
            if not _is_known(name, known):
                messages.append(f"unknown macro {{{name}}}{nearest(name, known)}")
            elif foreign and (base in client.private or _last_field(name) in client.private):
                messages.append(f"{{{name}}} is private to client {client.name} and never goes to an affiliate")
        return messages

    def _once(self, path: Path, message: str) -> None:
        if (path, message) not in self.problems:
            self.wrong(path, message)

    def _known_names(self, client: str, extra: tuple[str, ...]) -> frozenset[str]:
        known = self.clients.get(client)
        declared = known.params | known.private if known else frozenset()
        return frozenset(RESERVED) | DERIVED | declared | frozenset(extra)

    # values

    def _only_known(self, path: Path, table: Any, known: frozenset[str]) -> None:
        if isinstance(table, dict):
            for key in table:
                if key not in known:
                    self.wrong((*path, key), f"there is no key {key!r} here{nearest(key, known)}")

    def _typed(self, path: Path, table: Any, key: str, kind: type, default: Any, words: str) -> Any:
        value = table.get(key, default) if isinstance(table, dict) else default
        if not isinstance(value, kind):
            self.wrong((*path, key), f"{value!r}: write {words}")
            return default
        return value

    def _text(self, path: Path, table: Any, key: str) -> str:
        return str(self._typed(path, table, key, str, "", f"{key} as text in quotes"))

    def _flag(self, path: Path, table: Any, key: str) -> bool:
        return bool(self._typed(path, table, key, bool, False, "true or false"))

    def _table(self, path: Path, table: Any, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self._typed(path, table, key, dict, {}, f"{key} as a table")
        return found

    def _names(self, path: Path, table: Any, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        if not isinstance(table, dict) or key not in table:
            return default
        value = table[key]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong((*path, key), f'{value!r}: write a list of texts, such as {key} = ["a", "b"]')
            return default
        return tuple(value)

    def _parameters(self, path: Path, table: Any, key: str) -> tuple[str, ...]:
        names = self._names(path, table, key)
        for name in names:
            if not PARAMETER.match(name):
                self.wrong((*path, key), f"{name!r} is no parameter name: use letters, digits, _ : -")
        return names

    def _event(self, path: Path, key: str, name: str) -> str:
        if not EVENT_NAME.match(name):
            self.wrong(
                (*path, key), f"{name!r} is no event name" if name else "the event that fires the trigger is missing"
            )
        return name

    def _choice(self, path: Path, table: Any, key: str, choices: tuple[str, ...], default: str) -> str:
        value = table.get(key, default)
        if value not in choices:
            self.wrong(
                (*path, key),
                f"{value!r} is none of {', '.join(choices)}{nearest(str(value), choices).partition(';')[0]}",
            )
            return default
        return str(value)

    def _duration(self, path: Path, table: Any, key: str, default: int) -> int:
        value = table.get(key)
        if value is None:
            return default
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", value) if isinstance(value, str) else None
        if match is None:
            self.wrong((*path, key), f'{value!r} is no duration: write a number with s, m, h, d or w, such as "30d"')
            return default
        duration_us = int(match.group(1)) * UNITS_S[match.group(2)] * 1_000_000
        if duration_us > MAX_DURATION_US:
            self.wrong((*path, key), f"{value!r} is longer than 100 years; write a shorter duration")
            return default
        return duration_us

    def _decimal(self, path: Path, table: dict[str, Any], key: str) -> Decimal:
        value = table[key]
        text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        if not NUMBER.match(text):
            self.wrong((*path, key), f'{value!r} is no decimal: write it in quotes, such as {key} = "12.50"')
            return Decimal(0)
        return Decimal(text)

    def _percent(self, path: Path, table: dict[str, Any], key: str) -> int:
        value = table.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100:
            self.wrong((*path, key), f"{value!r}: the hold-back is a whole number of percent, 0 to 100")
            return 0
        return value

    def _moment(self, path: Path, table: dict[str, Any], key: str, default: int) -> int:
        value = table.get(key)
        if value is None:
            return default
        if isinstance(value, datetime):
            moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        elif isinstance(value, date):
            moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
        else:
            self.wrong((*path, key), f"{value!r} is no date: write it without quotes, such as {key} = 2026-12-01")
            return default
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds

    def _secret(self, path: Path, table: dict[str, Any]) -> str:
        secret = self._text(path, table, "secret")
        if secret and not SECRET.match(secret):
            self.wrong(
                (*path, "secret"), 'a secret is never written in clear: name a variable, such as "env:ACME_SECRET"'
            )
        return secret

    def _url(self, path: Path, table: Any, key: str) -> Template | None:
        text = self._text(path, table, key)
        if not text:
            return None
        template = self._compiled(path, key, text, compile_template)
        if not _host(text):
            self.wrong((*path, key), f"{text!r} is no http(s) address with a fixed host")
        elif " " in text or not text.isprintable():
            self.wrong((*path, key), f"{text!r} has a space or a control character in it; write it percent-encoded")
        return template

    def _compiled(self, path: Path, key: str, text: str, compiler: Callable[[str], Template]) -> Template | None:
        try:
            return compiler(text)
        except TemplateError as error:
            self.wrong((*path, key), str(error))
            return None


def _names_in(template: Template) -> tuple[str, ...]:
    return tuple([macro.name for macro in template.macros])


def _host(url: str) -> str:
    """The host of an http(s) address, "" if it has none or one that is not fixed."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return ""
    return host if parts.scheme in ("http", "https") and "{" not in parts.netloc else ""


def _last_field(name: str) -> str:
    return name.rpartition(".")[2] if name.startswith("last.") else ""


def _is_known(name: str, known: frozenset[str]) -> bool:
    if name in known:
        return True
    scope, _, rest = name.partition(".")
    if scope == "param":
        return bool(rest) and rest not in RESERVED
    if scope == "first":
        return rest in known and rest not in NOT_REMEMBERED
    return scope == "last" and rest.rpartition(".")[2] in RESERVED and bool(rest.rpartition(".")[0])
