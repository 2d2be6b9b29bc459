"""Stands between a notebook and the processes that it started, and ends them when the notebook says so, or is gone.

A kernel can be killed without a word. This process notices: its standard input ends, or it has another parent. It runs in a
session of its own, so that interrupting a cell does not end the service. Nothing but the standard library is loaded here.

    python -I live_keeper.py '{"parent": 4711, "folder": "...", "remove": true, "children": [{"command": [...], ...}]}'
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LOOK_EVERY_S = 0.5
STOP_TIMEOUT_S = 20.0
_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)

Process = subprocess.Popen[bytes]


def main() -> int:
    """Start the children, wait for the end of somebody, end the rest. Exit status 1 if a child ended first."""
    task = json.loads(sys.argv[1])
    children: list[Process] = []
    try:
        for child in task["children"]:  # one by one: what was started is ended, whatever happens
            children += [start(child["command"], Path(child["log"]), Path(task["folder"]))]
        why = wait(task["parent"], children)
    finally:
        end(children)
    if why == "gone" and task["remove"]:
        shutil.rmtree(task["folder"], ignore_errors=True)
    return 1 if why == "ended" else 0


def start(command: list[str], log: Path, folder: Path) -> Process:
    """Start one child. The folder is nobody's source code, so that no file there is taken for a module."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_end_with_parent
        )


def wait(parent: int, children: list[Process]) -> str:
    """`stop`: told to. `gone`: the notebook ended. `ended`: a child ended by itself."""
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], LOOK_EVERY_S)
        if readable:
            return "stop" if os.read(sys.stdin.fileno(), 64) else "gone"
        if os.getppid() != parent:
            return "gone"
        if any(child.poll() is not None for child in children):
            return "ended"


def end(children: list[Process]) -> None:
    """End what still runs, the last one first; kill what does not end in time."""
    for child in reversed(children):
        if child.poll() is None:
            child.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _end_with_parent() -> Any:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
