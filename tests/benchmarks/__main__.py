"""`python -m tests.benchmarks NAME [--json] ...`: one of the files here, or `all` that are short, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
LONG = frozenset({"memory"})  # ten minutes and more: only by name


def main() -> None:
    """Run one benchmark with the arguments behind its name, or all with the same arguments."""
    name, *rest = sys.argv[1:] or [""]
    if name not in (*NAMES, "all"):
        sys.exit(f"there is no benchmark {name!r}; there are {', '.join(NAMES)} and all")
    for one in [one for one in NAMES if one not in LONG] if name == "all" else [name]:
        ended = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{one}", *rest], check=False)
        if ended.returncode:
            sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
