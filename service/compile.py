"""Compile the engine's hot modules: `python -m service.compile [--required]`. Half a minute, once per change of the engine.

mypyc, which is part of mypy, turns the typed sources into C, and the machine's C compiler turns that into modules that
`service.native` finds. Without one, or where something fails, one line says so and the engine runs from its sources.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from service.native import ENGINE, FOLDER, MADE_FROM, MODULES, is_current, made_from

# what mypyc has to know of the types; packages that others only print with are not read, which saves twenty seconds
MYPY = """\
[mypy]
strict = true
[mypy-re2.*]
ignore_missing_imports = true
follow_imports = skip
[mypy-rich.*,IPython.*,attr.*]
follow_imports = skip
"""
SETUP = """\
from setuptools import setup
from mypyc.build import mypycify
paths = {paths!r}
modules = mypycify(["--config-file", "mypy.ini", *paths], opt_level="2", debug_level="0",
                   group_name="service.engine.decisions")
setup(name="engine", packages=[], ext_modules=modules)
"""
TIMEOUT_S = 600
INTERPRETED = "it runs from its sources, at 1.6 times the time per hit"
LONGEST = 200  # characters of a tool's message that are repeated


class NotCompiled(Exception):
    """Why the engine could not be compiled, in a few words."""


def compile_engine() -> None:
    """Put the compiled modules into the folder where `service.native` looks. Raises NotCompiled."""
    _need_tools()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        _lay_out(work)
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise NotCompiled(f"compiling took longer than {TIMEOUT_S} s") from None
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines() or ["nothing was said"]
            raise NotCompiled(next((line for line in said if "error:" in line), said[-1])[:LONGEST])
        _install(work / "service" / "engine")


def _need_tools() -> None:
    for package in ("mypyc", "setuptools"):
        if find_spec(package) is None:
            raise NotCompiled(f"{package} is not installed: the extra `compile` brings it")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise NotCompiled(f"there is no C compiler {compiler}; on Debian and Ubuntu install gcc")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise NotCompiled("Python.h is missing; on Debian and Ubuntu install python3-dev")


def _lay_out(work: Path) -> None:
    """A copy of the engine alone, in which mypyc may leave what it likes."""
    engine = work / "service" / "engine"
    engine.mkdir(parents=True)
    (work / "service" / "__init__.py").touch()
    for path in ENGINE.glob("*.py"):
        shutil.copy(path, engine)
    paths = [f"service/engine/{name}.py" for name in MODULES]
    (work / "mypy.ini").write_text(MYPY, encoding="utf-8")
    (work / "setup.py").write_text(SETUP.format(paths=paths), encoding="utf-8")


def _install(built: Path) -> None:
    """Replace the folder at once: a process that starts meanwhile finds the old modules, the new ones, or none."""
    fresh = FOLDER.with_name(f"{FOLDER.name}.{os.getpid()}")
    fresh.mkdir()
    for path in built.glob("*" + str(sysconfig.get_config_var("EXT_SUFFIX"))):
        shutil.copy(path, fresh)
    (fresh / MADE_FROM).write_text(made_from(built), encoding="ascii")
    shutil.rmtree(FOLDER, ignore_errors=True)
    fresh.rename(FOLDER)


def main() -> None:
    """Compile if the sources have changed since, and say in one line what happened."""
    parser = argparse.ArgumentParser(description="Compile the engine's hot modules.")
    parser.add_argument("--required", action="store_true", help="end with status 1 where it cannot be compiled")
    required = parser.parse_args().required
    if is_current():
        return
    start_s = time.monotonic()
    try:
        compile_engine()
    except NotCompiled as reason:
        print(f"engine: not compiled, {INTERPRETED}: {reason}", file=sys.stderr)
        sys.exit(1 if required else 0)
    print(f"engine: compiled in {time.monotonic() - start_s:.0f} s")


if __name__ == "__main__":
    main()
