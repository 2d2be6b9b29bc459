"""What may come next in a condition: names, events and operators that fit where the text ends."""

from __future__ import annotations

import re
from collections.abc import Iterable

from service.engine.model import RESERVED
from service.engine.rulebook import Rulebook

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]*\Z")
_IN_EVENT = re.compile(r"\b(?:count|since)\(\s*([\"'])([^\"']*)\Z")
_NAMING = re.compile(r"\b(?:count|since)\(\s*\Z")
_OPERATORS = ("==", "!=", ">=", "<=", ">", "<", "in [", "matches ")
_JOINTS = ("and ", "or ")
_FUNCTIONS = ('count("', 'since("', "exists(", "not ")
_WHOLE = re.compile(
    r"([\"']\s*|\]\s*|\)\s*|(?<![A-Za-z0-9_])[0-9.]+[smhdw]?\s*)\Z"
)  # behind a literal: a test is complete
MOST = 8


def completions(text: str, names: Iterable[str], events: Iterable[str]) -> tuple[str, ...]:
    """The texts that the text may become: its last word completed, or the next word added."""
    named = _IN_EVENT.search(text)
    if named:
        stem, typed = text[: len(text) - len(named[2])], named[2]
        return tuple(f"{stem}{event}{named[1]})" for event in events if event.startswith(typed))[:MOST]
    if _NAMING.search(text):
        return tuple(f'{text}"{event}")' for event in events)[:MOST]
    if _quoted(text):
        return ()
    word = _WORD.search(text)
    known = list(names)
    if word and word[0] not in known:
        stem, typed = text[: word.start()], word[0].lower()
        if _after_name(stem, known) or _WHOLE.search(stem):
            words: list[str] = [*_JOINTS, "in [", "matches "]
        else:
            words = [f"{name} " for name in known] + list(_FUNCTIONS)
        return tuple(stem + one for one in words if one.lower().startswith(typed) and one.strip() != word[0])[:MOST]
    if _after_name(text, known) or re.search(r"\b(?:count|since)\([^)]*\)\s*\Z", text):
        return tuple(f"{text.rstrip()} {sign}{'' if sign.endswith((' ', '[')) else ' '}" for sign in _OPERATORS)[:MOST]
    if _WHOLE.search(text):
        return tuple(f"{text.rstrip()} {joint}" for joint in _JOINTS)
    gap = "" if not text or text.endswith((" ", "(")) else " "
    return tuple(text + gap + one for one in [*(f"{name} " for name in known), *_FUNCTIONS])[:MOST]


def _quoted(text: str) -> bool:
    """Whether the text ends inside of quotes."""
    bare = re.sub(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", "", text)
    return '"' in bare or "'" in bare


def _after_name(text: str, names: list[str]) -> bool:
    word = _WORD.search(text.rstrip())
    before = text.rstrip()[: word.start()].rstrip() if word else ""
    compared = before.endswith(("=", "<", ">"))
    return word is not None and word[0] in names and not compared and not before.endswith("exists(")


def names_for(rulebook: Rulebook, client: str, seen: Iterable[str] = ()) -> tuple[str, ...]:
    """Names that a condition of a client may use: the usual ones first, then its parameters, then what else came."""
    known = rulebook.clients.get(client)
    declared = sorted(known.params) if known else []
    rest = [name for name in RESERVED if name not in ("amount", "affiliate", "client", "event", "sig", "test")]
    undeclared = [f"param.{name}" for name in sorted(seen) if name not in declared]
    return ("amount", *declared, "affiliate", *rest, "time", "visitor", "hit_id", "affiliate_click_id", *undeclared)


def events_for(rulebook: Rulebook, client: str) -> tuple[str, ...]:
    """Events that the rulebook names for a client."""
    known = rulebook.clients.get(client)
    found = {"click", *(known.browser_events if known else ())}
    for trigger in rulebook.triggers:
        if trigger.client == client:
            found |= {trigger.on, *trigger.after}
    return tuple(sorted(found))
