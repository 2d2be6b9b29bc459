"""What a change of each key of a rulebook is called, and what it means for money where that is certain. See difference.py.

Every function takes the old and the new value of one field and yields the sentences about it, without their subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from service.engine.conditions import Node
from service.engine.rulebook import FOREVER_US, Payout
from service.engine.triggers import quantize
from service.engine.words import in_words, listed, moment, number, operand, plural, seconds, whole_span

MORE, LESS = "it can only fire more often", "it can only fire less often"

Words = dict[str, Callable[[Any, Any], Iterator[str]]]


def cap_in_words(cap: Any) -> str:
    """A cap: `500 firings a day per affiliate`."""
    every = {"total": "in all"}.get(cap.every, f"a {cap.every}")
    return f"{plural(cap.count, 'firing')} {every}{' per affiliate' if cap.per == 'affiliate' else ''}"


def payout_in_words(payout: Payout) -> str:
    """A payout: `25 % of amount`."""
    if payout.fixed is not None:
        return f"{quantize(payout.fixed, payout.currency)} {payout.currency}"
    instead = f" (in {payout.currency} where the event says no currency)" if payout.currency else ""
    return f"{number(payout.percent)} % of {payout.of}{instead}"


def _when(old: Node | None, new: Node | None) -> Iterator[str]:
    if old is None or new is None:
        yield "has no condition any more; " + MORE if new is None else f"fires only if {in_words(new)}; {LESS}"
        return
    before, after = _parts(old), _parts(new)
    gone, come = [part for part in before if part not in after], [part for part in after if part not in before]
    if not gone and not come:
        return
    if len(gone) == len(come) == 1 and gone[0][:1] == come[0][:1]:
        exact = list(_one_test(gone[0], come[0]))
        if exact:
            yield from exact
            return
    if not gone or not come:
        yield from (f"also asks for {in_words(part)}; {LESS}" for part in come)
        yield from (f"no longer asks for {in_words(part)}; {MORE}" for part in gone)
        return
    yield f"had the condition: {in_words(old)}. Now it is: {in_words(new)}"


def _parts(node: Node) -> list[Node]:
    return [part for child in node[1:] for part in _parts(child)] if node[0] == "both" else [node]


def _one_test(old: Node, new: Node) -> Iterator[str]:
    """A test in which one literal changed, said exactly; nothing if it is not that."""
    if old[0] == "compare" and old[1:3] == new[1:3] and old[3][0] == new[3][0] == "number":
        read = seconds if old[1][0] == "since" else number
        asks = in_words(new)
        yield f"asks for {asks} instead of {read(old[3][1])}{_direction(new[2], old[3][1], new[3][1])}"
    elif old[0] == "compare" and old[1:3] == new[1:3] and old[3][0] == new[3][0] == "text":
        yield f"asks for {in_words(new)} instead of {operand(old[3])}"
    elif old[0] == "member" and old[1] == new[1]:
        more = [operand(item) for item in new[2:] if item not in old[2:]]
        less = [operand(item) for item in old[2:] if item not in new[2:]]
        direction = f"; {MORE}" if not less else f"; {LESS}" if not more else ""
        words = [f"takes {operand(new[1])} {listed(more)} too"] * bool(more)
        words += [f"takes {operand(new[1])} {listed(less, 'or')} no longer"] * bool(less)
        if words:
            yield " and ".join(words) + direction


def _direction(sign: str, old: Decimal, new: Decimal) -> str:
    if sign in (">", ">="):
        return f"; {LESS if new > old else MORE}"
    return f"; {MORE if new > old else LESS}" if sign in ("<", "<=") else ""


def _payouts(old: Payout | None, new: Payout | None) -> Iterator[str]:
    if old is None and new is not None:
        yield f"pays {payout_in_words(new)} now; it paid nothing"
    if old is not None and new is None:
        yield f"pays nothing any more; it paid {payout_in_words(old)}"
    if old is None or new is None:
        return
    yield f"pays {payout_in_words(new)} instead of {payout_in_words(old)}{_meaning(old, new)}"


def _meaning(old: Payout, new: Payout) -> str:
    """What it means for money, where that is certain."""
    if old.fixed is not None and new.fixed is not None:
        if old.currency != new.currency:
            return ""
        more = new.fixed - old.fixed
        return f": {quantize(abs(more), new.currency)} {new.currency} {'more' if more > 0 else 'less'} for each firing"
    if old.fixed is None and new.fixed is None:
        if old.of != new.of or old.percent == new.percent:
            return ""
        return f": for {new.of} 100 that is {_of_hundred(new)} instead of {_of_hundred(old)}"
    percent, fixed = (old, new) if old.fixed is None else (new, old)
    if percent.percent <= 0 or fixed.fixed is None:
        return ""
    even = quantize(fixed.fixed * 100 / percent.percent, fixed.currency)
    return f": the same at {percent.of} {even} {fixed.currency}, {'more' if new.fixed is None else 'less'} above it"


def _of_hundred(payout: Payout) -> str:
    return quantize(payout.percent, "EUR")


# words for each field


def _instead(says: str, show: Callable[[Any], str] = str) -> Callable[[Any, Any], Iterator[str]]:
    """`says NEW instead of OLD`."""

    def words(old: Any, new: Any) -> Iterator[str]:
        yield f"{says} {show(new) if new else 'none'} instead of {show(old) if old else 'none'}"

    return words


def _set(gained: str, lost: str) -> Callable[[Any, Any], Iterator[str]]:
    """Names that came and names that went."""

    def words(old: Any, new: Any) -> Iterator[str]:
        come, gone = sorted(set(new) - set(old)), sorted(set(old) - set(new))
        if come:
            yield gained.format(listed(come))
        if gone:
            yield lost.format(listed(gone, "or"))

    return words


def _aliases(old: Any, new: Any) -> Iterator[str]:
    before, after = dict(old), dict(new)
    for alias, name in after.items():
        if before.get(alias) != name:
            was = f" instead of {before[alias]}" if alias in before else ""
            yield f'reads "{alias}" as {name}{was}'
    gone = [alias for alias in before if alias not in after]
    yield from (f'no longer reads "{alias}" as {before[alias]}' for alias in gone)
    if before == after:
        yield f"tries its aliases in another order: {listed(after, 'then')}"


def _steps(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[str]:
    was = " then ".join(old) or "no step"
    if not new:
        yield f"asks for no step before any more, instead of {was}; {MORE}"
    else:
        yield f"asks for {' then '.join(new)} before, instead of {was}" + ("" if old else f"; {LESS}")


def _within(old: int, new: int) -> Iterator[str]:
    wider = new == 0 or (old and new > old)
    says = f"lets the first step be {whole_span(new) if new else 'any time'} old"
    yield f"{says} instead of {whole_span(old) if old else 'any time'}; {MORE if wider else LESS}"


def _caps(old: Any, new: Any) -> Iterator[str]:
    if new is None or old is None:
        yield (
            f"has no cap any more, instead of {cap_in_words(old)}; {MORE}"
            if new is None
            else f"is capped at {cap_in_words(new)}; {LESS}"
        )
        return
    alike = (old.per, old.every) == (new.per, new.every)
    effect = f"; {MORE if new.count > old.count else LESS}" if alike else ""
    yield f"is capped at {cap_in_words(new)} instead of {cap_in_words(old)}{effect}"


def _sample(old: int, new: int) -> Iterator[str]:
    yield f"holds back {new} % of the visitors instead of {old} %; {LESS if new > old else MORE}"


def _once(_: str, new: str) -> Iterator[str]:
    yield f"fires once per visitor now; {LESS}" if new == "visitor" else f"is no longer once per visitor; {MORE}"


def _paused(_: bool, new: bool) -> Iterator[str]:
    yield "is paused: it fires nothing" if new else "is no longer paused"


def _bound(says: str, none: int) -> Callable[[int, int], Iterator[str]]:
    def words(old: int, new: int) -> Iterator[str]:
        was, now = ("any time" if value == none else moment(value) for value in (old, new))
        yield f"{says} {now} instead of {was}"

    return words


def _attribution(_: str, new: str) -> Iterator[str]:
    which, other = ("last", "first") if new == "last_click" else ("first", "last")
    yield f"gives an event to the affiliate of the {which} click instead of the {other}: payouts move between affiliates"


def _overrides(old: Any, new: Any) -> Iterator[str]:
    before, after = dict(old), dict(new)
    for client, trigger in dict.fromkeys([*before, *after]):
        was, now = before.get((client, trigger)), after.get((client, trigger))
        if was != now:
            where = f"client {client}" + (f", trigger {trigger}," if trigger else "")
            general = "its general address"
            yield f"gets the postbacks of {where} at {now or general} instead of {was or general}"


def _addresses(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[str]:
    was, now = (listed(value) if value else "any address" for value in (old, new))
    yield f"takes events server to server from {now} instead of {was}"


def _bots(_: str, new: str) -> Iterator[str]:
    yield "rejects what bots bring by browser routes" if new == "reject" else "counts what bots bring again"


def _moved(old: str, new: str) -> Iterator[str]:
    yield f"belongs to {new} instead of {old}"


CLIENT_WORDS: Words = {
    "name": _moved,
    "title": _instead("is called"),
    "landing": _instead("sends tracker links to"),
    "hosts": _set("may redirect to {} too", "no longer redirects to {}"),
    "params": _set("declares {}", "no longer declares {}"),
    "private": _set("keeps {} from affiliates", "no longer keeps {} from affiliates"),
    "aliases": _aliases,
    "not_an_id": _set("takes {} for no identifier", "takes {} for an identifier again"),
    "browser_events": _set("lets browsers bring {}", "no longer lets browsers bring {}"),
    "remember_us": _instead("forgets a visitor who stays away for more than", whole_span),
    "attribution": _attribution,
    "click_window_us": _instead("lets a click count for its affiliate for", whole_span),
    "webhook": _instead("gets its postbacks at"),
    "test_webhook": _instead("gets the postbacks of tests at"),
    "secret": _instead("has its postbacks signed with", lambda names: listed(names.split())),
    "rate": _instead("is called at most"),
    "sig_secret": _instead("asks for requests signed with", lambda names: listed(names.split())),
    "addresses": _addresses,
    "bots": _bots,
    "browser": _set("lets browsers get {}", "no longer lets browsers get {}"),
    "javascript": _instead("runs in browsers"),
    "pixel": _instead("has browsers call"),
    "email": _instead("gets its mails by"),
}
AFFILIATE_WORDS: Words = {
    "name": _moved, "title": CLIENT_WORDS["title"], "params": CLIENT_WORDS["params"],
    "webhook": CLIENT_WORDS["webhook"], "test_webhook": CLIENT_WORDS["test_webhook"], "secret": CLIENT_WORDS["secret"],
    "rate": CLIENT_WORDS["rate"], "javascript": CLIENT_WORDS["javascript"], "pixel": CLIENT_WORDS["pixel"],
    "email": CLIENT_WORDS["email"],
    "overrides": _overrides,
}  # fmt: skip
TRIGGER_WORDS: Words = {
    "name": _moved,
    "client": _moved,
    "on": _instead("fires on"),
    "after": _steps,
    "within_us": _within,
    "when": _when,
    "sample": _sample,
    "once": _once,
    "cap": _caps,
    "payout": _payouts,
    "method": _instead("posts by"),
    "to": _set("posts to the {} too", "no longer posts to the {}"),
    "paused": _paused,
    "from_us": _bound("begins at", 0),
    "until_us": _bound("ends at", FOREVER_US),
}
