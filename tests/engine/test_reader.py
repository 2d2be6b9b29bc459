"""A rulebook text to a rulebook, and every way in which it can be wrong."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import RulebookError, load
from service.engine.document import Lines
from service.engine.rulebook import DAY_US, FOREVER_US, NOT_AN_ID

BASE = """[client.acme]
params = ["country", "sub1"]
webhook = "https://acme.example/et"
"""
TRIGGER = """[[trigger]]
name = "first"
client = "acme"
on = "sale"
"""


def problems(text: str) -> list[tuple[int, str, str]]:
    """(line, key, message) of each problem."""
    with pytest.raises(RulebookError) as caught:
        load(text, "rules.toml")
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


# what a right one becomes


def test_what_is_left_out_has_its_default() -> None:
    rulebook = load(BASE + "[affiliate.b]\n" + TRIGGER)
    client, trigger = rulebook.clients["acme"], rulebook.triggers[0]
    assert client.private == {"uid"}
    assert client.not_an_id == set(NOT_AN_ID)
    assert client.browser_events == {"pageview", "click", "login", "registration"}
    assert (client.remember_us, client.attribution, client.click_window_us) == (90 * DAY_US, "last_click", 30 * DAY_US)
    assert (trigger.once, trigger.method, trigger.to, trigger.sample) == ("always", "webhook", ("client",), 0)
    assert (trigger.paused, trigger.from_us, trigger.until_us, trigger.cap) == (False, 0, FOREVER_US, None)
    assert rulebook.affiliates["b"].webhook is None


def test_every_key_that_is_written_is_read() -> None:
    rulebook = load(
        """
[client.acme]
name = "Acme"
landing = "https://acme.example/in?cid={click_id}&s={sub1}&p={param.x}"
hosts = ["acme.example", "www.acme.example"]
params = ["sub1"]
private = ["email"]
aliases = { cid = "uid", subid = "click_id" }
not_an_id = ["guest"]
browser_events = ["sale"]
remember = "2w"
attribution = "first_click"
click_window = "36h"
webhook = "https://acme.example/et"
test_webhook = "https://staging.acme.example/et"
secret = "env:ACME_SECRET"
[affiliate.b]
name = "B"
params = ["own"]
webhook = "https://b.example/?x={own}"
test_webhook = "https://b.example/test"
secret = "env:B_SECRET"
[affiliate.b.for.acme]
webhook = "https://b.example/acme"
[affiliate.b.for.acme.first]
webhook = "https://b.example/first?p={payout}"
[[trigger]]
name = "first"
client = "acme"
on = "sale"
after = ["click"]
within = "90m"
when = 'sub1 == "x"'
sample = 10
once = "visitor"
cap = { per = "affiliate", every = "hour", count = 5 }
payout = { percent = "12.5", of = "sub1", currency = "EUR" }
method = "webhook"
to = ["affiliate"]
paused = true
from = 1970-01-02
until = 1970-01-03T00:00:00
"""
    )
    client, affiliate, trigger = rulebook.clients["acme"], rulebook.affiliates["b"], rulebook.triggers[0]
    assert (client.title, client.hosts) == ("Acme", ("acme.example", "www.acme.example"))
    assert client.private == {"email", "uid", "cid"}
    assert list(client.aliases.items()) == [("cid", "uid"), ("subid", "click_id")]
    assert client.not_an_id == {"guest"}
    assert client.browser_events == {"sale"}
    assert (client.remember_us, client.attribution, client.click_window_us) == (
        14 * DAY_US,
        "first_click",
        3 * DAY_US // 2,
    )
    assert client.secret == "env:ACME_SECRET"
    assert affiliate.overrides.keys() == {("acme", ""), ("acme", "first")}
    assert (trigger.after, trigger.within_us, trigger.sample, trigger.once) == (
        ("click",),
        5_400_000_000,
        10,
        "visitor",
    )
    assert trigger.cap is not None
    assert (trigger.cap.per, trigger.cap.every, trigger.cap.count) == ("affiliate", "hour", 5)
    assert trigger.payout is not None
    assert (trigger.payout.percent, trigger.payout.of, trigger.payout.currency) == (Decimal("12.5"), "sub1", "EUR")
    assert (trigger.to, trigger.paused, trigger.from_us, trigger.until_us) == (("affiliate",), True, DAY_US, 2 * DAY_US)


def test_who_may_send_is_read() -> None:
    client = load(
        '[client.a]\nsig_secret = ["env:A_SIG", "env:A_SIG_2"]\naddresses = ["203.0.113.7", "2001:DB8::/32"]\n'
        'bots = "reject"\n'
        'hosts = ["WWW.A.example", "::1"]\n'
    ).clients["a"]
    assert (client.sig_secret, client.addresses) == ("env:A_SIG env:A_SIG_2", ("203.0.113.7/32", "2001:db8::/32"))
    assert (client.bots, client.hosts) == ("reject", ("www.a.example", "::1"))


def test_the_landing_pages_host_is_allowed_unless_hosts_say_otherwise() -> None:
    assert load('[client.a]\nlanding = "https://a.example/x"\n').clients["a"].hosts == ("a.example",)


def test_the_id_is_the_hash_of_the_text() -> None:
    assert load(BASE).id == load(BASE).id
    assert load(BASE).id != load(BASE + "\n").id
    assert len(load(BASE).id) == 16


def test_the_sample_rulebook_is_right() -> None:
    text = (Path(__file__).parents[2] / "datasets" / "rules.toml").read_text()
    assert load(text).triggers


# what can be wrong


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        # the document
        ("[client.acme\n", 1, "", "Expected"),
        ("a = 1\na = 2\n", 2, "", "Cannot overwrite"),
        ("x = " + "[" * 5000, 0, "", "nested too deeply"),
        ("clients = 1\n", 1, "clients", "did you mean 'client'?"),
        ("[clint.acme]\n", 1, "clint", "did you mean 'client'?"),
        ("client = 5\n", 1, "client", "write [client.NAME]"),
        ("[client]\nacme = 5\n", 2, "client.acme", "as a table"),
        ('[client."a b"]\n', 1, "client.a b", "is no name"),
        # a client
        ("[client.a]\nwebhok = 1\n", 2, "client.a.webhok", "did you mean 'webhook'?"),
        ("[client.a]\nname = 5\n", 2, "client.a.name", "write name as text in quotes"),
        ('[client.a]\nparams = "x"\n', 2, "client.a.params", "write a list of texts"),
        ('[client.a]\nparams = ["a b"]\n', 2, "client.a.params", "is no parameter name"),
        ('[client.a]\nparams = ["amount"]\n', 2, "client.a.params", "is a reserved name"),
        ('[client.a]\nparams = ["payout"]\n', 2, "client.a.params", "param.payout"),
        ('[client.a]\nprivate = ["?"]\n', 2, "client.a.private", "is no parameter name"),
        ('[client.a]\naliases = { x = "clickid" }\n', 2, "client.a.aliases.x", "did you mean 'click_id'?"),
        ('[client.a]\naliases = { x = "client" }\n', 2, "client.a.aliases.x", "client has no alias"),
        ('[client.a]\naliases = { uid = "txid" }\n', 2, "client.a.aliases.uid", "is a reserved name itself"),
        ("[client.a.aliases]\nx = 5\n", 2, "client.a.aliases.x", "is no reserved name"),
        ('[client.a]\nbrowser_events = ["a b"]\n', 2, "client.a.browser_events", "is no event name"),
        ('[client.a]\nremember = "90"\n', 2, "client.a.remember", 'such as "30d"'),
        ("[client.a]\nremember = 90\n", 2, "client.a.remember", 'such as "30d"'),
        ('[client.a]\nremember = "0d"\n', 2, "client.a.remember", 'such as "30d"'),
        ('[client.a]\nremember = "40000d"\n', 2, "client.a.remember", "longer than 100 years"),
        ('[client.a]\nattribution = "lastclick"\n', 2, "client.a.attribution", "did you mean 'last_click'?"),
        ("[client.a]\nattribution = []\n", 2, "client.a.attribution", "is none of"),
        ('[client.a]\nsecret = "hunter2"\n', 2, "client.a.secret", "never written in clear"),
        ('[client.a]\nwebhook = "acme.example"\n', 2, "client.a.webhook", "is no http(s) address"),
        ('[client.a]\nwebhook = "ftp://acme.example"\n', 2, "client.a.webhook", "is no http(s) address"),
        ('[client.a]\nwebhook = "https://[::1/"\n', 2, "client.a.webhook", "is no http(s) address"),
        ('[client.a]\nwebhook = "https://{event}/"\n', 2, "client.a.webhook", "with a fixed host"),
        ('[client.a]\nwebhook = "https://a.example{event}"\n', 2, "client.a.webhook", "with a fixed host"),
        ('[client.a]\nwebhook = "https://a.example/x y"\n', 2, "client.a.webhook", "percent-encoded"),
        ('[client.a]\nwebhook = "https://a.example/\\n"\n', 2, "client.a.webhook", "percent-encoded"),
        ('[client.a]\nwebhook = "https://a.example/{x"\n', 2, "client.a.webhook", "is not closed"),
        ('[client.a]\nwebhook = "https://a.example/{evnt}"\n', 2, "client.a.webhook", "{evnt}, did you mean 'event'?"),
        ('[client.a]\nwebhook = "https://a.example/{first.amount}"\n', 2, "client.a.webhook", "unknown macro"),
        ('[client.a]\nwebhook = "https://a.example/{param.amount}"\n', 2, "client.a.webhook", "unknown macro"),
        ('[client.a]\nwebhook = "https://a.example/{last.sale.x}"\n', 2, "client.a.webhook", "unknown macro"),
        ('[client.a]\ntest_webhook = "https://a.example/{x}"\n', 2, "client.a.test_webhook", "unknown macro"),
        (
            '[client.a]\nlanding = "https://a.example/{payout}"\n',
            2,
            "client.a.landing",
            "not known at the tracker link",
        ),
        ('[client.a]\nlanding = "https://a.example/{clickid}"\n', 2, "client.a.landing", "did you mean 'click_id'?"),
        ('[client.a]\nlanding = "https://a.example/"\nhosts = ["b"]\n', 3, "client.a.hosts", "not among the hosts"),
        (
            '[client.a]\nhosts = ["https://a.example"]\n',
            2,
            "client.a.hosts",
            "is no host: write it as www.acme.example",
        ),
        ('[client.a]\nhosts = ["a.example:443"]\n', 2, "client.a.hosts", "without port or path"),
        ('[client.a]\nhosts = ["u@a.example"]\n', 2, "client.a.hosts", "is no host"),
        ('[client.a]\naddresses = ["203.0.113.1/24"]\n', 2, "client.a.addresses", "has host bits set; write networks"),
        ('[client.a]\naddresses = ["office"]\n', 2, "client.a.addresses", "'office' does not appear to be"),
        ('[client.a]\naddresses = "203.0.113.0/24"\n', 2, "client.a.addresses", "write a list of texts"),
        ("[client.a]\naddresses = []\n", 2, "client.a.addresses", "would let nobody in"),
        ('[client.a]\nsig_secret = "hunter2"\n', 2, "client.a.sig_secret", "never written in clear"),
        ('[client.a]\nsig_secret = ["env:A", "B"]\n', 2, "client.a.sig_secret", "never written in clear"),
        ('[client.a]\nbots = "block"\n', 2, "client.a.bots", "is none of keep, reject"),
        # an affiliate
        ("[affiliate.b]\nwebhooks = 1\n", 2, "affiliate.b.webhooks", "did you mean 'webhook'?"),
        ('[affiliate.b]\nparams = ["time"]\n', 2, "affiliate.b.params", "param.time"),
        (BASE + "[affiliate.b.for.acm]\n", 4, "affiliate.b.for.acm", "did you mean 'acme'?"),
        (BASE + "[affiliate.b.for]\nacme = 5\n", 5, "affiliate.b.for.acme", "as a table"),
        (BASE + "[affiliate.b.for.acme]\nwebhok = 1\n", 5, "affiliate.b.for.acme.webhok", "did you mean 'webhook'?"),
        (
            BASE + TRIGGER + '[affiliate.b.for.acme.frst]\nwebhook = "https://b.example/"\n',
            8,
            "affiliate.b.for.acme.frst",
            "did you mean 'first'?",
        ),
        (
            BASE + '[affiliate.b]\nwebhook = "https://b.example/{own}"\n' + TRIGGER + 'to = ["affiliate"]\n',
            5,
            "affiliate.b.webhook",
            "unknown macro {own}",
        ),
        (
            BASE
            + '[affiliate.b.for.acme.first]\nwebhook = "https://b.example/{uid}"\n'
            + TRIGGER
            + 'to = ["affiliate"]\n',
            5,
            "affiliate.b.for.acme.first.webhook",
            "is private to client acme",
        ),
        # a trigger
        ("trigger = [1]\n", 1, "trigger[0]", "under its own [[trigger]]"),
        ("[trigger]\n", 1, "trigger", "under its own [[trigger]]"),
        (BASE + TRIGGER + "onec = 1\n", 8, "trigger[0].onec", "did you mean 'once'?"),
        (BASE + TRIGGER + TRIGGER, 9, "trigger[1].name", "is the name of trigger 1 already"),
        (BASE + TRIGGER.replace('"first"', '""'), 5, "trigger[0].name", "a trigger needs a name"),
        (BASE + TRIGGER.replace('"first"', '"a b"'), 5, "trigger[0].name", "is no name"),
        (BASE + TRIGGER.replace('"acme"', '"acm"'), 6, "trigger[0].client", "did you mean 'acme'?"),
        (BASE + TRIGGER.replace('on = "sale"', ""), 4, "trigger[0].on", "the event that fires the trigger is missing"),
        (BASE + TRIGGER.replace('"sale"', '"s a"'), 7, "trigger[0].on", "is no event name"),
        (BASE + TRIGGER + 'after = ["a b"]\n', 8, "trigger[0].after", "is no event name"),
        (BASE + TRIGGER + 'within = "1d"\n', 8, "trigger[0].within", "add after"),
        (BASE + TRIGGER + 'when = "amount = 5"\n', 8, "trigger[0].when", "column 8"),
        (BASE + TRIGGER + "when = 'contry == \"DE\"'\n", 8, "trigger[0].when", "did you mean 'country'?"),
        (BASE + TRIGGER + 'when = "payout > 5"\n', 8, "trigger[0].when", "'payout' is no parameter"),
        (BASE + TRIGGER + "sample = 101\n", 8, "trigger[0].sample", "0 to 100"),
        (BASE + TRIGGER + 'once = "vistor"\n', 8, "trigger[0].once", "did you mean 'visitor'?"),
        (BASE + TRIGGER + "cap = {}\n", 8, "trigger[0].cap.count", "counts from 1 up"),
        (BASE + TRIGGER + "cap = { count = 0 }\n", 8, "trigger[0].cap.count", "counts from 1 up"),
        (BASE + TRIGGER + "cap = { count = true }\n", 8, "trigger[0].cap.count", "counts from 1 up"),
        (BASE + TRIGGER + 'cap = { count = 1, per = "affilate" }\n', 8, "trigger[0].cap.per", "mean 'affiliate'?"),
        (BASE + TRIGGER + 'cap = { count = 1, every = "days" }\n', 8, "trigger[0].cap.every", "mean 'day'?"),
        (BASE + TRIGGER + "cap = { count = 1, x = 1 }\n", 8, "trigger[0].cap.x", "there is no key"),
        (BASE + TRIGGER + "payout = {}\n", 8, "trigger[0].payout", "either fixed or percent"),
        (BASE + TRIGGER + 'payout = { fixed = "5" }\n', 8, "trigger[0].payout", "needs its currency"),
        (BASE + TRIGGER + 'payout = { fixed = "5", percent = "5" }\n', 8, "trigger[0].payout", "either fixed or"),
        (BASE + TRIGGER + "payout = { percent = 7.5 }\n", 8, "trigger[0].payout.percent", "write it in quotes"),
        (BASE + TRIGGER + 'payout = { percent = "5", of = "amont" }\n', 8, "trigger[0].payout.of", "mean 'amount'?"),
        (
            BASE + TRIGGER + 'payout = { fixed = "5", currency = "EUR", of = "amount" }\n',
            8,
            "trigger[0].payout.of",
            "of nothing",
        ),
        (BASE + TRIGGER + 'payout = { percent = "5", currency = "eur" }\n', 8, "trigger[0].payout.currency", "capital"),
        (BASE + TRIGGER + 'method = ["webhook", "email"]\n', 8, "trigger[0].method", "not 'webhook' and 'email'"),
        (BASE + TRIGGER + 'method = "webhok"\n', 8, "trigger[0].method", "did you mean 'webhook'?"),
        (BASE + TRIGGER + 'method = "email"\n', 4, "trigger[0].to", "client acme has no email to post to; add email"),
        (BASE + TRIGGER + "to = []\n", 8, "trigger[0].to", "posts nothing"),
        (BASE + TRIGGER + 'to = ["afiliate"]\n', 8, "trigger[0].to", "a recipient is client or affiliate"),
        (BASE + TRIGGER + 'to = ["client", "client"]\n', 8, "trigger[0].to", "named twice"),
        ("[client.acme]\n" + TRIGGER, 2, "trigger[0].to", "client acme has no webhook"),
        (BASE + TRIGGER + 'paused = "yes"\n', 8, "trigger[0].paused", "true or false"),
        (BASE + TRIGGER + 'from = "2026-01-01"\n', 8, "trigger[0].from", "without quotes"),
        (BASE + TRIGGER + "from = 2026-01-02\nuntil = 2026-01-02\n", 9, "trigger[0].until", "not after from"),
        # lines are found behind whatever stands in front of them
        (BASE + 'hosts = [\n  "[a]",\n  "b",\n]\nx = 1\n', 8, "client.acme.x", "there is no key"),
        (BASE + 'name = """\n[client.b]\nx = 1\n"""\nx = 1\n', 8, "client.acme.x", "there is no key"),
        (BASE + 'name = "a\u2028b"\nx = 1\n', 5, "client.acme.x", "there is no key"),
        (BASE + TRIGGER + "[trigger.cap]\ncount = 0\n", 9, "trigger[0].cap.count", "counts from 1 up"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_its_key_and_a_remedy(text: str, line: int, key: str, words: str) -> None:
    found = problems(text)
    assert [(number, path) for number, path, _ in found] == [(line, key)], found
    assert words in found[0][2]


def test_all_that_is_wrong_is_reported_at_once_in_the_order_of_the_lines() -> None:
    text = (
        BASE.replace("params", "parms")
        + TRIGGER.replace('"sale"', '""')
        + 'when = "amount >"\nsample = -1\n'
        + "[affiliate.b]\nnam = 1\n"
    )
    found = problems(text)
    assert [line for line, _, _ in found] == [2, 7, 8, 9, 11]
    with pytest.raises(RulebookError) as caught:
        load(text, "rules.toml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert lines[0] == "rules.toml: line 2: client.acme.parms: there is no key 'parms' here, did you mean 'params'?"


def test_the_same_template_is_reported_once_however_many_triggers_use_it() -> None:
    text = BASE.replace("/et", "/{x}") + TRIGGER + TRIGGER.replace("first", "second")
    assert len(problems(text)) == 1


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["", "[client.acme]", "[affiliate.b]", "[[trigger]]", "[affiliate.b.for.acme]", "[trigger.cap]"]
            ),
            st.sampled_from(
                [
                    "name",
                    "params",
                    "aliases",
                    "webhook",
                    "cap",
                    "payout",
                    "when",
                    "to",
                    "for",
                    "from",
                    "sample",
                    "client",
                ]
            ),
            st.sampled_from(
                ['""', '"x"', "5", "5.5", "true", "[]", '["a"]', "[[1]]", "{}", "{ x = 1 }", "2026-01-01", "{ x = {} }"]
            ),
        ),
        max_size=5,
    )
)
def test_any_document_loads_or_has_problems_with_lines(parts: list[tuple[str, str, str]]) -> None:
    text = "\n".join(f"{header}\n{key} = {value}" for header, key, value in parts)
    try:
        load(text)
    except RulebookError as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)


def test_a_line_is_found_for_every_key_of_the_sample_rulebook() -> None:
    text = (Path(__file__).parents[2] / "datasets" / "rules.toml").read_text()
    lines = text.split("\n")
    found = Lines(text)
    assert lines[found.of(("client", "bolt", "attribution")) - 1].startswith("attribution")
    assert lines[found.of(("trigger", 3, "when")) - 1].startswith("when = 'not")
    assert found.of(("affiliate", "bestodds", "for", "acme", "first-deposit", "webhook"))
    assert found.of(("nothing",)) == 0


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[client.acme]\nname = 'Acme'\nparams = [\n  'a',\n", 3, "ends in the middle"),
        ("x = [\n", 1, "ends in the middle"),
        ("[client.acme]\nname == 'Acme'\n", 2, "name =="),
    ],
)
def test_a_syntax_error_names_the_line_where_it_begins(text: str, line: int, words: str) -> None:
    with pytest.raises(RulebookError) as found:
        load(text, "rules.toml")
    assert str(found.value).startswith(f"rules.toml: line {line}: ") and words in str(found.value)


def test_a_rulebook_made_out_of_another_leaves_the_other_as_it_was() -> None:
    # given a rulebook, and one made out of it without triggers
    rulebook = load((Path(__file__).parents[2] / "datasets" / "rules.toml").read_text())
    asked = dict(rulebook.asked)
    bare = msgspec.structs.replace(rulebook, triggers=(), on={("acme", "sale"): ()})
    # then only the new one asks nobody
    assert bare.asked == {("acme", "sale"): ()}
    assert rulebook.asked == asked and rulebook.asked["acme", "sale"]
