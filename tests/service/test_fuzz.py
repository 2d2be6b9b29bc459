"""Broken requests by the ten thousands, a million in a soak: no 5xx, and log and answers agree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.engine import load
from service.servers import free_port
from tests.service.conftest import Servers
from tests.service.fuzz import RULES, Fuzz
from tests.service.fuzz_requests import Requests
from tests.service.webprocess import Web, web_process
from tests.waiting import until

COUNT, SOAK_COUNT = 20_000, 1_000_000
SEED = 20_261_123


@pytest.fixture(scope="module")
def web(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FUZZ_SIG", "a key that nobody guesses")
        folder = tmp_path_factory.mktemp("fuzz")
        changes = {"trusted_proxies": "127.0.0.0/8", "journal_timeout_ms": 20_000}
        with web_process(folder, servers.broker_url, free_port(), RULES, **changes) as running:
            yield running


def test_a_seed_makes_the_same_requests() -> None:
    first, second = ([Requests(seed).plain().data for seed in range(50)] for _ in range(2))
    assert first == second and len(set(first)) > 40


def test_no_request_is_answered_5xx_and_every_id_is_in_the_log(web: Web, request: pytest.FixtureRequest) -> None:
    # given a generator of broken requests
    count = SOAK_COUNT if request.config.getoption("--soak") else COUNT
    with web.connect() as connection:
        place = web.settings.host, web.settings.port
        fuzz = Fuzz(place, connection, web.settings.partitions, load(RULES), SEED)
        # when they are sent
        fuzz.run(count)

        # then what was answered with an id is in the log, once, and decided as it was told; and nothing else is
        def all_settled() -> bool:
            fuzz.compare()
            return fuzz.unlogged == 0

        until(all_settled, "the log")
    print(
        f"\n{fuzz.requests:,} requests, answers by status {dict(sorted(fuzz.statuses.items()))}; {fuzz.ids:,} ids = "
        f"{fuzz.accepted:,} accepted + {fuzz.rejected:,} rejected; {fuzz.left:,} whose sender went away\n{fuzz.reasons}"
    )
    assert fuzz.accepted + fuzz.rejected == fuzz.ids and max(fuzz.statuses) < 500
    # and the generator has found every way to be refused
    assert fuzz.reasons.keys() >= {
        "", "unknown_client", "bad_method", "batch_too_long", "bad_signature", "missing_signature", "address_not_allowed",
        "prefetch", "bot", "do_not_track", "not_utf8", "invalid_body", "query_too_long", "body_too_long",
        "too_many_parameters", "name_too_long", "value_too_long", "bad_path", "event_not_allowed", "invalid_event",
        "invalid_amount",
    }  # fmt: skip
    assert fuzz.left > 0 and web.client.get("/healthz").status_code == 200
