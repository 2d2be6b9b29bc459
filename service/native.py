"""The engine as machine code, where it was compiled: the same files, the same decisions, in less time.

`python -m service.compile` makes it, into a folder of its own. That folder is looked into before the sources, but only if
it was made from exactly the sources that stand here, by this Python: what was edited since runs from its source. Modules
that are not compiled always do. `python -X interpreted ...` leaves the folder aside.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

ENGINE = Path(__file__).parent / "engine"
FOLDER = Path(__file__).parent / "_native"
MADE_FROM = "made_from"  # the file in the folder that says what it was made from

# What every hit passes. Only plain functions and plain classes: a class of msgspec would lose what it is declared with.
MODULES = (
    "admission", "decoding", "escaping", "filling", "keys", "meanings", "memory", "merging", "parse", "pipeline",
    "postbacks", "recognition", "times", "triggers",
)  # fmt: skip


def made_from(engine: Path = ENGINE) -> str:
    """What compiled modules have to be made from to be used: a hash of this Python and of all sources of the engine."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(engine.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def is_current(folder: Path = FOLDER) -> bool:
    """Whether the folder holds the compiled modules of the sources as they are."""
    try:
        return (folder / MADE_FROM).read_text(encoding="ascii") == made_from()
    except (OSError, UnicodeDecodeError):
        return False


def in_use() -> bool:
    """Whether this process decides by compiled modules."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def use() -> None:
    """Let `import service.engine` find the compiled modules, if they are current and nobody has said otherwise."""
    if "interpreted" not in sys._xoptions and is_current() and not in_use():
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds the package `service.engine` where it is, and tells it to look for its modules in the folder first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "service.engine":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations.insert(0, str(FOLDER))
        return spec
