"""`backtrack erase`: everything that leads to one person goes, in the live state and in the tables."""

from __future__ import annotations

import secrets
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
import redis
from deltalake.exceptions import CommitFailedError

from service import keys
from service.archive import erasure, tables
from service.archive.actor import LEASE_MS
from service.archive.erasure import NUMBER, Person, Traces
from service.archive.writer import STREAMS, Archiver, GapError
from service.cli import InputError, one_line_errors, settings_of
from service.engine.model import IDENTIFIERS
from service.engine.partition import partition_of
from service.keys import Partition
from service.servers import check_journal
from service.settings import Settings
from service.tracking.forgetting import Forgotten, forget, forget_promises, living

WAIT_S = 60.0  # for tracking, for calls that are under way, for a merge
LOOK_EVERY_S = 0.1
ARCHIVE_TRIES = 20


@click.command("erase")
@click.option("--client", required=True, help="Whose visitor; one person may be a visitor of several clients.")
@click.option("--uid", help="The client's own id of the person.")
@click.option("--tag-id", help="The id that the page's tag has given.")
@click.option("--click-id", help="The id of one click.")
@click.option("--visitor", help="The visitor's id, as in the table decisions.")
@click.option("--yes", is_flag=True, help="Do it. Without it, only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@one_line_errors
def erase_command(client: str, yes: bool, as_json: bool, **identifiers: str | None) -> None:
    """Erase one person: requests, identifiers, parameters, addresses and bodies. Rows, numbers and money stay.

    Cannot be undone. Exit status 1 if nobody was found.
    """
    settings = settings_of()
    given = [(kind, value) for kind, value in identifiers.items() if value]
    if len(given) != 1:
        raise InputError("name the person by one of --uid, --tag-id, --click-id and --visitor")
    connection = check_journal(settings.journal_url, settings.partitions)
    names = _names(connection, client)
    person = Person(client, *given[0], partition_of(client, settings.partitions), names)
    work = Erasure(settings, connection, person)
    document = work.erase() if yes else work.preview()
    found = any(document["rows"].values()) or document["visitors"] > 0
    if as_json:
        click.echo(msgspec.json.encode(document).decode())
    else:
        _say(document, f"{person.kind} {person.value} of {client}", yes, found)
    sys.exit(0 if found else 1)


def _names(connection: redis.Redis, client: str) -> tuple[str, ...]:
    """Under which names the client's hits bring identifiers, by all rulebooks that were ever published."""
    texts: Any = connection.hvals(keys.RULEBOOKS)
    known = [tomllib.loads(text.decode()).get("client", {}) for text in texts]
    if not any(client in clients for clients in known):
        listed = ", ".join(sorted({name for clients in known for name in clients})) or "none"
        raise InputError(f"--client {client!r}: no rulebook has this client; known are {listed}")
    aliases = [clients.get(client, {}).get("aliases", {}) for clients in known]
    return (*IDENTIFIERS, *sorted({name for found in aliases for name, meant in found.items() if meant in IDENTIFIERS}))


class Erasure:
    """The erasure of one person, step by step. Where it is broken off, the same command goes on."""

    def __init__(self, settings: Settings, connection: redis.Redis, person: Person) -> None:
        self._settings = settings
        self._root = settings.tables_path
        self._redis = connection
        self._person = person
        self._place = Partition(person.partition)
        self._archiver = Archiver(connection, self._root, settings.partitions, settings.archive_rows)

    def preview(self) -> dict[str, Any]:
        """What would go, of what is archived now."""
        traces = erasure.find(self._root, self._person)
        alive = living(
            self._redis, self._place, self._person.client, self._person.kind, self._person.value, traces.visitors
        )
        return _document(False, {name: traces.count(name) for name in NUMBER}, len(alive), 0, 0)

    def erase(self) -> dict[str, Any]:
        """Let it go: first the live state, so that nothing new comes of it, then what is in the tables."""
        self._until(self._all_decided)
        before = erasure.find(self._root, self._person)
        gone = self._forget(before)
        self._archive()
        traces = erasure.find(self._root, self._person, gone.seq)
        unsent = forget_promises(self._redis, self._place, sorted(traces.postbacks), sorted(traces.txids))
        self._until(lambda: not self._under_way(traces))
        self._archive()  # with the tries that were under way
        with tables.claim(self._root, WAIT_S) as mine:
            if not mine:
                raise InputError(
                    f"somebody else has been merging or erasing in {self._root} for {WAIT_S:.0f} s; try again"
                )
            traces = erasure.find(self._root, self._person, gone.seq)
            rows = erasure.blank(self._root, self._person.partition, traces, self._quiet)
        self._clean()
        return _document(True, rows, gone.visitors, gone.identifiers, unsent)

    def _forget(self, traces: Traces) -> Forgotten:
        person = self._person
        return forget(self._redis, self._place, person.client, person.kind, person.value, traces.visitors)

    def _archive(self) -> None:
        """Bring what is in the streams into the tables; beside the archive at work, so what looks wrong is asked again."""
        for tries_left in reversed(range(ARCHIVE_TRIES)):
            try:
                self._archiver.round()
                return
            except (GapError, CommitFailedError) as error:
                if not tries_left:
                    raise InputError(f"the archive stands still, nothing was erased from the tables: {error}") from None
                time.sleep(LOOK_EVERY_S)

    def _all_decided(self) -> bool:
        seq: Any = self._redis.hget(self._place.head, "seq")
        tracked: Any = self._redis.hget(self._place.tracked, "seq")
        return int(tracked or 0) >= int(seq or 0)

    def _under_way(self, traces: Traces) -> bool:
        ids = sorted(traces.postbacks)
        held: Any = self._redis.hmget(self._place.inflight, ids) if ids else []
        return any(held)

    def _until(self, condition: Any) -> None:
        """Wait, but not for ever: what comes later is found by the next erasure."""
        deadline = time.monotonic() + WAIT_S
        while not condition() and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep the archive away for one commit, which an append would make fail; then it goes on, within a second."""
        token = f"erasure-{secrets.token_hex(4)}"
        self._redis.set(keys.ARCHIVE_LEASE, token, px=4 * LEASE_MS)
        try:
            yield
        finally:
            held: Any = self._redis.get(keys.ARCHIVE_LEASE)
            if held is not None and held.decode() == token:
                self._redis.delete(keys.ARCHIVE_LEASE)

    def _clean(self) -> None:
        """What Redis keeps of archived entries in its streams, and in its append-only file."""
        archived: Any = self._redis.hgetall(keys.ARCHIVED)
        tracked: Any = self._redis.hget(self._place.tracked, "seq")
        for stream in STREAMS:
            reached = int(archived.get(f"{stream.table}/{self._place.number}".encode(), 0))
            last = min(reached, int(tracked or 0)) if stream.table == "hits" else reached
            self._drop(stream.key(self._place), last)
        try:
            self._redis.bgrewriteaof()
        except redis.ResponseError:
            pass  # one is under way already

    def _drop(self, key: str, last: int) -> None:
        """All entries up to a number, exactly; the archive itself leaves up to a hundred."""
        items: Any = self._redis.xrange(key, count=1_000)
        while items:
            old = [item_id for item_id, _ in items if int(item_id.partition(b"-")[2]) <= last]
            if old:
                self._redis.xdel(key, *old)
            items = self._redis.xrange(key, count=1_000) if len(old) == len(items) else []


def _document(done: bool, rows: dict[str, int], visitors: int, identifiers: int, unsent: int) -> dict[str, Any]:
    return {
        "erased": done, "rows": {name: rows.get(name, 0) for name in NUMBER}, "visitors": visitors,
        "identifiers": identifiers, "postbacks_not_sent": unsent,
    }  # fmt: skip


def _say(document: dict[str, Any], who: str, yes: bool, found: bool) -> None:
    if not found:
        click.echo(f"{who}: nobody is known by that, nothing was erased")
        return
    rows = ", ".join(f"{count:,} {name}" for name, count in document["rows"].items())
    if not yes:
        click.echo(f"{who}: {rows} would be blanked, {document['visitors']} visitors forgotten")
        click.echo("nothing was erased; it cannot be undone. Add --yes to do it")
        return
    click.echo(f"{who}: {rows} blanked; their rows, numbers and money stay")
    click.echo(
        f"{document['visitors']} visitors and {document['identifiers']} identifiers forgotten, "
        f"{document['postbacks_not_sent']} postbacks will not be sent"
    )
