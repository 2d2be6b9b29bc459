"""Who sent a request: the peer, or, where the peer is a trusted proxy, whom the proxies name in X-Forwarded-For.

Anybody can write that header, so it is read from the right: each trusted proxy has added the address it saw itself. The
first address that is no trusted proxy is the sender; what stands left of it may be invented and is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

KNOWN_ADDRESSES = 4096  # whose answer is kept in memory


def read_address(text: str) -> Address | None:
    """The address of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`; None for anything else.

    An IPv4 address in its IPv6 form (`::ffff:192.0.2.1`) is the IPv4 address.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return None if found.scope_id else found.ipv4_mapped or found
    return found


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether the address lies in one of the networks."""
    return any(address.version == network.version and address in network for network in networks)


class Proxies:
    """The proxies that are believed. networks: where they are; none are believed by default."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)
        self._trusts = lru_cache(KNOWN_ADDRESSES)(self._look)

    def trusts(self, peer: str) -> bool:
        """Whether what this peer says about others is believed."""
        return bool(self._networks) and self._trusts(peer)

    def sender(self, peer: str, forwarded: bytes) -> str:
        """The sender's address. peer: the other end of the connection. forwarded: X-Forwarded-For, lines joined by commas.

        What is no address ends the reading: the last address before it is all that is known. Where everybody is a trusted
        proxy, the first of them sent it.
        """
        sender = peer
        if not forwarded or not self.trusts(peer):
            return sender
        for text in reversed(forwarded.decode("latin-1").split(",")):
            address = read_address(text)
            if address is None:
                return sender
            sender = str(address)
            if not self._trusts(sender):
                return sender
        return sender

    def _look(self, peer: str) -> bool:
        address = read_address(peer)
        return address is not None and is_within(address, self._networks)
