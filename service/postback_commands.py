"""`backtrack postback`: send again, try an endpoint, see who is paused and reopen; preview is the lab's."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from typing import Any, ClassVar

import click
import msgspec
import redis

from service import keys
from service.cli import InputError, LateGroup, one_line_errors, settings_of
from service.delivery.email import Emails
from service.delivery.record import Answer, Method, Request
from service.delivery.resend import Resender, Wanted
from service.delivery.sample import method_of, sample
from service.delivery.webhook import Webhooks
from service.engine import Rulebook
from service.engine.document import nearest
from service.engine.model import Postback
from service.engine.rulebook import BROWSER_METHODS, MAIL, Affiliate, Client
from service.rulebooks import compiled, current_id
from service.servers import check_journal
from service.settings import Settings

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")

SAID = {
    "resent": "made due again",
    "due": "were due anyway and go out now",
    "waiting": "wait for their recipient, who is paused or busy",
    "under_way": "are on their way at this moment",
}


class PostbackGroup(LateGroup):
    """The group; preview needs the lab and is loaded when it is called."""

    late: ClassVar = {"preview": ("lab.preview", "preview_command")}


@click.group(cls=PostbackGroup)
def postback() -> None:
    """Send postbacks again, preview them, try an endpoint, see who is paused."""


@postback.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--recipient", default="", help="Only to this one, such as affiliate:bestodds.")
@click.option("--trigger", default="", help="Only of this trigger.")
@click.option("--since", metavar="TIME", help="Only promised at or after this day or moment (UTC).")
@click.option("--until", metavar="TIME", help="Only promised before this day or moment (UTC).")
@click.option("--dead", is_flag=True, help="Only those that were given up: failed or dead.")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@_JSON
@one_line_errors
def resend(
    ids: tuple[str, ...], recipient: str, trigger: str, since: str | None, until: str | None, dead: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Send postbacks again, by ID or by what they have in common, whatever became of them; each keeps its id.

    Without --dead those that were delivered are sent again too. Exit status 1 if an ID is not known,
    2 if there is no such recipient.
    """
    if not (ids or recipient or trigger or since or until or dead):
        raise InputError(
            "which ones? name ids, or --recipient, --trigger, --since, --until, or --dead for all given up"
        )
    settings = settings_of()
    connection = check_journal(settings.journal_url, settings.partitions)
    wanted = Wanted(frozenset(ids), recipient, trigger, _moment("--since", since), _moment("--until", until), dead)
    resender = Resender(connection, settings.partitions, settings.tables_path)
    found = resender.find(wanted)
    if recipient and not found:
        _check_known(connection, resender, recipient)
    said = {} if dry_run else dict(resender.resend(found))
    unknown = sorted(wanted.ids - {one.id for _, one in found})
    if as_json:
        click.echo(msgspec.json.encode({"found": len(found), "unknown": unknown, **said}).decode())
    else:
        click.echo(f"{len(found):,} found" + "".join(f", {count:,} {SAID[what]}" for what, count in said.items()))
        for one in unknown:
            click.echo(f"{one} is no postback that could be sent; the table postbacks lists all", err=True)
    sys.exit(1 if unknown else 0)


def _check_known(connection: redis.Redis, resender: Resender, recipient: str) -> None:
    """Raises InputError for a recipient whom neither the rulebook in force nor any postback names."""
    known = _everybody(_in_force(connection)) if current_id(connection) else {}
    if recipient not in known and not resender.find(Wanted(recipient=recipient)):
        raise InputError(
            f"there is no recipient {recipient!r} in the rulebook in force, and no postback to it that could be sent"
            + nearest(recipient, known)
        )


def _moment(option: str, text: str | None) -> int:
    if text is None:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} {text!r} is no time; write 2026-11-23 or 2026-11-23T09:30") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)


@postback.command()
@click.argument("recipient")
@click.option("--client", default="", help="Of this client; needed only where there are several.")
@click.option("--trigger", default="", help="As this trigger sends: its method, its endpoint.")
@_JSON
@one_line_errors
def test(recipient: str, client: str, trigger: str, as_json: bool) -> None:
    """Send one made-up postback to RECIPIENT (client:NAME or affiliate:NAME), marked as a test; it is counted nowhere.

    It goes to the recipient's test_webhook, or, where there is none, to its webhook; where there is neither, as a mail.
    With --trigger by the method of the trigger. Exit status 1 unless it is taken.
    """
    settings = settings_of()
    rulebook = _in_force(check_journal(settings.journal_url, settings.partitions))
    owner = _owner(rulebook, recipient)
    client, name, method = _method(rulebook, owner, client, trigger)
    if method in BROWSER_METHODS:
        raise InputError(
            f"{recipient} gets {method}, which the visitor's browser delivers: there is nothing to send from here; "
            "`backtrack postback preview HIT_ID LOG` shows what a page would be given"
        )
    made = sample(owner, recipient, client, name, method)
    if made is None:
        raise InputError(f"{recipient} has no {method or 'webhook and no email'}; add one to the rulebook")
    request, answer = asyncio.run(_send(settings, made, owner))
    document = {
        "id": made.id, "verb": request.verb, "url": request.url, "body": request.body, "result": answer.result,
        "status": answer.status, "answer": answer.head, "error": answer.error,
    }  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(document).decode())
    else:
        click.echo("\n".join(f"{name:8}{value}" for name, value in document.items() if value not in ("", 0)))
    sys.exit(0 if answer.result == "delivered" else 1)


def _method(rulebook: Rulebook, owner: Client | Affiliate, client: str, trigger: str) -> tuple[str, str, str]:
    """Client, name and method of the trigger; without one, the first method for which there is an endpoint."""
    if not trigger:
        client = client or next(iter(rulebook.clients))
        return client, "", method_of(owner, client, "")
    known = {one.name: one for one in rulebook.triggers if one.client == client or not client}
    if trigger not in known:
        raise InputError(f"there is no trigger {trigger!r}{nearest(trigger, known)}")
    return known[trigger].client, known[trigger].name, known[trigger].method


async def _send(settings: Settings, made: Postback, owner: Client | Affiliate) -> tuple[Request, Answer]:
    method: Method = Emails(settings)
    if made.verb != MAIL:
        method = Webhooks(settings.delivery_timeout_ms, settings.allowed_networks, os.environ)
    try:
        return await method.deliver(made, owner, int(datetime.now(UTC).timestamp() * 1_000_000))
    finally:
        await method.close()


def _in_force(connection: redis.Redis) -> Rulebook:
    current = current_id(connection)
    text: Any = connection.hget(keys.RULEBOOKS, current) if current else None
    if text is None:
        raise InputError("no rulebook is in force; publish one with `backtrack rules publish FILE`")
    return compiled(text)


def _everybody(rulebook: Rulebook) -> dict[str, Client | Affiliate]:
    """Recipients by name."""
    everybody: dict[str, Client | Affiliate] = {f"client:{name}": one for name, one in rulebook.clients.items()}
    return everybody | {f"affiliate:{name}": one for name, one in rulebook.affiliates.items()}


def _owner(rulebook: Rulebook, recipient: str) -> Client | Affiliate:
    everybody = _everybody(rulebook)
    if recipient not in everybody:
        raise InputError(f"there is no recipient {recipient!r}{nearest(recipient, everybody)}")
    return everybody[recipient]


@postback.command()
@_JSON
@one_line_errors
def paused(as_json: bool) -> None:
    """List the recipients that are paused: since when, why, how often they were probed, how much waits for them."""
    settings = settings_of()
    connection = check_journal(settings.journal_url, settings.partitions)
    found: Any = connection.hgetall(keys.PAUSED)
    rows = []
    for name, text in sorted(found.items()):
        state = msgspec.json.decode(text)
        since = datetime.fromtimestamp(int(state["since"]) / 1e6, UTC)
        rows.append({
            "recipient": name.decode(), "since": f"{since:%Y-%m-%d %H:%M:%S} UTC", "reason": state["reason"],
            "probes": state["probes"], "waiting": connection.zcard(keys.room(name.decode())),
        })  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(rows).decode())
        return
    for row in rows:
        click.echo("{recipient}  since {since}: {reason}; {probes} probes, {waiting} waiting".format(**row))
    if not rows:
        click.echo("nobody is paused")


@postback.command()
@click.argument("recipient")
@one_line_errors
def reopen(recipient: str) -> None:
    """Let a paused RECIPIENT be called again at once, without waiting for the next probe."""
    settings = settings_of()
    connection = check_journal(settings.journal_url, settings.partitions)
    pipeline = connection.pipeline()
    pipeline.hdel(keys.PAUSED, recipient)
    pipeline.zrem(keys.PROBES, recipient)
    pipeline.hdel(keys.FAILING, recipient)
    pipeline.hdel(keys.FAILING_SINCE, recipient)
    if not pipeline.execute()[0]:
        raise InputError(f"{recipient} is not paused; `backtrack postback paused` lists who is")
    click.echo(f"{recipient} is called again")
