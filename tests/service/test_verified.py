"""Every webhook verifies with two packages of others, also in the middle of a rotation; nothing secret is kept."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import standardwebhooks
import svix.webhooks

from service.rulebooks import publish
from service.settings import Settings
from tests.service.faults import Faults, Received
from tests.service.test_courier import deliver_until
from tests.service.test_due import attempts_of, leftovers, promise
from tests.service.test_signing import BODY, ID, SECRET, SIGNATURE, TIMESTAMP_S

OLD, NEW = (base64.b64encode(f"{word} secret of the recipient".encode()).decode() for word in ("old", "new"))
JSON, FORM = '{"event":"sale","city":"Zürich"}', "event=sale&city=Z%C3%BCrich"


@pytest.fixture
def faults() -> Iterator[Faults]:
    with Faults() as server:
        yield server


@pytest.fixture
def variables() -> Iterator[None]:
    """The worker's environment knows an old and a new secret, and a token."""
    values = {
        "VERIFY_OLD": f"whsec_{OLD}",
        "VERIFY_NEW": NEW,
        "VERIFY_BOTH": f"{OLD} {NEW}",
        "VERIFY_TOKEN": "Bearer t0ken-x",
    }
    os.environ.update(values)
    yield
    for name in values:
        del os.environ[name]


def verifies(request: Received, secret: str) -> bool:
    """Whether both packages accept the request, now, with this secret."""
    said = []
    for module in (standardwebhooks, svix.webhooks):
        package: Any = module
        try:
            package.Webhook(secret).verify(request.body, request.headers)
            said.append(True)
        except json.JSONDecodeError:  # the signature was right, and a form or nothing is no JSON
            said.append(True)
        except package.WebhookVerificationError:
            said.append(False)
    assert len(set(said)) == 1, said
    return said[0]


def test_the_published_vector_verifies_by_both_packages() -> None:
    for package in (standardwebhooks, svix.webhooks):
        webhook: Any = package.Webhook(SECRET)
        assert webhook.sign(ID, datetime.fromtimestamp(TIMESTAMP_S, UTC), BODY.decode()) == SIGNATURE


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize(
    ("secret", "accepted"),
    [
        ('"env:VERIFY_OLD"', {OLD}),
        ('["env:VERIFY_OLD", "env:VERIFY_NEW"]', {OLD, NEW}),  # in the middle of the rotation
        ('"env:VERIFY_BOTH"', {OLD, NEW}),
        ('"env:VERIFY_NEW"', {NEW}),
    ],
)
def test_every_webhook_verifies_at_every_stage_of_a_rotation(
    settings: Settings, journal: redis.Redis, faults: Faults, tmp_path: Path, secret: str, accepted: set[str]
) -> None:
    # given a recipient with such secrets, and a GET, a form and JSON for it, some of which fail at first
    publish(journal, settings.partitions, tmp_path / "t", f"[client.acme]\n[affiliate.a]\nsecret = {secret}\n", "test")
    bodies = ["", FORM, JSON] * 5
    for number, body in enumerate(bodies, 1):
        promise(journal, faults.url(f"/in/{number}"), recipient="affiliate:a", start=number, body=body)
    # when all are delivered
    deliver_until(settings, lambda: leftovers(journal) == [0, 0, 0, 0], "all deliveries")
    # then each of them verifies with the secrets in use and with no other
    assert len(faults.requests) == len(bodies)
    for request in faults.requests:
        assert {one for one in (OLD, NEW) if verifies(request, one)} == accepted
    types = {request.headers.get("content-type", "") for request in faults.requests}
    assert types == {"", "application/x-www-form-urlencoded", "application/json"}


@pytest.mark.usefixtures("variables")
def test_the_headers_of_an_endpoint_are_sent_and_its_secrets_stand_nowhere(
    settings: Settings, journal: redis.Redis, faults: Faults, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given an endpoint with a plain header and a token, whose server echoes what it got
    headers = '{ authorization = "env:VERIFY_TOKEN", x-partner = "7" }'
    url = faults.url("/echo")
    webhook = f'{{ url = "{url}", form = {{ e = "{{event}}" }}, headers = {headers} }}'
    rules = f"[client.acme]\n[affiliate.a]\nwebhook = {webhook}\n"
    publish(journal, settings.partitions, tmp_path / "t", rules, "test")
    promise(journal, url, recipient="affiliate:a", body=FORM)
    # and a postback that was promised to another host before, and one whose address holds a password
    elsewhere = url.replace("127.0.0.1", "localhost")
    promise(journal, elsewhere, recipient="affiliate:a", start=2, body=FORM)
    promise(journal, url.replace("//", "//me:hunter2@").replace("/echo", "/500"), recipient="affiliate:b", start=3)
    # when they are delivered
    both = msgspec.structs.replace(settings, allow_addresses="127.0.0.1/32,::1/128")
    deliver_until(both, lambda: len(attempts_of(journal)) >= 3, "three tries")
    # then the token went to its own host only
    mine, *others = sorted(faults.requests, key=lambda request: request.headers["webhook-id"])
    assert (mine.headers["authorization"], mine.headers["x-partner"]) == ("Bearer t0ken-x", "7")
    assert all("t0ken" not in str(request.headers) for request in others)
    # and no record and no line of the log holds it, nor the password
    kept = str(attempts_of(journal)) + caplog.text
    assert "t0ken" not in kept and "hunter2" not in kept
    first = next(a for a in attempts_of(journal) if a.postback_id == "pb1")
    assert first.headers["authorization"] == "(masked)" and "authorization: (masked)" in first.answer
