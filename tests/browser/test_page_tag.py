"""The page's tag in Chromium, on a landing page of another origin than the intake's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine import load, parse
from service.engine.model import Event
from service.servers import free_port
from tests.browser.devtools import Chromium, Page
from tests.browser.sites import Site, page
from tests.service.conftest import Servers
from tests.service.webprocess import Web, web_process
from tests.waiting import until

RULES = """
[client.acme]
landing = "http://localhost:{port}/welcome?cid={{click_id}}"
params = ["sub1"]
[affiliate.best]
"""


@pytest.fixture(scope="module")
def shop() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def web(servers: Servers, shop: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    rules = RULES.format(port=shop.base.rpartition(":")[2])
    with web_process(tmp_path_factory.mktemp("web"), servers.broker_url, free_port(), rules) as running:
        shop.pages = {"/welcome": page(running.base), "/shop": page(running.base)}
        yield running


@pytest.fixture
def tab(chromium: Chromium) -> Page:
    return chromium.page()


@pytest.fixture
def before(web: Web) -> set[str]:
    """Ids of the hits that were there already."""
    return {entry.hit.id for entry in web.entries() if entry.hit is not None}


def events(web: Web, before: set[str]) -> list[Event]:
    """What has come since then, in the order of the log."""
    rulebook = load(RULES.format(port=1))
    new = [entry.hit for entry in web.entries() if entry.hit is not None and entry.hit.id not in before]
    parsed = [parse(hit, rulebook) for hit in new]
    assert all(isinstance(one, Event) for one in parsed), parsed
    return [one for one in parsed if isinstance(one, Event)]


def told(web: Web, before: set[str], count: int) -> list[Event]:
    """Wait for so many events. Fails if there are more."""
    until(lambda: len(events(web, before)) >= count, f"{count} events")
    found = events(web, before)
    assert [one.name for one in found[count:]] == []
    return found


def settled(tab: Page, web: Web, before: set[str], count: int) -> list[Event]:
    """The events once a last one has arrived behind all others; it is not among them."""
    tab.wait("window.backtrack && backtrack.tag")
    tab.run("backtrack('login', { end: String(Math.random()) })")
    return told(web, before, count + 1)[:-1]


def test_the_click_id_of_a_tracker_link_is_kept_from_page_to_page(
    tab: Page, web: Web, shop: Site, before: set[str]
) -> None:
    # when somebody follows a tracker link to the client's page of another origin, and goes on there
    tab.go(f"{web.base}/c/acme/best?sub1=x")
    told(web, before, 2)
    tab.go(f"{shop.base}/shop")
    click, landed, went_on = told(web, before, 3)
    # then both views carry the click id and one random tag id, kept in a cookie of the page's own site
    assert (click.name, landed.name, went_on.name) == ("click", "pageview", "pageview")
    assert landed.fields["click_id"] == went_on.fields["click_id"] == click.fields["click_id"]
    assert landed.fields["tag_id"] == went_on.fields["tag_id"] and len(landed.fields["tag_id"]) == 32
    assert (landed.params, went_on.params) == ({"page": "/welcome"}, {"page": "/shop"})
    (cookie,) = tab.call("Network.getCookies", urls=[shop.base])["cookies"]
    assert (cookie["name"], cookie["domain"], cookie["sameSite"]) == ("backtrack_acme", "localhost", "Lax")
    assert cookie["value"] == f"{landed.fields['tag_id']}.{click.fields['click_id']}"
    assert tab.call("Network.getCookies", urls=[web.base])["cookies"] == []


def test_a_new_click_takes_the_place_of_the_kept_one(tab: Page, web: Web, shop: Site, before: set[str]) -> None:
    # given a visitor with a click id that needs escaping in a cookie
    tab.go(f"{shop.base}/shop?click_id=a.b%3Bc%20%C3%BC")
    told(web, before, 1)
    tab.go(f"{shop.base}/shop")
    first, kept = told(web, before, 2)
    assert first.fields["click_id"] == kept.fields["click_id"] == "a.b;c ü"
    # when another one comes, under the name that the client gives it
    tab.go(f"{shop.base}/welcome?cid=second")
    told(web, before, 3)
    # then it counts, and the visitor stays the same
    newest = events(web, before)[-1]
    assert newest.fields["click_id"] == "second" and newest.fields["tag_id"] == first.fields["tag_id"]


@pytest.mark.parametrize("cached", [True, False], ids=["from the back/forward cache", "loaded anew"])
def test_events_are_sent_once_across_reload_and_back_button(
    tab: Page, web: Web, shop: Site, before: set[str], cached: bool
) -> None:
    # given a page that sends an event of its own as it loads, twice
    shop.headers = {} if cached else {"cache-control": "no-store"}
    shop.pages["/thanks"] = page(web.base, "<script>backtrack('registration', {uid: 'u1'})</script>" * 2)
    tab.go(f"{shop.base}/thanks")
    told(web, before, 2)
    # when it is loaded again, left, and come back to
    tab.reload()
    settled(tab, web, before, 2)
    tab.go(f"{shop.base}/shop")
    told(web, before, 4)
    tab.back()
    assert tab.run("location.pathname") == "/thanks" and tab.wait("window.persisted !== undefined")
    assert tab.run("persisted") is cached
    # then each event was sent once
    found = settled(tab, web, before, 4)
    assert [one.name for one in found if one.name != "login"] == ["pageview", "registration", "pageview"]
    # and a visit of its own is a new one
    tab.go(f"{shop.base}/thanks")
    assert [one.name for one in told(web, before, 7)[-2:]] == ["pageview", "registration"]
    shop.headers = {}


def test_an_event_of_a_page_that_is_left_arrives(tab: Page, web: Web, shop: Site, before: set[str]) -> None:
    # given a page that tells of a click and of its own end
    tab.go(f"{shop.base}/shop")
    tab.wait("window.backtrack && backtrack.tag")
    tab.run("addEventListener('pagehide', function () { backtrack('login', { how: 'pagehide' }, true) })")
    # when it tells, and goes on at once
    tab.run("backtrack('click', { to: 'elsewhere' }, true); location.href = '/welcome'")
    # then both arrive
    found = told(web, before, 4)
    assert sorted(one.name for one in found) == ["click", "login", "pageview", "pageview"]
    assert len({one.fields["tag_id"] for one in found}) == 1


def test_an_event_that_could_not_be_sent_is_sent_by_the_next_load(
    tab: Page, web: Web, shop: Site, before: set[str]
) -> None:
    # given a page whose events do not get through
    tab.call("Network.enable")
    tab.call("Network.setBlockedURLs", urls=["*/e.js*"])
    tab.go(f"{shop.base}/shop")
    tab.wait("window.backtrack && backtrack.tag")
    tab.wait('JSON.parse(sessionStorage[\'backtrack_acme/shop\'])[\'["pageview",{"page":"/shop"}]\'] === 0')
    # when they do, and it is loaded again
    tab.call("Network.setBlockedURLs", urls=[])
    tab.reload()
    # then what was missing has come
    assert [one.name for one in told(web, before, 1)] == ["pageview"]


def test_without_cookies_the_local_storage_keeps_the_ids(tab: Page, web: Web, shop: Site, before: set[str]) -> None:
    # given a browser that takes no cookie
    tab.run_first("Object.defineProperty(document, 'cookie', { get: function () { return '' }, set: function () {} })")
    # when it visits two pages
    tab.go(f"{shop.base}/welcome?cid=kept")
    told(web, before, 1)
    tab.go(f"{shop.base}/shop")
    # then it is the same visitor with the same click
    first, second = told(web, before, 2)
    assert first.fields["tag_id"] == second.fields["tag_id"] and second.fields["click_id"] == "kept"


ASKING = {
    "do-not-track": "Object.defineProperty(navigator, 'doNotTrack', { get: function () { return '1' } })",
    "Global Privacy Control": "Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })",
}
NOTHING = "document.cookie === '' && localStorage.length === 0 && sessionStorage.length === 0"


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING.keys())
def test_nothing_is_set_and_nothing_sent_where_the_browser_asks_for_it(
    tab: Page, web: Web, shop: Site, before: set[str], asking: str
) -> None:
    # given a browser that asks not to be tracked, and a page that tells of something
    tab.run_first(asking)
    shop.pages["/asked"] = page(web.base, "<script>backtrack('registration', {uid: 'u1'})</script>")
    # when it visits the page, comes again, and the page tells more
    tab.go(f"{shop.base}/asked?cid=c1")
    tab.wait("window.backtrack && backtrack.tag")
    tab.reload()
    tab.wait("window.backtrack && backtrack.tag")
    tab.run("backtrack('login', { uid: 'u1' }); backtrack('click', {}, true)")
    # then nothing is set, and no request went out but for the tag itself
    assert tab.run(NOTHING) is True
    asked = tab.run("performance.getEntriesByType('resource').map(function (one) { return one.name })")
    assert asked == [f"{web.base}/tag.js?client=acme"]
    assert events(web, before) == []


def test_the_setting_of_the_browser_itself_is_honoured(
    command: str, web: Web, shop: Site, before: set[str], tmp_path: Path
) -> None:
    # given a browser whose user has switched do-not-track on
    browser = Chromium(command, tmp_path / "profile", {"enable_do_not_track": True})
    try:
        tab = browser.page(private=False)
        tab.go(f"{shop.base}/welcome?cid=c1")
        assert tab.run("navigator.doNotTrack") == "1"
        # then nothing is set or sent
        tab.wait("window.backtrack && backtrack.tag")
        assert tab.run(NOTHING) is True and events(web, before) == []
        # and what a page without the tag sends is kept without anything about the person
        tab.run(
            f"fetch('{web.base}/e.js?client=acme&event=login&uid=u1').then(function (told) {{ return told.status }})"
        )
        (entry,) = [one for one in web.entries() if one.hit is not None and one.hit.id not in before]
        assert entry.hit is not None and entry.hit.query == b"client=acme&event=login" and entry.hit.user_agent == ""
    finally:
        browser.close()
