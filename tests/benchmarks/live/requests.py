"""Requests as they lie on the wire, rendered once, so that sending costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VISITORS = 2_000
CLIENTS = ("acme", "bolt", "cozy")
HEAD = (
    "Host: 127.0.0.1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    "Accept: */*\r\nAccept-Encoding: gzip, deflate\r\n\r\n"
)


class Request(NamedTuple):
    """One request. data: the bytes to send."""

    client: str
    data: bytes


def get(target: str) -> bytes:
    """A GET of a browser over a connection that stays open."""
    return f"GET {target} HTTP/1.1\r\n{HEAD}".encode()


def requests(count: int) -> Iterator[Request]:
    """Events of the three clients of the sample rulebook in turn, 2,000 visitors each; of ten, seven logins, a click, a
    registration and a sale."""
    for n in range(count):
        client, visitor = CLIENTS[n % 3], n // 30 * 7919 % VISITORS
        known = f"client={client}&uid=u{visitor}&tag_id=t{visitor}&country=DE&sub1=a%20b&device=ios"
        if n // 3 % 10 == 0:
            target = f"/e?{known}&event=click&affiliate=bestodds&sub2=banner-{n % 50}"
        elif n // 3 % 10 == 1:
            target = f"/e?{known}&event=registration"
        elif n // 3 % 10 == 2:
            target = f"/e?{known}&event=sale&amount={n % 97}.50&currency=EUR&txid=o{n}"
        else:
            target = f"/e?{known}&event=login&sub2=header"
        yield Request(client, get(target))
