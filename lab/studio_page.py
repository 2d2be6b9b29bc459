"""The answer to a draft as HTML that follows the colours of the notebook, light or dark."""

from __future__ import annotations

from decimal import Decimal
from html import escape
from urllib.parse import unquote

from lab.show import text_of
from lab.studio_answer import FIRED, Answer
from lab.studio_cases import Case
from lab.studio_check import Trouble
from service.engine import Postback
from service.engine.words import moment

_INK = "var(--jp-ui-font-color1,#1f2328)"
_QUIET = "var(--jp-ui-font-color2,#6a7079)"
_LINE = "var(--jp-border-color2,#d5d9de)"
_PAPER = "var(--jp-layout-color1,#fff)"

STYLE = (
    "<style>"
    f".bt-studio{{border:1px solid {_LINE};border-radius:8px;background:{_PAPER};overflow:hidden;max-width:1180px}}"
    f".bt-studio,.bt-studio .widget-html-content{{color:{_INK};font:13px/1.45 var(--jp-ui-font-family,system-ui)}}"
    ".bt-studio .widget-html-content{overflow:visible}.bt-studio .jupyter-widgets{margin:0}"
    ".bt-studio .widget-html{height:auto;min-height:0}"
    f".bt-form{{padding:14px 16px;border-right:1px solid {_LINE};gap:9px}}.bt-answer{{padding:14px 18px}}"
    f".bt-label{{color:{_QUIET};font-size:11.5px;letter-spacing:.02em}}"
    ".bt-studio .bt-field{gap:3px}.bt-studio .bt-row{gap:10px;align-items:flex-end}"
    ".bt-studio input[type=text],.bt-studio input[type=number],.bt-studio textarea,.bt-studio select{border-radius:4px}"
    ".bt-condition input,.bt-code textarea,.bt-code input{font-family:var(--jp-code-font-family,monospace)!important;"
    "font-size:12.5px!important}"
    ".bt-bad input,.bt-bad textarea{border-color:#d1493f!important;box-shadow:0 0 0 1px #d1493f!important}"
    ".bt-trouble{color:#d1493f;font-size:12px;line-height:1.35}.bt-trouble pre{margin:0 0 2px;padding:0 0 0 9px;"
    "font:12.5px/1.2 var(--jp-code-font-family,monospace);color:#d1493f;background:none;white-space:pre;overflow-x:auto}"
    f".bt-studio .bt-chip{{height:22px;line-height:20px;padding:0 8px;border-radius:11px;font-size:11.5px;width:auto;"
    f"background:transparent;border:1px solid {_LINE};color:{_QUIET};font-family:var(--jp-code-font-family,monospace)}}"
    f".bt-studio .bt-chip:hover{{color:{_INK};border-color:#2a91a2}}.bt-studio .bt-chips{{gap:5px;flex-flow:row wrap}}"
    ".bt-count b{font-size:30px;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}"
    f".bt-count span{{color:{_QUIET}}}"
    ".bt-badge{display:inline-block;border-radius:9px;padding:1px 9px;font-size:11.5px;margin-left:8px;"
    "vertical-align:5px;white-space:nowrap}"
    ".bt-exact{background:rgba(46,155,102,.16);color:#2a8f5d!important}"
    ".bt-sample{background:rgba(196,132,29,.17);color:#b3761a!important}"
    ".bt-body.bt-stale{opacity:.45}.bt-body{transition:opacity .15s}"
    f".bt-body h4{{margin:15px 0 5px;font-size:11.5px;font-weight:600;color:{_QUIET};letter-spacing:.02em}}"
    ".bt-bars{display:grid;grid-template-columns:minmax(92px,max-content) 1fr max-content max-content;gap:3px 10px;"
    "align-items:center;font-size:12.5px;font-variant-numeric:tabular-nums}"
    ".bt-bars i{display:block;height:13px;border-radius:2px;background:#2a91a2}.bt-bars u{display:block;"
    "background:rgba(138,143,152,.15);border-radius:2px;text-decoration:none}"
    f".bt-bars .q,.bt-q{{color:{_QUIET}}}.bt-bars .r{{text-align:right}}"
    ".bt-body table{border-collapse:collapse;font-size:12.5px;margin:0!important}"
    f".bt-body td,.bt-body th{{padding:2px 16px 2px 0!important;text-align:left!important;border:0!important;"
    f"border-bottom:1px solid {_LINE}!important;background:none!important;color:{_INK};font-weight:400}}"
    f".bt-body th{{color:{_QUIET}!important}}.bt-body .n{{text-align:right!important;font-variant-numeric:tabular-nums}}"
    f".bt-case{{border-left:3px solid #2a91a2;padding:1px 0 1px 10px;margin:7px 0}}"
    ".bt-case.bt-missed{border-color:#b98a3a}"
    f".bt-case code{{font:11.5px/1.45 var(--jp-code-font-family,monospace);color:{_INK};background:none;padding:0;"
    "overflow-wrap:anywhere;white-space:pre-wrap}"
    ".bt-case summary{cursor:pointer;list-style-position:outside}"
    f".bt-case .bt-to{{color:{_QUIET};margin-top:2px}}"
    f".bt-bar{{height:4px;border-radius:2px;background:{_LINE};overflow:hidden;margin-top:8px;max-width:420px}}"
    ".bt-bar i{display:block;height:4px;background:#2a91a2;transition:width .2s}"
    "</style>"
)


def count_html(answer: Answer) -> str:
    """The number, for whom, what it is worth, and how sure it is."""
    badge = "bt-exact" if answer.exact else "bt-sample"
    money = " · ".join(money_text(amount, code, answer.exact) for code, amount in answer.money.items())
    about = "" if answer.exact else "about "
    return (
        f'<b>{answer.fired:,}</b> <span>{"firing" if answer.fired == 1 else "firings"}</span>'
        f'<span class="bt-badge {badge}">{escape(answer.certainty)}</span>'
        f"<div>{about}{answer.visitors:,} {'visitor' if answer.visitors == 1 else 'visitors'} of client "
        f"{escape(answer.draft.client)}{f', worth <strong>{money}</strong>' if money else ', no payout'} "
        f'<span>· {_seconds(answer.seconds)}</span></div>'
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
    body = f"<br><code>{escape(one.body[:600])}</code>" if one.body else ""
    return f'<div class="bt-to">to {escape(where + state + missing)}</div><code>{escape(target)}</code>{body}'


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
