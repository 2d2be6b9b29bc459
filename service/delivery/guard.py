"""The address guard: a postback goes to a public address or nowhere, and the address checked is the address called."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from pyreqwest.http import Url

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What is not of the public Internet. Sources: the IANA registries of special-purpose addresses for IPv4 (RFC 6890) and
# IPv6, and RFC 5214. Python's own `is_global` is asked too, but lets some of these through, by version.
_INTERNAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/3",
        "168.63.129.16/32",  # the platform of a large cloud, reachable from its machines only
        "2001::/23",  # protocol assignments, among them Teredo
        "2001:db8::/32", "3fff::/20",  # documentation
        "2002::/16",  # 6to4
    )
)  # fmt: skip
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all else is mapped, translated (NAT64), local or not assigned
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})  # third quarter of an address that ends in an IPv4 address


class GuardError(Exception):
    """An address that postbacks must not go to."""


class UnknownHostError(Exception):
    """A name that does not resolve."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the public Internet. Forms that hide another address in an IPv6 one are not."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _GLOBAL_UNICAST or address.scope_id is not None or (int(address) >> 32 & 0xFFFFFFFF) in _ISATAP
    ):
        return False
    return address.is_global and not any(address in network for network in _INTERNAL)


def check(address: Address, allowed: Sequence[Network]) -> None:
    """Raise GuardError unless the address is public or in an allowed network."""
    if any(address in network for network in allowed) or is_public(address):
        return
    raise GuardError(f"{address} is no public address; BACKTRACK_ALLOW_ADDRESSES names the exceptions")


async def resolve(url: Url, allowed: Sequence[Network]) -> str:
    """The address to call for a URL: every address of the name is checked, the first one is taken.

    Raises GuardError if any of them is internal, UnknownHostError if there is none.
    """
    host = (url.host_str or "").strip("[]")
    try:
        addresses = [ipaddress.ip_address(host)]
    except ValueError:
        addresses = await _look_up(host, url.port_or_known_default or 443)
    for address in addresses:
        check(address, allowed)
    return str(addresses[0])


async def _look_up(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnknownHostError(f"{host} does not resolve: {error}") from None
    if not found:
        raise UnknownHostError(f"{host} does not resolve")
    return [ipaddress.ip_address(str(entry[4][0])) for entry in found]
