"""The sender's address: X-Forwarded-For is believed from trusted proxies only, and read from the right."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.intake.proxies import Proxies, read_address

TRUSTED = [ip_network(text) for text in ("10.0.0.0/8", "2001:db8:ffff::/48", "127.0.0.1/32")]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "None"),
        ("unknown", "None"),
        ("_hidden", "None"),
        ("", "None"),
        ("192.0.2.256", "None"),
        ("192.0.2.01", "None"),
        ("0x7f.1", "None"),
        ("2130706433", "None"),
        ("[2001:db8::1", "2001:db8::1"),
        ("localhost:80", "None"),
    ],
)
def test_an_address_is_read_with_or_without_port(text: str, address: str) -> None:
    assert str(read_address(text)) == address


@pytest.mark.parametrize(
    ("peer", "forwarded", "sender"),
    [
        # a peer that nobody trusts says nothing about others
        ("192.0.2.9", "203.0.113.5", "192.0.2.9"),
        ("192.0.2.9", "", "192.0.2.9"),
        # a trusted one names who it saw; what stands left of that may be invented
        ("10.1.2.3", "203.0.113.5", "203.0.113.5"),
        ("10.1.2.3", "198.51.100.1, 203.0.113.5", "203.0.113.5"),
        ("10.1.2.3", "10.9.9.9, 203.0.113.5", "203.0.113.5"),
        # several proxies in a row
        ("10.1.2.3", "198.51.100.1, 203.0.113.5, 10.0.0.7", "203.0.113.5"),
        ("127.0.0.1", "203.0.113.5:9999, [2001:db8:ffff::7]:80,10.0.0.7", "203.0.113.5"),
        ("::ffff:10.1.2.3", "2001:db8::5", "2001:db8::5"),
        # all of them are ours: the first has sent it
        ("10.1.2.3", "10.0.0.9, 10.0.0.7", "10.0.0.9"),
        # garbage ends the reading
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.5, unknown", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.5, \xff\x00, 10.0.0.7", "10.0.0.7"),
        ("10.1.2.3", "203.0.113.5,", "10.1.2.3"),
        # no peer at all, such as behind a socket of the file system
        ("", "203.0.113.5", ""),
    ],
)
def test_the_sender_is_the_first_from_the_right_that_is_no_trusted_proxy(
    peer: str, forwarded: str, sender: str
) -> None:
    assert Proxies(TRUSTED).sender(peer, forwarded.encode("latin-1")) == sender


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert Proxies().sender("127.0.0.1", b"203.0.113.5") == "127.0.0.1"


@given(forged=st.binary(max_size=80), seen=st.ip_addresses(v=4, network="203.0.113.0/24"))
def test_whatever_a_sender_forges_the_address_is_what_the_proxy_saw(forged: bytes, seen: object) -> None:
    assert Proxies(TRUSTED).sender("10.0.0.1", forged + b"," + str(seen).encode()) == str(seen)
