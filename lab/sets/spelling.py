"""How a query writes a postback: for each form the expressions of its address, its body and what it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from lab.sets.facts import TIME
from lab.sets.session import text
from service.engine.model import RESERVED
from service.engine.rulebook import Webhook
from service.engine.templates import Macro

QUOTE = '"'
JSON_FIELDS = ("uid", "click_id", "tag_id", "txid", "amount", "currency", "ts")
OURS = ("affiliate", "hit_id", "visitor", "trigger", "postback_id", "payout", "payout_currency")
# what `json` has to escape; a value with one of these is rendered by the engine
_ESCAPED = r'[\x00-\x1f"\\]'
_INVISIBLE = r"[^\x21-\x7e]"
_ALWAYS = ("hit_id", "visitor", "trigger", "postback_id", "time", "client", "event")


class Form(msgspec.Struct, frozen=True):
    """One way to write a postback. hidden: names that this recipient never gets."""

    number: int
    webhook: Webhook | None
    hidden: frozenset[str]

    @property
    def by_sql(self) -> bool:
        """Whether a query can write it."""
        webhook = self.webhook
        if webhook is None:
            return True
        names = {macro.name for macro in webhook.macros}
        return webhook.body is None and len(names) == len(set(webhook.macros))  # or the order of `missing` is not plain


class Spelling:
    """Expressions over a row per postback. columns: of the values, by `full_name`. custom: names of all parameters."""

    def __init__(self, columns: Mapping[str, str], custom: Sequence[str]) -> None:
        self._columns = columns
        self._custom = custom

    def _ask(self, name: str) -> str:
        """What a macro asks for, as SQL; nullable."""
        if name == "affiliate":
            return "f.affiliate"
        if name in ("payout", "payout_currency"):
            return f"nullif({name.removeprefix('payout_')}, '')"
        if name == "postback_id":
            return "id"
        if name == "time":
            return TIME.replace("(t)", "(f.t)")
        return f'"{name}"' if name in (*OURS, "client", "event") else self._columns[full_name(name)]

    def _filtered(self, macro: Macro) -> str:
        value = self._ask(macro.name)
        if macro.default is not None:
            value = f"coalesce({value}, {text(macro.default)})"
        if macro.time_format:
            value = f"strftime(make_timestamp(f.t), {text(macro.time_format)})"
        return f"sha256({value})" if macro.sha256 else value

    def url(self, form: Form) -> str | None:
        if form.webhook is None:
            return None
        template, parts = form.webhook.url, []
        for part in template.parts:
            if isinstance(part, str):
                parts.append(text(part))
            else:
                value = self._filtered(part)
                parts.append(value if part.raw else f"url_encode({value})")
        return f"concat({', '.join(parts)})" if parts else "''"

    def missing(self, form: Form) -> str | None:
        tests = [
            f"CASE WHEN {self._filtered(macro)} IS NULL THEN {text(macro.name)} END"
            for macro in _macros(form)
            if _may_lack(macro)
        ]
        return f"list_filter([{', '.join(tests)}], lambda name: name IS NOT NULL)" if tests else None

    def state(self, form: Form) -> str:
        if form.webhook is None:
            return "'withheld'"
        needed = [f"{self._filtered(macro)} IS NULL" for macro in _macros(form) if macro.required and _may_lack(macro)]
        return f"CASE WHEN {' OR '.join(needed)} THEN 'withheld' ELSE 'due' END" if needed else "'due'"

    def odd(self, form: Form) -> str | None:
        raw = [f"regexp_matches({self._filtered(macro)}, '{_INVISIBLE}')" for macro in _macros(form) if macro.raw]
        tests = [f"coalesce({test}, false)" for test in raw]
        if form.webhook is not None and form.webhook.whole_event:
            shown = ", ".join(self._shown(form).values())
            tests.append(f"regexp_matches(concat(hit_id, visitor, f.affiliate, {shown}), '{_ESCAPED}')")
        return " OR ".join(tests) if tests else None

    def _shown(self, form: Form) -> dict[str, str]:
        """Names and columns of the fields and parameters that the event as JSON shows to this recipient."""
        names = [*JSON_FIELDS, *self._custom]
        own = {name: self._columns[name if name in RESERVED else f"param.{name}"] for name in names}
        return {name: column for name, column in own.items() if name not in form.hidden}

    def body(self, form: Form) -> str | None:
        """`postbacks.json_body` where nothing needs an escape."""
        if form.webhook is None or not form.webhook.whole_event:
            return None
        shown = self._shown(form)
        ids = [
            ("postback_id", "id"),
            ("hit_id", "hit_id"),
            ("trigger", '"trigger"'),
            ("event", "event"),
            ("time", self._ask("time")),
        ]
        parts = [
            part for name, column in [*ids, ("client", "client")] for part in (text(f',"{name}":"'), column, "'\"'")
        ]
        parts[0] = text('{"postback_id":"')
        parts += [
            text(',"affiliate":'),
            "coalesce('\"' || f.affiliate || '\"', 'null')",
            text(',"visitor":"'),
            "visitor",
            "'\"'",
        ]
        parts += [_pair(name, column) for name, column in shown.items() if name in RESERVED]
        money = _pair("payout", "payout"), _pair("payout_currency", "currency")
        parts.append(f"CASE WHEN payout <> '' THEN {money[0]} || {money[1]} END")
        params = [_pair(name, column) for name, column in shown.items() if name not in RESERVED]
        parts += [text(',"params":{'), f"substr(concat({', '.join(params)}), 2)" if params else "''", "'}}'"]
        return f"concat({', '.join(parts)})"


def _macros(form: Form) -> tuple[Macro, ...]:
    return tuple(dict.fromkeys(form.webhook.macros)) if form.webhook is not None else ()


def _may_lack(macro: Macro) -> bool:
    return macro.default is None and macro.name not in _ALWAYS


def verb(form: Form) -> str | None:
    return text(form.webhook.verb) if form.webhook is not None else None


def _pair(name: str, column: str) -> str:
    """One pair of a JSON object behind a comma, null without a value."""
    return f"{text(',' + msgspec.json.encode(name).decode() + ':' + QUOTE)} || {column} || {text(QUOTE)}"


def full_name(name: str) -> str:
    """A custom parameter by its whole name, so that none is taken for a name of ours."""
    return name if name in RESERVED or "." in name else f"param.{name}"
