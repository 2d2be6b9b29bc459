"""What goes out through browsers: how it is written, which values may be in it, and which browsers are believed."""

from __future__ import annotations

import msgspec
import pytest

from service.engine import Outcome, Postback, RulebookError, load
from tests.engine.world import World, book, hit

CLIENT = """
[client.acme]
params = ["country", "sub1"]
private = ["email"]
browser = ["sub1", "amount", "click_id", "email"]
javascript = "got('{sub1}', '{amount}')"
pixel = "https://acme.example/p"
"""
AFFILIATES = """
[affiliate.bestodds]
javascript = "if (1) {{ bo('{sub1}', '{trigger}') }}"
pixel = "https://bestodds.example/p.gif?s={sub1}&a={amount!}"

[affiliate.bestodds.for.acme.t2]
pixel = "https://bestodds.example/two.gif"

[affiliate.clickhub]
"""
BOTH = 'to = ["client", "affiliate"]\nmethod = "{}"'
TAG, OTHER = "a" * 32, "b" * 32


def sale(method: str, words: str = "amount=5", affiliate: str = "bestodds") -> list[Postback]:
    trigger = BOTH.format(method)
    world = World(book(trigger, trigger, client=CLIENT, affiliates=AFFILIATES))
    return list(world.send(f"sale affiliate={affiliate} sub1=%27%3B%3C%2Fscript%3E {words}").postbacks)


def test_a_snippet_is_filled_in_and_a_value_stays_in_its_quotes() -> None:
    acme, best, *_ = sale("javascript")
    escaped = r"\u0027\u003b\u003c\u002fscript\u003e"
    assert (acme.method, acme.verb, acme.url, acme.state) == ("javascript", "", "", "due")
    assert acme.body == f"got('{escaped}', '5')" and best.body == f"if (1) {{ bo('{escaped}', 't1') }}"


def test_a_pixel_is_an_address_and_the_most_specific_one_counts() -> None:
    acme, best, _, two = sale("pixel")
    assert (acme.verb, acme.url, acme.body) == ("GET", "https://acme.example/p", "")
    assert best.url == "https://bestodds.example/p.gif?s=%27%3B%3C%2Fscript%3E&a=5"
    assert two.url == "https://bestodds.example/two.gif"


def test_without_an_endpoint_or_a_required_value_it_is_withheld() -> None:
    assert [one.state for one in sale("pixel", "amount=5", "clickhub")] == ["due", "withheld", "due", "withheld"]
    assert sale("pixel", "txid=1")[1].state == "withheld"


def test_a_test_reaches_no_page() -> None:
    for method in ("javascript", "pixel"):
        assert {one.state for one in sale(method, "amount=5 test=1")} == {"recorded"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("'{amount}'", "'{country}'", "{country} is not given to browsers; add 'country' to browser of [client.acme]"),
        ("'{amount}'", "'{first.country}'", "{first.country} is not given to browsers; add 'country'"),
        ("'{amount}'", "'{last.sale.txid}'", "{last.sale.txid} is not given to browsers; add 'txid'"),
        ("'{amount}'", "'{payout}'", "{payout} is not given to browsers"),
        ("'{amount}'", "'{uid}'", "{uid} is not given to browsers"),
        ("'{amount}'", "{amount}", "stands outside of a string literal"),
        ("bo('{sub1}'", "bo('{email}'", "{email} is private to client acme and never goes to an affiliate"),
        ("?s={sub1}", "?s={country}", "{country} is not given to browsers"),
        ("two.gif", "two.gif?{country}", "{country} is not given to browsers"),
        ('"email"]\njava', '"emial"]\njava', "'emial' is no declared parameter, did you mean 'email'?"),
        ('pixel = "https://acme.example/p"', "", "client acme has no pixel to post to; add pixel to [client.acme]"),
        (
            'method = "javascript"',
            'method = ["pixel", "javascript"]',
            "exactly one method, not 'pixel' and 'javascript'",
        ),
    ],
)
def test_what_may_not_be_given_out_is_refused_when_the_rulebook_is_read(old: str, new: str, words: str) -> None:
    # given a rulebook that is right, with one thing changed
    triggers = "".join(
        f'[[trigger]]\nname = "t{number}"\nclient = "acme"\non = "sale"\n{BOTH.format(method)}\n'
        for number, method in enumerate(("javascript", "pixel", "pixel"), 1)
    )
    text = CLIENT + AFFILIATES + triggers
    load(text)
    assert text.count(old) == 1
    # then it is refused, and the key is named
    with pytest.raises(RulebookError) as caught:
        load(text.replace(old, new))
    assert words in str(caught.value)


# who is believed


def browsers(world: World, outcome: Outcome) -> list[str]:
    """The browsers of the visitor of a hit."""
    return world.state.visitors[outcome.visitor].browsers


def signed(world: World, query: str) -> Outcome:
    found = hit(f"client=acme&event=login&{query}", number=world.seq + 1)
    return world.run(msgspec.structs.replace(found, flags=("signed",)))


def test_the_browser_that_a_visitor_began_with_is_believed() -> None:
    world = World()
    assert browsers(world, world.send(f"pageview tag_id={TAG}")) == [TAG]
    assert browsers(world, world.send(f"registration tag_id={TAG} uid=u1")) == [TAG]


def test_the_first_browser_that_comes_with_a_click_id_of_ours_is_believed_and_no_second_one() -> None:
    world = World()
    click = world.click()
    assert browsers(world, click) == []
    assert browsers(world, world.send(f"pageview tag_id={TAG} click_id={click.hit_id}")) == [TAG]
    stranger = world.send(f"pageview tag_id={OTHER} click_id={click.hit_id}")
    assert stranger.visitor == click.visitor and browsers(world, stranger) == [TAG]


def test_ids_that_can_be_guessed_are_not_believed() -> None:
    world = World()
    assert browsers(world, world.send("pageview tag_id=7")) == []
    world.send("click click_id=123")
    assert browsers(world, world.send(f"pageview tag_id={TAG} click_id=123")) == []


def test_a_stranger_who_guesses_a_uid_is_not_believed_and_takes_nothing_from_the_visitor() -> None:
    # given a visitor with a browser, and a stranger with one of his own
    world = World()
    known = world.send(f"registration tag_id={TAG} uid=u1")
    world.send(f"pageview tag_id={OTHER}")
    # when the stranger says the uid, and comes again without it
    claimed = world.send(f"pageview tag_id={OTHER} uid=u1")
    again = world.send(f"pageview tag_id={OTHER}")
    # then he is recognised as the visitor, and only the visitor's own browser is believed
    assert claimed.visitor == again.visitor == known.visitor
    assert browsers(world, again) == [TAG]


def test_a_uid_that_only_servers_have_named_has_no_browser_before_a_signature() -> None:
    world = World()
    world.send("sale uid=u1")
    assert browsers(world, world.send(f"pageview tag_id={OTHER} uid=u1")) == []
    assert browsers(world, signed(world, f"tag_id={TAG}&uid=u1")) == [TAG]
    assert browsers(world, signed(world, f"tag_id={OTHER}&uid=u1")) == [TAG, OTHER]


def test_of_two_browsers_with_one_click_id_nobody_is_believed() -> None:
    # given two visitors without a uid, each with a browser of its own
    world = World()
    click = world.click()
    world.send(f"pageview tag_id={TAG} click_id={click.hit_id}")
    world.send(f"pageview tag_id={OTHER}")
    # when the click id of one makes them the same visitor
    both = world.send(f"pageview tag_id={OTHER} click_id={click.hit_id}")
    # then neither is given anything, nor anybody who comes later
    assert both.absorbed and browsers(world, both) == [""]
    assert browsers(world, world.send(f"pageview tag_id={'c' * 32} click_id={click.hit_id}")) == [""]


def test_a_trigger_that_changes_its_method_keeps_its_history_and_the_ids_of_its_postbacks() -> None:
    # given a trigger that fires once per visitor and twice in all, and one visitor for whom it fired by webhook
    limits = 'once = "visitor"\ncap = { every = "total", count = 2 }\n'
    client = CLIENT + 'webhook = "https://acme.example/et"\n'
    by_webhook, by_pixel = (
        book(f'{limits}to = ["client"]\nmethod = "{method}"', client=client, affiliates="")
        for method in ("webhook", "pixel")
    )
    world = World(by_webhook)
    (first,) = world.send("sale uid=anna").postbacks
    # when it goes out by pixel from now on
    world.rulebook = by_pixel
    again, bert, carl = world.send_all(["sale uid=anna", "sale uid=bert", "sale uid=carl"])
    # then what was used up stays used up, for her and for all, and the next postback is by the new method
    assert (again.not_fired, carl.not_fired) == ({"t1": "once"}, {"t1": "cap"})
    assert [one.method for one in (first, *bert.postbacks)] == ["webhook", "pixel"]
    # and the same hit has the same postback by either
    switched = World(by_pixel).send("sale uid=anna").postbacks
    assert [one.id for one in switched] == [first.id]
