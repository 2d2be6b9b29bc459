"""What a person has written of a trigger so far, right or wrong, and the same as TOML and back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

import msgspec

from lab.log import LabError
from service.engine.document import nearest

Values = dict[str, Any]

_LISTS = ("after", "to")
_TEXT = (str, "text in quotes")
_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("name", "client", "on", "within", "when", "once", "method"), _TEXT),
    **dict.fromkeys(_LISTS, ((list, tuple), "a list of names")),
    **dict.fromkeys(("cap", "payout", "templates"), (Mapping, "a table")),
    "sample": (int, "a whole number"),
    "paused": (bool, "true or false"),
}


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger as it is typed: the keys of `[[trigger]]`, durations and conditions as texts, not yet checked.

    name, client, on, after, within, when, sample, once, cap, payout, method, to, paused: the keys of these names. begins,
    until: the keys `from` and `until`. templates: the address that an affiliate gets for this trigger alone, by
    affiliate: `[affiliate.NAME.for.CLIENT.TRIGGER]`. A key with its default is not written.

    >>> draft = studio.draft
    >>> draft.client, draft.on
    ('acme', 'sale')
    """

    name: str = "draft"
    client: str = ""
    on: str = ""
    after: tuple[str, ...] = ()
    within: str = ""
    when: str = ""
    sample: int = 0
    once: str = "always"
    cap: Values = msgspec.field(default_factory=dict)
    payout: Values = msgspec.field(default_factory=dict)
    method: str = "webhook"
    to: tuple[str, ...] = ("client",)
    paused: bool = False
    begins: Any = msgspec.field(default=None, name="from")
    until: Any = None
    templates: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def values(self) -> Values:
        """The keys of `[[trigger]]` that are not at their default, in their usual order.

        >>> list(studio.draft.values)[:3]
        ['name', 'client', 'on']
        """
        found: Values = {"name": self.name, "client": self.client, "on": self.on}
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if field.name != "templates" and value != _default(field):
                found[field.encode_name] = list(value) if isinstance(value, tuple) else value
        return found

    @property
    def own_toml(self) -> str:
        """The table `[[trigger]]`.

        >>> studio.draft.own_toml.splitlines()[0]
        '[[trigger]]'
        """
        return "\n".join(["[[trigger]]", *(f"{key} = {literal(value)}" for key, value in self.values.items())]) + "\n"

    def address_toml(self, affiliate: str) -> str:
        """The table with the address of an affiliate for this trigger alone.

        >>> draft = studio.draft.changed(name="x", templates={"bestodds": "http://bestodds.example/?c={sub1}"})
        >>> draft.address_toml("bestodds").splitlines()[0]
        '[affiliate.bestodds.for.acme.x]'
        """
        path = ".".join(_key(part) for part in ("affiliate", affiliate, "for", self.client, self.name))
        return f"[{path}]\nwebhook = {literal(self.templates[affiliate])}\n"

    @property
    def toml(self) -> str:
        """As it stands in a rulebook.

        >>> studio.draft.toml == studio.toml
        True
        """
        return "\n".join([self.own_toml, *map(self.address_toml, self.templates)])

    def changed(self, **values: Any) -> Draft:
        """The same with other values. Raises LabError for a key that a trigger does not have.

        >>> studio.draft.changed(once="visitor").once
        'visitor'
        """
        known = {field.encode_name: field.name for field in msgspec.structs.fields(self)}
        made: Values = {}
        for key, value in values.items():
            name = known.get(key.removesuffix("_")) or (key if key in known.values() else None)  # from_ for from
            if name is None:
                raise LabError(f"{key!r} is no key of a trigger{nearest(key, known)}")
            made[name] = _shaped(name, value)
        return msgspec.structs.replace(self, **made)


def _shaped(name: str, value: Any) -> Any:
    """A value as a draft holds it: one name for a list of one, the default for None. Raises LabError for another kind."""
    if value is None:
        return _default(next(field for field in msgspec.structs.fields(Draft) if field.name == name))
    kind, says = _KINDS.get(name, (object, ""))
    if name in _LISTS and isinstance(value, str):
        return (value,)
    if not isinstance(value, kind) or (name in _LISTS and not all(isinstance(one, str) for one in value)):
        raise LabError(f"{name} is {value!r}; write {says}")
    return tuple(value) if name in _LISTS else dict(value) if kind is Mapping else value


def _default(field: Any) -> Any:
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def draft_of(table: Mapping[str, Any], templates: Mapping[str, Any] | None = None) -> Draft:
    """The draft of a table `[[trigger]]`. Raises LabError for a key that a trigger does not have."""
    return Draft().changed(**{"from_" if key == "from" else key: value for key, value in table.items()}).changed(
        templates=dict(templates or {})
    )  # fmt: skip


def read_draft(text: str) -> Draft:
    """The draft of a text with one `[[trigger]]` and perhaps addresses for it. Raises LabError that says what is wrong."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LabError(f"this is no TOML: {error}") from None
    triggers = document.get("trigger")
    if not isinstance(triggers, list) or len(triggers) != 1 or not isinstance(triggers[0], dict):
        raise LabError("write one trigger, under [[trigger]]")
    more = sorted(document.keys() - {"trigger", "affiliate"})
    if more:
        raise LabError(f"{more[0]!r} is not part of a trigger; the studio edits [[trigger]] and addresses for it")
    return draft_of(triggers[0], templates_in(document, triggers[0].get("client", ""), triggers[0].get("name", "")))


def templates_in(document: Mapping[str, Any], client: str, name: str) -> Values:
    """The addresses that affiliates get for one trigger alone."""
    found: Values = {}
    for affiliate, table in document.get("affiliate", {}).items():
        try:
            own = table["for"][client][name]["webhook"]
        except (KeyError, TypeError):
            continue
        found[affiliate] = own
    return found


def literal(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = "'" not in value and all(" " <= char != "\x7f" for char in value)
        return (
            f"'{value}'" if '"' in value and plain else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        )
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {literal(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    return value.isoformat() if isinstance(value, (datetime, date, time)) else str(value)


def _key(key: str) -> str:
    plain = key and all(char.isascii() and (char.isalnum() or char in "_-") for char in key)
    return key if plain else json.dumps(key, ensure_ascii=False)
