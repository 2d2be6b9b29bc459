"""What the intake knows stands in its README: routes, flags, bounds of a batch."""

from __future__ import annotations

import re
from pathlib import Path

from service.engine.parse import SIGNED
from service.intake import capture, examine
from service.intake.lines import MAX_BATCH_BYTES, MAX_BATCH_LINES

README = (Path(__file__).parents[2] / "service" / "intake" / "README.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """The table whose first column has this heading: first column to second."""
    (block,) = re.findall(rf"^\| {heading} \|.*\n\| ---.*\n((?:\|.*\|\n)+)", README, flags=re.MULTILINE)
    cells = [[cell.strip().strip("`") for cell in line.split("|")[1:3]] for line in block.splitlines()]
    return dict(cells)


def test_every_route_stands_there_with_its_methods() -> None:
    assert rows("route") == {f"/{route}": ", ".join(methods) for route, methods in capture.METHODS.items()}


def test_every_flag_stands_there() -> None:
    known = {capture.BODY_CUT, capture.QUERY_CUT, capture.DISCONNECTED, capture.BOT, capture.PREFETCH}
    assert rows("flag").keys() == known | {capture.DO_NOT_TRACK, SIGNED, examine.ADDRESS_ALLOWED}


def test_the_bounds_of_a_batch_stand_there() -> None:
    assert (MAX_BATCH_LINES, MAX_BATCH_BYTES) == (1000, 1024 * 1024) and "1,000 lines and 1 MiB" in README
