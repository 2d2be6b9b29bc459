"""A strict reader of the Prometheus text format, written from its specification: whatever is not allowed fails."""

from __future__ import annotations

import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
HELP = re.compile(rf"# HELP ({NAME}) ((?:[^\\\n]|\\\\|\\n)+)")
TYPE = re.compile(rf"# TYPE ({NAME}) (counter|gauge)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Labels = tuple[tuple[str, str], ...]


class Page:
    """What stands on a page. kinds: metric to counter or gauge. values: metric and its labels to value."""

    def __init__(self, text: str) -> None:
        self.kinds: dict[str, str] = {}
        self.values: dict[tuple[str, Labels], float] = {}
        assert text.endswith("\n") and "\r" not in text
        lines = text[:-1].split("\n")
        while lines:
            self._metric(lines)

    def _metric(self, lines: list[str]) -> None:
        """Take one metric off the lines: HELP, TYPE, at least one sample, all of one name that comes but once."""
        told, kind = HELP.fullmatch(lines.pop(0)), TYPE.fullmatch(lines.pop(0))
        assert told and kind and told[1] == kind[1], "HELP and TYPE of the same metric"
        name = kind[1]
        assert name not in self.kinds, f"{name} comes twice"
        assert name.endswith("_total") is (kind[2] == "counter")
        self.kinds[name] = kind[2]
        assert lines and lines[0].startswith(name), f"{name} has no sample"
        while lines and not lines[0].startswith("#"):
            self._sample(name, lines.pop(0))

    def _sample(self, metric: str, line: str) -> None:
        found = SAMPLE.fullmatch(line)
        assert found and found[1] == metric, line
        labels, rest = [], found[2] or ""
        while rest:
            one = LABEL.match(rest)
            assert one, line
            labels.append((one[1], re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], one[2])))
            rest = rest[one.end() :]
        place = (metric, tuple(labels))
        assert len(dict(labels)) == len(labels) and place not in self.values, f"twice: {line}"
        self.values[place] = float(found[3])
        assert math.isfinite(self.values[place]) and (self.kinds[metric] == "gauge" or self.values[place] >= 0)

    def __call__(self, metric: str, **labels: str) -> float:
        """The value of `backtrack_METRIC` with these labels, of all its samples added up where none are given."""
        name = f"backtrack_{metric}"
        assert name in self.kinds, f"{name} is not on the page"
        if labels:
            return self.values[name, tuple(labels.items())]
        return sum(value for (one, _), value in self.values.items() if one == name)
