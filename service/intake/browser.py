"""What browsers get from the intake besides answers to events: the page's tag, and whom it leaves alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
from litestar import HttpMethod, Request, Response, get, route
from litestar.datastructures import State

from service.engine.model import Event, Reason, Rejection
from service.engine.rulebook import Client, Rulebook
from service.intake.browser_pages import Pages
from service.intake.capture import DO_NOT_TRACK
from service.intake.examine import Found

TAG = (Path(__file__).parent / "tag.js").read_text(encoding="utf-8")
NAMES = '["click_id"]'  # what stands in the file for the names that may hold the click id
TAG_MAX_AGE_S = 3600


@get("/tag.js", media_type="text/javascript")
async def tag(request: Request[Any, Any, Any], state: State) -> Response[str]:
    """The page's tag. `?client=NAME` lets it know the names under which that client's landing address has the click id."""
    rulebook: Callable[[], Rulebook | None] = state.follower.current
    known = rulebook()
    client = known.clients.get(request.query_params.get("client", "")) if known is not None else None
    body, etag = tag_text(click_names(client))
    headers = {
        "etag": etag,
        "cache-control": f"public, max-age={TAG_MAX_AGE_S}",
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "cross-origin",
        "x-content-type-options": "nosniff",
    }
    seen = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if etag in seen or "*" in seen:
        return Response("", status_code=304, headers=headers)
    return Response(body, headers=headers)


@route("/confirm", http_method=[HttpMethod.GET, HttpMethod.POST], media_type="text/plain", status_code=200)
async def confirm(request: Request[Any, Any, Any], state: State) -> Response[str]:
    """A browser says that it ran what it was given: 204. p, id, token: as they came with it. error: what went wrong."""
    asked = request.query_params.get
    partition = asked("p", "")
    headers = {"access-control-allow-origin": "*", "cache-control": "no-store"}
    pages: Pages = state.pages
    try:
        known = (
            partition.isascii()
            and partition.isdigit()
            and await pages.hand_outs.confirm(
                int(partition[:4]), asked("id", ""), asked("token", ""), asked("error", "")
            )
        )
    except Exception as error:
        return Response(f"it cannot be recorded at the moment: {error}\n", status_code=503, headers=headers)
    if known:
        return Response("", status_code=204, headers=headers)
    return Response("nothing was handed out under this token, or it was confirmed\n", status_code=404, headers=headers)


@lru_cache(maxsize=256)
def tag_text(names: tuple[str, ...]) -> tuple[str, str]:
    """The script that looks for the click id under these names, and its ETag."""
    body = TAG.replace(NAMES, json.dumps(names))  # all ASCII, so that no character can end the literal
    return body, f'"{hashlib.sha256(body.encode()).hexdigest()[:16]}"'


def click_names(client: Client | None) -> tuple[str, ...]:
    """Names that may hold the click id in the address of the client's page: the landing template's own first."""
    names = dict.fromkeys(("click_id",))
    if client is not None:
        if client.landing is not None:
            query = client.landing.source.partition("?")[2].partition("#")[0]
            names = dict.fromkeys([name for name, values in parse_qs(query).items() if "{click_id}" in values]) | names
        names |= dict.fromkeys([alias for alias, name in client.aliases.items() if name == "click_id"])
    return tuple(names)


def untracked(found: Found) -> Found:
    """The hit of somebody who asks not to be tracked: it counts for nothing.

    What is kept: id, time, route, client and event. No address, user agent, referrer, parameter or body.
    """
    hit, parsed, _ = found
    name = parsed.name if isinstance(parsed, Event) else parsed.event
    query = urlencode({key: value for key, value in (("client", parsed.client), ("event", name)) if value})
    kept = msgspec.structs.replace(
        hit, query=query.encode(), body=b"", content_type="", address="", user_agent="", referrer="",
        refusal=Reason.DO_NOT_TRACK.value, flags=(DO_NOT_TRACK,),
    )  # fmt: skip
    detail = "the browser asks not to be tracked; nothing about it is kept"
    return Found(kept, Rejection(Reason.DO_NOT_TRACK.value, detail, parsed.client, name))
