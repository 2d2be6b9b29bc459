"""JupyterLab itself, in a browser: the studio opens, a condition is typed, the count changes, and nothing is fetched from
anywhere but this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import nbformat
import polars as pl
import pytest

import lab
from service.servers import free_port
from tests.browser.devtools import Chromium, Page
from tests.waiting import until

TABLES = Path(__file__).parents[2] / "datasets" / "tables"
DAY = "2026-03-02"
TOKEN = "only-on-this-machine"
CELL = f"""import lab
log = lab.open({str(TABLES)!r}, as_of={DAY!r})
display(log)
lab.Studio(log)"""
SHIFT = 8  # Input.dispatchKeyEvent
COUNT = "document.querySelector('.bt-count b')"


@pytest.fixture
def jupyterlab(tmp_path: Path) -> Iterator[str]:
    """`backtrack lab` on a folder with one notebook; its address."""
    folder, port = tmp_path / "notebooks", free_port()
    folder.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)], metadata=kernel)
    nbformat.write(notebook, folder / "studio.ipynb")
    own = {name: str(tmp_path / name.lower()) for name in _FOLDERS}
    log = (tmp_path / "log").open("wb")
    command = [sys.executable, "-m", "service.cli", "lab", str(folder), "--port", str(port), "--no-browser"]
    process = subprocess.Popen(
        command, env={**os.environ, **own, "JUPYTER_TOKEN": TOKEN}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


_FOLDERS = (
    "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
    "IPYTHONDIR",
)  # fmt: skip


def answers(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/api/status?token={TOKEN}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_condition_typed_into_the_studio_changes_the_count(chromium: Chromium, jupyterlab: str) -> None:
    # given the sales that a new trigger would fire on, all of them and the large ones
    sales = lab.open(TABLES, as_of=DAY).events.filter(pl.col("client") == "acme", pl.col("event") == "sale").collect()
    every, large = sales.height, sales.filter(pl.col("amount") >= 100).height
    assert 0 < large < every
    # and a notebook that is open in JupyterLab, its kernel ready
    until(lambda: answers(jupyterlab), "JupyterLab", 30)
    page = chromium.page()
    page.call("Network.enable")
    page.go(f"{jupyterlab}/lab/tree/studio.ipynb?token={TOKEN}")
    until(lambda: page.run("document.body.innerText.includes('Python 3 (ipykernel) | Idle')"), "an idle kernel", 40)
    # when its cell is run, the studio counts
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    page.run("document.querySelector('.jp-Cell .cm-content').focus()")
    for kind in ("rawKeyDown", "keyUp"):
        page.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, modifiers=SHIFT
        )
    until(lambda: shown(page) == every, "the studio's count", 40)
    # and when a condition is typed, the count changes
    page.run("document.querySelector('.bt-condition input').focus()")
    page.call("Input.insertText", text="amount >= 100")
    until(lambda: shown(page) == large, "the other count")
    # then it asked nothing about news, and nobody but this machine was asked for anything
    assert "Jupyter news" not in page.run("document.body.innerText")
    asked = [urlsplit(url) for url in requested(chromium)]
    assert len(asked) > 20
    # and the log's table is the lab's own: texts to the left although JupyterLab puts those of tables to the right
    styles = "(name => getComputedStyle(document.querySelector('.backtrack tbody td' + name)).textAlign)"
    assert [page.run(f"{styles}('{cell}')") for cell in ("", ".n")] == ["left", "right"]
    assert {url.hostname for url in asked if url.scheme not in ("data", "blob")} == {"127.0.0.1"}


def shown(page: Page) -> int:
    """The number that the studio shows; -1 without one."""
    text = page.run(f"{COUNT} ? {COUNT}.innerText : ''")
    return int(text.replace(",", "")) if re.fullmatch(r"[\d,]+", text) else -1


def requested(chromium: Chromium) -> list[str]:
    """The address of everything that pages have asked for, websockets too."""
    found: list[Any] = [one["params"] for one in chromium.heard if one["method"] in _ASKED]
    return [one["request"]["url"] if "request" in one else one["url"] for one in found]


_ASKED = ("Network.requestWillBeSent", "Network.webSocketCreated")
