"""The contract of the house, checked by machine: who imports whom, and that the engine is pure."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "service" / "engine"

# What the engine may import beside itself. A new name here is a decision: does it read a clock, a file, the environment?
ALLOWED_IMPORTS = {
    "__future__", "collections.abc", "datetime", "decimal", "difflib", "enum", "functools", "hashlib", "ipaddress", "lark",
    "lark.exceptions", "msgspec", "operator", "re", "re2", "tomllib", "typing", "urllib.parse", "zlib",
}  # fmt: skip

BANNED_CALLS = {
    "open", "hash", "id", "__import__", "eval", "exec", "compile", "input", "print", "globals", "vars", "breakpoint",
    "float", "getattr", "setattr",
}  # fmt: skip
BANNED_METHODS = {
    "now", "utcnow", "today", "fromtimestamp", "getcontext", "localcontext", "setcontext", "strftime", "strptime",
    "astimezone",
}  # fmt: skip
# where money or a condition is decided: no binary fractions, not even written ones
EXACT_FILES = {
    "certainty.py", "conditions.py", "decoding.py", "escaping.py", "filling.py", "grammar.py", "keys.py", "meanings.py",
    "memory.py", "merging.py", "parse.py", "pipeline.py", "postbacks.py", "reader.py", "recognition.py", "rulebook.py",
    "templates.py", "times.py", "trigger_tables.py", "triggers.py", "values.py", "visitors.py",
}  # fmt: skip
ORDERED_READERS = {"list", "tuple", "enumerate", "iter", "next", "zip", "map", "join", "extend", "update", "fromkeys"}


Found = tuple[ast.stmt | ast.expr, str]


def violations(path: Path) -> list[str]:
    """What in one file of the engine may not be there: `file:line: what`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[Found] = [*_imports(tree), *_calls(tree), *_set_order(tree), *_rebindings(tree)]
    if path.name in EXACT_FILES:
        found += _floats(tree)
    return [f"{path.name}:{node.lineno}: {what}" for node, what in found]


def _imports(tree: ast.Module) -> Iterator[Found]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name not in ALLOWED_IMPORTS and not name.startswith("service.engine"):
                yield node, f"imports {name}"


def _calls(tree: ast.Module) -> Iterator[Found]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS | BANNED_METHODS:
                yield node, f"calls {node.func.id}()"
            if isinstance(node.func, ast.Attribute) and node.func.attr in BANNED_METHODS:
                yield node, f"calls .{node.func.attr}()"


def _is_set(node: ast.expr) -> bool:
    """Whether an expression is plainly a set, whose order is nobody's promise."""
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitXor)):
        return True  # the engine computes with numbers nowhere by & or ^
    return isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.Sub)) and _is_set(node.left)


def _set_order(tree: ast.Module) -> Iterator[Found]:
    for node in ast.walk(tree):
        read: list[ast.expr] = []
        if isinstance(node, (ast.For, ast.comprehension)):
            read = [node.iter]
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            read = [argument for argument in node.args if name in ORDERED_READERS]
        elif isinstance(node, ast.Starred):
            read = [node.value]
        for expression in read:
            if _is_set(expression):
                yield expression, "depends on the order of a set"


def _rebindings(tree: ast.Module) -> Iterator[Found]:
    """State that would outlive a call: nothing may be rebound from inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            yield node, "rebinds a name from inside a function"


def _floats(tree: ast.Module) -> Iterator[Found]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (float, complex)):
            yield node, f"the float {node.value}"


def engine_violations(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("*.py")) for line in violations(path)]


def test_the_engine_is_pure() -> None:
    assert engine_violations(ENGINE) == []


@pytest.mark.parametrize(
    ("file", "planted", "words"),
    [
        ("triggers.py", "import time", "imports time"),
        ("parse.py", "from datetime import datetime\nNOW = datetime.now()", "calls .now()"),
        ("visitors.py", "import random", "imports random"),
        ("pipeline.py", "from os import environ", "imports os"),
        ("rulebook.py", "TEXT = open('x').read()", "calls open()"),
        ("model.py", "NUMBER = hash('x')", "calls hash()"),
        ("visitors.py", "KEY = id(object())", "calls id()"),
        ("templates.py", "clock = __import__('time').time", "calls __import__()"),
        ("templates.py", "import locale", "imports locale"),
        ("triggers.py", "SHARE = 0.25", "the float 0.25"),
        ("conditions.py", "def read(text: str) -> object:\n    return float(text)", "calls float()"),
        ("triggers.py", "from decimal import getcontext\nC = getcontext()", "calls getcontext()"),
        ("postbacks.py", "NAMES = [name for name in {'a', 'b'}]", "order of a set"),
        ("postbacks.py", "NAMES = ','.join(set('ab'))", "order of a set"),
        ("postbacks.py", "NAMES = list(frozenset('ab') - {'a'})", "order of a set"),
        ("pipeline.py", "SEEN = 0\n\ndef see() -> None:\n    global SEEN\n    SEEN += 1", "rebinds a name"),
        ("pipeline.py", "from service.archive import schemas", "imports service.archive"),
    ],
)
def test_what_is_planted_in_the_engine_is_caught(tmp_path: Path, file: str, planted: str, words: str) -> None:
    # given a copy of the engine with one violation at the end of one file
    copy = tmp_path / "engine"
    shutil.copytree(ENGINE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / file
    line = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + planted + "\n")
    # then the same check names the file, a line of what was planted, and what it is
    found = engine_violations(copy)
    assert found
    assert all(int(one.split(":")[1]) >= line and one.startswith(file) for one in found)
    assert any(words in one for one in found)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "planted", "broken"),
    [
        ("service/engine/parse.py", "from service.archive import schemas", "the engine is pure"),
        ("lab/digest.py", "from service.tracking import store", "the lab imports only the engine"),
        ("service/keys.py", "import lab.digest", "the service never imports the lab"),
    ],
)
def test_an_import_against_the_contracts_is_caught(tmp_path: Path, file: str, planted: str, broken: str) -> None:
    # given a copy of the house with one import too many
    for name in ("service", "lab"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / file
    path.write_text(path.read_text() + planted + "\n")
    # then the tool names the contract that it breaks
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    kept_or_broken = [line for line in done.stdout.splitlines() if line.startswith(broken) and "BROKEN" in line]
    assert kept_or_broken, done.stdout
