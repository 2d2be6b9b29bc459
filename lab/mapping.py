"""What the names of a foreign log mean: which request is which event, which parameter or column is which of our names.

```toml
client = "shop"                               # whose visitors they are

[events]                                      # of an access log: paths that succeeded, the first match wins
sale = "^/checkout/done"
login = "POST ^/login$"

[parameters]                                  # of an access log: their name in the query to ours
user = "uid"
order = "txid"

[columns]                                     # of CSV and Parquet: their column to ours, "" to leave one out
created = "time"
customer = "uid"
email = ""
```

CSV and Parquet also know `zone`, of times that name none (UTC if nobody says), and `event`, the event of rows that say
none. The same may be a JSON document, or a mapping of Python.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from lab.log import LabError
from service.engine.document import nearest
from service.engine.model import RESERVED
from service.engine.parse import EVENT_NAME

OURS = tuple(name for name in RESERVED if name not in ("client", "event", "ts", "sig"))  # what a parameter may be
COLUMN = ("time", "client", "event", *OURS)  # what a column may be


class LogMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping: see above. events: name to pattern. parameters, columns: their name to ours."""

    client: str = "site"
    events: dict[str, str] = {}
    parameters: dict[str, str] = {}
    columns: dict[str, str] = {}
    zone: str = "UTC"
    event: str = ""


def log_map(given: str | Path | Mapping[str, Any] | LogMap | None) -> LogMap:
    """A mapping from a file (TOML, or JSON by its ending), from Python, or the empty one.

    Raises LabError that names what cannot be used and the nearest name that can.
    """
    if isinstance(given, LogMap):
        return given
    where = f"map {given}" if isinstance(given, str | Path) else "map"
    if given is not None and not isinstance(given, str | Path | Mapping):
        raise LabError(f'map {given!r} is none; give a path, or names such as {{"client": "shop"}}')
    document = _document(Path(given)) if isinstance(given, str | Path) else dict(given or {})
    for key in document:
        if key not in LogMap.__struct_fields__:
            raise LabError(f"{where}: there is no {key!r}{nearest(key, LogMap.__struct_fields__)}")
    try:
        found = msgspec.convert(document, LogMap)
    except msgspec.ValidationError as error:
        raise LabError(f'{where}: {error}; values are texts, such as [columns] created = "time"') from None
    return _checked(found, where)


def _document(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        found = msgspec.json.decode(raw) if path.suffix == ".json" else tomllib.loads(raw.decode())
    except OSError as error:
        raise LabError(f"map {path} cannot be read: {error.strerror}; give a TOML or JSON file") from None
    except (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LabError(f"map {path} is no {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(found, dict):
        raise LabError(f'map {path} is no table of keys; write it as [columns] created = "time"')
    return found


def _checked(found: LogMap, where: str) -> LogMap:
    for part, known in (("parameters", OURS), ("columns", (*COLUMN, ""))):
        taken: dict[str, str] = {}
        for theirs, ours in getattr(found, part).items():
            if ours not in known:
                raise LabError(f"{where}: {part}: {theirs} = {ours!r} is no name of ours{nearest(ours, known)}")
            if part == "columns" and ours and ours in taken:
                raise LabError(f"{where}: columns: {taken[ours]!r} and {theirs!r} are both {ours!r}; choose one")
            taken[ours] = theirs
    if found.event and not EVENT_NAME.match(found.event):
        raise LabError(f"{where}: event {found.event!r} is no event name; use 1 to 64 of A-Z a-z 0-9 _ . : / -")
    try:
        ZoneInfo(found.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise LabError(f"{where}: zone {found.zone!r} is not known; write it as Europe/Berlin") from None
    return found
