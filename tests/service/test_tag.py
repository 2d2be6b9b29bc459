"""The page's tag as it is served, and browsers that ask not to be tracked."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from service.engine import load, parse
from service.intake.browser import TAG, click_names, tag_text
from service.servers import free_port
from tests.service.conftest import Servers
from tests.service.webprocess import Web, web_process

RULES = """
[client.acme]
landing = "https://acme.example/welcome?cid={click_id}&lang=de"
aliases = { subid = "click_id", order = "txid" }

[client.bolt]
"""


@pytest.fixture(scope="module")
def web(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web_process(tmp_path_factory.mktemp("web"), servers.broker_url, free_port(), RULES) as running:
        yield running


def test_the_tag_is_small_and_knows_a_place_for_the_names() -> None:
    assert len(TAG.encode()) < 4096
    assert TAG.count('["click_id"]') == 1 and TAG.isascii()


def test_the_tag_knows_the_names_of_the_clients_click_id() -> None:
    clients = load(RULES).clients
    assert click_names(clients["acme"]) == ("cid", "click_id", "subid")
    assert click_names(clients["bolt"]) == click_names(None) == ("click_id",)


def test_a_name_cannot_break_out_of_the_tag() -> None:
    # given an alias that tries to end the literal in which it stands
    body, _ = tag_text(('"];alert(1)//', "</script>\u2028"))
    # then it stays a text
    assert body.endswith('["\\"];alert(1)//", "</script>\\u2028"]);\n')


def test_the_tag_is_cached_until_it_changes(web: Web) -> None:
    # given the tag as a browser has fetched it
    first = web.client.get("/tag.js?client=acme")
    assert first.status_code == 200 and first.headers["content-type"].startswith("text/javascript")
    assert '["cid", "click_id", "subid"]' in first.text and first.headers["cache-control"] == "public, max-age=3600"
    # when it asks again, then nothing is sent; for another client it is another script
    again = web.client.get("/tag.js?client=acme", headers={"If-None-Match": first.headers["etag"]})
    other = web.client.get("/tag.js?client=bolt", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert other.status_code == 200 and '["click_id"]' in other.text
    assert web.client.get("/tag.js").text == other.text


def test_a_script_answers_a_script_and_pages_of_other_origins_may_read_what_became_of_it(web: Web) -> None:
    # when pages call the browser routes, also with a preflight
    answers = [web.client.get(f"/{route}?client=acme&event=pageview") for route in ("e.js", "e.gif")]
    asked = web.client.options("/e.js")
    # then the answers are what their routes say, with the id for everybody to read
    assert [answer.headers["content-type"].partition(";")[0] for answer in answers] == ["text/javascript", "image/gif"]
    assert answers[0].content == b"" and web.entry(answers[0].headers["x-hit-id"]).hit is not None
    for answer in (*answers, asked):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-expose-headers"] == "x-hit-id, x-reason"
        assert "access-control-allow-credentials" not in answer.headers and "set-cookie" not in answer.headers
    # and servers get none of that
    assert "access-control-allow-origin" not in web.client.get("/e?client=acme&event=pageview").headers


@pytest.mark.parametrize("header", ["DNT", "Sec-GPC"])
@pytest.mark.parametrize("route", ["e.js", "e.gif"])
def test_of_a_browser_that_asks_for_it_nothing_is_kept_but_that_it_was_there(web: Web, route: str, header: str) -> None:
    # when such a browser brings an event
    target = f"/{route}?client=acme&event=login&uid=u1&tag_id=t1&country=DE"
    answer = web.client.post(
        target, data={"email": "a@b.example"}, headers={header: "1", "Referer": "https://x.example/"}
    )
    # then it is refused, and the log says that and no more
    assert (answer.status_code, answer.headers["x-reason"]) == (422, "do_not_track")
    hit = web.entry(answer.headers["x-hit-id"]).hit
    assert hit is not None and (hit.query, hit.body, hit.address, hit.user_agent, hit.referrer, hit.content_type) == (
        b"client=acme&event=login", b"", "", "", "", "",
    )  # fmt: skip
    assert (hit.refusal, hit.flags, hit.route) == ("do_not_track", ("do_not_track",), route)
    # and the engine rejects it for the same reason
    assert getattr(parse(hit, load(RULES)), "reason", "") == "do_not_track"


@pytest.mark.parametrize(
    ("route", "headers"), [("e", {"DNT": "1"}), ("e.js", {"DNT": "0"}), ("e.js", {"DNT": "unspecified"}), ("e.js", {})]
)
def test_everybody_else_is_stored_whole(web: Web, route: str, headers: dict[str, str]) -> None:
    answer: httpx.Response = web.client.get(f"/{route}?client=acme&event=login&uid=u1", headers=headers)
    hit = web.entry(answer.headers["x-hit-id"]).hit
    assert answer.status_code == 200 and hit is not None and hit.query == b"client=acme&event=login&uid=u1"
