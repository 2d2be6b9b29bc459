"""What affiliates are told by the visitor's browser: snippets and pixels, once, with the right values, to nobody else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote

import msgspec
import pytest

from service import keys
from service.archive.schemas import Attempt
from service.engine.model import Postback
from service.servers import free_port
from tests.browser.devtools import Chromium, Page
from tests.browser.sites import Site, page
from tests.service.conftest import Servers
from tests.service.webprocess import Web, web_process
from tests.waiting import until

RULES = """
[client.acme]
landing = "http://localhost:{shop}/welcome?cid={{click_id}}"
params = ["sub1"]
browser = ["sub1", "uid", "amount"]
browser_events = ["pageview", "click", "login", "registration", "sale"]
javascript = "(window.ran = window.ran || []).push(['acme', '{{uid}}', '{{sub1}}'])"
pixel = "http://127.0.0.1:{ads}/acme.gif?who={{uid}}"

[affiliate.best]
javascript = "(window.ran = window.ran || []).push(['best', '{{sub1}}', '{{event}}'])"
pixel = "http://127.0.0.1:{ads}/best.gif?sub={{sub1}}&sum={{amount}}&id={{postback_id}}"

[affiliate.broken]
javascript = "nobody.knows('{{sub1}}')"

[[trigger]]
name = "signup"
client = "acme"
on = "registration"
once = "visitor"
method = "javascript"
to = ["client", "affiliate"]

[[trigger]]
name = "first-sale"
client = "acme"
on = "sale"
method = "pixel"
to = ["affiliate"]
"""
TAG, STRANGER = "a" * 32, "b" * 32
_attempt = msgspec.msgpack.Decoder(Attempt).decode
_postback = msgspec.msgpack.Decoder(Postback).decode


@pytest.fixture(scope="module")
def shop() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def ads() -> Iterator[Site]:
    """The affiliate's own server."""
    with Site("127.0.0.1") as site:
        yield site


@contextlib.contextmanager
def worker(web: Web) -> Iterator[None]:
    """A worker that decides what the web process has stored."""
    with (web.settings.var / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "worker", "--queues", "tracking,delivery"],
            env={**os.environ, **web.settings.environment()}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until(lambda: "worker ready" in (web.settings.var / "worker.log").read_text(), "the worker")
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def web(servers: Servers, shop: Site, ads: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    rules = RULES.format(shop=shop.base.rpartition(":")[2], ads=ads.base.rpartition(":")[2])
    folder = tmp_path_factory.mktemp("web")
    with web_process(folder, servers.broker_url, free_port(), rules, browser_wait_ms=5_000) as running, worker(running):
        yield running


@pytest.fixture
def tab(chromium: Chromium, web: Web, shop: Site) -> Page:
    """A fresh visitor's tab."""
    shop.pages = dict.fromkeys(("/welcome", "/shop"), page(web.base))
    return chromium.page()


def attempts(web: Web, query: str) -> list[tuple[str, str, str]]:
    """recipient, result and state of each try of what a hit with these words in its query has fired, in their order."""
    hits = {one.hit.id for one in web.entries() if one.hit is not None and query.encode() in one.hit.query}
    found: list[Attempt] = []
    mine: set[str] = set()
    with web.connect() as connection:
        for place in keys.partitions(web.settings.partitions):
            promised = [_postback(fields[b"p"]) for _, fields in connection.xrange(place.postbacks)]
            mine |= {one.id for one in promised if one.hit_id in hits}
            found += [_attempt(fields[b"a"]) for _, fields in connection.xrange(place.attempts)]
    return [(one.recipient, one.result, one.state) for one in found if one.postback_id in mine]


def test_a_javascript_trigger_runs_the_snippets_once_with_the_right_values(tab: Page, web: Web, shop: Site) -> None:
    # given somebody who came by the affiliate's link
    tab.go(f"{web.base}/c/acme/best?sub1=s%201")
    tab.wait("window.backtrack && backtrack.tag")
    # when the page tells that he registered
    tab.run("backtrack('registration', { uid: 'u-js' })")
    # then the snippets of both run, each once, and both are confirmed
    assert tab.wait("window.ran && ran.length >= 2 && ran") == [
        ["acme", "u-js", "s 1"],
        ["best", "s 1", "registration"],
    ]
    done = [("client:acme", "handed_out", "due"), ("affiliate:best", "handed_out", "due"),
            ("client:acme", "delivered", "delivered"), ("affiliate:best", "delivered", "delivered")]  # fmt: skip
    until(lambda: sorted(attempts(web, "uid=u-js")) == sorted(done), "the confirmations")
    # and neither a reload, nor the back button, nor another page runs them again
    tab.reload()
    tab.go(f"{shop.base}/shop")
    tab.back()
    tab.wait("window.backtrack && backtrack.tag")
    tab.run("backtrack('login', { after: 'all' })")
    until(lambda: any(one.hit and b"after=all" in one.hit.query for one in web.entries()), "the last event")
    assert tab.run("(window.ran || []).length") in (0, 2)  # 2 where the page came out of the back/forward cache
    assert sorted(attempts(web, "uid=u-js")) == sorted(done)


def test_a_pixel_trigger_makes_the_browser_call_the_affiliate(tab: Page, web: Web, shop: Site, ads: Site) -> None:
    # given a page with an image whose address the client's server has made with the tag id
    query = f"client=acme&event=sale&affiliate=best&tag_id={TAG}&sub1=a%26b&amount=9.50&txid=px"
    shop.pages["/bought"] = f'<!doctype html><link rel="icon" href="data:,"><img src="{web.base}/e.gif?{query}">'
    # when it is looked at
    tab.go(f"{shop.base}/bought")
    # then the browser has called the affiliate's pixel with the values
    (asked,) = until(lambda: [one for one in ads.received("/best.gif") if one.query["sum"] == "9.50"], "the pixel")
    assert asked.query["sub"] == "a&b" and len(asked.query["id"]) == 32
    assert attempts(web, "txid=px") == [("affiliate:best", "handed_out", "handed_out")]


def test_a_pixel_is_called_by_a_page_with_the_tag_too_and_confirmed(tab: Page, web: Web, ads: Site) -> None:
    tab.go(f"{web.base}/c/acme/best?sub1=tagged")
    tab.wait("window.backtrack && backtrack.tag")
    tab.run("backtrack('sale', { amount: '7', txid: 'tagged' })")
    until(
        lambda: [one for one in ads.received("/best.gif") if one.query == one.query | {"sum": "7", "sub": "tagged"}],
        "it",
    )
    until(
        lambda: attempts(web, "txid=tagged")[-1:] == [("affiliate:best", "delivered", "delivered")], "the confirmation"
    )


def test_what_comes_from_a_server_goes_out_with_the_visitors_next_page(tab: Page, web: Web, shop: Site) -> None:
    # given a visitor of a page, who registers by the client's server
    tab.go(f"{web.base}/c/acme/best?sub1=later")
    click = tab.run("new URLSearchParams(location.search).get('cid')")
    tab.wait("window.backtrack && backtrack.tag")
    web.client.get(f"/e?client=acme&event=registration&click_id={click}&uid=u-later")
    # when the visitor looks at another page, and at one more
    tab.go(f"{shop.base}/shop")
    assert tab.wait("window.ran && ran.length >= 2 && ran") == [
        ["acme", "u-later", "later"],
        ["best", "later", "registration"],
    ]
    until(lambda: len(attempts(web, "uid=u-later")) == 4, "the confirmations")
    tab.go(f"{shop.base}/welcome")
    # then they ran on the first of them only
    tab.run("backtrack('login', { at: 'welcome' })")
    assert tab.run("window.ran === undefined")


HOSTILE = [
    "'\"`;window.owned=1;//", "</script><script>window.owned=1</script>", "\\';window.owned=1;//", "${window.owned=1}",
    "\u2028window.owned=1\u2028", "*/window.owned=1/*", "');window.owned=1;('", "\\u0027);window.owned=1;//",
    "<!--<script>", "javascript:window.owned=1", "%27%29%3Bwindow.owned%3D1", "\x00\x07\U0001f600 ü", "{uid}{{sub1}}",
    "\r\nX-Evil: 1\r\n\r\n",
]  # fmt: skip

LOAD = """(function (kind, address) {
    var one = document.createElement(kind);
    return new Promise(function (done) { one.onload = one.onerror = done; one.src = address; document.head.append(one) });
})"""


def test_hostile_values_break_out_of_neither(tab: Page, web: Web, shop: Site, ads: Site) -> None:
    # given a page
    tab.go(f"{web.base}/c/acme/best")
    tab.wait("window.backtrack && backtrack.tag")
    for number, value in enumerate(HOSTILE, 1_000):
        # when a value comes that tries to be code in a snippet, or more than a value in an address
        query = f"client=acme&affiliate=best&tag_id={number:032x}&sub1={quote(value)}"
        script, image = f"/e.js?{query}&event=registration&uid=h{number}", f"/e.gif?{query}&event=sale&amount={number}"
        tab.run(f"ran = []; {LOAD}('script', '{web.base}{script}')")
        tab.run(f"{LOAD}('img', '{web.base}{image}')")
        # then both arrive as they were
        told = tab.run("ran.map(function (one) { return one.join('|') })")
        assert told == [f"acme|h{number}|{value}", f"best|{value}|registration"]
        (asked,) = [one for one in ads.received("/best.gif") if one.query.get("sum") == str(number)]
        assert asked.query == {"sub": value, "sum": str(number), "id": asked.query["id"]}
    # and nothing else has run
    assert tab.run("window.owned === undefined")


def test_a_snippet_that_fails_harms_no_other_and_is_not_run_again(tab: Page, web: Web, shop: Site) -> None:
    tab.go(f"{web.base}/c/acme/broken?sub1=x")
    tab.wait("window.backtrack && backtrack.tag")
    tab.run("backtrack('registration', { uid: 'u-broken' })")
    assert tab.wait("window.ran") == [["acme", "u-broken", "x"]]
    until(lambda: len(attempts(web, "uid=u-broken")) == 4, "what became of both")
    assert ("affiliate:broken", "script_error", "failed") in attempts(web, "uid=u-broken")


# who is given something


def given(web: Web, query: str, route: str = "e.js") -> str:
    """What a browser route answers to an event: a script, or where it leads."""
    answer = web.client.get(f"/{route}?client=acme&{query}")
    assert answer.status_code in (200, 302) and answer.headers["x-hit-id"]
    return answer.headers.get("location", "") or (answer.text if route == "e.js" else "")


@pytest.mark.parametrize("stranger", ["", f"&tag_id={STRANGER}", "&tag_id=1"])
def test_a_stranger_who_guesses_a_uid_gets_nothing_out(web: Web, stranger: str) -> None:
    # given a visitor with a browser, for whom something waits
    uid = f"u-known-{stranger[-3:]}"
    tag = uid.ljust(32, "c")
    given(web, f"event=pageview&tag_id={tag}&uid={uid}&affiliate=best")
    web.client.get(f"/e?client=acme&event=sale&uid={uid}&amount=5&affiliate=best&txid={uid}")
    # when a stranger says the uid, fires something himself, and comes again, on both routes
    for route in ("e.js", "e.gif"):
        for event in ("pageview", "registration", "pageview"):
            assert given(web, f"event={event}&uid={uid}{stranger}", route) == ""
            assert given(web, f"event={event}{stranger}", route) == "" or not stranger
    # then the visitor is given it, once
    assert "best.gif?sub=&sum=5" in given(web, f"event=pageview&tag_id={tag}", "e.gif")
    assert given(web, f"event=pageview&tag_id={tag}", "e.gif") == ""


def test_one_redirect_leads_to_one_pixel(web: Web) -> None:
    # given two pixels that wait
    given(web, f"event=pageview&tag_id={'d' * 32}&click_id={'d' * 20}")
    for number in (1, 2):
        web.client.get(f"/e?client=acme&event=sale&click_id={'d' * 20}&amount={number}&affiliate=best")
    # then each image leads to one
    found = [given(web, f"event=pageview&tag_id={'d' * 32}", "e.gif") for _ in range(3)]
    assert ["sum=1" in found[0], "sum=2" in found[1], found[2]] == [True, True, ""]


@pytest.mark.parametrize(
    ("change", "status"), [("token=x", 404), ("id=x", 404), ("p=99999", 404), ("p=-1", 404), ("p=x", 404), ("", 204)]
)
def test_only_who_was_given_something_can_confirm_it(web: Web, change: str, status: int) -> None:
    # given a snippet that was handed out
    name = f"u-{change}".replace("=", "-")
    script = given(web, f"event=registration&affiliate=best&uid={name}&tag_id={name.ljust(32, 'e')}")
    query = script.split('", "', 1)[1].split('"', 1)[0]
    # when somebody confirms it, with something else than it came with
    parts = dict(part.split("=") for part in query.split("&")) | (dict([change.split("=")]) if change else {})
    answer = web.client.post("/confirm?" + "&".join(f"{name}={value}" for name, value in parts.items()))
    # then it is refused
    assert answer.status_code == status
    assert (web.client.post(f"/confirm?{query}").status_code == 204) is (status == 404)
    assert web.client.post(f"/confirm?{query}").status_code == 404


def test_a_test_reaches_no_page(web: Web) -> None:
    assert given(web, f"event=registration&uid=u-t&tag_id={'f' * 32}&affiliate=best&test=1") == ""
    assert given(web, f"event=pageview&tag_id={'f' * 32}&test=1") == ""
