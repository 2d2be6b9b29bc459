"""The tables `[[trigger]]`."""

from __future__ import annotations

from typing import Any

from service.engine.conditions import Condition, compile_condition
from service.engine.document import Path, nearest
from service.engine.errors import ConditionError
from service.engine.names import Declared, is_known
from service.engine.parse import CURRENCY
from service.engine.parties import NAME
from service.engine.postbacks import POSTBACK_NAMES
from service.engine.rulebook import FOREVER_US, Cap, Payout, Trigger, endpoint_for

METHODS = ("webhook", "email", "javascript", "pixel")
TRIGGER_KEYS = frozenset({
    "name", "client", "on", "after", "within", "when", "sample", "once", "cap", "payout", "method", "to", "paused",
    "from", "until",
})  # fmt: skip


class TriggerTables(Declared):
    """Reads triggers, after the clients whose names they use."""

    def _triggers(self, document: dict[str, Any]) -> tuple[Trigger, ...]:
        tables = document.get("trigger", [])
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
        return self._choice(path, table, "method", METHODS, "webhook")

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
        method = str(table.get("method", "webhook"))
        if method in METHODS and "client" in to and client and endpoint_for(method, client) is None:
            self.wrong(
                (*path, "to"),
                f"client {client.name} has no {method} to post to; add {method} to [client.{client.name}]",
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
            if not is_known(name, known):
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
        if client in self.clients and not is_known(of, known):
            self.wrong((*path, "of"), f"{of!r} is no parameter of client {client}{nearest(of, known)}")
        return Payout(None, currency, self._decimal(path, payout, "percent"), of)
