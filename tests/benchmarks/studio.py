"""How long the studio takes to answer, through a kernel: `python -m tests.benchmarks studio [--json] [--hits N]`.

Generates hits of the sample rulebook (lab/bulk.py says which) in a temporary folder, starts a real IPython kernel, opens
`lab.Studio` in it and types conditions as a browser does: a message to the widget's comm. The time runs from sending the
message until the kernel's message with the new headline is here. Figures: `typing_s` and `exact_s` (the slowest of all
changes) with `typing_median_s` and `exact_median_s`, per kind of change `changes`, and `ready_s`, how long the log takes to
be prepared once. `typing_s` is the first answer to a change, sampled and said to be; `exact_s` the exact one, which waits
until nobody has typed for a moment. `cpu_s` is the most processor time that the kernel took for a change, sample, exact
answer, examples: on a shared machine the steadier figure. `wrong` counts exact headlines that are not what a replay says.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

import lab
from lab.bulk import generate
from lab.studio_draft import read_draft
from lab.studio_text import put
from tests.benchmarks.engine import RULES

HITS = 1_000_000
WAIT_S = 180
# what is changed: the key in the kernel, its value, and how the kind of change is called
CHANGES: tuple[tuple[str, Any, str], ...] = (
    ("when", "amount >= 5", "another literal"),
    ("when", "amount >= 50", "another literal"),
    ("when", 'amount >= 50 and country == "DE"', "another name"),
    ("when", 'amount >= 50 and country in ["DE", "AT"] and count("sale") == 0', "a count"),
    ("when", 'amount >= 50 and since("registration") < 2d', "a time"),
    ("when", 'param.device matches "^mob" and amount < 100', "an undeclared name"),
    ("on", "login", "another event"),
    ("on", "sale", "an event again"),
    ("on", "pageview", "the event with the most hits"),
    ("when", "exists(country)", "a name over the most hits"),
    ("after", ["click"], "another step"),
    ("once", False, "without once"),
)


class Kernel:
    """A kernel with a studio."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        self.models: dict[str, str] = {}

    def run(self, code: str) -> str:
        """Run code, answer with what it printed. Raises RuntimeError for an error in it."""
        printed: list[str] = []

        def heard(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            if message["msg_type"] == "error":
                raise RuntimeError("\n".join(content["traceback"]))

        self.client.execute_interactive(code, timeout=WAIT_S, output_hook=heard)
        return "".join(printed)

    def type(self, model: str, state: dict[str, Any]) -> None:
        """Change a widget, as the browser does."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        content = {"comm_id": model, "data": data}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", content))

    def headlines(self, model: str) -> Iterator[tuple[float, str]]:
        """When and what: each value that the widget is given from now on."""
        while True:
            message = self.client.get_iopub_msg(timeout=WAIT_S)
            if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == model:
                value = message["content"]["data"].get("state", {}).get("value")
                if value is not None:
                    yield time.perf_counter(), value


@contextmanager
def kernel() -> Iterator[Kernel]:
    """A kernel, ended afterwards."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        yield Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def figures(hits: int) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="backtrack-bench-") as folder:
        root = Path(folder) / "tables"
        root.mkdir()
        written = generate(root, hits)
        with kernel() as one:
            ready_s = _open(one, root)
            changes = [_change(one, *change) for change in CHANGES]
        typing, exact = ([change[name] for change in changes] for name in ("typing_s", "exact_s"))
        return {
            "hits": written, "ready_s": round(ready_s, 2),
            "cpu_s": max(change["cpu_s"] for change in changes),
            "typing_s": max(typing), "typing_median_s": round(median(typing), 3),
            "exact_s": max(exact), "exact_median_s": round(median(exact), 3),
            "wrong": _wrong(root, changes), "changes": changes,
        }  # fmt: skip


def _open(one: Kernel, root: Path) -> float:
    started = time.perf_counter()
    code = (
        "import json, time, lab\n"
        f"studio = lab.Studio(lab.open({str(root)!r}), {str(RULES)!r}, 'first-deposit')\n"
        "studio.result, studio.cases\n"
        "form = studio.form\n"
        "widgets = dict(count=studio.count, when=form.condition, on=form.on, after=form.after, once=form.once)\n"
        "print(json.dumps({name: widget.model_id for name, widget in widgets.items()}))"
    )
    one.models = json.loads(one.run(code))
    return time.perf_counter() - started


def _change(one: Kernel, key: str, value: Any, kind: str) -> dict[str, Any]:
    """One change through the widget, and how long its first and its exact headline took."""
    state = {"value": value}
    if key == "on":  # a dropdown's browser half knows positions only
        state = {"index": int(one.run(f"print([name for _, name in form.on.options].index({value!r}))"))}
    before = float(one.run("print(time.process_time())"))
    started = time.perf_counter()
    typing_s = None
    one.type(one.models[key], state)
    for at, headline in one.headlines(one.models["count"]):
        if "bt-badge" not in headline:
            continue
        typing_s = typing_s or at - started
        if "bt-exact" in headline:
            break
    fired = re.search(r"<b>([0-9,]+)</b>", headline)
    draft = one.run("studio.cases; print(studio.toml)")  # waits until all is told
    cpu_s = float(one.run("print(time.process_time())")) - before
    return {
        "change": kind, "cpu_s": round(cpu_s, 3), "typing_s": round(typing_s or 0.0, 3), "exact_s": round(at - started, 3),
        "fired": int(fired[1].replace(",", "")) if fired else -1, "draft": draft,
    }  # fmt: skip


def _wrong(root: Path, changes: list[dict[str, Any]]) -> int:
    """How many exact headlines are not what a replay says; the drafts are taken out of the changes."""
    text = RULES.read_text(encoding="utf-8")
    for number, change in enumerate(changes):
        text = put(text, read_draft(change.pop("draft")).changed(name=f"change-{number}", templates=None))
    counts = lab.open(root).replay(text, engine="set", full=False).counts
    fired = dict(counts.group_by("trigger").agg(pl.col("firings").sum()).iter_rows())
    return sum(fired.get(f"change-{number}", 0) != change["fired"] for number, change in enumerate(changes))


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--hits", type=int, default=HITS, help="how many hits, about")
    chosen = parser.parse_args(arguments)
    found = figures(chosen.hits)
    if chosen.json:
        print(json.dumps(found))
        return
    for change in found.pop("changes"):
        print(
            f"{change['change']:28}{change['typing_s']:>8.3f} s{change['exact_s']:>8.3f} s exact{change['fired']:>12,}"
        )
    for name, value in found.items():
        print(f"{name:28}{value:>12,}")


if __name__ == "__main__":
    main()
