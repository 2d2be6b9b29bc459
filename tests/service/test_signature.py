"""Signatures of requests: what is signed, whose keys, and the example of the README."""

from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import load
from service.intake.signature import Keys, Seal, sign, signed_text

README = Path(__file__).parents[2] / "service" / "intake" / "README.md"
CLIENT = load('[client.acme]\nsig_secret = ["env:OLD", "env:NEW"]\naliases = { hash = "sig" }\n').clients["acme"]
KEYS = Keys({"OLD": "the old key", "NEW": " the new key\n"})
QUERY = b"client=acme&event=sale"


@pytest.mark.parametrize(
    ("query", "body", "text"),
    [
        (b"b=2&a=1&sig=x", b"", b"a=1&b=2"),
        (b"sig=x&a=2&a=1&A=3", b"", b"A=3&a=1&a=2"),
        (b"a=%C3%BC+x&b", b"", b"a=%C3%BC+x&b"),
        (b"&&a=1&", b"", b"a=1"),
        (b"sig", b"", b""),
        (b"%73ig=x", b"", b"%73ig=x"),
        (b"signature=1&sig=2", b"", b"signature=1"),
        (b"b=2&a=1", b'{"x": 1}', b'a=1&b=2\n{"x": 1}'),
        (b"sig=x", b"a=1", b"\na=1"),
    ],
)
def test_what_is_signed_is_what_is_sent_sorted_and_without_the_signature(
    query: bytes, body: bytes, text: bytes
) -> None:
    assert signed_text(query, body) == text


def test_a_signature_is_plain_hmac_sha256() -> None:
    expected = hmac.new(b"key", b"client=acme&event=sale", hashlib.sha256).hexdigest()
    assert sign(b"key", b"event=sale&client=acme") == expected


@pytest.mark.parametrize("key", [b"the old key", b"the new key"])
def test_during_a_rotation_both_keys_are_good(key: bytes) -> None:
    for sig in (sign(key, QUERY), sign(key, QUERY).upper()):
        assert Seal(KEYS, QUERY + b"&sig=" + sig.encode(), b"").wrong(CLIENT) is None
        assert Seal(KEYS, b"hash=" + sig.encode() + b"&" + QUERY, b"").wrong(CLIENT) is None


@pytest.mark.parametrize(
    "sig",
    [
        b"x",
        b"0" * 64,
        sign(b"another key", QUERY).encode(),
        sign(b"the new key", QUERY).encode()[:-1],
        sign(b"the new key", QUERY + b"&amount=1").encode(),
        sign(b"the new key", QUERY, b"a=1").encode(),
        sign(b"", QUERY).encode(),
        b"\xff\x00",
        sign(b"the new key", QUERY).encode() + b"&sig=x",
    ],
)
def test_anything_else_is_wrong_and_shown(sig: bytes) -> None:
    said = Seal(KEYS, QUERY + b"&sig=" + sig, b"").wrong(CLIENT)
    assert said and "does not fit" in said and "client=acme&event=sale" in said and "the new key" not in said


def test_no_signature_is_told_from_a_wrong_one() -> None:
    for query in (QUERY, QUERY + b"&sig=", b"&sig"):
        assert Seal(KEYS, query, b"").wrong(CLIENT) == ""


def test_without_a_key_nothing_fits() -> None:
    # given a process whose environment lacks the variables, or holds empty ones
    for environment in ({}, {"OLD": "", "NEW": " "}):
        keys = Keys(environment)
        # then not even the signature of an empty key is good
        said = Seal(keys, QUERY + b"&sig=" + sign(b"", QUERY).encode(), b"").wrong(CLIENT)
        assert said == "the key is not set where the request came in; tell who runs it"


@given(query=st.binary(max_size=60), body=st.binary(max_size=60), sig=st.binary(max_size=70))
def test_nothing_that_can_be_sent_breaks_it(query: bytes, body: bytes, sig: bytes) -> None:
    # given any bytes, when they are tried, then what fits is what was signed and nothing else
    assert Seal(KEYS, query + b"&sig=" + sig, body).wrong(CLIENT) is not None
    plain = b"&".join(part for part in query.split(b"&") if part.partition(b"=")[0] not in (b"sig", b"hash"))
    good = sign(b"the new key", plain, body).encode()
    assert Seal(KEYS, b"sig=" + good + b"&" + plain, body).wrong(CLIENT) is None


@pytest.mark.parametrize("number", [0, 1])
def test_the_lines_of_the_readme_sign_as_the_intake_does(number: int) -> None:
    # given the lines for a shell, one with a query and one with a body
    (section,) = re.findall(r"## Signatures\n(.*?)\n## ", README.read_text(), flags=re.DOTALL)
    blocks = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", section, flags=re.MULTILINE)
    shell = blocks[number]
    # when they are run, with the call at the end printed
    script = "curl() { for last; do :; done; printf '%s' \"$last\"; }\n" + shell
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20)
    target = done.stdout.partition("?")[2].encode()
    # then the signature fits, and it is the one that the README prints
    body = re.search(r"BODY='(.*)'", shell)
    key = re.search(r"KEY='(.*)'", blocks[0])
    assert key is not None and b"sig=" in target
    client = load('[client.acme]\nsig_secret = "env:K"\n').clients["acme"]
    sent = body.group(1).encode() if body else b""
    assert Seal(Keys({"K": key.group(1)}), target, sent).wrong(client) is None
    assert target.partition(b"sig=")[2].decode() in section
