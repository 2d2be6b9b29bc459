"""What looks wrong about the parties of a rulebook: endpoints, addresses, parameters, secrets. See lint.py."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from service.engine.document import Path
from service.engine.postbacks import most_specific
from service.engine.rulebook import Affiliate, Client, Endpoints, Rulebook, Webhook, endpoint_for
from service.engine.words import listed, plural

Found = tuple[Path, str]


def no_client(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    """Nobody whose hits could be accepted."""
    if not rulebook.clients:
        yield ("client",), "there is no client, so every hit is rejected as unknown_client; add [client.NAME]"


def no_endpoint(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    """One finding for all affiliates: there may be thousands."""
    served = [trigger for trigger in rulebook.triggers if "affiliate" in trigger.to]
    methods = sorted({trigger.method for trigger in served})
    without: dict[str, str] = {}
    for affiliate in rulebook.affiliates.values():
        if all(endpoint_for(method, affiliate) is not None for method in methods):
            continue
        missing = [
            trigger.name
            for trigger in served
            if most_specific(affiliate, trigger.client, trigger.name, trigger.method)[1] is None
        ]
        if missing:
            without[affiliate.name] = "" if len(missing) == len(served) else f" (for {listed(missing, limit=3)})"
    if without:
        names = listed([name + which for name, which in without.items()])
        has, theirs = ("has", "its") if len(without) == 1 else ("have", "their")
        yield (
            ("affiliate", next(iter(without))),
            f"{plural(len(without), 'affiliate')} {has} no endpoint for triggers that post to affiliates, so {theirs} "
            f"postbacks are withheld: {names}; add {listed(methods)}",
        )


def plain_http(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    """Endpoints that are reached without encryption, loopback aside."""
    for path, template in _endpoints(rulebook):
        parts = urlsplit(template.url.source)
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            yield path, f"http://{parts.hostname} gets its postbacks unencrypted; write https://"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def _endpoints(rulebook: Rulebook) -> Iterator[tuple[Path, Webhook]]:
    for client in rulebook.clients.values():
        yield from _all(("client", client.name), client, client.test_webhook)
    for affiliate in rulebook.affiliates.values():
        path: Path = ("affiliate", affiliate.name)
        yield from _all(path, affiliate, affiliate.test_webhook)
        for (client_name, trigger), endpoints in affiliate.overrides.items():
            deeper: Path = (*path, "for", client_name, *([trigger] if trigger else []))
            yield from _all(deeper, endpoints, None)


def _all(
    path: Path, owner: Client | Affiliate | Endpoints, test_webhook: Webhook | None
) -> Iterator[tuple[Path, Webhook]]:
    found = (owner.webhook, test_webhook, owner.javascript, owner.pixel, owner.email)
    for key, endpoint in zip(("webhook", "test_webhook", "javascript", "pixel", "email"), found, strict=True):
        if endpoint is not None:
            yield (*path, key), endpoint


def unused_parameter(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    """Parameters that an affiliate declares and no address of it uses."""
    for affiliate in rulebook.affiliates.values():
        templates = [template for path, template in _endpoints_of(affiliate)]
        if not templates or any(template.whole_event for template in templates):
            continue  # a JSON body brings every parameter
        used = {macro.name.rpartition(".")[2] for template in templates for macro in template.macros}
        unused = sorted(affiliate.params - used)
        if unused:
            yield (
                ("affiliate", affiliate.name, "params"),
                f"no address of {affiliate.name} uses {listed(unused)}; add the macro, or drop the declaration",
            )


def _endpoints_of(affiliate: Affiliate) -> Iterator[tuple[Path, Webhook]]:
    yield from _all((), affiliate, affiliate.test_webhook)
    for endpoints in affiliate.overrides.values():
        yield from _all((), endpoints, None)


def shared_secret(rulebook: Rulebook, _: int | None) -> Iterator[Found]:
    """Signing secrets that two parties share."""
    clients, affiliates = rulebook.clients.values(), rulebook.affiliates.values()
    named = [("client", party.name, "secret", party.secret) for party in clients]
    named += [("client", party.name, "sig_secret", party.sig_secret) for party in clients]
    named += [("affiliate", party.name, "secret", party.secret) for party in affiliates]
    holders: dict[str, str] = {}
    for kind, name, key, secrets in named:
        for secret in secrets.split():
            first = holders.setdefault(secret, f"{kind} {name}")
            if first != f"{kind} {name}":
                yield (
                    (kind, name, key),
                    f"{secret} signs for {first} too, so one could forge the other's; name a variable for each",
                )
