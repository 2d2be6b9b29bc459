"""What `%load_ext lab` brings into a notebook: `%%rulebook`, `%%trigger`, `%replay`, `%lab`.

Bad input is one line (for a rulebook one per problem) and never a traceback, and the cell counts as failed.
"""

from __future__ import annotations

import atexit
from typing import Any

from IPython.core.error import UsageError

from lab.live_progress import steps
from lab.log import Log
from lab.log import open as open_log
from lab.magics_arguments import Arguments, in_one_line, log_named, rules_named
from lab.magics_page import Listing, rulebook_html, rulebook_text, trigger_html, trigger_text
from lab.magics_places import places
from lab.replay import newest_rulebook, rulebook_of
from service.engine import Problem, Rulebook, RulebookError, load
from service.engine.rulebook import Trigger

RULES = "rules"  # the variable of a rulebook that has no other name
_HEADER = "[[trigger]]\n"


def register(shell: Any) -> None:
    """Make the magics known to a shell of IPython, and show rulebooks as tables there."""
    magics = Magics(shell)
    for name, kind in (("rulebook", "cell"), ("trigger", "cell"), ("replay", "line"), ("lab", "line")):
        function = in_one_line(getattr(magics, name))
        function._ipython_magic_no_var_expand = True  # {click_id} is a macro of ours
        shell.register_magic_function(function, magic_kind=kind, magic_name=name)
    shown = ((Rulebook, rulebook_text, rulebook_html), (Trigger, trigger_text, trigger_html))
    formatters = shell.display_formatter.formatters
    for type_shown, text, html in shown:
        formatters["text/plain"].for_type(type_shown, _printer(text))
        formatters["text/html"].for_type(type_shown, html)


def _printer(text: Any) -> Any:
    return lambda value, printer, cycle: printer.text(text(value))


class Magics:
    """The magics of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._trials: Any = None

    @property
    def _names(self) -> dict[str, Any]:
        names: dict[str, Any] = self._shell.user_ns
        return names

    def lab(self, line: str) -> Listing:
        """`%lab`: what there is."""
        if line.strip():
            raise UsageError(f"%lab: {line.strip()!r} is one too many; write %lab")
        return Listing()

    def rulebook(self, line: str, cell: str) -> Rulebook:
        """`%%rulebook [NAME]`: keep the cell as a rulebook, under this name or `rules`."""
        usage = "%%rulebook [NAME]"
        arguments = Arguments("%%rulebook", usage)
        arguments.add_argument("name", nargs="?", default=RULES)
        name = _variable(arguments.read(line).name, usage)
        try:
            rulebook = load(cell, source=name)
        except RulebookError as error:
            raise UsageError(_listed(name, places(error.problems, cell))) from None
        self._shell.push({name: rulebook})
        return rulebook

    def trigger(self, line: str, cell: str) -> Any:
        """`%%trigger [--rules NAME] [--log NAME]`: put the trigger of the cell into the rulebook, and try it on the log."""
        usage = "%%trigger [--rules NAME] [--log NAME]"
        arguments = Arguments("%%trigger", usage)
        arguments.add_argument("--rules", metavar="NAME")
        arguments.add_argument("--log", metavar="NAME")
        asked = arguments.read(line)
        log = log_named(self._names, asked.log)
        name, base = self._base(asked.rules, log, usage)
        own = cell if cell.lstrip().startswith("[[") else _HEADER + cell
        draft, trigger, rulebook = _put(name, base, own, 0 if own is cell else 1)
        with steps("asking the log"):
            trial = self._tried(log, draft, trigger, rulebook)
        self._shell.push({name: rulebook})
        return trial

    def replay(self, line: str) -> Any:
        """`%replay LOG [RULES] [--against RULES] [--engine set] [--as-of TIME]`: a Run, or a Comparison."""
        arguments = Arguments("%replay", "%replay LOG [RULES] [--against RULES] [--engine set] [--as-of TIME]")
        arguments.add_argument("log")
        arguments.add_argument("rules", nargs="?")
        arguments.add_argument("--against", metavar="RULES")
        arguments.add_argument("--engine", default="reference")
        arguments.add_argument("--as-of", metavar="TIME")
        asked = arguments.read(line)
        log = log_named(self._names, asked.log)
        if asked.as_of is not None:
            log = open_log(log.path, asked.as_of)
        rules, against = (
            None if word is None else rules_named(self._names, word) for word in (asked.rules, asked.against)
        )
        with steps("comparing" if against is not None else "replaying") as say:
            if against is not None:
                return log.compare(rules, against, asked.engine, lambda done, total: say())
            return log.replay(rules, lambda done, total: say(), asked.engine)

    def _base(self, asked: str | None, log: Log, usage: str) -> tuple[str, Rulebook]:
        """The variable that holds the rulebook, and the rulebook: that of the variable, else the newest of the log."""
        name = asked or RULES
        if name in self._names or asked is not None:
            found = rulebook_of(rules_named(self._names, name))
            assert found is not None
            return (name if name.isidentifier() else RULES), found
        return _variable(name, usage), newest_rulebook(log)

    def _tried(self, log: Log, draft: Any, trigger: Trigger, rulebook: Rulebook) -> Any:
        from lab.magics_trial import Trials  # late: with the studio's machinery

        if self._trials is None:
            self._trials = Trials()
            atexit.register(self._trials.close)
        return self._trials.trial(log, draft, trigger, rulebook)


def _variable(name: str, usage: str) -> str:
    if not name.isidentifier():
        raise UsageError(f"{name!r} is no name of a variable; write {usage}")
    return name


def _listed(name: str, said: list[str]) -> str:
    """One problem in one line, several below each other."""
    if len(said) == 1:
        return f"{name}: {said[0]}"
    return "\n  ".join([f"{name}: {len(said)} things are wrong", *said])


def _put(name: str, base: Rulebook, own: str, header: int) -> tuple[Any, Trigger, Rulebook]:
    """The draft in a text with one trigger, the trigger, and the rulebook with it. header: lines that the cell lacks."""
    from lab.studio_draft import read_draft
    from lab.studio_text import put

    joined = base.text.rstrip("\n") + "\n\n" + own
    before = joined.count("\n") - own.count("\n") + header
    found = _problems(joined)
    if found:
        raise UsageError(_listed("trigger", places(found, joined, before)))
    draft = read_draft(own)
    rulebook = load(put(base.text, draft), source=name)
    return draft, next(one for one in rulebook.triggers if one.name == draft.name), rulebook


def _problems(text: str) -> list[Problem]:
    """What is wrong with a text; that its name is taken is no problem: it takes the place."""
    try:
        load(text)
    except RulebookError as error:
        taken = "is the name of trigger"
        return [one for one in error.problems if not (one.key.endswith(".name") and taken in one.message)]
    return []
