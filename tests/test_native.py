"""The compiled engine: only what was made from these very sources is used, and it decides what the sources decide."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service import native

ROOT = Path(__file__).parents[1]
WHERE = "import service.engine.pipeline as found; print(found.__file__)"
PRINT_DIGEST = """
import hashlib, msgspec
from service.engine import State, load, process
from tests.engine.traffic import RULES, log
state, rulebook = State(), load(RULES)
outcomes = [process(item, state, rulebook) for item in log(11, 1500)]
kept = [state.visitors, state.owners, state.txids, state.caps]
print(hashlib.sha256(msgspec.msgpack.encode([outcomes, kept])).hexdigest())
"""

compiled_here = pytest.mark.skipif(not native.is_current(), reason="the engine is not compiled: make engine")


def ask(code: str, folder: Path = ROOT, *options: str) -> str:
    """What a fresh Python says that runs this code in a folder."""
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the service as it is imported: its first file, how the engine is found, and the engine."""
    shutil.copytree(ROOT / "service" / "engine", tmp_path / "service" / "engine")
    for name in ("__init__.py", "native.py", "compile.py"):
        shutil.copy(ROOT / "service" / name, tmp_path / "service")
    if native.FOLDER.exists():
        shutil.copytree(native.FOLDER, tmp_path / "service" / native.FOLDER.name)
    return tmp_path


@compiled_here
def test_the_compiled_engine_is_used_as_long_as_its_sources_are_untouched(house: Path) -> None:
    # given a house whose compiled engine is that of its sources
    assert Path(ask(WHERE, house)).parent == house / "service" / native.FOLDER.name
    # when a source changes, even one that is not compiled itself
    with (house / "service" / "engine" / "model.py").open("a") as source:
        source.write("# one more line\n")
    # then the sources decide
    assert ask(WHERE, house) == str(house / "service" / "engine" / "pipeline.py")


@compiled_here
def test_it_is_left_aside_on_demand() -> None:
    assert ask(WHERE, ROOT, "-X", "interpreted") == str(ROOT / "service" / "engine" / "pipeline.py")


@compiled_here
def test_the_compiled_engine_and_its_sources_agree_byte_for_byte_on_outcomes_and_state() -> None:
    assert ask(PRINT_DIGEST) == ask(PRINT_DIGEST, ROOT, "-X", "interpreted")


@pytest.mark.parametrize(("options", "status"), [([], 0), (["--required"], 1)])
def test_without_a_c_compiler_one_line_says_so_and_the_sources_run(
    house: Path, options: list[str], status: int
) -> None:
    # given a house that is not compiled, on a machine without a compiler
    shutil.rmtree(house / "service" / native.FOLDER.name, ignore_errors=True)
    command = [sys.executable, "-m", "service.compile", *options]
    done = subprocess.run(
        command, cwd=house, env=os.environ | {"CC": "no-such-cc"}, capture_output=True, text=True, check=False
    )
    # then one line names what is missing and what follows from it, and nothing else is different
    assert done.returncode == status
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "there is no C compiler no-such-cc" in line
    assert "runs from its sources" in line
    assert ask(WHERE, house) == str(house / "service" / "engine" / "pipeline.py")


def classes_of(path: Path) -> list[ast.ClassDef]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]


def test_no_compiled_module_holds_a_class_whose_declaration_the_compiler_would_drop() -> None:
    # `class A(Struct, frozen=True)` compiles without a word, and A is not frozen any more
    for name in native.MODULES:
        for found in classes_of(native.ENGINE / f"{name}.py"):
            assert not found.keywords, f"{name}.{found.name}"
            assert "Struct" not in ast.unparse(found).splitlines()[0], f"{name}.{found.name}"
