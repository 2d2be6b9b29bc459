"""Requests broken in every way a generator can think of; the same ones for the same seed."""

from __future__ import annotations

import gzip
from random import Random
from typing import NamedTuple

METHODS = [b"GET"] * 50 + [b"POST"] * 30 + [
    b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"BREW", b"get", b"Post", b"G" * 40, b"X-Y_Z",
    b"PROPFIND",
]  # fmt: skip
PATHS = [b"/e"] * 8 + [b"/e/batch"] * 2 + [b"/e.gif", b"/e.js", b"/c/acme/best", b"/c/bolt/best"] * 3 + [
    b"/e/batch", b"/c", b"/c/", b"/c/acme", b"/c//best", b"/c/acme/best/", b"/c/acme/best/more", b"/c/%61cme/%E6%9D%B1",
    b"/c/%ff/%fe", b"/c/%00/%0a", b"/c/a%2fb/c", b"/c/..%2f/e", b"/c/nobody/x", b"/c/" + b"a" * 1500 + b"/b",
]  # fmt: skip
ELSEWHERE = [
    b"/", b"/x", b"/e/", b"/e//", b"//e", b"/E", b"/e.gif/", b"/event", b"/candy", b"/e/batch/", b"/e/../e", b"/%65",
    b"/e%00", b"/e;a=1", b"/tag.js", b"/healthz", b"/%ff", b"/c%2facme", b"http://x/e", b"/e.js.map",
    b"/" + b"e/" * 300,
]  # fmt: skip
PAIRS = [
    b"client=acme", b"client=bolt", b"client=signed", b"client=near", b"client=nobody", b"client=", b"client=%FF",
    b"event=sale", b"event=click", b"event=login", b"event=a%20b", b"event=", b"event=" + b"x" * 65, b"event=%E6%9D%B1",
    b"amount=12.50", b"amount=1e3", b"amount=-0", b"amount=" + b"9" * 19, b"currency=eur", b"currency=%E2%82%AC",
    b"txid=1", b"test=1", b"uid=u1", b"tag_id=t1", b"click_id={click_id}", b"subid=null", b"sig=" + b"0" * 64,
    b"sig=%00",
    b"sub1=a+b", b"sub1=%", b"sub1=%z", b"sub1=%2", b"sub1=%ed%a0%80", b"sub1=%c0%af", b"sub1=%00",
    b"sub1=@evil.example/",
    b"sub1=//evil.example", b"sub1=%0d%0aSet-Cookie:a=b", b"=", b"", b"&&", b"===", b"x" * 65 + b"=1",
    b"x=" + b"v" * 1025,
    b"x=" + b"%41" * 300, b"\xc3\xbc=\xc3\x9f", b"a;b=c", b"'\"<>=\\", b"[]={}", b"affiliate=best", b"ts=1", b"%3D=%26",
]  # fmt: skip
JSON = [
    b"{}", b"[]", b"null",
    b"{",
    b'{"client": "acme", "event": "sale", "x": "\\ud800"}', b'{"client": "acme", "x": "\xff"}', b'{"": "", "a": null}',
    b'{"client": "acme", "event": "sale"}}', b"[" * 500, b'{"a":' * 40, b'\xef\xbb\xbf{"client": "acme"}', b'"\\u0000"',
    b'{"client": "signed", "event": "sale"}', b'{"client": "near", "event": "sale"}', b"{\x00}", b'{"a": 1, "a": 2}',
]  # fmt: skip
HEADERS = [
    b"Content-Type: application/json", b"Content-Type: application/x-www-form-urlencoded", b"Content-Type: text/plain",
    b"Content-Type: multipart/form-data; boundary=b", b"Content-Type: application/json; charset=utf-16",
    b"Content-Type:",
    b"Content-Type: \xff\xfe", b"Accept: application/json", b"Accept: application/x-ndjson", b"Accept: */*",
    b"Accept: image/gif",
    b"User-Agent: Mozilla/5.0 (compatible; Googlebot/2.1)", b"User-Agent: curl/8", b"User-Agent: " + b"u" * 3000,
    b"User-Agent: \xf0\x9f\x98\x80\xff", b"Referer: https://shop.example/\xc3\xbc?x", b"Referer: " + b"r" * 2000,
    b"X-Forwarded-For: 203.0.113.5", b"X-Forwarded-For: 203.0.113.5, 127.0.0.1",
    b"X-Forwarded-For: evil, \xff, [::1]:80",
    b"X-Forwarded-For: " + b"1.2.3.4, " * 500, b"DNT: 1", b"Sec-GPC: 1", b"Sec-Purpose: prefetch;prerender",
    b"Purpose: prefetch",
    b"X-Moz: prefetch", b"Content-Encoding: gzip", b"Content-Encoding: br", b"Content-Encoding: \xff", b"Origin: null",
    b"Cookie: " + b"a=b; " * 400, b"If-None-Match: *", b"Range: bytes=0-1", b"Upgrade: websocket",
    b"Connection: upgrade",
    b"X-Empty:", b"X-Many: " + b"m" * 8000, b"Host: other", b"Host:", b"Forwarded: for=1.2.3.4",
    b"X-HTTP-Method-Override: PUT",
    b"Access-Control-Request-Method: PUT", b"Accept-Encoding: gzip, br", b"Expect: 100-continue", b"TE: trailers",
]  # fmt: skip
# what a server of HTTP may refuse by itself, or read in its own way
HEAD_BREAKERS = [
    b"Content-Length: abc", b"Content-Length: -1", b"Content-Length: 1, 2", b"Content-Length: " + b"9" * 30,
    b"No colon",
    b"Space : 1", b" Folded", b"X: a\x00b", b"X: a\x0bb", b": empty", b"Transfer-Encoding: gzip", b"\xff: 1",
    b"X: " + b"h" * 140_000,
    b"Content-Length: 0\r\nContent-Length: 3", b"X:\rY", b"X: a\nY: b", b"Connection: close\r\n", b"Host: a b",
]  # fmt: skip
LINE_BREAKERS = [
    b"GET /e?a=b c HTTP/1.1", b"GET /e HTTP/1.2", b"GET /e HTTP/9.9", b"GET /e", b"GET  /e  HTTP/1.1",
    b"\x00\x01\x02", b"nonsense",
    b"GET /e?\x01 HTTP/1.1", b"GET /e?client=\xff\xfe HTTP/1.1", b"GET e HTTP/1.1",
    b"GET /e?" + b"q" * 140_000 + b" HTTP/1.1",
    b"GET /e#frag HTTP/1.1", b"GET /e?a=b\"<>'^`{|} HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nSM", b"\x16\x03\x01\x02\x00",
    b"", b"\r\n\r\n",
    b"G\xc3\x9cT /e HTTP/1.1", b"GET http:// HTTP/1.1", b"GET http://[::1/e HTTP/1.1", b"CONNECT x:80 HTTP/1.1",
    b"POST /e HTTP/1.0", b"GET * HTTP/1.1",
    b"OPTIONS * HTTP/1.1", b"GET /e?" + b"q" * 65_600 + b" HTTP/1.1",
]  # fmt: skip
CHUNK_BREAKERS = [
    b"zz\r\n", b"-1\r\n", b"f" * 17 + b"\r\n", b"5\r\nabcdefg\r\n", b"5;x=\x00\r\nabcde\r\n", b"\r\n",
    b" 5\r\nabcde\r\n", b"5\nabcde",
]  # fmt: skip
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
BOMB = gzip.compress(b"\n" * 2_000_000)
UNFIT = bytes(byte for byte in range(256) if not 0x21 <= byte < 0x7F or byte in b'"#<>^`{|}\\')  # in a target


class Sent(NamedTuple):
    """One request on the wire. bodiless: its answer has no body, whatever its headers say."""

    data: bytes
    bodiless: bool


class Requests:
    """Makes requests; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def plain(self) -> Sent:
        """A request that is answered, whatever it says, and after which the connection goes on."""
        random = self.random
        method, target = random.choice(METHODS), self._target()
        body = self._body() if self._is_read(method, target) and random.random() < 0.8 else None
        if body and method == b"POST" and target.startswith(b"/e/batch") and random.random() < 0.1:
            body = self._too_long()
        lines = [method + b" " + target + b" HTTP/1.1", b"Host: x", *self._headers()]
        if body is None:
            data = b"\r\n".join(lines) + b"\r\n\r\n"
        elif random.random() < 0.8:
            data = b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body
        else:
            data = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n" + self._chunked(body)
        return Sent(data, method == b"HEAD")

    def _is_read(self, method: bytes, target: bytes) -> bool:
        """Whether a body is read to its end. Else the server may close the connection over it."""
        return method not in (b"GET", b"HEAD", b"OPTIONS") and target.partition(b"?")[0] in PATHS

    def last(self) -> bytes:
        """What may make the server close the connection by itself; another request behind it closes it in any case."""
        random = self.random
        draw = random.random()
        line, fine = b"GET " + self._target() + b" HTTP/1.1", [b"Host: x", *self._headers()]
        if draw < 0.25:
            return b"\r\n".join([line, *fine, random.choice(HEAD_BREAKERS)]) + b"\r\n\r\n" + LAST
        if draw < 0.5:
            return b"\r\n".join([random.choice(LINE_BREAKERS), *fine]) + b"\r\n\r\n" + LAST
        if draw < 0.6:
            return b"\r\n".join([line[:-1] + b"0", *fine]) + b"\r\n\r\n"
        if draw < 0.7:  # more body than said: the rest is no request
            body = self._pairs()
            said = b"Content-Length: %d" % (len(body) // 2)
            return b"\r\n".join([b"POST /e HTTP/1.1", b"Host: x", said]) + b"\r\n\r\n" + body + b"\r\n\r\n" + LAST
        if draw < 0.71:
            broken = b"7\r\nclient=\r\n" + random.choice(CHUNK_BREAKERS)
            return (
                b"\r\n".join([b"POST" + line[3:], *fine, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n" + broken + LAST
            )
        if draw < 0.73:
            body = self._body()
            said = b"Content-Length: %d" % len(body)
            return (
                b"\r\n".join([random.choice((b"GET", b"OPTIONS", b"POST")) + line[3:], *fine, said])
                + b"\r\n\r\n"
                + body
                + LAST
            )
        if draw < 0.75:
            return (
                b"\r\n".join([line, *fine, *[b"X-%d: 1" % n for n in range(random.choice((90, 100, 101, 500)))]])
                + b"\r\n\r\n"
                + LAST
            )
        return self._mutant(b"\r\n".join([line, *fine])) + b"\r\n\r\n" + LAST

    def cut(self) -> bytes:
        """The beginning of a request whose end never comes."""
        random = self.random
        if random.random() < 0.3:
            return (b"GET " + self._target() + b" HTTP/1.1\r\nHost: x")[: random.randrange(1, 60)]
        body = self._body()[:3000]
        path = random.choice((b"/e", b"/e/batch", b"/c/acme/best", b"/e.js"))
        if random.random() < 0.3:
            broken = random.choice((*CHUNK_BREAKERS, b"5\r\nab", b""))
            return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + broken
        return (
            b"POST " + path + b"?client=acme HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(body) + 9) + body
        )

    def _target(self) -> bytes:
        random = self.random
        path = random.choice(PATHS if random.random() < 0.95 else ELSEWHERE)
        query = self._pairs().translate(None, UNFIT)
        return path + b"?" + query if query or random.random() < 0.5 else path

    def _pairs(self) -> bytes:
        random = self.random
        draw = random.random()
        if draw < 0.4:
            more = b"&" + random.choice(PAIRS) if draw < 0.2 else b""
            return b"client=acme&event=" + random.choice((b"sale", b"click")) + more
        if draw < 0.402:
            return b"client=signed&event=sale&sig=" + b"0" * 64
        if draw < 0.41:
            return b"&".join([b"p%d=%d" % (n, n) for n in range(random.choice((98, 99, 100, 101, 300)))])
        if draw < 0.42:
            return b"client=acme&event=sale&x=" + b"v" * random.choice((1000, 8166, 8167, 8168, 30_000, 60_000))
        if draw < 0.48:
            return b"".join([b"%%%02x" % random.randrange(256) for _ in range(random.randrange(12))])
        return b"&".join(random.choices(PAIRS, k=random.randrange(7)))

    def _headers(self) -> list[bytes]:
        return self.random.choices(HEADERS, k=self.random.choice((0, 0, 1, 1, 2, 3, 6)))

    def _body(self) -> bytes:
        random = self.random
        draw = random.random()
        if draw < 0.3:
            return self._pairs()
        if draw < 0.6:
            return random.choice(JSON)
        if draw < 0.8:
            lines = b"\n".join(random.choices(JSON, k=random.randrange(6)))
            return gzip.compress(lines, 1) if random.random() < 0.2 else lines
        if draw < 0.97:
            return random.randbytes(random.randrange(200))
        if draw < 0.999:
            return b"client=acme&event=sale&x=" + b"v" * random.choice(
                (5000, 65_510, 65_511, 65_512, 65_536, 70_000, 140_000)
            )
        return self._too_long()

    def _too_long(self) -> bytes:
        """A batch over a bound."""
        random = self.random
        return random.choice((b"{}\n" * 1001, b"x" * (1024 * 1024 + random.randrange(-1, 2)), BOMB))

    def _chunked(self, body: bytes) -> bytes:
        random = self.random
        out = bytearray()
        at = 0
        while at < len(body):
            size = random.choice((1, 7, 100, 65_536))
            part = body[at : at + size]
            extension = b";x=y" if random.random() < 0.1 else b""
            out += b"%x%s\r\n%s\r\n" % (len(part), extension, part)
            at += size if size > 1 or len(body) < 50 else 50
        return bytes(out) + random.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n"))

    def _mutant(self, head: bytes) -> bytes:
        random = self.random
        data = bytearray(head)
        for _ in range(random.choice((1, 1, 2, 5))):
            at = random.randrange(len(data))
            draw = random.random()
            if draw < 0.4:
                data[at] = random.randrange(256)
            elif draw < 0.6:
                del data[at : at + random.randrange(1, 8)]
            elif draw < 0.8:
                data[at:at] = random.randbytes(random.randrange(1, 4))
            else:
                data[at:at] = data[at : at + random.randrange(1, 30)]
            data = data or bytearray(b"G")
        return bytes(data)
