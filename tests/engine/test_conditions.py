"""The language of `when`."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import ConditionError
from service.engine.conditions import MAX_DEPTH, _compile_plainly, _shape, compile_condition
from service.engine.grammar import filled, numbered, parse_condition
from service.engine.parse import NUMBER


class Asked:
    """Facts made of plain values. seconds: since the last event of a name."""

    def __init__(
        self, values: dict[str, str], counts: dict[str, int] | None = None, ages_us: dict[str, int] | None = None
    ) -> None:
        self.values = values
        self.counts = counts or {}
        self.ages_us = ages_us or {}

    def value(self, name: str) -> str | None:
        return self.values.get(name)

    def count(self, event: str) -> int:
        return self.counts.get(event, 0)

    def since_us(self, event: str) -> int | None:
        return self.ages_us.get(event)


def holds(text: str, facts: Asked | None = None, **values: str) -> bool:
    return compile_condition(text)(facts or Asked(values))


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        # against a number only numbers compare
        ("a >= 20", "20", True),
        ("a >= 20", "20.000000001", True),
        ("a >= 20", "19.999999999", False),
        ("a == 20", "20.00", True),
        ("a == 20", "020", True),
        ("a == -0", "0", True),
        ("a > 9", "10", True),
        ("a > 9", "ten", False),
        ("a != 9", "ten", False),
        ("a < 9", "", False),
        ("a == 0.0000001", "0.0000001", True),
        ("a > 0.0000001", "5", True),
        ("a >= 20", " 20", False),
        ("a >= 20", "2e1", False),
        ("a >= 20", "1_000", False),
        ("a >= 20", "٣٠", False),
        ("a >= 20", "20\n", False),
        ("a > 999999999999999998", "999999999999999999", True),
        ("a > 5", "1234567890123456789", False),
        ("a == 1d", "86400", True),
        # against a text the written text compares, by code point
        ('a == "20"', "20", True),
        ('a == "20"', "20.0", False),
        ('a < "B"', "a", False),
        ('a < "a"', "B", True),
        ('a < "é"', "z", True),
        ('a < "\U0001f600"', "\uffff", True),
        ('a > ""', "x", True),
        ("a == 'it''s'", "its", None),
        (r"a == 'it\'s'", "it's", True),
        (r'a == "say \"hi\"\n"', 'say "hi"\n', True),
        (r'a == "\\d"', r"\d", True),
        # in
        ('a in ["DE", "AT"]', "AT", True),
        ('a in ["DE", "AT"]', "at", False),
        ("a in [1, 2.50]", "2.5", True),
        ('a in [1, "x"]', "x", True),
        ('a in [1, "2"]', "2.0", False),
        ("a in [1h]", "3600", True),
        # matches: anywhere in the text, RE2
        ('a matches "^DE$"', "DE", True),
        ('a matches "^DE$"', "DE\n", False),
        ('a matches "(?i)staff"', "xSTAFFx", True),
        (r'a matches "^\\d+$"', "٣", False),
        ('a matches ""', "x", True),
        # exists, and or not
        ("exists(a)", "x", True),
        ("exists(b)", "x", False),
        ("not exists(b)", "x", True),
        ("not a == 5", "5", False),
        ("not (a == 5 or a == 6)", "6", False),
        ('a == 5 or a == 6 and a == "x"', "5", True),
        ('(a == 5 or a == 6) and a == "x"', "5", False),
        # a missing value
        ("b == 5", "x", False),
        ("b != 5", "x", False),
        ('b != "DE"', "x", False),
        ("not b != 5", "x", True),
        ('b in ["x"]', "x", False),
        ('b matches ""', "x", False),
        ("a == b", "x", False),
        ("a != b", "x", False),
    ],
)  # fmt: skip
def test_the_table_of_meaning(text: str, value: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(ConditionError):
            compile_condition(text)
    else:
        assert holds(text, a=value) is expected


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [("10", "10.0", True), ("10", "9", False), ("x", "x", True), ("10", "x", False), ("1e1", "10", False)],
)
def test_two_names_compare_as_numbers_where_both_are_numbers(left: str, right: str, same: bool) -> None:
    assert holds("a == b", a=left, b=right) is same
    assert holds("a > b", a="10", b="9") is True
    assert holds("a > b", a="10", b="9x") is False


def test_count_and_since_are_numbers() -> None:
    facts = Asked({"n": "2"}, {"sale": 2, "login": 3}, {"sale": 7 * 86_400_000_000})
    assert holds('count("sale") == 2 and count("none") == 0', facts)
    assert holds('count("sale") == n and count("login") > count("sale")', facts)
    assert holds('count("sale") in [1, 2]', facts)
    assert holds('since("sale") == 7d and since("sale") >= 604800 and since("sale") <= 1w', facts)
    assert not holds('since("sale") < 7d', facts)
    assert not holds('since("login") >= 0', facts)
    assert holds('not since("login") >= 0', facts)


def test_since_is_exact_to_the_microsecond() -> None:
    assert holds('since("sale") < 7d', Asked({}, {}, {"sale": 7 * 86_400_000_000 - 1}))
    assert not holds('since("sale") <= 7d', Asked({}, {}, {"sale": 7 * 86_400_000_000 + 1}))


def test_names_with_dots_and_hyphens_are_one_name() -> None:
    facts = Asked({"first.sub1": "x", "last.a/b.amount": "5", "sub-id": "y", "param.order": "z"})
    assert holds('first.sub1 == "x" and last.a/b.amount == 5 and sub-id == "y" and param.order == "z"', facts)


def test_a_condition_says_what_it_refers_to() -> None:
    condition = compile_condition('a > 5 and exists(b) or not c in ["x"] and count("sale") > since("login")')
    assert condition.names == {"a", "b", "c"}
    assert condition.events == {"sale", "login"}


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "ends too early"),
        ("a", 2, "ends too early"),
        ("a ==", 5, "ends too early"),
        ("a = 5", 3, "compare with =="),
        ("a >= 5 and", 11, "ends too early"),
        ("a >= 5 && b", 8, "'&& b'"),
        ("a + 1 > 5", 3, "no arithmetic"),
        ("a % 2 == 0", 3, "no arithmetic"),
        ("a / 2 == 0", 3, "no arithmetic"),
        ("a > 5 b", 7, "'b'"),
        ("a > 12345678901234567890", 5, ""),
        ("a > 1.0000000001", 5, ""),
        ('a > "unclosed', 5, ""),
        ('a > 5 and b == "x" > 3', 20, "'> 3'"),
        ("count(sale) > 1", 7, "'sale) > 1'"),
        ('a in []', 7, ""),
        ('5 == "5"', 3, "a number is compared with a text"),
        ('count("x") == "1"', 12, "a number is compared with a text"),
        ('count("x") in ["1"]', 16, "drop the quotes"),
        ('count("x") matches "1"', 20, "matches reads a text"),
        ('a matches "("', 11, "RE2"),
        (r'a matches "(?=x)"', 11, "RE2"),
        (r'a matches "(x)\\1"', 11, "RE2"),
        ("not " * (MAX_DEPTH + 1) + "a > 1", 1, "nested deeper"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_language_is_named_with_its_column(text: str, column: int, words: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compile_condition(text)
    assert caught.value.column == column
    assert words in caught.value.message


def test_a_long_condition_is_not_a_deep_one() -> None:
    assert holds(" and ".join(["a > 1"] * 500), a="2")
    assert holds("(" * 300 + "a > 1" + ")" * 300, a="2")


@pytest.mark.parametrize(
    "text", ["not " * (MAX_DEPTH - 5) + "a > 1", "(a > 1 and (b > 1 or " * 40 + "a > 1" + "))" * 40]
)
def test_what_compiles_can_be_asked(text: str) -> None:
    assert compile_condition(text)(Asked({"a": "2"})) in (True, False)


VALUES = st.sampled_from(["", "0", "-0", "5", "5.0", "05", "10", "9", "x", "X", "é", "DE", " 5", "5e0", "1" * 19])
NAMES = st.sampled_from(["a", "b", "c"])
LITERALS = st.sampled_from(["5", "-5", "10.0", "0.0000001", '"5"', '"x"', '""', "5s"])
SIGNS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
TESTS = st.one_of(
    st.builds("{} {} {}".format, NAMES, SIGNS, LITERALS),
    st.builds("{} {} {}".format, NAMES, SIGNS, NAMES),
    st.builds("exists({})".format, NAMES),
    st.builds("{} in [{}, {}]".format, NAMES, LITERALS, LITERALS),
    st.builds('{} matches "^[0-9x]"'.format, NAMES),
    st.builds('count("e") {} {}'.format, SIGNS, NAMES),
    st.builds('since("e") {} 5s'.format, SIGNS),
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds("({}) and ({})".format, inner, inner), st.builds("({}) or ({})".format, inner, inner),
        st.builds("not ({})".format, inner),
    ),
    max_leaves=5,
)  # fmt: skip
FACTS = st.builds(
    Asked,
    st.dictionaries(NAMES, VALUES.filter(bool), max_size=3),
    st.fixed_dictionaries({"e": st.integers(0, 11)}),
    st.dictionaries(st.just("e"), st.integers(0, 10_000_000)),
)


@settings(deadline=None)
@given(CONDITIONS, FACTS)
def test_not_is_the_exact_complement(text: str, facts: Asked) -> None:
    assert compile_condition(f"not ({text})")(facts) is not compile_condition(text)(facts)


@settings(deadline=None)
@given(CONDITIONS, CONDITIONS, FACTS)
def test_and_and_or_are_those_of_logic(one: str, two: str, facts: Asked) -> None:
    first, second = compile_condition(one)(facts), compile_condition(two)(facts)
    assert compile_condition(f"({one}) and ({two})")(facts) is (first and second)
    assert compile_condition(f"({one}) or ({two})")(facts) is (first or second)


@settings(deadline=None)
@given(SIGNS, VALUES, LITERALS)
def test_a_comparison_with_a_literal_on_the_left_mirrors_the_one_on_the_right(
    sign: str, value: str, literal: str
) -> None:
    mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(sign, sign)
    assert holds(f"a {sign} {literal}", a=value) is holds(f"{literal} {mirrored} a", a=value)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    try:
        compile_condition(text)
    except ConditionError as error:
        assert 1 <= error.column <= len(text) + 1


@given(VALUES, VALUES)
def test_numbers_order_as_numbers_and_texts_as_texts(left: str, right: str) -> None:
    if not left or not right:
        return
    if NUMBER.match(left) and NUMBER.match(right):
        assert holds("a < b", a=left, b=right) is (Decimal(left) < Decimal(right))
    else:
        assert holds("a < b", a=left, b=right) is (left < right)


@pytest.mark.parametrize(
    "text",
    [
        'amount >= 20 and country in ["DE", "AT"] and count("sale") == 0', "a-1 > -1 and sub:2 == 2",
        "x >= 007 or x==-0.50",
        "since('sale') < 7d and since(\"a\\\"b\") > 90s", "not (x matches '(?i)^1' or 1 == x)", 'x in [1, "1", -2.5]',
        'last.order/2.ts == "3s"', "a1 == b2", '"x" == "y"', 'x == "1" or x == "2s" or x == "\\\\"',
    ],
)  # fmt: skip
def test_a_condition_read_by_its_shape_is_the_one_read_as_a_whole(text: str) -> None:
    # given the tree of the text as the grammar reads it, and that of its shape with the literals put back
    whole = parse_condition(text)
    literals, shape = numbered(text)
    assert shape != text or not literals
    assert filled(_shape(shape).tree, literals) == whole
    # then a condition that differs in its literals only is another one
    condition, plain = compile_condition(text), _compile_plainly(text)
    assert (condition.text, condition.names, condition.events) == (text, plain.names, plain.events)


@given(st.text(alphabet="ab1. -\"'5dsx=><()[],in", max_size=14))
def test_what_the_grammar_refuses_is_refused_at_the_same_column_whatever_its_shape(text: str) -> None:
    def told(compiler: Callable[[str], object]) -> str:
        try:
            compiler(text)
        except ConditionError as error:
            return str(error)
        return ""

    assert told(compile_condition) == told(_compile_plainly)
