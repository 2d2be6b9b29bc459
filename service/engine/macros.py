"""Each template against what the triggers that use it can give it: unknown macros, private values to affiliates."""

from __future__ import annotations

from service.engine.browsers import OPEN_NAMES
from service.engine.document import Path, nearest
from service.engine.model import RESERVED
from service.engine.names import MADE_PARAMS, Declared, is_known, last_field
from service.engine.postbacks import most_specific
from service.engine.rulebook import BROWSER_METHODS, Client, Trigger, Webhook, endpoint_for
from service.engine.values import host_of


class MacroChecks(Declared):
    """Checks the templates of clients and affiliates once all triggers are read."""

    def __init__(self) -> None:
        super().__init__()
        self.checked: dict[tuple[tuple[str, ...], str, tuple[str, ...], bool], list[str]] = {}

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
            own = (("webhook", client.webhook), ("test_webhook", client.test_webhook), ("email", client.email))
            for key, template in own:
                self._macros((*path, key), template, client, (), False)
            for method in sorted(BROWSER_METHODS):
                self._for_browsers((*path, method), endpoint_for(method, client), client, (), False)
            self._landing(client)
        self._check_other_methods(triggers)
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

    def _check_other_methods(self, triggers: tuple[Trigger, ...]) -> None:
        """What affiliates get by mail and through browsers, from the triggers that post so."""
        for trigger in triggers:
            client = self.clients.get(trigger.client)
            if trigger.method == "webhook" or "affiliate" not in trigger.to or client is None:
                continue
            for affiliate in self.affiliates.values():
                where, found = most_specific(affiliate, client.name, trigger.name, trigger.method)
                path: Path = ("affiliate", affiliate.name, *where, trigger.method)
                check = self._for_browsers if trigger.method in BROWSER_METHODS else self._macros
                check(path, found, client, tuple(sorted(affiliate.params)), True)

    def _for_browsers(
        self, path: Path, template: Webhook | None, client: Client, extra: tuple[str, ...], foreign: bool
    ) -> None:
        """A browser gets only what the client lets out."""
        self._macros(path, template, client, extra, foreign)
        for name in _names_in(template) if template is not None else ():
            base = last_field(name) or (name.partition(".")[2] if name.startswith(("first.", "param.")) else name)
            if base not in client.browser | OPEN_NAMES:
                self._once(
                    path, f"{{{name}}} is not given to browsers; add {base!r} to browser of [client.{client.name}]"
                )

    def _landing(self, client: Client) -> None:
        if client.landing is None:
            return
        path = ("client", client.name, "landing")
        known = frozenset(RESERVED) | MADE_PARAMS | client.params | client.private
        for macro in client.landing.macros:
            if macro.name not in known and not macro.name.startswith("param."):
                self._once(path, f"{{{macro.name}}} is not known at the tracker link{nearest(macro.name, known)}")
        host = host_of(client.landing.source)
        if host not in client.hosts:
            self.wrong(("client", client.name, "hosts"), f"the landing page's host {host!r} is not among the hosts")

    def _macros(
        self, path: Path, template: Webhook | None, client: Client, extra: tuple[str, ...], foreign: bool
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
            if not is_known(name, known):
                messages.append(f"unknown macro {{{name}}}{nearest(name, known)}")
            elif foreign and (base in client.private or last_field(name) in client.private):
                messages.append(f"{{{name}}} is private to client {client.name} and never goes to an affiliate")
        return messages

    def _once(self, path: Path, message: str) -> None:
        if (path, message) not in self.problems:
            self.wrong(path, message)


def _names_in(template: Webhook) -> tuple[str, ...]:
    return tuple([macro.name for macro in template.macros])
