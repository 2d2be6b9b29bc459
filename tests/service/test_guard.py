"""The address guard: forms of internal addresses are refused, public ones are called at the address that was checked."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from pyreqwest.http import Url

from service.delivery import guard
from service.delivery.guard import GuardError, UnknownHostError
from service.delivery.webhook import Caller, Request
from service.servers import check_journal
from service.settings import Settings
from tests.service.faults import Faults
from tests.waiting import until


def words(text: str) -> list[str]:
    return text.split()


# Forms of internal addresses, each line with its source. Registries: IANA's of special-purpose addresses for IPv4 and IPv6
# (RFC 6890 and its updates). Spellings: RFC 3986 section 7.4, and the IPv4 parser and IDNA mapping of the WHATWG standard.
INTERNAL_BY_SOURCE = (
    ("RFC 1122 3.2.1.3: loopback", "127.0.0.1 127.255.255.254"),
    ("WHATWG IPv4 parser: fewer parts", "127.1 127.0.1 127.0x1"),
    ("WHATWG IPv4 parser: one decimal", "2130706433 167772161 2886729729 2852039166 4294967295 0"),
    ("WHATWG IPv4 parser: hexadecimal", "0x7f000001 0x7f.1 0x7f.0x0.0x0.0x1 0X7F.0.0.1 0xa000001 "
     "0xc0a80001 0xa9fea9fe 0xffffffff 0x0"),
    ("WHATWG IPv4 parser: octal", "0177.0.0.1 017700000001 0177.0.0.01 00000177.1 012.0.0.1 0300.0250.0.1 "
     "0251.0376.0251.0376"),
    ("WHATWG IPv4 parser: trailing dot", "127.0.0.1. 127.1. 169.254.169.254."),
    ("RFC 3986 2.1: percent-encoded", "%31%32%37.0.0.1 127%2e0.0.1"),
    ("UTS 46: digits and dots of other scripts", "１２７.0.0.1 ①②⑦.0.0.1 127。0。0。1 127．0．0．1 𝟏𝟐𝟕.𝟎.𝟎.𝟏"),
    ("RFC 1122 3.2.1.3: this network", "0.0.0.0 0.0.0.1 0.255.255.255"),
    ("RFC 1918: private", "10.0.0.1 10.1 10.255.255.255 172.16.0.1 172.31.255.255 172.17.0.1 "
     "192.168.0.1 192.168.1 192.168.255.255"),
    ("RFC 6598: shared", "100.64.0.1 100.127.255.255 100.100.100.200"),
    ("RFC 3927: link-local, and the clouds' metadata", "169.254.0.1 169.254.169.254 169.254.43518 169.254.170.2"),
    ("RFC 6890: protocol assignments", "192.0.0.1 192.0.0.9 192.0.0.192"),
    ("RFC 5737: documentation", "192.0.2.1 198.51.100.7 203.0.113.9"),
    ("RFC 2544: benchmarks", "198.18.0.1 198.19.255.255"),
    ("RFC 7526: 6to4 relays", "192.88.99.1"),
    ("a large cloud's platform, from its documentation", "168.63.129.16"),
    ("RFC 5771, 1112, 919: multicast, reserved, broadcast", "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255"),
    ("RFC 4291 2.5: loopback and unspecified", "[::1] [::] [0:0:0:0:0:0:0:1] [0000::0001]"),
    ("RFC 4291 2.5.5.1: compatible", "[::127.0.0.1] [::7f00:1] [::a00:1]"),
    ("RFC 4291 2.5.5.2: mapped", "[::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:1] [::ffff:10.0.0.1] "
     "[::ffff:169.254.169.254] [::FFFF:A9FE:A9FE] [::ffff:8.8.8.8]"),
    ("RFC 2765: translated", "[::ffff:0:127.0.0.1] [::ffff:0:7f00:1]"),
    ("RFC 6052 and 8215: NAT64", "[64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [64:ff9b::8.8.8.8] "
     "[64:ff9b:1::1] [64:ff9b:1:ffff::10.0.0.1]"),
    ("RFC 3056: 6to4", "[2002:7f00:1::] [2002:7f00:1::1] [2002:a00:1::1] [2002:c0a8:1::1] [2002:a9fe:a9fe::]"),
    ("RFC 4380: Teredo", "[2001::1] [2001:0:7f00:1::] [2001:0:4136:e378:8000:63bf:80ff:fffe] [2001:0:a00:1::1]"),
    ("RFC 5214: ISATAP", "[2001:470::5efe:127.0.0.1] [2001:470::200:5efe:10.0.0.1] [fe80::5efe:169.254.169.254]"),
    ("RFC 4291 2.5.6: link-local", "[fe80::1] [fe80::a9fe:a9fe] [febf::1]"),
    ("RFC 3879: site-local", "[fec0::1] [feff::1]"),
    ("RFC 4193: unique local, and the clouds' metadata", "[fc00::1] [fd00::1] [fd00:ec2::254] [fd20:ce::254]"),
    ("RFC 4291 2.7: multicast", "[ff02::1] [ff0e::1]"),
    ("RFC 6666: discard", "[100::1]"),
    ("RFC 3849 and 9637: documentation", "[2001:db8::1] [3fff::1]"),
    ("RFC 5180, 4843, 7343: benchmarks, ORCHID", "[2001:2::1] [2001:10::1] [2001:20::1]"),
    ("RFC 9602: segment routing", "[5f00::1]"),
    ("IANA IPv6 address space: not global unicast", "[4000::1] [e000::1]"),
)  # fmt: skip
INTERNAL = [form for _, forms in INTERNAL_BY_SOURCE for form in words(forms)]

PUBLIC = words("""
1.1.1.1 8.8.8.8 8.8.4.4. 134744072 0x08080808 010.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255
128.0.0.1 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 192.0.1.1 192.0.3.1 192.167.255.255 192.169.0.1
198.17.255.255 198.20.0.1 198.51.99.1 203.0.112.1 203.0.114.1 223.255.255.255 168.63.129.15
[2606:4700:4700::1111] [2001:4860:4860::8888] [2a00:1450:4001:80b::200e] [2001:200::1] [2003::1]
[2400:cb00::1] [2001:470::1]
""")

NOT_URLS = words("[fe80::1%25eth0] [fe80::1%eth0] [::1%25lo] 256.256.256.256 1.2.3.4.5 0x1ffffffff [::ffff:999.0.0.1]")


def resolve(host: str, allowed: Sequence[guard.Network] = ()) -> str:
    return asyncio.run(guard.resolve(Url(f"http://{host}:8080/postback"), allowed))


def call(url: str) -> tuple[str, str]:
    """Result class and error of a real call with nothing allowed."""

    async def main() -> tuple[str, str]:
        caller = Caller(2_000, ())
        answer = await caller.call(Request("GET", url, {}, ""))
        await caller.close()
        return answer.result, answer.error

    return asyncio.run(main())


def test_the_lists_are_long_enough_and_without_repeats() -> None:
    assert len(INTERNAL) == len(set(INTERNAL)) >= 80
    assert len(PUBLIC) == len(set(PUBLIC)) >= 20


@pytest.mark.parametrize("host", INTERNAL)
def test_every_form_of_an_internal_address_is_refused(host: str) -> None:
    with pytest.raises(GuardError, match=r"is no public address; BACKTRACK_ALLOW_ADDRESSES names the exceptions"):
        resolve(host)


@pytest.mark.parametrize("host", PUBLIC)
def test_public_addresses_are_allowed(host: str) -> None:
    # when a public address is resolved, in whichever spelling
    found = ipaddress.ip_address(resolve(host))
    # then it is the one that the HTTP library calls
    assert found == ipaddress.ip_address(str(Url(f"http://{host}/").host_str).strip("[]"))


@pytest.mark.parametrize("host", NOT_URLS)
def test_what_the_url_standard_refuses_is_never_called(host: str) -> None:
    result, error = call(f"http://{host}/postback")
    assert result == "address" and error


@pytest.mark.parametrize("url", ["", "postback", "/postback", "mailto:a@b.example", "file:///etc/passwd", "ftp://8.8.8.8/",
                                 "http://", "javascript:alert(1)", "data:text/plain,hi", "unix:/tmp/socket"])  # fmt: skip
def test_what_is_no_web_address_is_never_called(url: str) -> None:
    result, error = call(url)
    assert result == "address" and error


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "LocalHost", "%6cocalhost", "ｌocalhost"])
def test_names_that_resolve_to_loopback_are_refused(name: str) -> None:
    with pytest.raises(GuardError, match=r"(127\.0\.0\.1|::1) is no public address"):
        resolve(name)


@pytest.mark.parametrize("name", ["localhost.", "x.localhost", "localhost.localdomain", socket.gethostname()])
def test_names_that_only_some_machines_resolve_are_refused_or_unknown(name: str) -> None:
    with pytest.raises((GuardError, UnknownHostError)):
        resolve(name)


def test_the_refusal_reaches_the_caller_as_a_final_class() -> None:
    result, error = call("http://localhost:1/postback")
    assert result == "address" and "is no public address" in error


class Names(asyncio.SelectorEventLoop):
    """An event loop that resolves names from a table: each look-up takes the next list of addresses."""

    def __init__(self, answers: list[list[str]]) -> None:
        super().__init__()
        self._answers = answers

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        """What socket.getaddrinfo gives, port included."""
        found = self._answers.pop(0)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


def looked_up(answers: list[list[str]], times: int = 1) -> list[str]:
    """What the guard says to a name with these answers: the address, or the kind of error."""

    async def main() -> list[str]:
        said = []
        for _ in range(times):
            try:
                said.append(await guard.resolve(Url("https://partner.example/pb"), ()))
            except (GuardError, UnknownHostError) as error:
                said.append(type(error).__name__)
        return said

    with asyncio.Runner(loop_factory=lambda: Names(answers)) as runner:
        return runner.run(main())


def test_one_internal_address_among_public_ones_is_enough_to_refuse() -> None:
    assert looked_up([["1.1.1.1", "8.8.8.8"]]) == ["1.1.1.1"]
    assert looked_up([["1.1.1.1", "10.0.0.1"]]) == ["GuardError"]
    assert looked_up([["2606:4700::1111", "::ffff:127.0.0.1"]]) == ["GuardError"]
    assert looked_up([["fe80::1%2"]]) == ["GuardError"]


def test_a_name_that_changes_its_address_is_judged_at_every_look() -> None:
    assert looked_up([["1.1.1.1"], ["127.0.0.1"], []], 3) == ["1.1.1.1", "GuardError", "UnknownHostError"]


def test_exceptions_are_exactly_the_networks_that_are_named() -> None:
    # given an exception for one address
    allowed = (ipaddress.ip_network("127.0.0.1/32"),)
    # then it is allowed in every spelling, and neither its neighbours nor its disguises are
    assert {resolve(host, allowed) for host in ("127.0.0.1", "2130706433", "127.1", "127.0.0.1.")} == {"127.0.0.1"}
    for host in ("127.0.0.2", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::127.0.0.1]"):
        with pytest.raises(GuardError):
            resolve(host, allowed)


class Counted(Names):
    """The same, and it counts the look-ups."""

    looked_up = 0

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> list[Any]:
        self.looked_up += 1
        return await super().getaddrinfo(host, port, **more)


def called(
    url: str, answers: list[list[str]], allowed: Sequence[guard.Network], times: int = 1
) -> tuple[list[str], int]:
    """Result classes of calls by one caller where names resolve so, and how often a name was looked up."""

    async def main() -> list[str]:
        caller = Caller(2_000, allowed)
        said = [(await caller.call(Request("GET", url, {}, ""))).result for _ in range(times)]
        await caller.close()
        return said

    loop = Counted(answers)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main()), loop.looked_up


def test_the_address_that_was_checked_is_the_one_that_is_called() -> None:
    # given a name that is the server's at the check, and something else at every later look
    with Faults() as server:
        url = server.url("/seen").replace("127.0.0.1", "partner.example")
        said, looked_up = called(url, [["127.0.0.1"], ["10.0.0.1"], []], (ipaddress.ip_network("127.0.0.1/32"),), 2)
    # then two calls reach the server that was checked, with the name's own Host, after one look
    assert (said, looked_up) == (["delivered", "delivered"], 1)
    assert [request.headers["host"] for request in server.requests] == [f"partner.example:{server.port}"] * 2


def test_a_name_that_turns_internal_between_two_calls_is_not_called() -> None:
    # given a name that has an allowed address at first, and a forbidden one beside it later
    with Faults() as server:
        url = server.url("/seen").replace("127.0.0.1", "partner.example")
        allowed = (ipaddress.ip_network("127.0.0.1/32"),)
        first, _ = called(url, [["127.0.0.1"]], allowed)
        second, _ = called(url, [["127.0.0.1", "169.254.169.254"]], allowed)
    # then the second check refuses it, although one of its addresses is allowed
    assert (first, second) == (["delivered"], ["address"]) and len(server.requests) == 1


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "http://[::ffff:10.0.0.1]/", "http://2130706433/x",
                                    "http://localhost/x", "//127.0.0.1/x", "/caught"])  # fmt: skip
def test_a_redirect_leads_nowhere(target: str) -> None:
    with Faults() as server:
        said, looked_up = called(
            server.url(f"/to/{quote(target, safe='')}"), [], (ipaddress.ip_network("127.0.0.1/32"),)
        )
    assert (said, looked_up, len(server.requests)) == (["redirect"], 0, 1)


@pytest.mark.parametrize("allowed", ["127.0.0.1/32,10.1.0.0/16", ""])
def test_the_start_up_log_shows_the_exceptions(settings: Settings, allowed: str) -> None:
    # given a worker with or without exceptions
    environment = msgspec.structs.replace(settings, allow_addresses=allowed).environment()
    check_journal(settings.journal_url, settings.partitions).close()
    command = [str(Path(sys.executable).with_name("backtrack")), "worker", "--queues", "delivery"]
    worker = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    # when it has started
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(worker.stderr or ()), daemon=True)
    reader.start()
    until(lambda: any("worker ready" in line for line in lines), "the worker")
    worker.terminate()
    worker.wait(20)
    reader.join(5)
    # then its log says where postbacks may go beside public addresses, and is silent where that is nowhere
    said = [line for line in lines if "internal addresses" in line]
    assert len(said) == bool(allowed) and all(allowed in line for line in said)
