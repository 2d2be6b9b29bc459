"""What changed between two rulebooks, said so that a campaign manager understands it."""

from __future__ import annotations

import msgspec
import pytest

from service.engine import load
from service.engine.difference import difference, lines
from service.engine.difference_words import AFFILIATE_WORDS, CLIENT_WORDS, TRIGGER_WORDS
from service.engine.rulebook import Affiliate, Client, Trigger

TEXT = """
[client.acme]
name = "Acme"
landing = "https://acme.example/?c={click_id}"
params = ["country", "sub1"]
aliases = { subid = "click_id", order = "txid" }
webhook = "https://acme.example/et"

[affiliate.best]
webhook = "https://best.example/pb"

[[trigger]]
name = "first"
client = "acme"
on = "sale"
after = ["click"]
within = "30d"
when = 'amount >= 20 and country in ["DE", "AT"] and count("sale") == 0 and since("click") < 7d'
once = "visitor"
sample = 10
cap = { per = "affiliate", every = "day", count = 500 }
payout = { percent = "25", of = "amount" }
to = ["client", "affiliate"]
"""
FIXED = 'payout = { fixed = "10.00", currency = "EUR" }'
PERCENT = 'payout = { percent = "25", of = "amount" }'


def said(old: str, new: str, base: str = TEXT) -> list[str]:
    """The sentences about one passage that changed."""
    assert base.count(old) == 1, old
    return [str(change) for change in difference(load(base), load(base.replace(old, new)))]


MORE, LESS = "; it can only fire more often.", "; it can only fire less often."


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("amount >= 20", "amount >= 25", f"Trigger first asks for amount at least 25 instead of 20{LESS}"),
        ("amount >= 20", "amount >= 5", f"Trigger first asks for amount at least 5 instead of 20{MORE}"),
        ('"DE", "AT"', '"DE", "AT", "CH"', f"Trigger first takes country CH too{MORE}"),
        ('"DE", "AT"', '"DE"', f"Trigger first takes country AT no longer{LESS}"),
        ('"DE", "AT"', '"DE", "CH"', "Trigger first takes country CH too and takes country AT no longer."),
        ("< 7d", "< 36h", f"Trigger first asks for the last click less than 36 hours ago instead of 7 days{LESS}"),
        (' and count("sale") == 0', "", f"Trigger first no longer asks for no earlier sale{MORE}"),
        ("amount >= 20 and", "amount >= 20 and exists(sub1) and",
         f"Trigger first also asks for a value for sub1{LESS}"),
        ('"30d"', '"7d"', f"Trigger first lets the first step be 7 days old instead of 30 days{LESS}"),
        ('["click"]', '["click", "registration"]',
         "Trigger first asks for click then registration before, instead of click."),
        ('once = "visitor"\n', "", f"Trigger first is no longer once per visitor{MORE}"),
        ("sample = 10", "sample = 20", f"Trigger first holds back 20 % of the visitors instead of 10 %{LESS}"),
        ("count = 500", "count = 50", "Trigger first is capped at 50 firings a day per affiliate instead of "
         f"500 firings a day per affiliate{LESS}"),
        ('"25"', '"20"', "Trigger first pays 20 % of amount instead of 25 % of amount: for amount 100 that is 20.00 "
         "instead of 25.00."),
        (PERCENT, FIXED, "Trigger first pays 10.00 EUR instead of 25 % of amount: the same at amount 40.00 EUR, "
         "less above it."),
        (PERCENT + "\n", "", "Trigger first pays nothing any more; it paid 25 % of amount."),
        ('["client", "affiliate"]', '["client"]', "Trigger first no longer posts to the affiliate."),
        ("sample = 10", "sample = 10\npaused = true", "Trigger first is paused: it fires nothing."),
        ("sample = 10", "sample = 10\nuntil = 2027-01-01",
         "Trigger first ends at 2027-01-01 00:00:00 UTC instead of any time."),
        ('on = "sale"', 'on = "deposit"', "Trigger first fires on deposit instead of sale."),
        ('name = "first"', 'name = "one"',
         "Trigger first is called one now. Caps, once and the hold-back begin anew, and postback ids change."),
        ('name = "Acme"', 'name = "Acme Casino"', "Client acme is called Acme Casino instead of Acme."),
        ('order = "txid"', 'orderid = "txid"', 'Client acme reads "orderid" as txid.'),
        ('subid = "click_id", order = "txid"', 'order = "txid", subid = "click_id"',
         "Client acme tries its aliases in another order: order then subid."),
        ('name = "Acme"', 'remember = "60d"\nname = "Acme"',
         "Client acme forgets a visitor who stays away for more than 60 days instead of 90 days."),
        ('name = "Acme"', 'attribution = "first_click"\nname = "Acme"',
         "Client acme gives an event to the affiliate of the first click instead of the last: payouts move between "
         "affiliates."),
        ('name = "Acme"', 'private = ["email"]\nname = "Acme"', "Client acme keeps email from affiliates."),
        ("https://acme.example/et", "https://acme.example/new",
         "Client acme gets its postbacks at https://acme.example/new instead of https://acme.example/et."),
        ("[affiliate.best]\n", '[affiliate.best.for.acme]\nwebhook = "https://b.example/"\n[affiliate.best]\n',
         "Affiliate best gets the postbacks of client acme at https://b.example/ instead of its general address."),
    ],
)  # fmt: skip
def test_a_change_is_said_in_a_sentence(old: str, new: str, sentence: str) -> None:
    assert sentence in said(old, new)


def test_a_fixed_payout_is_compared_in_money() -> None:
    base = TEXT.replace(PERCENT, FIXED)
    assert said('"10.00"', '"12.50"', base) == [
        "Trigger first pays 12.50 EUR instead of 10.00 EUR: 2.50 EUR more for each firing."
    ]


def test_a_condition_that_became_another_is_given_whole() -> None:
    (sentence,) = said("amount >= 20 and country", "amount >= 20 or country")
    assert sentence.startswith("Trigger first had the condition: amount at least 20 and country one of DE or AT")
    assert "Now it is: amount at least 20 or (country one of" in sentence


def test_a_new_trigger_is_described_whole() -> None:
    head, _, tail = TEXT.partition("[[trigger]]")
    (change,) = difference(load(head), load(head + "[[trigger]]" + tail))
    assert str(change) == (
        "Trigger first is new: fires on sale after click within 30 days, if amount at least 20 and country one of DE or AT "
        "and no earlier sale and the last click less than 7 days ago, once per visitor, with 10 % of the visitors held "
        "back, at most 500 firings a day per affiliate, for 25 % of amount, posting to client and affiliate."
    )
    (gone,) = difference(load(TEXT), load(head))
    assert str(gone) == "Trigger first is gone: it fires on sale no more."


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("amount >= 20", "(amount >= 20.0)"),
        ("< 7d", "< 604800"),
        ('name = "Acme"', '# a comment\nname = "Acme"'),
        ('"30d"', '"720h"'),
        ('amount >= 20 and country in ["DE", "AT"]', 'country in ["DE", "AT"] and amount >= 20'),
    ],
)
def test_what_is_only_written_differently_is_no_difference(old: str, new: str) -> None:
    assert said(old, new) == []


def test_changes_are_grouped_by_client() -> None:
    two = TEXT + '[client.bolt]\nwebhook = "https://bolt.example/"\n'
    changed = two.replace('name = "Acme"', 'name = "A"').replace("best.example/pb", "best.example/2")
    changed = changed.replace("bolt.example/", "bolt.example/2")
    assert [line for line in lines(difference(load(two), load(changed))) if not line.startswith("  ")] == [
        "Client acme", "Client bolt", "Affiliates",
    ]  # fmt: skip


def test_who_may_send_changes_in_words() -> None:
    new = TEXT.replace('name = "Acme"', 'name = "Acme"\naddresses = ["203.0.113.0/24"]\nbots = "reject"')
    assert [change.says for change in difference(load(TEXT), load(new))] == [
        "takes events server to server from 203.0.113.0/24 instead of any address.",
        "rejects what bots bring by browser routes.",
    ]


def test_every_field_has_its_words() -> None:
    for table, words in ((Client, CLIENT_WORDS), (Affiliate, AFFILIATE_WORDS), (Trigger, TRIGGER_WORDS)):
        assert {field.name for field in msgspec.structs.fields(table)} == set(words)
