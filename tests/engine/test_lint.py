"""What is no error in a rulebook and still looks wrong; and that nothing is said about what may well be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import load
from service.engine.certainty import constant_parts
from service.engine.lint import NOTE, RULES, WARNING, lint
from service.engine.rulebook import DAY_US
from service.engine.visitors import HISTORY

CLIENT = """[client.acme]
params = ["country", "sub1"]
webhook = "https://acme.example/et"
"""
AFFILIATE = """[affiliate.best]
webhook = "https://best.example/pb"
"""


def trigger(body: str = "", name: str = "first", on: str = "sale") -> str:
    return f'[[trigger]]\nname = "{name}"\nclient = "acme"\non = "{on}"\n{body}\n'


def found(text: str, now_us: int | None = None) -> list[tuple[str, int, str, str]]:
    """(rule, line, key, message) of each finding."""
    return [(f.rule, f.line, f.key, f.message) for f in lint(load(text), now_us)]


def always(when: str, body: str = "") -> list[bool]:
    """What the parts of the condition that never change are."""
    rulebook = load(CLIENT + AFFILIATE + trigger(f"when = '''{when}'''\n{body}"))
    return [part.holds for part in constant_parts(rulebook.triggers[0], rulebook)]


def test_a_plain_rulebook_has_no_finding() -> None:
    body = (
        'after = ["click"]\nwithin = "30d"\nwhen = \'amount >= 20 and country == "DE"\'\nto = ["client", "affiliate"]'
    )
    assert found(CLIENT + AFFILIATE + trigger(body)) == []


@pytest.mark.parametrize(
    ("text", "rule", "line", "key", "words"),
    [
        ("", "no_client", 0, "client", "add [client.NAME]"),
        (AFFILIATE, "no_client", 0, "client", "every hit is rejected"),
        (CLIENT + trigger("paused = true"), "never_fires", 8, "trigger[0].paused", "take paused out"),
        (CLIENT + trigger("sample = 100"), "never_fires", 8, "trigger[0].sample", "write less than 100"),
        (CLIENT + trigger('to = ["affiliate"]'), "never_fires", 8, "trigger[0].to", "add [affiliate.NAME]"),
        (
            CLIENT + trigger(f"after = {['click'] * (HISTORY + 1)}"),
            "never_fires", 8, "trigger[0].after", "last 256 events are kept",
        ),
        (
            CLIENT + trigger("when = 'count(\"click\") < 0'"),
            "constant_condition", 8, "trigger[0].when", "never holds, so first never fires",
        ),
        (CLIENT + trigger("when = 'event == \"sale\"'"), "constant_condition", 8, "trigger[0].when", "always holds"),
        (
            CLIENT + trigger('when = \'amount > 5 or (country == "DE" and country == "AT")\''),
            "constant_condition", 8, "trigger[0].when", 'country == "DE" and country == "AT" never holds here',
        ),
        (
            CLIENT + trigger("when = 'amount in [\"20\"]'"),
            "number_as_text", 8, "trigger[0].when", "drop the quotes",
        ),
        (CLIENT + trigger(on="regstration"), "unheard_event", 7, "trigger[0].on", "did you mean 'registration'?"),
        (CLIENT + trigger('after = ["Click"]'), "unheard_event", 8, "trigger[0].after", "did you mean 'click'?"),
        (
            CLIENT + trigger("when = 'count(\"pagevew\") > 1'"),
            "unheard_event", 8, "trigger[0].when", "did you mean 'pageview'?",
        ),
        (
            CLIENT + "[affiliate.quiet]\n" + trigger('to = ["affiliate"]'),
            "no_endpoint", 4, "affiliate.quiet", "1 affiliate has no endpoint",
        ),
        (
            CLIENT.replace("https", "http"), "plain_http", 3, "client.acme.webhook", "write https://",
        ),
        (
            CLIENT + AFFILIATE + '[affiliate.best.for.acme]\nwebhook = "http://x.example/"\n',
            "plain_http", 7, "affiliate.best.for.acme.webhook", "http://x.example",
        ),
        (
            CLIENT + 'remember = "20d"\nclick_window = "19d"\n' + trigger('after = ["click"]\nwithin = "3w"'),
            "longer_than_memory", 11, "trigger[0].within", "within (21 days) is longer than client acme remembers",
        ),
        (
            CLIENT + 'remember = "20d"\n', "longer_than_memory", 1, "client.acme.click_window", "is longer than remember",
        ),
        (
            CLIENT + '[affiliate.b]\nparams = ["own", "sub1"]\nwebhook = "https://b.example/?s={first.sub1}"\n',
            "unused_parameter", 5, "affiliate.b.params", "no address of b uses own",
        ),
        (CLIENT + trigger() + trigger(name="second"), "same_trigger", 10, "trigger[1].name", "drop one"),
        (
            CLIENT + 'secret = "env:S"\n' + AFFILIATE + 'secret = "env:S"\n',
            "shared_secret", 7, "affiliate.best.secret", "env:S signs for client acme too",
        ),
        (
            CLIENT + 'sig_secret = "env:S"\n[client.bolt]\nsig_secret = ["env:T", "env:S"]\n',
            "shared_secret", 6, "client.bolt.sig_secret", "env:S signs for client acme too",
        ),
        (
            CLIENT + trigger("when = 'not country == \"DE\"'"),
            "missing_and_not", 8, "trigger[0].when", "add exists(country)",
        ),
        (CLIENT + trigger('after = ["sale"]'), "own_event_as_step", 8, "trigger[0].after", "means an earlier sale"),
        (
            CLIENT + trigger('once = "visitor"\nsample = 10'),
            "once_with_sample", 9, "trigger[0].sample", "10 % of them never get",
        ),
    ],
)  # fmt: skip
def test_what_looks_wrong_is_found_with_its_line_key_and_remedy(
    text: str, rule: str, line: int, key: str, words: str
) -> None:
    ((found_rule, found_line, found_key, message),) = found(text)
    assert (found_rule, found_line, found_key) == (rule, line, key)
    assert words in message


def test_every_rule_is_met_in_these_tests() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [rule for rule in RULES if f'"{rule}"' not in text] == []
    assert {level for level, _ in RULES.values()} == {WARNING, NOTE}


def test_a_trigger_whose_time_is_over_is_found_only_where_the_time_is_told() -> None:
    text = CLIENT + trigger("until = 1970-01-03")
    assert found(text) == []
    assert found(text, 2 * DAY_US - 1) == []
    assert found(text, 2 * DAY_US)[0][0] == "never_fires"


def test_affiliates_without_endpoint_are_counted_and_named_in_one_warning() -> None:
    # given twelve without any endpoint, one with an override for one trigger only, one with all
    many = "".join(f"[affiliate.a{number:02d}]\n" for number in range(12))
    partly = '[affiliate.z]\n[affiliate.z.for.acme.first]\nwebhook = "https://z.example/"\n'
    text = CLIENT + many + partly + AFFILIATE + trigger('to = ["affiliate"]')
    text += trigger('to = ["affiliate"]\nwhen = "amount > 1"', name="second")
    # then
    (only,) = found(text)
    assert "13 affiliates have no endpoint" in only[3]
    assert "a00, a01" in only[3]
    assert only[3].endswith("a09 and 3 more; add webhook")


def test_an_endpoint_may_come_from_an_override() -> None:
    quiet = '[affiliate.q]\n[affiliate.q.for.acme]\nwebhook = "https://q.example/"\n'
    assert found(CLIENT + quiet + trigger('to = ["affiliate"]')) == []


@pytest.mark.parametrize("host", ["127.0.0.1:8701", "localhost", "[::1]:80", "acme.localhost"])
def test_loopback_needs_no_encryption(host: str) -> None:
    assert found(f'[client.acme]\nwebhook = "http://{host}/et"\n') == []


def test_triggers_that_differ_in_an_endpoint_are_not_the_same() -> None:
    other = AFFILIATE + '[affiliate.best.for.acme.second]\nwebhook = "https://best.example/2"\n'
    both = trigger('to = ["affiliate"]') + trigger('to = ["affiliate"]', name="second")
    assert found(CLIENT + other + both) == []


def test_a_json_body_uses_every_parameter() -> None:
    assert found(CLIENT + '[affiliate.b]\nparams = ["own"]\nwebhook = "https://b.example/"\n') == []


def test_an_event_that_is_named_twice_is_no_slip() -> None:
    assert found(CLIENT + trigger(on="sales") + trigger("when = 'amount > 1'", name="second", on="sales")) == []


def test_not_before_what_is_asked_for_is_no_note() -> None:
    for when in ("not exists(country)", 'exists(country) and not country == "DE"', 'not (count("sale") > 2)'):
        assert found(CLIENT + trigger(f"when = '{when}'")) == [], when


def test_a_finding_reads_as_one_line() -> None:
    (finding,) = lint(load(CLIENT + trigger("sample = 100")))
    assert str(finding).startswith("line 8: warning: trigger[0].sample: all visitors are held back")
    assert str(finding).endswith("[never_fires]")


# conditions that never change


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ('count("x") < 0', False),
        ('count("x") >= 0', True),
        ('count("x") == 1.5', False),
        ('count("x") > 1 and count("x") < 2', False),
        ('since("x") < 0', False),
        ('country == "a" and country == "b"', False),
        ('country in ["a", "b"] and country in ["c"]', False),
        ('country == "20" and country == 20.0 and country != 20', False),
        ("country != country", False),
        ('not country == "DE" or country == "DE"', True),
        ('not exists(country) and country == "DE"', False),
        ("amount > 5 and amount < 4", False),
        ("amount > 5 and amount < 5.000000001", False),
        ("amount in [5] and amount > 5", False),
        ('amount == "abc"', False),
        ('currency == "eur"', False),
        ('uid == "null"', False),
        ('uid in ["{uid}", "undefined"]', False),
        ('client == "acme"', True),
        ("exists(event)", True),
        ("1 < 2", True),
        ('"a" == "b"', False),
        ('count("sale") == 0 and since("sale") < 7d', False),
        ('country matches "x" and not country matches "x"', False),
        ("exists(country) or amount > 5 or not exists(country)", True),
    ],
)
def test_a_condition_that_never_changes_is_seen(when: str, holds: bool) -> None:
    assert always(when) == [holds]


@pytest.mark.parametrize(
    "when",
    [
        'count("sale") == 0',
        "amount > 5 and amount <= 5.000000001",
        'amount in ["20"]',
        'country == "20" and country == 20',
        "country == country",
        'country == "DE" or exists(country)',
        'country < "DE" and country == "AT"',
        'since("sale") >= 0',
        'currency in ["EUR", "eur"]',
        'sub1 == country and sub1 == "a" and country == "b"',
        'affiliate == "stranger"',
        'country matches "^a" and country == "ab"',
        " and ".join(f'param.p{n} == "{n}"' for n in range(40)),
    ],
)
def test_a_condition_that_depends_on_the_event_is_left_alone(when: str) -> None:
    assert always(when) == []


def test_steps_and_recipients_are_known_before_the_condition_is_asked() -> None:
    assert always('count("click") == 0', 'after = ["click"]') == [False]
    assert always('count("click") < 2', 'after = ["click", "click"]') == [False]
    assert always('affiliate == "stranger"', 'to = ["affiliate"]') == [False]


VALUES = ("DE", "AT", "20", "20.0", "21", "-1")
_TESTS = st.one_of(
    st.builds(lambda n, s, v: f"{n} {s} {v}", st.sampled_from(["country", "sub1", "amount"]),
              st.sampled_from(["==", "!=", "<", ">="]), st.sampled_from(["20", "21", "-1", '"DE"', '"20"'])),
    st.builds(lambda v: f"country in [{v}]", st.sampled_from(['"DE", "AT"', '20, "AT"', '"20"'])),
    st.sampled_from(["exists(country)", 'count("sale") >= 1', 'count("sale") < 2', 'since("sale") < 1m',
                     'sub1 matches "2"', "sub1 == country"]),
)  # fmt: skip
CONDITIONS = st.recursive(
    _TESTS,
    lambda inner: st.one_of(
        st.builds(lambda a, b: f"({a} and {b})", inner, inner),
        st.builds(lambda a, b: f"({a} or {b})", inner, inner),
        st.builds(lambda a: f"not ({a})", inner),
    ),
    max_leaves=5,
)


class Facts:
    """Facts of one made-up event."""

    def __init__(self, country: str | None, sub1: str | None, amount: str | None, count: int, age_us: int) -> None:
        self.values = {"country": country, "sub1": sub1, "amount": amount}
        self.sales, self.age_us = count, age_us

    def value(self, name: str) -> str | None:
        return self.values[name]

    def count(self, event: str) -> int:
        return self.sales

    def since_us(self, event: str) -> int | None:
        return self.age_us if self.sales else None


@settings(max_examples=300, deadline=None)
@given(
    CONDITIONS,
    st.lists(
        st.builds(
            Facts,
            st.sampled_from([None, *VALUES]),
            st.sampled_from([None, *VALUES]),
            st.sampled_from([None, *VALUES[2:]]),
            st.integers(0, 3),
            st.sampled_from([0, 30_000_000, 90_000_000]),
        ),
        min_size=5,
    ),
)
def test_what_is_said_to_be_always_so_is_so_for_every_event(when: str, events: list[Facts]) -> None:
    # given a condition of which it is said that it never changes
    rulebook = load(CLIENT + trigger(f"when = '{when}'"))
    parts = [part for part in constant_parts(rulebook.triggers[0], rulebook) if part.whole]
    # then no event says otherwise
    condition = rulebook.triggers[0].when
    assert condition is not None
    for part in parts:
        assert {condition(facts) for facts in events} == {part.holds}
