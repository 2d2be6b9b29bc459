"""The condition language of `when`: one grammar, one defined meaning, compiled to closures.

Two-valued: a comparison with a missing value is false and `not` is the exact complement. A value is a number if it is
written as one (`parse.NUMBER`), else text. The literal decides how a value is read: against a number literal only
numbers compare, against a text literal the written text compares, by code point. Two names compare as numbers where both
are numbers, else as texts. `count` and `since` see earlier counted events only.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import re2
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from service.engine.errors import ConditionError
from service.engine.parse import NUMBER

GRAMMAR = r"""
?start: either
?either: both (_OR both)*
?both: inverse (_AND inverse)*
?inverse: _NOT inverse -> inverse
        | test
?test: "(" either ")"
     | _EXISTS "(" NAME ")"                       -> exists
     | operand COMPARE operand                    -> compare
     | operand _IN "[" literal ("," literal)* "]" -> member
     | operand _MATCHES TEXT                      -> matches
operand: NAME                                     -> name
       | _COUNT "(" TEXT ")"                      -> count
       | _SINCE "(" TEXT ")"                      -> since
       | literal
literal: NUMBER -> number
       | DURATION -> duration
       | TEXT -> text
COMPARE: "==" | "!=" | "<=" | ">=" | "<" | ">"
_OR.2: /or\b/
_AND.2: /and\b/
_NOT.2: /not\b/
_IN.2: /in\b/
_MATCHES.2: /matches\b/
_EXISTS.2: /exists\b/
_COUNT.2: /count\b/
_SINCE.2: /since\b/
DURATION: /[0-9]{1,9}[smhdw]\b/
NUMBER: /-?[0-9]{1,18}(\.[0-9]{1,9})?(?![0-9A-Za-z_.])/
NAME: /(?!(?:and|or|not|in|matches|exists|count|since)\b)[A-Za-z_][A-Za-z0-9_:-]*(\.[A-Za-z0-9_:\/-]+)*/
TEXT: /"(?:[^"\\]|\\["\\nrt])*"/ | /'(?:[^'\\]|\\['\\nrt])*'/
%ignore /[ \t\r\n]+/
"""

MAX_DEPTH = 100
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Facts(Protocol):
    """What a condition may ask about the event at hand."""

    def value(self, name: str) -> str | None:
        """The value of a name, None if it is missing."""

    def count(self, event: str) -> int:
        """How many earlier counted events of this name the visitor has."""

    def since_us(self, event: str) -> int | None:
        """Microseconds since the last earlier counted event of this name, None if there is none."""


Predicate = Callable[[Facts], bool]


class Condition:
    """A compiled condition: call it with the facts. `names` and `events` are what it refers to."""

    __slots__ = ("events", "names", "predicate", "text")

    def __init__(self, text: str, predicate: Predicate, names: frozenset[str], events: frozenset[str]) -> None:
        self.text = text
        self.predicate = predicate
        self.names = names
        self.events = events

    def __call__(self, facts: Facts) -> bool:
        return self.predicate(facts)


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=False, propagate_positions=True)


@lru_cache(maxsize=1024)
def compile_condition(text: str) -> Condition:
    """Compile a condition. Raises ConditionError with the column of what is wrong."""
    literals, numbered = _numbered(text)
    try:
        shape = _shape(numbered)
    except ConditionError:
        return _compile_plainly(text)  # whose columns are those of the text; it refuses the same
    if shape.patterns:
        return _compile_plainly(text)  # whether a pattern is one depends on its text

    def build(facts: Facts) -> bool:
        condition.predicate = _build(_filled(shape.tree, literals))
        return condition.predicate(facts)

    events = frozenset([_unquote(literals[place]) for place in shape.events])
    condition = Condition(text, build, shape.names, events)  # built when it is first asked: of thousands, few ever are
    return condition


# a number, a duration or a text, where the grammar would read one: not inside of a name
_LITERAL = re.compile(
    r"(?P<text>\"(?:[^\"\\]|\\[\"\\nrt])*\"|'(?:[^'\\]|\\['\\nrt])*')"
    r"|(?<![A-Za-z0-9_.:/-])(?:[0-9]{1,9}(?P<unit>[smhdw])\b|-?[0-9]{1,18}(?:\.[0-9]{1,9})?(?![0-9A-Za-z_.]))"
)


def _numbered(text: str) -> tuple[list[str], str]:
    """The literals of a condition, and the text with their numbers in place of them, each of the same kind."""
    literals: list[str] = []

    def number(found: re.Match[str]) -> str:
        literals.append(found.group())
        return f'"{len(literals)}"' if found.group("text") else f"{len(literals)}{found.group('unit') or ''}"

    return literals, _LITERAL.sub(number, text)


class _Shape(NamedTuple):
    """What all conditions have in common that differ in their literals only. events: which literals name one."""

    tree: Tree[Token]
    names: frozenset[str]
    events: tuple[int, ...]
    patterns: bool


@lru_cache(maxsize=256)
def _shape(numbered: str) -> _Shape:
    """Parse and check a condition whose literals are numbered. A rulebook has few shapes, and parsing is what costs."""
    tree = _parse(numbered)
    _build(tree)  # raises for kinds that do not fit, which no literal can change
    events: list[str] = []
    _events(tree, events)
    names = frozenset(str(token) for token in tree.scan_values(_is_name))
    return _Shape(tree, names, tuple([int(number) - 1 for number in events]), any(tree.find_data("matches")))


def _filled(tree: Tree[Token], literals: list[str]) -> Tree[Token]:
    """The tree with the literals themselves instead of their numbers."""
    children: list[Any] = []
    for child in tree.children:
        if isinstance(child, Tree):
            children.append(_filled(child, literals))
        elif child.type in ("NUMBER", "DURATION", "TEXT"):
            children.append(Token(child.type, literals[int(child.strip('"smhdw')) - 1]))
        else:
            children.append(child)
    return Tree(tree.data, children)


def _events(tree: Tree[Token], found: list[str]) -> None:
    if tree.data in ("count", "since"):
        found.append(_unquote(tree.children[0]))
    for child in tree.children:
        if isinstance(child, Tree):
            _events(child, found)


def _compile_plainly(text: str) -> Condition:
    tree = _parse(text)
    events: list[str] = []
    _events(tree, events)
    return Condition(
        text, _build(tree), frozenset(str(token) for token in tree.scan_values(_is_name)), frozenset(events)
    )


def _parse(text: str) -> Tree[Token]:
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _explain(text, error) from None
    if _depth(tree) > MAX_DEPTH:
        raise ConditionError(f"the condition is nested deeper than {MAX_DEPTH}", 1)
    return tree


def _depth(tree: Tree[Token]) -> int:
    """How deeply and, or and not are nested. Counted, since the interpreter's own bound would depend on who calls."""
    deepest, level = 0, [tree]
    while level:
        deepest += 1
        level = [child for node in level for child in node.children if isinstance(child, Tree)]
    return deepest


def _is_name(value: Any) -> bool:
    return isinstance(value, Token) and value.type == "NAME"


def _explain(text: str, error: UnexpectedInput) -> ConditionError:
    if isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        return ConditionError("the condition ends too early", len(text) + 1)
    column = error.column if isinstance(error.column, int) and error.column > 0 else 1
    position = error.pos_in_stream if isinstance(error.pos_in_stream, int) else column - 1
    found = text[position : position + 20]
    hint = ""
    if isinstance(error, UnexpectedCharacters) and found[:1] == "=":
        hint = ", compare with =="
    elif found[:1] in ("+", "-", "*", "/", "%"):
        hint = ", there is no arithmetic"
    return ConditionError(f"{found!r} is not expected here{hint}", position + 1)


def _build(tree: Tree[Token]) -> Predicate:
    return _BUILDERS[tree.data](tree.children)


def _either(children: list[Any]) -> Predicate:
    parts = tuple(_build(child) for child in children)

    def test(facts: Facts) -> bool:
        for part in parts:  # noqa: SIM110  (a generator costs twice the time)
            if part(facts):
                return True
        return False

    return test


def _both(children: list[Any]) -> Predicate:
    parts = tuple(_build(child) for child in children)

    def test(facts: Facts) -> bool:
        for part in parts:  # noqa: SIM110
            if not part(facts):
                return False
        return True

    return test


def _inverse(children: list[Any]) -> Predicate:
    part = _build(children[0])
    return lambda facts: not part(facts)


def _exists(children: list[Any]) -> Predicate:
    name = str(children[0])
    return lambda facts: facts.value(name) is not None


def _compare(children: list[Any]) -> Predicate:
    left, sign, right = children
    kinds = {_kind(left), _kind(right)}
    compare = _COMPARE[str(sign)]
    if kinds == {"text", "number"}:
        column = sign.column or 1
        raise ConditionError("a number is compared with a text, which is never true; drop or add the quotes", column)
    read = _as_number if "number" in kinds else (_as_text if "text" in kinds else None)
    if read is None:
        return _compare_names(_operand(left), _operand(right), compare)
    if left.data in ("name", "count") and right.data == "operand":
        return _compare_literal(left, compare, _constant(right), read)
    first, second = _read(left, read), _read(right, read)

    def test(facts: Facts) -> bool:
        a = first(facts)
        if a is None:
            return False
        b = second(facts)
        return b is not None and compare(a, b)

    return test


def _compare_literal(left: Tree[Token], compare: Callable[[Any, Any], bool], constant: Any, read: Any) -> Predicate:
    """What most comparisons are: a name, or a count, on the left and a literal on the right. The same in fewer calls."""
    if left.data == "count":
        event = _unquote(left.children[0])
        whole = int(constant) if constant == int(constant) else constant
        return lambda facts: compare(facts.count(event), whole)
    name = str(left.children[0])

    def number(facts: Facts) -> bool:
        value = facts.value(name)
        return value is not None and NUMBER.match(value) is not None and compare(Decimal(value), constant)

    def text(facts: Facts) -> bool:
        value = facts.value(name)
        return value is not None and compare(value, constant)

    return number if read is _as_number else text


def _compare_names(left: Operand, right: Operand, compare: Callable[[Any, Any], bool]) -> Predicate:
    def test(facts: Facts) -> bool:
        a, b = left(facts), right(facts)
        if a is None or b is None:
            return False
        if NUMBER.match(a) and NUMBER.match(b):
            return compare(Decimal(a), Decimal(b))
        return compare(a, b)

    return test


def _member(children: list[Any]) -> Predicate:
    if _kind(children[0]) == "number":
        text = next((item.children[0] for item in children[1:] if item.data == "text"), None)
        if text is not None:
            raise ConditionError(f"a number is looked for among texts; drop the quotes of {text}", text.column or 1)
    operand = _operand(children[0])
    texts = frozenset(_unquote(item.children[0]) for item in children[1:] if item.data == "text")
    numbers = frozenset(_literal_number(item) for item in children[1:] if item.data != "text")

    def test(facts: Facts) -> bool:
        value = operand(facts)
        if value is None:
            return False
        if value in texts:
            return True
        return bool(numbers) and NUMBER.match(value) is not None and Decimal(value) in numbers

    return test


def _matches(children: list[Any]) -> Predicate:
    token = children[1]
    if _kind(children[0]) == "number":
        raise ConditionError("matches reads a text, and a number is none", token.column or 1)
    operand = _operand(children[0])
    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(_unquote(token), options)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ConditionError(f"{token} is no regular expression of RE2: {reason}", token.column or 1) from None

    def test(facts: Facts) -> bool:
        value = operand(facts)
        return value is not None and pattern.search(value) is not None

    return test


_BUILDERS: dict[str, Callable[[list[Any]], Predicate]] = {
    "either": _either,
    "both": _both,
    "inverse": _inverse,
    "exists": _exists,
    "compare": _compare,
    "member": _member,
    "matches": _matches,
}

Operand = Callable[[Facts], "str | None"]


def _kind(operand: Tree[Token]) -> str:
    """How the operand wants the other side to be read: `number`, `text`, or `name` for whatever is there."""
    if operand.data == "operand":
        return "text" if operand.children[0].data == "text" else "number"  # type: ignore[union-attr]
    return "name" if operand.data == "name" else "number"


def _operand(operand: Tree[Token]) -> Operand:
    """The operand as written text."""
    data, child = operand.data, operand.children[0]
    if data == "name":
        name = str(child)
        return lambda facts: facts.value(name)
    if data == "count":
        event = _unquote(child)
        return lambda facts: str(facts.count(event))
    if data == "since":
        return _since(_unquote(child))
    assert isinstance(child, Tree)
    fixed = _unquote(child.children[0]) if child.data == "text" else format(_literal_number(child), "f")
    return lambda facts: fixed


def _since(event: str) -> Operand:
    def read(facts: Facts) -> str | None:
        age_us = facts.since_us(event)
        return None if age_us is None else f"{age_us // 1_000_000}.{age_us % 1_000_000:06d}"

    return read


def _read(operand: Tree[Token], convert: Callable[[str], Any]) -> Callable[[Facts], Any]:
    if operand.data == "operand":
        constant = _constant(operand)
        return lambda facts: constant
    if operand.data == "count":
        event = _unquote(operand.children[0])
        return lambda facts: facts.count(event)
    plain = _operand(operand)

    def read(facts: Facts) -> Any:
        value = plain(facts)
        return None if value is None else convert(value)

    return read


def _constant(operand: Tree[Token]) -> Any:
    literal = operand.children[0]
    assert isinstance(literal, Tree)
    return _unquote(literal.children[0]) if literal.data == "text" else _literal_number(literal)


def _as_number(value: str) -> Decimal | None:
    return Decimal(value) if NUMBER.match(value) else None


def _as_text(value: str) -> str:
    return value


def _literal_number(literal: Any) -> Decimal:
    token = str(literal.children[0])
    if literal.data == "duration":
        return Decimal(int(token[:-1]) * UNITS_S[token[-1]])
    return Decimal(token)


def _unquote(token: Any) -> str:
    body = str(token)[1:-1]
    if "\\" not in body:
        return body
    out, escaped = [], False
    for char in body:
        if escaped:
            out.append(_ESCAPES.get(char, char))
            escaped = False
        elif char == "\\":
            escaped = True
        else:
            out.append(char)
    return "".join(out)


Node = tuple[Any, ...]


def syntax(text: str) -> Node:
    """A condition as nested tuples, for an evaluator that is not this one.

    ("either", part, ...), ("both", part, ...), ("inverse", part), ("exists", name), ("compare", left, sign, right),
    ("member", operand, literal, ...), ("matches", operand, pattern). An operand is ("name", x), ("count", event),
    ("since", event), ("text", x) or ("number", Decimal). Raises ConditionError as `compile_condition` does.
    """
    compile_condition(text)  # refuses what is none
    literals, numbered = _numbered(text)
    return _node(_filled(_shape(numbered).tree, literals))


def _node(tree: Any) -> Node:
    kind, children = tree.data, tree.children
    if kind in ("exists", "name"):
        return kind, str(children[0])
    if kind in ("count", "since", "text"):
        return kind, _unquote(children[0])
    if kind in ("number", "duration"):
        return "number", _literal_number(tree)
    if kind == "operand":
        return _node(children[0])
    if kind == "compare":
        return kind, _node(children[0]), str(children[1]), _node(children[2])
    if kind == "matches":
        return kind, _node(children[0]), _unquote(children[1])
    return kind, *map(_node, children)
