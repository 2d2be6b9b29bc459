"""The grammar of `when`: a text to a tree, and what literals say. Errors name the column.

Parsing is what costs, and a rulebook has few shapes: conditions that differ in their literals only share one tree, read
with numbers in place of the literals (`numbered`), which are put back afterwards (`filled`).
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from service.engine.errors import ConditionError

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
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=False, propagate_positions=True)


def parse_condition(text: str) -> Tree[Token]:
    """The tree of a condition. Raises ConditionError with the column of what is wrong."""
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


# a number, a duration or a text, where the grammar would read one: not inside of a name
_LITERAL = re.compile(
    r"(?P<text>\"(?:[^\"\\]|\\[\"\\nrt])*\"|'(?:[^'\\]|\\['\\nrt])*')"
    r"|(?<![A-Za-z0-9_.:/-])(?:[0-9]{1,9}(?P<unit>[smhdw])\b|-?[0-9]{1,18}(?:\.[0-9]{1,9})?(?![0-9A-Za-z_.]))"
)


def numbered(text: str) -> tuple[list[str], str]:
    """The literals of a condition, and the text with their numbers in place of them, each of the same kind."""
    literals: list[str] = []

    def number(found: re.Match[str]) -> str:
        literals.append(found.group())
        return f'"{len(literals)}"' if found.group("text") else f"{len(literals)}{found.group('unit') or ''}"

    return literals, _LITERAL.sub(number, text)


def filled(tree: Tree[Token], literals: list[str]) -> Tree[Token]:
    """The tree with the literals themselves instead of their numbers."""
    children: list[Any] = []
    for child in tree.children:
        if isinstance(child, Tree):
            children.append(filled(child, literals))
        elif child.type in ("NUMBER", "DURATION", "TEXT"):
            children.append(Token(child.type, literals[int(child.strip('"smhdw')) - 1]))
        else:
            children.append(child)
    return Tree(tree.data, children)


def events_in(tree: Tree[Token]) -> list[str]:
    """The events that `count` and `since` name."""
    named = [unquote(tree.children[0])] if tree.data in ("count", "since") else []
    return named + [event for child in tree.children if isinstance(child, Tree) for event in events_in(child)]


def names_in(tree: Tree[Token]) -> frozenset[str]:
    """The names whose values a condition asks for."""
    return frozenset([str(token) for token in tree.scan_values(_is_name)])


def _is_name(value: Any) -> bool:
    return isinstance(value, Token) and value.type == "NAME"


def literal_number(literal: Any) -> Decimal:
    """The number of a literal; of a duration its seconds."""
    token = str(literal.children[0])
    if literal.data == "duration":
        return Decimal(int(token[:-1]) * UNITS_S[token[-1]])
    return Decimal(token)


def unquote(token: Any) -> str:
    """The text of a literal in quotes."""
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
