"""The Lua scripts: loaded from their files, named by their SHA-1, sent again where the server has forgotten them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis
from redis.exceptions import NoScriptError

ROOT = Path(__file__).parent


def script_text(name: str) -> str:
    """Text of a script, such as `intake/append`."""
    return (ROOT / f"{name}.lua").read_text()


class Script:
    """One script on a blocking connection."""

    def __init__(self, connection: redis.Redis, name: str) -> None:
        self._connection = connection
        self._text = script_text(name)
        self._sha = ""

    def __call__(self, keys: list[str], args: list[Any]) -> Any:
        """Run it. Loads it first where the server does not know it."""
        if self._sha:
            try:
                return self._connection.evalsha(self._sha, len(keys), *keys, *args)
            except NoScriptError:
                pass
        loaded: Any = self._connection.script_load(self._text)
        self._sha = loaded.decode() if isinstance(loaded, bytes) else str(loaded)
        return self._connection.evalsha(self._sha, len(keys), *keys, *args)
