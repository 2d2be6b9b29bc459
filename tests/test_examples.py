"""Every public object of the lab says what it holds, with an example, and every example is run on the sample tables."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

import lab
from lab.charts import Chart
from lab.compare import Comparison, Noise
from lab.compare_cases import Case
from lab.explain import Explanation, explain
from lab.funnel import Funnel
from lab.funnel_beside import Segments
from lab.imported import ImportReport
from lab.live import Live
from lab.live_hits import Answer
from lab.magics_page import Listing
from lab.magics_trial import Trial, Trials
from lab.replay import Run
from lab.send import SendReport
from lab.sets import Certificate, SetRun
from lab.studio import Studio
from lab.studio_answer import Answer as StudioAnswer
from lab.studio_cases import Case as StudioCase
from lab.studio_check import Trouble, check
from lab.studio_draft import Draft, read_draft
from lab.studio_run import Screen
from lab.verify import Verification
from service.engine import load

ROOT = Path(__file__).parents[1]
RULES = ROOT / "datasets" / "rules.toml"
DAY = "2026-03-02"
# what the names of `lab.__all__` give, and what these give
GIVEN = (
    Answer, Case, Certificate, Chart, Comparison, Draft, Explanation, Funnel, ImportReport, Listing, Live, Noise, Run,
    Segments, SendReport, SetRun, StudioAnswer, StudioCase, Trial, Trouble, Verification,
)  # fmt: skip
WIDGETS = (Studio, lab.FunnelExplorer, lab.Inspector)  # these hold a log prepared, until they are closed
BIG = """[[trigger]]
name = "big"
client = "acme"
on = "sale"
when = "amount >= 100"
payout = { fixed = "5.00", currency = "EUR" }
"""

Named = tuple[str, Any]


def public() -> dict[str, Any]:
    """Everything that a person can use, by name: what `lab` gives, and the methods and properties of what that gives."""
    classes = [getattr(lab, name) for name in lab.__all__ if inspect.isclass(getattr(lab, name))]
    functions = [(name, getattr(lab, name)) for name in lab.__all__ if inspect.isfunction(getattr(lab, name))]
    found: dict[str, Any] = {f"lab.{name}": function for name, function in functions}
    for kind in dict.fromkeys((*classes, *GIVEN)):
        found[f"{kind.__module__}.{kind.__name__}"] = kind
        found |= {f"{kind.__module__}.{kind.__name__}.{name}": member for name, member in members(kind)}
    return found


def members(kind: type) -> Iterator[Named]:
    """Public methods and properties that a class defines; not those that only another part of the lab calls."""
    for name, member in vars(kind).items():
        inherited = issubclass(kind, Run) and kind is not Run and hasattr(Run, name)
        called = issubclass(kind, Studio) and hasattr(Screen, name)
        if name.startswith("_") or inherited or called:
            continue
        if inspect.isfunction(member) or isinstance(member, (property, cached_property, classmethod, staticmethod)):
            yield name, member


PUBLIC = public()


def namespace(folder: Path) -> dict[str, Any]:
    """What the examples begin with, as the docstring of `lab` says. folder: for files that they write."""
    log = lab.open("datasets/tables", as_of=DAY)
    run, what = log.replay(), log.compare("datasets/rules.toml", "datasets/rules-next.toml")
    studio, trials = Studio(log, RULES, BIG), Trials()
    funnel = log.funnel("click", "registration", "sale", within="12h")
    return {
        "lab": lab, "pl": pl, "log": log, "folder": folder, "run": run, "what": what, "verification": log.verify(),
        "funnel": funnel, "chart": funnel.chart(), "segments": funnel.beside(log.funnel("click", "registration", "sale")),
        "by_sets": log.replay(RULES, engine="set", full=False), "explain": explain, "report": imported(folder),
        "studio": studio, "answer": studio.result, "trial": tried(log, trials), "trials": trials, "Listing": Listing,
        "profile": lab.fit(log), "explorer": lab.FunnelExplorer(log, "click", "registration"), "Answer": Answer,
        "inspector": lab.Inspector(log, run.postbacks["hit_id"][0]),
        "sent": log.send(to="http://127.0.0.1:8700", limit=20, dry_run=True),
    }  # fmt: skip


def imported(folder: Path) -> ImportReport:
    """The report of a small access log."""
    line = '192.0.2.1 - - [02/Mar/2026:10:00:0{} +0000] "GET /{} HTTP/1.1" 200 5 "-" "Firefox"\n'
    (folder / "access.log").write_text("".join([line.format(0, "shop"), line.format(1, "sale"), "no request\n"]))
    log = lab.open(folder / "access.log", format="combined", map={"client": "shop", "events": {"sale": "^/sale"}})
    assert log.imported is not None
    return log.imported


def tried(log: lab.Log, trials: Trials) -> Trial:
    """A trigger, tried."""
    checked = check(read_draft(BIG), load(RULES.read_text()).text)
    assert checked.trigger is not None and checked.rulebook is not None
    return trials.trial(log, checked.draft, checked.trigger, checked.rulebook)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as place:
        place.chdir(ROOT)
        names = namespace(tmp_path_factory.mktemp("examples"))
        yield names
        for name in ("studio", "explorer", "inspector", "trials"):
            names[name].close()


def test_every_public_object_has_a_docstring_with_an_example() -> None:
    without = [name for name, what in PUBLIC.items() if ">>>" not in (inspect.getdoc(what) or "")]
    assert without == []


def test_every_field_of_a_result_is_explained() -> None:
    """By its name in the docstring of its class."""
    structs = [kind for kind in PUBLIC.values() if inspect.isclass(kind) and issubclass(kind, msgspec.Struct)]
    unsaid = [
        f"{kind.__name__}.{field}" for kind in structs for field in kind.__struct_fields__
        if field not in (inspect.getdoc(kind) or "")
    ]  # fmt: skip
    assert unsaid == []


def test_whatever_a_public_method_gives_is_public_too() -> None:
    # given the classes of the lab that annotations of public methods name
    known = {kind.__name__ for kind in PUBLIC.values() if inspect.isclass(kind)}
    named = {word for what in PUBLIC.values() for word in returned(what)}
    classes = {name for module in MODULES for name, kind in vars(module).items() if own(kind)}
    # then each of them is in the list above
    assert {name for name in named & classes if name not in known} == set()


MODULES = [inspect.getmodule(kind) for kind in (*GIVEN, lab.Log, Studio)]


def own(kind: Any) -> bool:
    """Whether this is a class of the lab that people see: errors are said, not given."""
    return inspect.isclass(kind) and kind.__module__.startswith("lab.") and not issubclass(kind, Exception)


def returned(what: Any) -> list[str]:
    """The words of what a function or property is annotated to give."""
    function = getattr(what, "fget", None) or getattr(what, "func", None) or what
    annotation = str(getattr(function, "__annotations__", {}).get("return", ""))
    return "".join(char if char.isalnum() else " " for char in annotation).split()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_a_docstring_run(name: str, given: dict[str, Any]) -> None:
    what = PUBLIC[name]
    if name.startswith("lab.live.") and "live_hits" not in name:
        pytest.skip("needs a service; tests/lab/test_live.py and notebook 5 do the same on one")
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(what) or "", dict(given), name, None, None)
    assert examples.examples
    told: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=told.append, clear_globs=False)
    for name, value in examples.globs.items():
        if value is not given.get(name) and isinstance(value, WIDGETS):
            value.close()
    assert not failed, "".join(told)
