"""The address guard: a postback goes to a public address or nowhere, and the address checked is the address called."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from pyreqwest.http import Url

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# translated and tunnelled forms that hide an IPv4 address: RFC 6052, 3056, 4380
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_6TO4 = ipaddress.ip_network("2002::/16")
_TEREDO = ipaddress.ip_network("2001::/32")


class GuardError(Exception):
    """An address that postbacks must not go to."""


class UnknownHostError(Exception):
    """A name that does not resolve."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the public Internet. Mapped, translated and tunnelled forms are not."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped is not None
        or address.scope_id is not None
        or any(address in network for network in (_NAT64, _NAT64_LOCAL, _6TO4, _TEREDO))
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


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
