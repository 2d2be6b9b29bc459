"""compose.yaml: the very command of each service runs with its very environment, and a hit goes through all of them.

Docker is not needed: each command becomes a process of this machine. Names of services become loopback, ports become free
ones, volumes become folders, and the server's program becomes the embedded one. Nothing else is changed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml  # type: ignore[import-untyped]

import lab
from service.partner import PAGES
from service.servers import client, free_port, server_binary
from service.settings import from_environment
from tests.waiting import until

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
PORTS = {"journal": 6379, "broker": 6379, "web": 8700, "partner": 8701, "lab": 8888}


class Machine:
    """The services as processes: their files below one folder, which stands for /app in every container."""

    def __init__(self, folder: Path) -> None:
        self.app = folder / "app"
        (self.app / "var").mkdir(parents=True)
        for name in ("datasets", "notebooks"):
            (self.app / name).symlink_to(ROOT / name)
        self.ports = {name: free_port() for name in PORTS}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, service: str, text: str) -> str:
        """A word of a command or a variable as it has to be on this machine."""
        for name, port in PORTS.items():
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{self.ports[name]}")
        if service in PORTS:
            text = re.sub(rf"(^|(?<=127\.0\.0\.1:)){PORTS[service]}\b", str(self.ports[service]), text)
        address = SERVICES["partner"]["networks"]["default"]["ipv4_address"]
        text = text.replace("0.0.0.0", "127.0.0.1").replace(address, "127.0.0.1")
        return text.replace("/app", str(self.app))

    def environment(self, service: str) -> dict[str, str]:
        """What is set in the container, and where this machine finds its programs."""
        given = {
            name: self.here(service, str(value)) for name, value in SERVICES[service].get("environment", {}).items()
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.app.parent), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **given}

    def start(self, service: str, words: list[str] | None = None, log: str = "") -> subprocess.Popen[bytes]:
        """Start a service, or another command in its place. log: name of the file for what it says."""
        command = [self.here(service, word) for word in words or SERVICES[service]["command"]]
        folder = self.app
        if command[0] == "valkey-server":
            command[0], folder = server_binary(), self.app.parent / service  # the volume, or the container's own folder
            folder.mkdir(exist_ok=True)
        with (self.app.parent / f"{log or service}.log").open("ab") as out:
            return subprocess.Popen(command, cwd=folder, env=self.environment(service), stdout=out, stderr=out)

    def up(self, *services: str) -> None:
        """Start services that stay."""
        for service in services:
            self.processes[service] = self.start(service)

    def wait_healthy(self, *services: str) -> None:
        """Wait until the services' own health checks are content."""
        for service in services:
            until(lambda name=service: self.healthy(name), f"the health of {service}", 60)  # type: ignore[misc]

    def healthy(self, service: str) -> bool:
        """The health check of the service, run as it stands there."""
        assert self.processes[service].poll() is None, self.log(service)
        check = SERVICES[service].get("healthcheck", {"test": ["CMD", "true"]})["test"]
        if check[0] == "CMD-SHELL":
            assert check[1] == "valkey-cli ping | grep -q PONG"  # the embedded server comes without that program
            try:
                return bool(client(f"redis://127.0.0.1:{self.ports[service]}/0").ping())
            except redis.RedisError:
                return False
        return self.start(service, check[1:], log=f"{service}-health").wait(20) == 0

    def log(self, service: str) -> str:
        path = self.app.parent / f"{service}.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def down(self, service: str) -> int:
        """End a service as Docker does; its exit status."""
        process = self.processes.pop(service)
        process.send_signal(signal.SIGTERM)
        return process.wait(30)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Everything up in the order in which the services depend on each other, the rulebook published."""
    machine = Machine(tmp_path_factory.mktemp("compose"))
    try:
        machine.up("journal", "broker", "partner", "lab")
        machine.wait_healthy("journal", "broker")
        assert machine.start("publish").wait(60) == 0, machine.log("publish")
        machine.up("web", "worker")
        machine.wait_healthy("web", "partner")
        yield machine
    finally:
        for process in machine.processes.values():
            process.kill()
            process.wait()


def test_a_hit_goes_through_every_service(machine: Machine) -> None:
    # when a sale comes to the intake
    base = f"http://127.0.0.1:{machine.ports['web']}"
    query = {"client": "cozy", "event": "sale", "uid": "me", "amount": "150", "affiliate": "dealwise"}
    answer = httpx.get(f"{base}/e", params=query, trust_env=False)
    # then it is answered with an id
    assert answer.status_code == 200, answer.text
    identity = answer.headers["x-hit-id"]
    # and its two postbacks arrive at the partner, under the name that it has among the services
    record = machine.app / "var" / "partner.jsonl"
    until(lambda: record.exists() and record.read_text().count('"kind":"postback"') == 2, "both postbacks", 30)
    text = record.read_text()
    assert (
        f'"host":"127.0.0.1:{machine.ports["partner"]}"' in text and "/cozy/events" in text and "/dealwise/in" in text
    )
    # and it is in the tables, which the lab reads
    tables = machine.app / "var" / "tables"
    until(lambda: (tables / "decisions" / "_delta_log").is_dir(), "the tables", 30)
    until(lambda: identity in lab.open(tables).hits.collect()["hit_id"].to_list(), "the hit in the tables", 30)
    until(lambda: lab.open(tables).attempts.collect().height == 2, "the attempts in the tables", 30)
    assert lab.open(tables).verify(received=record).ok


def test_a_tracker_link_leads_to_where_a_browser_on_this_machine_finds_the_partner(machine: Machine) -> None:
    link = f"http://127.0.0.1:{machine.ports['web']}/c/acme/bestodds?sub1=hello"
    answer = httpx.get(link, follow_redirects=False, trust_env=False)
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("http://127.0.0.1:8701/welcome?") and "/welcome" in PAGES
    assert SERVICES["partner"]["ports"] == ["127.0.0.1:8701:8701"]


def test_publishing_again_leaves_the_rulebook_that_is_in_force(machine: Machine) -> None:
    # given another rulebook that somebody has published since
    other = machine.app / "var" / "mine.toml"
    other.write_text('[client.mine]\nwebhook = "http://partner:8701/mine"\n')
    assert machine.start("publish", ["backtrack", "rules", "publish", "var/mine.toml"]).wait(60) == 0
    # when everything is started another time
    assert machine.start("publish").wait(60) == 0
    # then it stays
    assert "is in force and stays" in machine.log("publish")


def test_the_lab_answers(machine: Machine) -> None:
    machine.wait_healthy("lab")
    home = httpx.get(f"http://127.0.0.1:{machine.ports['lab']}/lab", trust_env=False, follow_redirects=False)
    assert home.status_code == 302 and "/login" in home.headers["location"]  # nobody gets in without the token
    assert f"http://127.0.0.1:{machine.ports['lab']}/lab?token=" in machine.log("lab")
    assert machine.down("lab") == 0


def test_the_services_end_cleanly_when_they_are_told_to(machine: Machine) -> None:
    # when everything is ended, those that take work first
    statuses = {service: machine.down(service) for service in ("web", "worker", "partner", "broker", "journal")}
    # then each ends by itself and in peace
    assert statuses == dict.fromkeys(statuses, 0)
    assert "Traceback" not in machine.log("web") + machine.log("worker") + machine.log("partner")


def test_the_services_are_those_of_the_road() -> None:
    assert set(SERVICES) == {"journal", "broker", "publish", "web", "worker", "partner", "lab"}
    assert {name: service["restart"] for name, service in SERVICES.items()} == {
        name: "no" if name == "publish" else "unless-stopped" for name in SERVICES
    }
    served = set(SERVICES) - {"worker", "publish"}
    assert all("healthcheck" in SERVICES[name] for name in served)


def test_the_journal_keeps_what_it_acknowledges_and_the_broker_nothing() -> None:
    journal, broker = (SERVICES[name]["command"] for name in ("journal", "broker"))
    pairs = {tuple(journal[i : i + 2]) for i in range(1, len(journal), 2)}
    assert {("--appendonly", "yes"), ("--appendfsync", "always"), ("--maxmemory-policy", "noeviction")} <= pairs
    assert "always" not in broker and "volumes" not in SERVICES["broker"]
    assert SERVICES["journal"]["volumes"] == ["journal:/data"] and "ports" not in SERVICES["journal"]


def test_every_variable_is_a_setting_and_every_order_of_start_is_there() -> None:
    for name in OURS:
        variables = {key: str(value) for key, value in SERVICES[name].get("environment", {}).items()}
        from_environment(variables)
    for name in ("web", "worker", "publish"):
        assert SERVICES[name]["depends_on"]["journal"] == {"condition": "service_healthy"}
    assert SERVICES["web"]["depends_on"]["publish"] == {"condition": "service_completed_successfully"}


def test_only_this_machine_can_reach_the_services() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


def test_postbacks_may_go_to_the_partner_and_to_nobody_else_inside() -> None:
    allowed = SERVICES["worker"]["environment"]["BACKTRACK_ALLOW_ADDRESSES"]
    assert allowed == SERVICES["partner"]["networks"]["default"]["ipv4_address"] + "/32"
    subnet = COMPOSE["networks"]["default"]["ipam"]["config"][0]["subnet"]
    assert allowed.rpartition(".")[0] == subnet.rpartition(".")[0]


def test_the_lab_can_write_no_table() -> None:
    assert [volume for volume in SERVICES["lab"]["volumes"] if volume.startswith("var:")] == ["var:/app/var:ro"]


def test_the_image_is_made_of_hashed_files_and_runs_as_nobody_special() -> None:
    # given the Dockerfile, line by line
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    runs = [line for line in lines if line.startswith("RUN ")]
    # then what is fetched is checked, what is installed was fetched, and the last user is not root
    assert [line for line in runs if "--require-hashes" in line] == [line for line in runs if "pip download" in line]
    assert all("--no-index" in line for line in runs if "pip install" in line)
    assert [line for line in lines if line.startswith("USER ")] == ["USER backtrack"]
    assert all("python:3.11-slim" in line for line in lines if line.startswith("FROM "))
    # and every extra that compose.yaml asks for exists
    asked = {SERVICES[name]["build"]["args"]["EXTRAS"] for name in OURS} - {""}
    assert asked == {"lab"} and "\nlab = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_build_gets_what_the_dockerfile_copies_and_nothing_else() -> None:
    # given what is copied out of the checkout, and what .dockerignore lets through
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copies = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    copied = {word for words in copies for word in words[:-1] if not word.startswith("--")}
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    # then the two are the same, and all of it exists
    assert {line[1:] for line in ignore if line.startswith("!")} == copied and "*" in ignore
    assert all((ROOT / name).exists() for name in copied)
