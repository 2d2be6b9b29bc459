"""`backtrack demo`: the whole road at once, and what was sent is equal to what was received, also when a process dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.demo import FAIL
from service.partner import unlucky

HITS = 1500
Document = dict[str, Any]
COMMAND = [sys.executable, "-m", "service.cli"]


class Past:
    """What a run of the demo printed, and what it left behind."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.var = folder / "var"
        arguments = [
            "demo",
            "--hits",
            str(HITS),
            "--seed",
            "7",
            "--json",
            "--exit",
            "--port",
            "0",
            "--partner-port",
            "0",
        ]
        command = [*COMMAND, *arguments, "--var", str(self.var), *options]
        self.done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        self.document: Document = json.loads(self.done.stdout)

    def replay(self) -> Document:
        """The past decided again by the rulebook of the run."""
        command = [*COMMAND, "replay", str(self.var / "tables"), "--rules", str(self.var / "rules.toml"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        document: Document = json.loads(done.stdout)
        return document

    def received(self) -> list[Document]:
        """The postbacks in the partner's own record."""
        lines = (self.var / "partner.jsonl").read_text(encoding="utf-8").splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == "postback"]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return Past(tmp_path_factory.mktemp("demo"))


def check_equalities(past: Past) -> None:
    """Every promise of the demo, from its document and from the partner's record."""
    found = past.document
    # every request was answered with an id, and every id that was answered is in the log, in a sequence without gaps
    assert found["hits_sent"] == found["hits_acknowledged"] == HITS
    assert found["acknowledged_not_logged"] == found["sequence_gaps"] == found["engine_errors"] == 0
    assert found["events_accepted"] + found["hits_rejected"] == found["hits_logged"] >= HITS
    # every postback that was due was delivered, received and is equal to what the replay says
    assert found["postbacks"] == found["delivered"] == found["verified_equal"] > 0 and found["differences"] == 0
    assert found["firings"] > 0 and found["received"] == found["postbacks"] and found["attempts"] >= found["delivered"]
    ids = {line["headers"]["webhook-id"] for line in past.received() if line["status"] == 200}
    assert len(ids) == found["postbacks"]
    # the replay decided as the live run
    assert found["digest"] == found["stored_digest"]
    assert found["ok"] is True


def test_the_demo_prints_one_document_in_which_everything_is_equal(past: Past) -> None:
    # given a run of the demo: its progress goes to standard error, its document alone to standard output
    assert past.done.stdout.count("\n") == 1 and "Traceback" not in past.done.stderr
    # then nothing was lost, doubled or different, and nothing had to be restarted
    check_equalities(past)
    assert past.document["hits_logged"] == HITS and past.document["restarts"] == 0
    # and the traffic has something of everything: duplicates, rejected hits, tests
    assert past.document["duplicates"] > 0 and past.document["hits_rejected"] > past.document["duplicates"]
    assert past.document["recorded"] + past.document["withheld"] > 0
    assert past.document["seconds"] < 60


def test_what_the_partner_refused_once_was_tried_again(past: Past) -> None:
    # given the postbacks that the partner refuses at first: their ids, which are new in every run, decide how many
    lines = past.received()
    refused = {line["headers"]["webhook-id"] for line in lines if line["status"] == 500}
    assert refused == {identity for line in lines if unlucky(identity := line["headers"]["webhook-id"], FAIL)}
    # then each of them was tried again, and the tries are counted
    assert refused <= {line["headers"]["webhook-id"] for line in lines if line["status"] == 200}
    assert past.document["attempts"] >= past.document["delivered"] + len(refused)


def test_the_replay_of_its_tables_has_the_same_digest_every_time(past: Past) -> None:
    # when the past is decided again, twice
    first, second = past.replay(), past.replay()
    # then both say what the service stored
    assert first["digest"] == second["digest"] == first["stored_digest"] == past.document["digest"]
    assert first["hits"] == past.document["hits_logged"] and first["equal"] is True


def test_the_tables_are_verified_again_from_the_command_line(past: Past) -> None:
    command = [*COMMAND, "verify", str(past.var / "tables"), "--received", str(past.var / "partner.jsonl"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["ok"] is True
    assert document["verified_equal"] == past.document["verified_equal"]


def test_with_the_worker_killed_half_way_everything_is_equal_all_the_same(tmp_path: Path) -> None:
    # given a run whose worker is killed without warning
    killed = Past(tmp_path, "--kill", "worker")
    # then another one went on, and all promises were kept
    check_equalities(killed)
    assert killed.document["restarts"] == 1 and killed.document["hits_logged"] == HITS
    assert killed.replay()["digest"] == killed.document["stored_digest"]


def test_without_json_a_person_reads_tables_and_the_verdict(tmp_path: Path) -> None:
    # when a small demo is run for a person
    command = [
        *COMMAND,
        "demo",
        "--hits",
        "100",
        "--exit",
        "--port",
        "0",
        "--partner-port",
        "0",
        "--var",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    # then hits, funnel, triggers, postbacks, replay and the verdict are shown
    assert done.returncode == 0
    shown = (
        "100 sent, 100 answered with an id",
        "Funnel",
        "click",
        "Triggers",
        "Postbacks",
        "decided exactly as",
        "All well",
    )
    assert [words for words in shown if words not in done.stdout] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--hits", "0"], "--hits"), (["--port", "70000"], "70000"), (["--kill", "journal"], "'worker', 'web'")],
)
def test_options_that_make_no_sense_are_status_2(options: list[str], words: str) -> None:
    done = subprocess.run([*COMMAND, "demo", *options], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "") and words in done.stderr
