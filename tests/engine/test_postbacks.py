"""A firing to its postbacks: what is sent to whom, and what is never sent to whom."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from service.engine import Outcome, Postback, RulebookError, load
from tests.engine.world import AFFILIATES, CLIENT, World, book, hit

BOTH = 'to = ["client", "affiliate"]'
PAID = BOTH + '\npayout = { percent = "25" }'


def sale(rulebook_client: str = CLIENT, affiliates: str = AFFILIATES, trigger: str = PAID, words: str = "") -> Outcome:
    """A sale of somebody who came by a link of bestodds and registered with an e-mail address."""
    world = World(book(trigger, client=rulebook_client, affiliates=affiliates))
    click = world.click("bestodds", "sub1=s%201&country=DE&subid=theirs")
    world.send(f"registration click_id={click.hit_id} uid=u-1 email=a@b.example customer=u-1")
    return world.send("sale uid=u-1 amount=80 currency=EUR txid=t/1 basket=3")


def to_affiliate(outcome: Outcome) -> Postback:
    return next(postback for postback in outcome.postbacks if postback.recipient.startswith("affiliate:"))


def to_client(outcome: Outcome) -> Postback:
    return next(postback for postback in outcome.postbacks if postback.recipient.startswith("client:"))


def webhook(template: str) -> str:
    return f'[affiliate.bestodds]\nparams = ["sub1"]\nwebhook = "https://bestodds.example/pb?{template}"\n'


def test_a_firing_has_one_postback_for_each_recipient_in_the_order_of_the_trigger() -> None:
    outcome = sale()
    assert [postback.recipient for postback in outcome.postbacks] == ["client:acme", "affiliate:bestodds"]
    assert {postback.state for postback in outcome.postbacks} == {"due"}
    assert {(postback.payout, postback.currency) for postback in outcome.postbacks} == {("20.00", "EUR")}


def test_the_id_of_a_postback_is_a_hash_of_hit_trigger_and_recipient() -> None:
    for postback in sale().postbacks:
        name = f"{postback.hit_id}\x1ft1\x1f{postback.recipient}"
        assert postback.id == hashlib.sha256(name.encode()).hexdigest()[:32]


def test_without_a_macro_the_event_is_posted_as_json() -> None:
    postback = to_client(sale())
    document: dict[str, Any] = json.loads(postback.body)
    assert (postback.verb, postback.url) == ("POST", "https://acme.example/et")
    assert document == {
        "postback_id": postback.id, "hit_id": postback.hit_id, "trigger": "t1", "event": "sale",
        "time": "2023-11-14T22:13:23.000000Z", "client": "acme", "affiliate": "bestodds", "visitor": f"{1:032x}",
        "uid": "u-1", "txid": "t/1", "amount": "80", "currency": "EUR", "payout": "20.00", "payout_currency": "EUR",
        "params": {
            "affiliate_click_id": "theirs", "basket": "3", "country": "DE", "customer": "u-1", "email": "a@b.example",
            "sub1": "s 1", "subid": "theirs",
        },
    }  # fmt: skip
    assert next(iter(document)) == "postback_id"


def test_with_a_macro_the_address_is_called_with_get_and_no_body() -> None:
    postback = to_affiliate(sale())
    assert (postback.verb, postback.body) == ("GET", "")
    assert postback.url == "https://bestodds.example/pb?s=s%201&e=sale"


def test_json_to_an_affiliate_holds_no_private_value_under_any_name() -> None:
    outcome = sale(affiliates='[affiliate.bestodds]\nwebhook = "https://bestodds.example/in"\n')
    document = json.loads(to_affiliate(outcome).body)
    assert "uid" not in document
    assert set(document["params"]) == {"affiliate_click_id", "basket", "country", "sub1", "subid"}
    assert "u-1" not in to_affiliate(outcome).body
    assert "a@b.example" not in to_affiliate(outcome).body


def test_a_private_name_that_is_an_alias_hides_the_reserved_name_too() -> None:
    client = CLIENT.replace('private = ["email"]', 'private = ["email", "orderref"]').replace(
        "aliases = {", 'aliases = { orderref = "txid",'
    )
    world = World(book(BOTH, client=client, affiliates='[affiliate.bestodds]\nwebhook = "https://b.example/in"\n'))
    outcome = world.send("sale affiliate=bestodds orderref=SECRET")
    assert "SECRET" in to_client(outcome).body
    assert "SECRET" not in to_affiliate(outcome).body


@pytest.mark.parametrize(
    "macro",
    [
        "email", "email|sha256", "email|raw", "email!", "email|default:x", "uid", "first.email", "param.email",
        "last.registration.uid", "customer", "param.customer", "first.customer",
    ],
)  # fmt: skip
def test_no_macro_to_an_affiliate_reaches_a_private_value(macro: str) -> None:
    client = CLIENT.replace('params = ["country", "sub1"]', 'params = ["country", "sub1", "customer"]')
    with pytest.raises(RulebookError) as caught:
        book(BOTH, client=client, affiliates=webhook(f"x={{{macro}}}"))
    assert "private to client acme" in str(caught.value)


def test_the_client_itself_gets_its_private_values() -> None:
    client = CLIENT.replace("https://acme.example/et", "https://acme.example/et?m={email}&u={uid}&p={param.customer}")
    assert "m=a%40b.example&u=u-1&p=u-1" in to_client(sale(client)).url


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{payout}-{payout_currency}", "20.00-EUR"),
        ("{amount}", "80"),
        ("{txid}", "t%2F1"),
        ("{txid|raw}", "t/1"),
        ("{first.sub1}", "s%201"),
        ("{param.basket}", "3"),
        ("{affiliate_click_id}", "theirs"),
        ("{last.registration.event}-{last.click.affiliate}", "registration-bestodds"),
        ("{affiliate}/{client}/{event}/{trigger}", "bestodds/acme/sale/t1"),
        ("{time|%Y%m%d}", "20231114"),
        ("{visitor}", f"{1:032x}"),
        ("{hit_id}", f"{3:032x}"),
    ],
)
def test_the_table_of_macros(template: str, expected: str) -> None:
    postback = to_affiliate(sale(affiliates=webhook("x=" + template)))
    assert postback.url == "https://bestodds.example/pb?x=" + expected
    assert postback.missing == ()


def test_a_macro_of_an_earlier_event_does_not_see_the_event_itself() -> None:
    postback = to_affiliate(sale(affiliates=webhook("x={last.sale.amount}")))
    assert postback.missing == ("last.sale.amount",)


def test_a_missing_value_is_recorded_and_the_postback_is_due() -> None:
    postback = to_affiliate(sale(affiliates=webhook("t={tag_id}&u={ts}&t={tag_id}")))
    assert (postback.missing, postback.state) == (("tag_id", "ts"), "due")
    assert postback.url == "https://bestodds.example/pb?t=&u=&t="


def test_a_missing_value_that_is_required_withholds_the_postback_only() -> None:
    outcome = sale(affiliates=webhook("t={tag_id!}"))
    assert to_affiliate(outcome).state == "withheld"
    assert to_client(outcome).state == "due"


def test_an_affiliate_without_an_endpoint_gets_a_withheld_postback() -> None:
    postback = to_affiliate(sale(affiliates="[affiliate.bestodds]\n"))
    assert (postback.state, postback.verb, postback.url, postback.body) == ("withheld", "", "", "")


def test_a_sent_parameter_called_like_a_macro_of_the_postback_is_not_taken_for_it() -> None:
    # given a client that sends its amount as `payout`, and a trigger without a payout
    world = World(book(BOTH, affiliates=webhook("x={payout}&y={payout_currency}&z={trigger}&w={param.payout}")))
    # when it fires
    postback = to_affiliate(world.send("sale affiliate=bestodds payout=99 trigger=evil postback_id=evil"))
    # then the macro has no value, and the parameter can be had by its full name
    assert postback.url == "https://bestodds.example/pb?x=&y=&z=t1&w=99"
    assert postback.missing == ("payout", "payout_currency")


def test_the_most_specific_endpoint_wins() -> None:
    affiliates = (
        webhook("general={event}")
        + '[affiliate.bestodds.for.acme]\nwebhook = "https://bestodds.example/acme"\n'
        + '[affiliate.bestodds.for.acme.t1]\nwebhook = "https://bestodds.example/t1"\n'
    )
    world = World(book('to = ["affiliate"]', 'to = ["affiliate"]', affiliates=affiliates))
    outcome = world.send("sale affiliate=bestodds")
    assert [postback.url for postback in outcome.postbacks] == [
        "https://bestodds.example/t1",
        "https://bestodds.example/acme",
    ]


def test_a_test_goes_to_the_test_endpoint_and_nowhere_else() -> None:
    client = CLIENT + 'test_webhook = "https://staging.acme.example/et"\n'
    affiliates = webhook("x={event}") + '[affiliate.bestodds.for.acme]\nwebhook = "https://bestodds.example/acme"\n'
    outcome = World(book(BOTH, client=client, affiliates=affiliates)).send("sale affiliate=bestodds test=1")
    assert (to_client(outcome).state, to_client(outcome).url) == ("due", "https://staging.acme.example/et")
    assert (to_affiliate(outcome).state, to_affiliate(outcome).url) == ("recorded", "")
    assert {postback.test for postback in outcome.postbacks} == {True}


def test_an_address_with_literal_braces_is_posted_to() -> None:
    client = CLIENT.replace("https://acme.example/et", "https://acme.example/et?q={{x}}")
    postback = to_client(sale(client))
    assert (postback.verb, postback.url) == ("POST", "https://acme.example/et?q={x}")


def test_texts_of_any_script_arrive_as_they_were() -> None:
    world = World(load(CLIENT + '[[trigger]]\nname = "x"\nclient = "acme"\non = "sale"\n'))
    outcome = world.run(hit("client=acme&event=sale&city=M%C3%BCnchen%20%F0%9F%8E%AF%22%5C%00"))
    assert json.loads(to_client(outcome).body)["params"] == {"city": 'München 🎯"\\\x00'}
