"""What goes out by e-mail: how a mail stands in its postback, which values may be in it, what is refused when read."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, unquote

import pytest

from service.engine import Postback, RulebookError, load
from service.engine.difference import difference
from service.engine.lint import lint
from tests.engine.test_contexts import HOSTILE
from tests.engine.world import World, book

CLIENT = """
[client.acme]
params = ["country", "sub1"]
private = ["email"]
email = { to = "sales@acme.example", subject = "{event} {txid}", text = "Sale of {email|default:nobody}\\nby {sub1}\\n" }
"""
AFFILIATES = """
[affiliate.bestodds]
email = { to = "o'neil+pb&co@bestodds.example", subject = "New {event!}", text = "{{{sub1}}}", html = "<p>{sub1}</p>" }

[affiliate.bestodds.for.acme.t2]
email = { to = "two@bestodds.example", subject = "Two", html = "<a href='https://x.example/?a={amount!}'>see</a>" }

[affiliate.clickhub]
"""
BOTH = 'to = ["client", "affiliate"]\nmethod = "email"'


def sale(words: str, affiliate: str = "bestodds") -> list[Postback]:
    """The postbacks of a sale: of the first trigger to client and affiliate, then of the second."""
    world = World(book(BOTH, BOTH, client=CLIENT, affiliates=AFFILIATES))
    return list(world.send(f"sale affiliate={affiliate} {words}").postbacks)


def mail(postback: Postback) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(postback.body)
    return found


def test_a_mail_is_a_json_body_for_a_mailto_address_and_each_part_is_written_by_its_own_rules() -> None:
    # when a sale is posted back to both
    acme, best, *_ = sale("amount=5 txid=t%C3%BC sub1=a%22%3Cb%3E%0Ac")
    # then the client's mail and the affiliate's say the same value, each as its place needs it
    assert (acme.method, acme.verb, acme.url, acme.state) == ("email", "MAIL", "mailto:sales@acme.example", "due")
    assert mail(acme) == {"subject": "sale tü", "text": 'Sale of nobody\nby a"<b> c\n'}
    assert unquote(best.url) == "mailto:o'neil+pb&co@bestodds.example"
    assert mail(best) == {"subject": "New sale", "text": '{a"<b> c}', "html": "<p>a&#34;&#60;b&#62; c</p>"}


def test_the_most_specific_mail_counts() -> None:
    two = sale("amount=5")[3]
    assert two.url == "mailto:two@bestodds.example"
    assert mail(two) == {"subject": "Two", "html": "<a href='https://x.example/?a=5'>see</a>"}


def test_a_trigger_may_be_called_like_the_key() -> None:
    trigger = BOTH + '\nname = "email"'
    world = World(book(trigger, client=CLIENT, affiliates=AFFILIATES.replace("acme.t2", "acme.email")))
    assert world.send("sale affiliate=bestodds amount=5").postbacks[1].url == "mailto:two@bestodds.example"


def test_without_a_mail_or_a_required_value_it_is_withheld_and_a_test_is_only_recorded() -> None:
    assert [one.state for one in sale("amount=5", "clickhub")] == ["due", "withheld", "due", "withheld"]
    assert [one.state for one in sale("txid=1")] == ["due", "due", "due", "withheld"]
    assert {(one.state, one.verb) for one in sale("amount=5 test=1")} == {("recorded", "")}


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_value_adds_no_line_and_no_part(value: str) -> None:
    acme, best, *_ = sale(f"amount=5 txid={quote(value[:250])} sub1={quote(value[:250])}")
    lines = mail(acme)["text"].split("\n")
    assert list(mail(acme)) == ["subject", "text"] and list(mail(best)) == ["subject", "text", "html"]
    assert (len(lines), lines[0], lines[2]) == (3, "Sale of nobody", "")
    assert not re.search("[\0-\x1f\x7f-\x9f\u2028\u2029\u202e\u2066]", mail(acme)["subject"] + lines[1])
    assert not re.search("[<>\"']", mail(best)["html"].removeprefix("<p>").removesuffix("</p>"))


TO = 'to = "sales@acme.example"'
BEST_TEXT = 'text = "{{{sub1}}}"'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (TO, 'to = "sales"', "client.acme.email.to: 'sales' is no mail address; write one plain address"),
        (TO, 'to = "{sub1}@acme.example"', "'{sub1}@acme.example' is no mail address; write one plain address without"),
        (TO, 'to = "a@b.example, c@d.example"', "is no mail address"),
        (TO, 'to = "a@b.example\\r\\nBcc: c@d.example"', "is no mail address"),
        (TO, 'to = "Sales <sales@acme.example>"', "is no mail address"),
        (TO, 'to = "a..b@acme.example"', "is no mail address"),
        (TO, 'to = "sälës@acme.example"', "is no mail address"),
        (TO + ", ", "", "client.acme.email.to: to is missing"),
        ('subject = "{event} {txid}"', 'subject = "a\\nb"', "email.subject: a subject is one line"),
        ('subject = "{event} {txid}"', 'subject = " "', "email.subject: the subject is missing"),
        ('subject = "{event} {txid}"', 'subjct = "x"', "there is no key 'subjct' here, did you mean 'subject'?"),
        ('subject = "{event} {txid}"', 'subject = "{txdi}"', "unknown macro {txdi}, did you mean"),
        (f'{BEST_TEXT}, html = "<p>{{sub1}}</p>"', 'text = ""', "email.text: the mail is empty"),
        (BEST_TEXT, 'text = "{sub1|raw}"', "raw is for addresses only; in text every value is escaped"),
        (BEST_TEXT, 'text = "{email|sha256}"', "{email} is private to client acme and never goes to an affiliate"),
        ("<p>{sub1}</p>", "<p>{first.email}</p>", "{first.email} is private to client acme"),
        ('subject = "Two"', 'subject = "{uid}"', "{uid} is private to client acme and never goes to an affiliate"),
        ("<p>{sub1}</p>", "<p onclick='{sub1}'>", "email.html: macro 1 stands in the attribute onclick"),
        ('email = { to = "two@', 'email = "two@', "email: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_when_the_rulebook_is_read(old: str, new: str, words: str) -> None:
    # given a rulebook that is right, with one thing changed
    right = CLIENT + AFFILIATES + "".join(
        f'[[trigger]]\nname = "t{number}"\nclient = "acme"\non = "sale"\n{BOTH}\n' for number in (1, 2)
    )  # fmt: skip
    load(right)
    assert right.count(old) == 1
    wrong = right.replace(old, new) if "two@" not in old else right.replace(AFFILIATES.splitlines()[5], 'email = "x"')
    # then it is refused, and the key is named
    with pytest.raises(RulebookError) as caught:
        load(wrong)
    assert words in str(caught.value)


def test_a_changed_mail_is_said_in_one_line() -> None:
    # given a mail whose text changed
    old = book(BOTH, client=CLIENT, affiliates=AFFILIATES.replace("acme.t2", "acme.t1"))
    new = book(BOTH, client=CLIENT.replace("Sale of", "A sale of"), affiliates=AFFILIATES.replace("acme.t2", "acme.t1"))
    # then the difference is one line that holds both
    (said,) = map(str, difference(old, new))
    assert said.startswith("Client acme gets its mails by MAIL mailto:sales@acme.example with the mail {")
    assert "A sale of" in said and "\n" not in said


def test_an_affiliate_without_a_mail_is_found_by_the_lint() -> None:
    rulebook = book(BOTH, client=CLIENT, affiliates=AFFILIATES.replace("acme.t2", "acme.t1"))
    found = [finding for finding in lint(rulebook) if finding.rule == "no_endpoint"]
    assert len(found) == 1 and "clickhub; add email" in str(found[0])
