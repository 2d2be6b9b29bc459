"""A comparison as one HTML page that needs nothing else: no network, no script; light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from lab.log import LabError
from lab.report_drawing import money_bars, postback_bars
from lab.report_limits import Verdict
from lab.show import plural, text_of

if TYPE_CHECKING:
    from lab.compare import Comparison
    from lab.compare_cases import Case

KINDS = {
    "gained": "Gained: these postbacks are made only with the new rules",
    "lost": "Lost: these postbacks are no longer made",
    "changed": "Changed: these postbacks say something else",
}
_ROWS = 60  # of a table; the rest is counted


def write_page(comparison: Comparison, verdicts: Sequence[Verdict], path: str | Path) -> Path:
    """Write the page. Raises LabError if it cannot be written."""
    target = Path(path)
    try:
        target.write_text(page(comparison, verdicts), encoding="utf-8")
    except OSError as error:
        raise LabError(f"{target} cannot be written: {error.strerror or error}") from None
    return target


def page(comparison: Comparison, verdicts: Sequence[Verdict] = ()) -> str:
    """The whole document."""
    body = "\n".join(
        part for section in (_head, _rules, _money, _postbacks, _cases, _small_print) for part in section(comparison)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Backtrack: what the new rules change</title><style>{_STYLE}</style></head>\n<body>\n"
        f"{body.replace(_HERE, ''.join(_verdicts(verdicts)), 1)}\n</body></html>\n"
    )


_HERE = "<!-- conditions -->"


def _head(comparison: Comparison) -> Iterator[str]:
    yield f"<h1>What the new rules change</h1><p class=lead>{escape(comparison.sentence)}</p>"
    yield (
        f"<dl><dt>Before</dt><dd>{escape(comparison.title_before)}</dd><dt>After</dt><dd>{escape(comparison.title_after)}"
        f"</dd><dt>Decided</dt><dd>{plural(comparison.hits, 'hit')}, the same for both</dd></dl>"
    )
    yield _HERE
    counts = [(kind, f"{frame.height:,}", "postbacks") for kind, frame in comparison.kinds.items()]
    for currency, change, share in comparison.totals.select("currency", "difference", "percent").iter_rows():
        what = "of payouts" + (f", {share:+.1f} %" if share is not None else ", from nothing")
        counts.append((f"money {currency}", _signed(change), what))
    cards = (
        f"<div class=card><div class=q>{escape(name)}</div><div class=big>{escape(value)}</div>"
        f"<div class=q>{what}</div></div>"
        for name, value, what in counts
    )
    yield f"<div class=cards>{''.join(cards)}</div>"


def _verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if not verdicts:
        return
    failed = sum(verdict.failed for verdict in verdicts)
    said = f"{failed} of {plural(len(verdicts), 'condition')} failed" if failed else "All conditions are met"
    yield f'<div class="verdict {"bad" if failed else "good"}"><b>{said}</b><ul>'
    for verdict in verdicts:
        mark = "Failed" if verdict.failed else "Passed"
        yield f"<li>{mark}: fail on <code>{escape(verdict.condition)}</code>, found {escape(verdict.found)}</li>"
    yield "</ul></div>"


def _rules(comparison: Comparison) -> Iterator[str]:
    if comparison.rules:
        items = "".join(
            f"<li>{escape(line.strip())}</li>" if line.startswith(" ") else f"</ul><h3>{escape(line)}</h3><ul>"
            for line in comparison.rules
        )
        yield f"<h2>What is different in the rules</h2><ul>{items}</ul>".replace("<ul></ul>", "")


def _money(comparison: Comparison) -> Iterator[str]:
    if comparison.money.is_empty():
        return
    yield "<h2>For whom, and how much money</h2>"
    yield "<p>A payout is counted once per firing, whoever is told of it. Tests are left out.</p>"
    yield money_bars(comparison.money)
    for title, by in (("By affiliate", ("affiliate",)), ("By client and trigger", ("client", "trigger"))):
        yield _table(comparison.money_by(*by), title)
    moved = comparison.money.filter(
        (pl.col("difference") != 0) | (pl.col("firings_before") != pl.col("firings_after"))
    ).sort(pl.col("difference").abs(), descending=True)
    if not moved.is_empty():
        yield _table(moved, "Every client, affiliate, trigger and currency that changes, the most first")


def _postbacks(comparison: Comparison) -> Iterator[str]:
    yield "<h2>Which postbacks</h2>"
    if comparison.by_trigger.is_empty():
        yield "<p>Every postback is the same, in every parameter.</p>"
    else:
        yield postback_bars(comparison.by_trigger)
        yield _table(comparison.by_trigger, "By trigger")
    if not comparison.verdicts.filter(pl.col("before") != pl.col("after")).is_empty():
        yield _table(comparison.verdicts, "Hits by verdict")


def _cases(comparison: Comparison) -> Iterator[str]:
    if comparison.cases:
        yield "<h2>Why: sample cases</h2><p>The first cases of each trigger in the log. For the whole story of a hit: "
        yield "<code>backtrack explain LOG HIT_ID --rules FILE</code></p>"
    for kind, title in KINDS.items():
        mine = [case for case in comparison.cases if case.kind == kind]
        if mine:
            yield f"<h3>{escape(title)}</h3>{''.join(map(_case, mine))}"


def _case(case: Case) -> str:
    by = f", affiliate {case.affiliate}" if case.affiliate else ""
    money = " → ".join(_payout(value, case.currency) for value in (case.payout_before, case.payout_after))
    money = f"<span class=pay>{escape(money)}</span>" if case.payout_before or case.payout_after else ""
    whys = [("Before", case.before), ("After", case.after)] if case.before else []
    lines = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in whys)
    changed = "".join(
        f"<dt><code>{escape(name)}</code></dt><dd><del>{_value(mine)}</del> → <ins>{_value(theirs)}</ins></dd>"
        for name, mine, theirs in case.differences[:12]
    )
    return (
        f'<div class="case {case.kind}"><b>{escape(case.trigger)}</b> to {escape(case.recipient)}{escape(by)}{money}'
        f"<div class=q>{escape(case.time)} UTC, hit <code>{escape(case.hit_id)}</code></div><dl>{lines}{changed}</dl></div>"
    )


def _payout(value: str, currency: str) -> str:
    return f"{text_of(Decimal(value))} {currency}" if value else "nothing"


def _value(value: str | None) -> str:
    return "<i>nothing</i>" if value is None else escape(value if len(value) <= 300 else value[:300] + "...")


def _small_print(comparison: Comparison) -> Iterator[str]:
    yield "<h2>How sure this is</h2><ul>"
    if comparison.noise is None:
        yield "<li>The noise floor was not measured.</li>"
    else:
        yield f"<li>{escape(comparison.noise.sentence)}</li>"
    yield f"<li>Decided by the {escape(comparison.engine)} engine in {comparison.seconds:.1f} s.</li>"
    yield from (f"<li>{escape(warning)}</li>" for warning in comparison.warnings[:20])
    yield "</ul>"


def _table(frame: pl.DataFrame, title: str) -> str:
    numeric = [kind.is_numeric() for kind in frame.dtypes]
    head = "".join(
        f"<th{' class=n' if right else ''}>{escape(name.replace('_', ' '))}</th>"
        for name, right in zip(frame.columns, numeric, strict=True)
    )
    rows = "".join(_row(frame.columns, row, numeric) for row in frame.head(_ROWS).iter_rows())
    more = f"<p class=q>and {frame.height - _ROWS:,} more</p>" if frame.height > _ROWS else ""
    return (
        f"<h3>{escape(title)}</h3><div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"{more}"
    )


def _row(names: Sequence[str], row: tuple[object, ...], numeric: Sequence[bool]) -> str:
    cells = (_cell(name, value, right) for name, value, right in zip(names, row, numeric, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(name: str, value: object, right: bool) -> str:
    if name == "percent":
        text = "from nothing" if value is None else f"{value:+.1f} %" if value else ""
    elif name == "difference" and isinstance(value, Decimal):
        text = _signed(value)
    else:
        text = text_of(value) or ("none" if value == "" else "")
    tone = ""
    if name in ("difference", "percent") and isinstance(value, (Decimal, float)) and value:
        tone = " up" if value > 0 else " down"
    return f'<td class="{"n" if right else ""}{tone}">{escape(text)}</td>'


def _signed(amount: Decimal) -> str:
    return f"{'+' if amount > 0 else ''}{text_of(amount)}".replace("-", "−")


_STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1c1f24,#e6e8eb);--quiet:light-dark(#5d636d,#9aa1ab);
--line:light-dark(#d9dce1,#343940);--paper:light-dark(#fff,#14161a);--card:light-dark(#f5f6f8,#1e2126);
--up:light-dark(#0b7a4b,#4fc78e);--down:light-dark(#b3261e,#ff8a80);--before:light-dark(#8b929c,#7b828c);
--after:light-dark(#1f7f90,#3fb3c6)}
body{margin:2rem auto;max-width:62rem;padding:0 1.2rem 3rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,'Segoe UI','Helvetica Neue','DejaVu Sans',sans-serif}
h1{font-size:1.7rem;margin:0 0 .3rem}
h2{font-size:1.2rem;margin:2.2rem 0 .4rem;padding-top:.8rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.3rem 0 .6rem}
.lead{font-size:1.1rem}
.q{color:var(--quiet);font-size:.87em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .8rem;margin:.4rem 0}
dt{color:var(--quiet)}
dd{margin:0;overflow-wrap:anywhere}
.cards{display:flex;flex-wrap:wrap;gap:.7rem;margin:1rem 0}
.card{background:var(--card);border-radius:8px;padding:.6rem 1rem;min-width:7rem}
.big{font-size:1.5rem;font-weight:600;font-variant-numeric:tabular-nums}
.verdict{border-left:5px solid var(--up);background:var(--card);padding:.6rem 1rem;border-radius:0 8px 8px 0;
margin:1rem 0}
.verdict.bad{border-color:var(--down)}
.verdict ul{margin:.2rem 0 0;padding-left:1.2rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9em}
th,td{text-align:left;padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--quiet);font-weight:600}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.up{color:var(--up)}
.down{color:var(--down)}
.case{border-left:4px solid var(--after);background:var(--card);padding:.5rem .9rem;margin:.5rem 0;
border-radius:0 8px 8px 0}
.case.lost{border-color:var(--down)}
.case.gained{border-color:var(--up)}
.pay{float:right;font-variant-numeric:tabular-nums}
del{color:var(--down);text-decoration:none}
ins{color:var(--up);text-decoration:none}
code{font-size:.92em;overflow-wrap:anywhere}
svg{max-width:100%;height:auto;display:block;margin:.6rem 0}
svg text{fill:var(--ink);font:13px system-ui,'DejaVu Sans',sans-serif}
svg .l{fill:var(--quiet)}
svg .a{fill:var(--after)}
svg .b{fill:var(--before)}
svg .u{fill:var(--up)}
svg .d{fill:var(--down)}
@media print{body{max-width:none}}
"""
