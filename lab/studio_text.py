"""A trigger put into the text of a rulebook: every other line, comments too, stays as it is."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from typing import Any

from lab.log import LabError
from lab.studio_draft import Draft, draft_of, literal, templates_in

Block = tuple[tuple[str, ...], list[str]]  # path of the header, () before the first one; its lines


def put(text: str, draft: Draft) -> str:
    """The text with the draft in place of the trigger of its name, or behind all others.

    Comments between the lines of that trigger go with it. Raises LabError where triggers are not under `[[trigger]]`.
    """
    blocks = _blocks(text)
    if isinstance(_document(text).get("trigger"), list) and not any(path == ("trigger",) for path, _ in blocks):
        raise LabError("this rulebook writes its triggers as one list; write each under its own [[trigger]]")
    made: list[str] = []
    below = ("for", draft.client, draft.name)
    missing: dict[tuple[str, ...], str] = {("affiliate", name, *below): name for name in draft.templates}
    placed = inside = False
    for path, lines in blocks:
        if path == ("trigger",):
            inside = _name(lines) == draft.name
            placed = placed or inside
        if inside and path[:1] == ("trigger",):  # or a table below it
            made.append((draft.own_toml if path == ("trigger",) else "") + _tail(lines))
        elif path[:1] == ("affiliate",) and path[2:] == below:
            made.append(_with_webhook(lines, draft.templates.get(path[1])))
            missing.pop(path, None)
        else:
            made.append("".join(lines))
    parts = [] if placed else [draft.own_toml]
    parts += [draft.address_toml(affiliate) for affiliate in missing.values()]
    return "\n".join(["".join(made).rstrip("\n") + "\n", *parts])


def drafts_in(text: str) -> dict[str, Draft]:
    """Every trigger of a rulebook as a draft, by name."""
    document = _document(text)
    triggers: list[dict[str, Any]] = document.get("trigger", [])
    return {one["name"]: draft_of(one, templates_in(document, one["client"], one["name"])) for one in triggers}


def _with_webhook(lines: list[str], template: Any) -> str:
    """A table of addresses with another webhook, or with none; nothing is left of a table without keys."""
    table: Any = {key: value for key, value in tomllib.loads("".join(lines[1:])).items() if key != "webhook"}
    if template is not None:
        table = {"webhook": template} | table
    if not table:
        return _tail(lines).lstrip("\n")
    return "".join([lines[0], *(f"{key} = {literal(value)}\n" for key, value in table.items()), _tail(lines)])


def _tail(lines: list[str]) -> str:
    """The empty lines and comments behind the last key: they belong to what follows."""
    kept: list[str] = []
    for line in reversed(lines[1:]):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        kept.append(line)
    return "".join(reversed(kept))


def _name(lines: list[str]) -> str:
    found: Any = tomllib.loads("".join(lines))["trigger"][0].get("name", "")
    return str(found)


@lru_cache(maxsize=8)
def _blocks(text: str) -> tuple[Block, ...]:
    """The text in pieces, each a header with its keys. A line that only looks like a header does not end one."""
    found: list[Block] = []
    path: tuple[str, ...] = ()
    gathered: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("[") and _whole(gathered):
            found.append((path, gathered))
            path, gathered = _path(line), []
        gathered.append(line)
    return (*found, (path, gathered))


@lru_cache(maxsize=8)
def _document(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def _whole(lines: list[str]) -> bool:
    try:
        tomllib.loads("".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    return True


def _path(header: str) -> tuple[str, ...]:
    node: Any = tomllib.loads(header)
    path: list[str] = []
    while isinstance(node, (dict, list)) and node:
        if isinstance(node, list):
            node = node[0]
        else:
            key, node = next(iter(node.items()))
            path.append(key)
    return tuple(path)
