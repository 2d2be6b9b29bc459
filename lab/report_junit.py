"""A comparison as a JUnit file, the form that CI servers read: one test case per condition and per trigger."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from lab.log import LabError
from lab.report_limits import Verdict

if TYPE_CHECKING:
    from lab.compare import Comparison

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(comparison: Comparison, verdicts: Sequence[Verdict], path: str | Path) -> Path:
    """Write the file. Raises LabError if it cannot be written."""
    target = Path(path)
    failures = sum(verdict.failed for verdict in verdicts)
    numbers = {"tests": str(max(1, len(verdicts))), "failures": str(failures), "errors": "0", "skipped": "0"}
    suites = ElementTree.Element("testsuites", numbers, name="backtrack")
    seconds = f"{comparison.seconds:.3f}"
    suite = ElementTree.SubElement(suites, "testsuite", numbers, name="backtrack compare", time=seconds)
    for verdict in verdicts or [Verdict("comparison", False, comparison.sentence)]:
        _case(suite, comparison, verdict)
    _text(suite, "system-out", _summary(comparison))
    ElementTree.indent(suites)
    try:
        ElementTree.ElementTree(suites).write(target, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise LabError(f"{target} cannot be written: {error.strerror or error}") from None
    return target


def _case(suite: ElementTree.Element, comparison: Comparison, verdict: Verdict) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname="backtrack.compare", name=verdict.condition, time="0")
    if verdict.failed:
        message = f"{verdict.condition} holds: {verdict.found}. {comparison.sentence}"
        failure = ElementTree.SubElement(case, "failure", message=_clean(message), type="fail-on")
        failure.text = _clean(_cases(comparison, verdict))


def _cases(comparison: Comparison, verdict: Verdict) -> str:
    kind = next((kind for kind in comparison.kinds if verdict.condition.startswith(kind)), "")
    lines = [comparison.sentence]
    for case in comparison.cases:
        if kind in ("", case.kind):
            lines.append(f"{case.kind}: {case.trigger} to {case.recipient}, hit {case.hit_id}, {case.time} UTC")
            lines += [f"  before: {case.before}", f"  after: {case.after}"] if case.before else []
            lines += [f"  {name}: {mine} -> {theirs}" for name, mine, theirs in case.differences]
    return "\n".join(lines[:100])


def _summary(comparison: Comparison) -> str:
    noise = () if comparison.noise is None else (comparison.noise.sentence,)
    against = f"{comparison.title_before} against {comparison.title_after}"
    return "\n".join((against, comparison.sentence, *noise, *comparison.rules, *comparison.warnings))


def _text(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = _clean(text)


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
