"""The answer to a draft as HTML that follows the colours of the notebook, light or dark."""

from __future__ import annotations

import json
from decimal import Decimal
from html import escape
from urllib.parse import unquote

from lab.show import text_of
from lab.studio_answer import Answer
from lab.studio_caps import FIRED
from lab.studio_cases import Case
from lab.studio_check import Trouble
from service.engine import Postback
from service.engine.words import moment

_BODY = 900  # characters of a body that are shown


def count_html(answer: Answer) -> str:
    """The number, for whom, what it is worth, and how sure it is."""
    badge = "bt-exact" if answer.exact else "bt-sample"
    money = " · ".join(money_text(amount, code, answer.exact) for code, amount in answer.money.items())
    about = "" if answer.exact else "about "
    then = "" if answer.exact else " · everybody is being counted …"
    return (
        f'<b>{answer.fired:,}</b> <span>{"firing" if answer.fired == 1 else "firings"}</span>'
        f'<span class="bt-badge {badge}">{escape(answer.certainty)}</span>'
        f"<div>{about}{answer.visitors:,} {'visitor' if answer.visitors == 1 else 'visitors'} of client "
        f"{escape(answer.draft.client)}{f', worth <strong>{money}</strong>' if money else ', no payout'} "
        f"<span>· {_seconds(answer.seconds)}{then}</span></div>"
    )  # fmt: skip


def money_text(amount: Decimal, currency: str, exact: bool = True) -> str:
    """`1,234.50 EUR`; about so much of a sample."""
    return f"{text_of(amount) if exact else f'≈ {amount:,.0f}'} {escape(currency)}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def body_html(answer: Answer, cases: tuple[Case, ...] | None) -> str:
    """Where the events stop, who brought them, and examples."""
    parts = [_stages(answer), _affiliates(answer)]
    if cases is not None:
        parts.append(_cases(cases))
    return f'<div class="bt-body">{"".join(parts)}</div>'


def _stages(answer: Answer) -> str:
    """The small funnel: what is left behind each stage that stops anything."""
    words = {
        "inactive": "active", "recipient": "has a recipient", "steps": "did the steps", "condition": "condition holds",
        "sample": "not held back", "once": "first time", "cap": "under the cap",
    }  # fmt: skip
    rows = [_bar(answer.draft.on, answer.asked, answer.asked, "")]
    for stage, stopped, left in answer.stages.iter_rows():
        if stage != FIRED and _can_stop(stage, answer, stopped):
            rows.append(_bar(words[stage], left, answer.asked, f"−{stopped:,}" if stopped else ""))
    return f'<h4>{escape(answer.draft.on)} events, stage by stage</h4><div class="bt-bars">{"".join(rows)}</div>'


def _can_stop(stage: str, answer: Answer, stopped: int) -> bool:
    draft = answer.draft
    asked = {"steps": draft.after, "condition": draft.when, "once": draft.once == "visitor", "cap": draft.cap}
    return bool(stopped or asked.get(stage))


def _bar(name: str, count: int, total: int, lost: str) -> str:
    width = 100 * count / total if total else 0
    return (
        f'<span>{escape(name)}</span><u><i style="width:{width:.1f}%"></i></u>'
        f'<span class="r">{count:,}</span><span class="q r">{lost}</span>'
    )


def _affiliates(answer: Answer) -> str:
    frame = answer.affiliates
    if frame.is_empty():
        return ""
    paid = frame["payout"].is_not_null().any()
    head = f'<th>affiliate</th><th class="n">firings</th>{"<th class=n>payout</th>" if paid else ""}'
    rows = []
    for affiliate, firings, payout, currency in frame.head(8).iter_rows():
        worth = money_text(payout, currency, answer.exact) if payout is not None else ""
        cell = f'<td class="n">{worth}</td>' if paid else ""
        rows.append(f'<tr><td>{escape(affiliate or "(none)")}</td><td class="n">{firings:,}</td>{cell}</tr>')
    more = f'<div class="bt-q">and {frame.height - 8:,} more</div>' if frame.height > 8 else ""
    return f"<h4>By affiliate</h4><table><tr>{head}</tr>{''.join(rows)}</table>{more}"


def _cases(cases: tuple[Case, ...]) -> str:
    fired = [_fired(case, number == 0) for number, case in enumerate(one for one in cases if one.stage == FIRED)]
    missed = [_missed(case) for case in cases if case.stage != FIRED]
    parts = []
    if fired:
        parts.append("<h4>Would have been sent, for example</h4>" + "".join(fired))
    if missed:
        parts.append("<h4>Nearest misses</h4>" + "".join(missed))
    return "".join(parts)


def _fired(case: Case, opened: bool) -> str:
    sent = "".join(_postback(one) for one in case.postbacks)
    return (
        f'<details class="bt-case"{" open" if opened else ""}><summary>{_head(case)} {escape(case.says)}</summary>'
        f"{sent}</details>"
    )


def _postback(one: Postback) -> str:
    where = one.recipient.partition(":")[2] if one.recipient.startswith("client:") else one.recipient.replace(":", " ")
    state = "" if one.state == "due" else f" · {one.state}"
    missing = f" · without {', '.join(one.missing)}" if one.missing else ""
    target = f"{one.verb} {one.url}".strip() or "no endpoint for this method"
    body = f"<code>{escape(readable(one.body))}</code>" if one.body else ""
    return f'<div class="bt-to">to {escape(where + state + missing)}</div><code>{escape(target)}</code>{body}'


def readable(body: str) -> str:
    """JSON with a space behind each comma, so that it wraps between the values; others as they are; long ones cut."""
    try:
        body = json.dumps(json.loads(body), ensure_ascii=False)
    except ValueError:
        pass
    return body if len(body) <= _BODY else f"{body[:_BODY]} …"


def _missed(case: Case) -> str:
    return f'<div class="bt-case bt-missed">{_head(case)} <em>{escape(case.stage)}</em>: {escape(case.says)}</div>'


def _head(case: Case) -> str:
    return f'<span class="bt-q" title="hit {escape(case.hit_id)}">{moment(case.time_us)[:16]}</span>'


def trouble_html(troubles: tuple[Trouble, ...], text: str = "") -> str:
    """What is wrong at a field, in words; in a condition with a caret below its place."""
    if not troubles:
        return ""
    parts = []
    for one in troubles[:3]:
        caret = one.caret(text)
        parts.append((f"<pre>{escape(caret)}</pre>" if caret else "") + escape(unquote(one.says)))
    return f'<div class="bt-trouble">{"<br>".join(parts)}</div>'


def progress_html(share: float, what: str) -> str:
    """How far the preparation is."""
    bar = f'<div class="bt-bar"><i style="width:{100 * share:.0f}%"></i></div>'
    return f"<span>Preparing the log: {escape(what)} …</span>{bar}"
