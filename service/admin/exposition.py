"""The text format of Prometheus, version 0.0.4: names and labels in, bytes out.

https://prometheus.io/docs/instrumenting/exposition_formats/: UTF-8; each metric has one HELP line, one TYPE line and all
its samples together; a label's value escapes backslash, quote and line feed; the last line ends with a line feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4"  # the web framework adds the charset
COUNTER, GAUGE = "counter", "gauge"

_IN_VALUES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Metric(msgspec.Struct, frozen=True):
    """One metric. kind: COUNTER or GAUGE. means: a sentence with its unit. labels: names that each sample has."""

    name: str
    kind: str
    means: str
    labels: tuple[str, ...] = ()


class Sample:
    """The value of a metric for some labels, at the moment of the scrape."""

    __slots__ = ("labels", "name", "value")

    def __init__(self, name: str, value: float, **labels: str) -> None:
        self.name = name
        self.value = value
        self.labels = labels


def exposition(metrics: Sequence[Metric], samples: Iterable[Sample]) -> bytes:
    """The page, metric by metric; one without samples is left out. Raises KeyError, ValueError for a sample of no metric
    or with other labels than its own."""
    lines: dict[str, list[str]] = {metric.name: [] for metric in metrics}
    labels = {metric.name: metric.labels for metric in metrics}
    for sample in samples:
        if tuple(sample.labels) != labels[sample.name]:
            raise ValueError(f"{sample.name} has the labels {labels[sample.name]}, not {tuple(sample.labels)}")
        lines[sample.name].append(_line(sample))
    page: list[str] = []
    for metric in metrics:
        if lines[metric.name]:
            page += [
                f"# HELP {metric.name} {metric.means.translate(_IN_HELP)}",
                f"# TYPE {metric.name} {metric.kind}",
                *lines[metric.name],
            ]
    return "".join([f"{line}\n" for line in page]).encode()


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{value.translate(_IN_VALUES)}"' for name, value in sample.labels.items())
    value = int(sample.value) if isinstance(sample.value, int) else round(sample.value, 6)  # True is 1
    return f"{sample.name}{{{labels}}} {value}" if labels else f"{sample.name} {value}"
