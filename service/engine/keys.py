"""The keys by which a state is asked: of a client's space, of a visitor's identifiers, of a transaction."""

from __future__ import annotations

from typing import Final

from service.engine.model import IDENTIFIERS, Event

_SEPARATOR: Final = "\x1f"  # cannot be confused with a value: it only joins, nothing splits at it


def space(client: str, test: bool) -> str:
    """Prefix of all keys of a client; test traffic has a space of its own."""
    return f"{client}{_SEPARATOR}t{_SEPARATOR}" if test else f"{client}{_SEPARATOR}{_SEPARATOR}"


def identifier_keys(prefix: str, fields: dict[str, str]) -> list[str]:
    """Keys of the identifiers that an event brings, strongest first."""
    keys = []
    for kind in IDENTIFIERS:
        value = fields.get(kind)
        if value is not None:
            keys.append(f"{prefix}{kind}{_SEPARATOR}{value}")
    return keys


def test_click_key(client: str, click_id: str) -> str:
    """The key that a test click leaves for the click id it minted. It makes every later hit with this id a test."""
    return f"{space(client, True)}minted{_SEPARATOR}{click_id}"


def txid_key(prefix: str, event: Event) -> str | None:
    """Key of (client, event, txid), None without a txid."""
    txid = event.fields.get("txid")
    return None if txid is None else f"{prefix}{event.name}{_SEPARATOR}{txid}"


def wanted_keys(event: Event) -> tuple[list[str], list[str]]:
    """Owner keys and transaction keys that the decision about this event may read: what a store has to fetch."""
    click_id = event.fields.get("click_id")
    owners = [] if event.test or click_id is None else [test_click_key(event.client, click_id)]
    txids: list[str] = []
    spaces = (True,) if event.test else ((False,) if click_id is None else (False, True))
    for test in spaces:
        prefix = space(event.client, test)
        owners += identifier_keys(prefix, event.fields)
        txid = txid_key(prefix, event)
        if txid is not None:
            txids.append(txid)
    return owners, txids
