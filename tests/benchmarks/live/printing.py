"""How a benchmark of the live path is asked and how it answers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with `--json`."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="one JSON document and nothing else on standard output")
    return arguments


def show(figures: Mapping[str, Any], as_json: bool) -> None:
    """Print figures, one per line or as one document."""
    if as_json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:26}{value}")
