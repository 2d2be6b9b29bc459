"""The Lua scripts: loaded from their files, named by their SHA-1, sent again where the server has forgotten them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import NoScriptError

ROOT = Path(__file__).parent


@functools.cache
def script_text(name: str) -> str:
    """Text of a script, such as `intake/append`."""
    return (ROOT / f"{name}.lua").read_text()


@functools.cache
def script_sha(name: str) -> str:
    """What the server calls the script."""
    return hashlib.sha1(script_text(name).encode(), usedforsecurity=False).hexdigest()


class Script:
    """One script on a blocking connection."""

    def __init__(self, connection: redis.Redis, name: str) -> None:
        self._connection = connection
        self._name = name

    def __call__(self, keys: list[str], args: list[Any]) -> Any:
        """Run it. Loads it first where the server does not know it."""
        try:
            return self._connection.evalsha(script_sha(self._name), len(keys), *keys, *args)
        except NoScriptError:
            self._connection.script_load(script_text(self._name))
        return self._connection.evalsha(script_sha(self._name), len(keys), *keys, *args)
