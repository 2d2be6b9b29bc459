"""An endpoint as a table: method, form, JSON, headers, rate, two secrets; what is sent by it and what is wrong in it."""

from __future__ import annotations

import json

import pytest

from service.engine import Postback, RulebookError, load
from service.engine.difference import difference, lines
from service.engine.lint import lint
from service.engine.rulebook import apart_us
from tests.engine.test_explain import Told
from tests.engine.test_postbacks import PAID, sale, to_affiliate
from tests.engine.world import AFFILIATES, CLIENT, book

URL = "https://bestodds.example/pb"


def affiliate(webhook: str) -> str:
    return f'[affiliate.bestodds]\nparams = ["sub1"]\nwebhook = {{ {webhook} }}\n'


def sent(webhook: str) -> Postback:
    """The postback to an affiliate with this endpoint."""
    return to_affiliate(sale(affiliates=affiliate(webhook)))


@pytest.mark.parametrize(
    ("webhook", "verb", "url", "body"),
    [
        (f'url = "{URL}?e={{event}}"', "GET", f"{URL}?e=sale", ""),
        (f'url = "{URL}", method = "GET"', "GET", URL, ""),
        (f'url = "{URL}?s={{sub1}}", form = {{ "my id" = "{{txid}}", e = "a&{{event}}" }}', "POST", f"{URL}?s=s%201",
         "my%20id=t%2F1&e=a%26sale"),
        (f"url = \"{URL}\", json = '{{{{\"s\": \"<{{sub1}}>\", \"n\": {{param.none}}, \"p\": [{{payout}}]}}}}'",
         "POST", URL,
         '{"s": "<s 1>", "n": null, "p": ["20.00"]}'),
        (f"url = \"{URL}\", json = ' [\"{{event}}\"] '", "POST", URL, '["sale"]'),
    ],
)  # fmt: skip
def test_a_table_says_how_the_endpoint_is_called(webhook: str, verb: str, url: str, body: str) -> None:
    postback = sent(webhook)
    assert (postback.verb, postback.url, postback.body, postback.state) == (verb, url, body, "due")


def test_the_event_as_json_can_go_to_an_address_with_macros() -> None:
    # when an endpoint asks for POST and has a macro in its address
    postback = sent(f'url = "{URL}/{{event}}", method = "POST"')
    # then the body is the event, still without private values
    assert (postback.verb, postback.url) == ("POST", f"{URL}/sale")
    assert json.loads(postback.body)["postback_id"] == postback.id
    assert "uid" not in json.loads(postback.body)


def test_a_required_value_that_is_missing_in_a_body_withholds() -> None:
    postback = sent(f'url = "{URL}?x={{param.x}}", form = {{ a = "{{param.never!}}", b = "{{param.x}}" }}')
    assert (postback.state, postback.missing) == ("withheld", ("param.x", "param.never"))


@pytest.mark.parametrize(
    ("webhook", "key", "words"),
    [
        ('form = { a = "b" }', "url", "the address to call is missing"),
        (f'url = "{URL}", metod = "POST"', "metod", "did you mean 'method'?"),
        (f'url = "{URL}", method = "PUT"', "method", "'PUT' is none of GET, POST"),
        (f'url = "{URL}", method = "GET", form = {{ a = "b" }}', "method", "a GET has no body"),
        (f'url = "{URL}", form = {{ a = "b" }}, json = \'[]\'', "json", "one body: write form or json"),
        (f'url = "{URL}", form = {{}}', "form", "a form needs a field"),
        (f'url = "{URL}", form = {{ a = 1 }}', "form.a", "1: write text in quotes"),
        (f'url = "{URL}", form = {{ a = "{{" }}', "form.a", "is not closed"),
        (f'url = "{URL}", form = {{ a = "{{event|raw}}" }}', "form.a", "raw is for addresses only"),
        (f'url = "{URL}", form = {{ a = "{{evnt}}" }}', "webhook", "unknown macro {evnt}, did you mean 'event'?"),
        (f'url = "{URL}", form = {{ a = "{{uid}}" }}', "webhook", "is private to client acme"),
        (f'url = "{URL}", json = \'{{{{"a": x}}}}\'', "json", "is no JSON"),
        (f'url = "{URL}", json = \'"{{event}}"\'', "json", "an object or a list"),
        (f"url = \"{URL}\", json = '{{event}}'", "json", "an object or a list"),
        (f'url = "{URL}", json = \'{{{{"a": {{uid}}}}}}\'', "webhook", "is private to client acme"),
        (f'url = "{URL}", headers = {{ "a b" = "c" }}', "headers.a b", "is no name of a header"),
        (f'url = "{URL}", headers = {{ Webhook-Id = "c" }}', "headers.Webhook-Id", "is set by Backtrack"),
        (f'url = "{URL}", headers = {{ x = "a\\r\\nb: c" }}', "headers.x", "visible ASCII"),
        (f'url = "{URL}", headers = {{ x = "{{event}}" }}', "headers.x", "holds no macros"),
        (
            f'url = "{URL}", headers = {{ Authorization = "Bearer x" }}',
            "headers.Authorization",
            "never written in clear",
        ),
        ('url = "https://me:hunter2@x.example/pb"', "url", "would stand in every record"),
    ],
)
def test_what_is_wrong_in_the_table_is_named(webhook: str, key: str, words: str) -> None:
    # when a rulebook has such an endpoint
    with pytest.raises(RulebookError) as raised:
        book(PAID, affiliates=affiliate(webhook))
    # then one line names the key, what is wrong and a remedy, and never a secret
    assert words in str(raised.value)
    assert any(problem.key.endswith(key) for problem in raised.value.problems), raised.value.problems
    assert "hunter2" not in str(raised.value) and "Bearer x" not in str(raised.value)


def test_overrides_for_a_client_and_for_a_trigger_may_be_tables_too() -> None:
    # given tables for all of a client and for one trigger of it
    own = load(
        CLIENT + "[affiliate.a.for.acme]\nwebhook = { url = 'https://a.example/c', form = { e = '{event}' } }\n"
        "[affiliate.a.for.acme.t]\nwebhook = { url = 'https://a.example/t', method = 'GET' }\n"
        "[[trigger]]\nname = 't'\nclient = 'acme'\non = 'sale'\nto = ['affiliate']\n"
    ).affiliates["a"].overrides  # fmt: skip
    # then both are read
    client, trigger = own["acme", ""].webhook, own["acme", "t"].webhook
    assert client is not None and trigger is not None
    assert (client.verb, trigger.verb, client.body is None) == ("POST", "GET", False)


def test_rates_and_two_secrets_are_read() -> None:
    client = load('[client.a]\nrate = "50/s"\nsecret = ["env:OLD", "env:NEW"]\n').clients["a"]
    assert (client.rate, client.secret) == ("50/s", "env:OLD env:NEW")
    assert [apart_us(rate) for rate in ("", "50/s", "600/m", "1000/h")] == [0, 20_000, 100_000, 3_600_000]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('rate = "50"', "is no rate"),
        ('rate = "0/s"', "is no rate"),
        ('rate = "5/d"', "is no rate"),
        ("rate = 5", "write rate as text"),
        ('secret = ["env:A", "env:B", "env:C"]', "3 secrets"),
        ("secret = []", "0 secrets"),
        ('secret = ["env:A", "hunter2"]', "never written in clear"),
    ],
)
def test_a_wrong_rate_or_secret_is_named(line: str, words: str) -> None:
    with pytest.raises(RulebookError, match=words) as raised:
        load(f"[client.a]\n{line}\n")
    assert "hunter2" not in str(raised.value)


def test_the_difference_says_what_changed_in_an_endpoint() -> None:
    # given an address, the same as a table, and one with a form and a header
    old = book(PAID)
    plain = AFFILIATES.replace(
        'webhook = "https://clickhub.example/in"', "webhook = { url = 'https://clickhub.example/in' }"
    )
    form = plain.replace("in' }", "in', form = { e = '{event}' }, headers = { x-a = 'env:B' } }")
    # then only what is called differently is a difference
    assert difference(old, book(PAID, affiliates=plain)) == ()
    said = " ".join(lines(difference(old, book(PAID, affiliates=form))))
    assert "gets its postbacks at POST https://clickhub.example/in with the form e={event} with x-a: env:B" in said


def test_the_lint_knows_the_parts_of_an_endpoint() -> None:
    # given a declared parameter that only a form uses, and one variable that signs for two
    used = "[affiliate.a]\nparams = ['own']\nwebhook = { url = 'http://a.example/', form = { o = '{own}' } }\n"
    shared = 'secret = ["env:A", "env:B"]\n'
    found = lint(load(CLIENT + shared + used + 'secret = "env:B"\n'), None)
    # then the parameter is used, the address is plain, and the shared variable is named
    assert sorted(finding.rule for finding in found) == ["plain_http", "shared_secret"]
    assert any("env:B signs for client acme too" in finding.message for finding in found)


def test_the_story_of_a_hit_names_the_values_of_a_form() -> None:
    # given a firing with a form
    world = Told(book(PAID, affiliates=affiliate(f'url = "{URL}", form = {{ id = "{{txid}}", c = "{{sub1}}" }}')))
    world.click("bestodds", "sub1=s1&subid=theirs")
    # when the story of a sale is told
    world.send(f"sale click_id={1:032x} amount=8 txid=t1")
    # then it says where the fields came from, and nothing of the whole event
    assert world.story is not None
    form = next(told for told in world.story.postbacks if told.recipient == "affiliate:bestodds")
    assert form.request == f"POST {URL}" and "as JSON" not in form.says
    assert [(value.name, value.value) for value in form.values] == [("txid", "t1"), ("sub1", "s1")]
