"""`backtrack postback`: resend, test, paused, reopen, preview."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from click.testing import CliRunner, Result

from service import keys
from service.archive.schemas import Attempt
from service.archive.writer import Archiver
from service.cli import main
from service.delivery.resend import Resender, Wanted
from service.rulebooks import publish
from service.servers import check_journal
from service.settings import Settings
from tests.service.faults import Faults
from tests.service.mailserver import AUTHORITY, MailServer
from tests.service.test_courier import deliver_until
from tests.service.test_due import PLACE, attempts_of, leftovers, promise, take

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "datasets" / "tables"


@pytest.fixture
def faults() -> Iterator[Faults]:
    with Faults() as server:
        yield server


def run(settings: Settings, *arguments: str, **more: str) -> Result:
    """The command in this process, with the settings in its environment."""
    return CliRunner().invoke(main, ["postback", *arguments], env=settings.environment() | more)


def resend(settings: Settings, journal: redis.Redis, **wanted: Any) -> dict[str, int]:
    resender = Resender(journal, settings.partitions, settings.tables_path)
    return dict(resender.resend(resender.find(Wanted(**wanted))))


def arrived(faults: Faults, path: str) -> list[str]:
    return [request.headers["webhook-id"] for request in faults.received(path)]


def test_one_that_was_delivered_and_archived_is_sent_again_under_its_id(
    settings: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given a postback that was delivered, and of which only the tables know any more
    promise(journal, faults.url("/in"))
    deliver_until(settings, lambda: leftovers(journal) == [0, 0, 0, 0], "the delivery")
    Archiver(journal, settings.tables_path, settings.partitions, 1_000).round()
    journal.delete(PLACE.postbacks)
    # when it is resent, twice
    for turn in (2, 3):
        assert resend(settings, journal, ids=frozenset({"pb1"})) == {"resent": 1}
        deliver_until(settings, lambda: leftovers(journal) == [0, 0, 0, 0], "the resend")
        assert arrived(faults, "/in") == ["pb1"] * turn
    # then its tries are numbered on
    kept: Any = journal.xrange(PLACE.attempts)
    assert [msgspec.msgpack.decode(fields[b"a"], type=Attempt).number for _, fields in kept][-2:] == [2, 3]
    assert not journal.exists(PLACE.bases)


def test_everything_dead_is_sent_again_with_a_ladder_of_its_own(
    settings: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given one that was refused and one that used up its ladder
    promise(journal, faults.url("/404"), faults.url("/500"))
    journal.hset(PLACE.tries, "pb2", "9")
    deliver_until(settings, lambda: journal.zcard(PLACE.dead) == 2, "both to be given up")
    # when everything dead is resent, and tried once more
    assert resend(settings, journal, dead=True) == {"resent": 2}
    assert journal.zcard(PLACE.dead) == 0 and journal.hlen(PLACE.ended) == 0
    deliver_until(settings, lambda: len(attempts_of(journal)) == 4, "both tries")
    # then the second is on the first rung of a new ladder, and no number is there twice
    last = {a.postback_id: (a.number, a.state) for a in attempts_of(journal)}
    assert last == {"pb1": (2, "failed"), "pb2": (11, "due")}
    assert resend(settings, journal, dead=True) == {"resent": 1}


def test_a_filter_finds_what_was_promised_whatever_became_of_it(
    settings: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given postbacks to two recipients, delivered, some in the tables and some not yet there
    promise(journal, *([faults.url("/in")] * 3), recipient="affiliate:a")
    deliver_until(settings, lambda: leftovers(journal) == [0, 0, 0, 0], "three")
    Archiver(journal, settings.tables_path, settings.partitions, 1_000).round()
    later_us = time.time_ns() // 1000
    promise(journal, *([faults.url("/in")] * 2), recipient="affiliate:a", start=10, time_us=later_us)
    promise(journal, faults.url("/in"), recipient="affiliate:b", start=20, time_us=later_us)
    deliver_until(settings, lambda: leftovers(journal) == [0, 0, 0, 0], "the others")
    # then each part of a filter counts
    resender = Resender(journal, settings.partitions, settings.tables_path)

    def found(**wanted: Any) -> list[str]:
        return [one.id for _, one in resender.find(Wanted(**wanted))]

    assert sorted(found(recipient="affiliate:a")) == ["pb1", "pb10", "pb11", "pb2", "pb3"]
    assert sorted(found(recipient="affiliate:a", since_us=later_us)) == ["pb10", "pb11"]
    assert sorted(found(trigger="signup", until_us=later_us)) == ["pb1", "pb2", "pb3"]
    assert found(trigger="other") == found(dead=True) == []
    # and all of one recipient arrive once more
    assert resend(settings, journal, recipient="affiliate:a") == {"resent": 5}
    deliver_until(settings, lambda: leftovers(journal) == [0, 0, 0, 0], "the resend")
    assert sorted(arrived(faults, "/in")) == sorted(["pb1", "pb2", "pb3", "pb10", "pb11"] * 2 + ["pb20"])


def test_what_is_due_under_way_or_waiting_is_not_doubled(settings: Settings, journal: redis.Redis) -> None:
    # given one that is due tomorrow, one that somebody delivers at this moment, and one in a room
    promise(journal, "http://x.example/1", "http://x.example/2", "http://x.example/3")
    take(settings, 1_600_000_000_000_000)
    journal.hdel(PLACE.inflight, "pb1", "pb3")
    journal.zadd(PLACE.due, {"pb1": time.time_ns() // 1000 + 86_400_000_000})
    journal.zrem(PLACE.due, "pb3")
    journal.zadd(keys.room("affiliate:bestodds"), {f"{PLACE.number}/pb3": 1})
    # when all are resent
    said = resend(settings, journal, recipient="affiliate:bestodds")
    # then the first goes out now, and the others go on
    assert said == {"due": 1, "under_way": 1, "waiting": 1}
    due_us: Any = journal.zscore(PLACE.due, "pb1")
    assert due_us <= time.time_ns() // 1000 and not journal.exists(PLACE.bases)


def test_the_command_says_what_it_did_and_what_it_does_not_know(
    settings: Settings, journal: redis.Redis, faults: Faults
) -> None:
    # given one that was given up
    check_journal(settings.journal_url, settings.partitions).close()
    promise(journal, faults.url("/404"))
    deliver_until(settings, lambda: journal.zcard(PLACE.dead) == 1, "the end")
    # when the command is used in its forms
    dry = run(settings, "resend", "--dead", "--dry-run")
    done = run(settings, "resend", "--dead", "--json")
    unknown = run(settings, "resend", "nobody")
    nothing, bad = run(settings, "resend"), run(settings, "resend", "--since", "soon")
    # then each says what it is in one line, with its status
    assert (dry.exit_code, dry.stdout) == (0, "1 found\n")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"found": 1, "unknown": [], "resent": 1})
    assert unknown.exit_code == 1 and unknown.stderr.startswith("nobody is no postback")
    assert nothing.exit_code == 2 and "which ones?" in nothing.stderr
    assert bad.exit_code == 2 and "--since 'soon' is no time" in bad.stderr


def test_a_resend_to_nobody_says_that_there_is_no_such_recipient(
    settings: Settings, journal: redis.Redis, tmp_path: Path
) -> None:
    # given a recipient of the rulebook in force who has nothing yet, and one whom only a postback still names
    check_journal(settings.journal_url, settings.partitions).close()
    publish(journal, settings.partitions, tmp_path / "t", "[client.acme]\n[affiliate.best]\n", "test")
    promise(journal, "http://x.example/1", recipient="affiliate:gone")
    # when all of each, of a slip and of nobody are asked for
    best, gone, late, slip = (
        run(settings, "resend", "--dry-run", "--since", since, "--recipient", f"affiliate:{name}")
        for name, since in (
            ("best", "1999-01-01"),
            ("gone", "1999-01-01"),
            ("gone", "2999-01-01"),
            ("bst", "1999-01-01"),
        )
    )
    # then only the last is told to be none, with the name that may have been meant
    assert [(said.exit_code, said.stdout) for said in (best, gone, late)] == [
        (0, "0 found\n"), (0, "1 found\n"), (0, "0 found\n")]  # fmt: skip
    assert (slip.exit_code, slip.stdout) == (2, "") and len(slip.stderr.splitlines()) == 1
    assert "no recipient 'affiliate:bst'" in slip.stderr and "did you mean 'affiliate:best'?" in slip.stderr


def test_a_test_goes_to_the_named_endpoint_and_is_counted_nowhere(
    settings: Settings, journal: redis.Redis, faults: Faults, tmp_path: Path
) -> None:
    # given a recipient with a form and a secret, and one with an endpoint for tests
    check_journal(settings.journal_url, settings.partitions).close()
    form = f'{{ url = "{faults.url("/form")}", form = {{ id = "{{postback_id}}", c = "{{sub1}}" }} }}'
    rules = f"""
[client.acme]
params = ["sub1"]
webhook = "{faults.url("/live")}"
test_webhook = "{faults.url("/staging")}"
[affiliate.best]
secret = "env:PB_SECRET"
webhook = {form}
[affiliate.quiet]
"""
    publish(journal, settings.partitions, tmp_path / "t", rules, "test")
    before = journal.dbsize()
    # when one is sent to each
    secret = {"PB_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    best, acme = run(settings, "test", "affiliate:best", "--json", **secret), run(settings, "test", "client:acme")
    quiet, nobody = run(settings, "test", "affiliate:quiet"), run(settings, "test", "affiliate:bst")
    # then both arrived, marked as tests, signed where there is a secret; tests go to the endpoint for tests
    [formed], [staged] = faults.received("/form"), faults.received("/staging")
    assert best.exit_code == acme.exit_code == 0, best.stderr + acme.stderr
    identity = json.loads(best.stdout)["id"]
    assert formed.body == f"id={identity}&c=test-sub1".encode() and "webhook-signature" in formed.headers
    assert formed.headers["webhook-test"] == staged.headers["webhook-test"] == "1" and identity.startswith("test-")
    assert json.loads(staged.body)["test"] == "1" and not faults.received("/live")
    # and nothing was written anywhere; who cannot be called is named
    assert journal.dbsize() == before
    assert quiet.exit_code == 2 and "affiliate:quiet has no webhook" in quiet.stderr
    assert nobody.exit_code == 2 and "did you mean 'affiliate:best'?" in nobody.stderr


def test_a_test_of_a_mail_arrives_marked_and_what_a_browser_delivers_is_explained(
    settings: Settings, journal: redis.Redis, faults: Faults, tmp_path: Path
) -> None:
    # given recipients with a mail, with both, and one who is served by browsers, and a mail server
    check_journal(settings.journal_url, settings.partitions).close()
    mail = 'email = {{ to = "{}@best.example", subject = "Sale {{sub1}}", text = "{{amount}} {{currency}}" }}'
    rules = f"""
[client.acme]
params = ["sub1"]
webhook = "{faults.url("/live")}"
[affiliate.best]
{mail.format("only")}
[affiliate.both]
webhook = "{faults.url("/both")}"
{mail.format("both")}
[affiliate.page]
pixel = "https://page.example/p.gif?s={{sub1}}"
[[trigger]]
name = "by-mail"
client = "acme"
on = "sale"
method = "email"
to = ["affiliate"]
"""
    publish(journal, settings.partitions, tmp_path / "t", rules, "test")
    before, authority = journal.dbsize(), tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))
    with MailServer() as server:
        # when one is sent to each, and to the one with both as the trigger does
        mailing, trusted = server.settings(settings), {"SSL_CERT_FILE": str(authority)}
        only, both = (run(mailing, "test", f"affiliate:{name}", **trusted) for name in ("best", "both"))
        triggered = run(mailing, "test", "affiliate:both", "--trigger", "by-mail", "--json", **trusted)
        page, unknown = (
            run(mailing, "test", "affiliate:page"),
            run(mailing, "test", "affiliate:both", "--trigger", "by-mial"),
        )
        # then two mails arrived, which say in their subject that they are tests
        assert (only.exit_code, both.exit_code, triggered.exit_code) == (0, 0, 0), only.stderr + triggered.stderr
        mails = [(to, message_from_bytes(raw)["Subject"]) for _, to, raw in server.handler.mails]
    assert mails == [(f"{name}@best.example", "[test] Sale test-sub1") for name in ("only", "both")]
    assert json.loads(triggered.stdout)["url"] == "mailto:both@best.example" and len(faults.received("/both")) == 1
    # and what the browser delivers, or what is not there, is said in one line; nothing was written anywhere
    assert page.exit_code == 2 and "which the visitor's browser delivers" in page.stderr
    assert "postback preview" in page.stderr and page.stderr.count("\n") == 1
    assert unknown.exit_code == 2 and "did you mean 'by-mail'?" in unknown.stderr
    assert journal.dbsize() == before


def test_who_is_paused_is_listed_and_can_be_reopened(settings: Settings, journal: redis.Redis, faults: Faults) -> None:
    # given a recipient that answered 410, with one that waits
    check_journal(settings.journal_url, settings.partitions).close()
    one = msgspec.structs.replace(settings, recipient_concurrency=1)
    promise(journal, faults.url("/410"), faults.url("/410"))
    deliver_until(one, lambda: journal.exists(keys.ROOMS) and journal.exists(keys.PAUSED), "the pause")
    # when it is listed and reopened
    listed, opened = run(settings, "paused", "--json"), run(settings, "reopen", "affiliate:bestodds")
    again, empty = run(settings, "reopen", "affiliate:bestodds"), run(settings, "paused")
    # then the list says why and how much waits, and what waited goes out
    [row] = json.loads(listed.stdout)
    assert (row["recipient"], row["waiting"], row["probes"]) == ("affiliate:bestodds", 1, 0) and "410" in row["reason"]
    assert opened.exit_code == 0 and again.exit_code == 2 and "is not paused" in again.stderr
    assert empty.stdout == "nobody is paused\n"
    deliver_until(one, lambda: len(faults.received("/410")) == 2, "the other one")


def test_a_preview_renders_a_logged_hit_by_the_logged_and_by_another_rulebook(
    settings: Settings, tmp_path: Path
) -> None:
    # given a hit of the sample tables that fired
    import lab

    row = lab.open(SAMPLE).postbacks.filter(state="due").head(1).collect().to_dicts()[0]
    other = tmp_path / "next.toml"
    text = (ROOT / "datasets" / "rules.toml").read_text(encoding="utf-8")
    other.write_text(text.replace("http://127.0.0.1:8701/", "https://next.example/"), encoding="utf-8")
    # when it is previewed
    logged = run(settings, "preview", row["hit_id"], str(SAMPLE), "--json")
    changed = run(settings, "preview", row["hit_id"], str(SAMPLE), "--rules", str(other))
    unknown = run(settings, "preview", "f" * 32, str(SAMPLE))
    # then the first is what was promised, the second what would be, and an unknown hit is one line
    found = {one["id"]: one for one in json.loads(logged.stdout)}
    assert found[row["postback_id"]]["url"] == row["url"] and found[row["postback_id"]]["body"] == row["body"]
    assert changed.exit_code == 0 and "https://next.example/" in changed.stdout
    assert unknown.exit_code == 2 and "there is no hit" in unknown.stderr
