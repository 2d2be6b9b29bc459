"""Compile the kernel of the set engine: `python -m lab.compile [--required]`. A second, once per change of it.

Without a C compiler one line says so, and logs are read by columns alone, which takes about twice the time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from lab.sets.kernel import FOLDER, SOURCE, library

TIMEOUT_S = 60


class NotCompiled(Exception):
    """Why it could not be compiled, in a few words."""


def compile_kernel() -> None:
    """Put the compiled kernel where `lab.sets.kernel` looks. Raises NotCompiled."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise NotCompiled(f"there is no C compiler {compiler}; on Debian and Ubuntu install gcc")
    try:
        FOLDER.mkdir(exist_ok=True)
        _compile(compiler)
    except OSError as error:
        raise NotCompiled(f"{error.filename or FOLDER} cannot be written: {error.strerror}") from None


def _compile(compiler: str) -> None:
    with tempfile.TemporaryDirectory(dir=FOLDER) as work:
        made = Path(work) / "made.so"
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise NotCompiled(f"{compiler} took longer than {TIMEOUT_S} s") from None
        if done.returncode:
            raise NotCompiled(next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:]))
        for old in FOLDER.glob("scan-*.so"):
            old.unlink(missing_ok=True)
        made.rename(library())


def main() -> None:
    """Compile if the source has changed since, and say in one line what happened."""
    parser = argparse.ArgumentParser(description="Compile the kernel of the set engine.")
    parser.add_argument("--required", action="store_true", help="end with status 1 where it cannot be compiled")
    required = parser.parse_args().required
    if library().exists():
        return
    try:
        compile_kernel()
    except NotCompiled as reason:
        print(f"set engine: not compiled, it reads logs by columns, at twice the time: {reason}", file=sys.stderr)
        sys.exit(1 if required else 0)
    print("set engine: compiled")


if __name__ == "__main__":
    main()
