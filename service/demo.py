"""`backtrack demo`: everything on one machine, generated traffic over real HTTP, then the same log replayed and verified.

The one place of the service that imports the lab, late.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from service.backlog import backlog
from service.cli import log_to_stderr, one_line_errors, settings_of
from service.servers import ServerError, check_journal, free_port, port_is_free
from service.settings import Settings
from service.supervisor import Up

if TYPE_CHECKING:
    from lab.load import LoadReport

RULES = Path(__file__).parent.parent / "datasets" / "rules.toml"
PARTNER = "127.0.0.1:8701"  # the partner's address in that rulebook
SETTLE_TIMEOUT_S = 120.0
LOOK_EVERY_S = 0.05
STEPS = ("click", "registration", "sale")
FAIL = 0.02  # share of postbacks that the partner refuses once, so that retries are seen


@click.command("demo")
@click.option("--hits", default=5000, show_default=True, help="Requests to send.")
@click.option("--seed", default=7, show_default=True, help="Seed of the traffic.")
@click.option(
    "--var", type=click.Path(path_type=Path), help="Folder for everything that is kept  [default: a new one in var]"
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8700,
    show_default=True,
    help="Port of the intake; 0 takes a free one.",
)
@click.option(
    "--partner-port",
    type=click.IntRange(0, 65535),
    default=8701,
    show_default=True,
    help="Port of the partner; 0 takes a free one.",
)
@click.option(
    "--kill",
    type=click.Choice(["worker", "web", "partner", "delivery", "archive"]),
    help="SIGKILL this process half way through.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.option("--exit", "leave", is_flag=True, help="End when everything was shown, instead of staying up.")
@one_line_errors
def demo_command(
    hits: int, seed: int, var: Path | None, port: int, partner_port: int, kill: str | None, as_json: bool, leave: bool
) -> None:
    """Run everything on this machine: traffic, postbacks, replay, verification.

    Exit status 1 if anything was lost or is different from what it should be.
    """
    if hits < 1:
        raise click.UsageError(f"--hits {hits}: at least 1 request is to be sent")
    log_to_stderr(40)
    settings = demo_settings(var, _port(port, "--port"))
    partner_at = _port(partner_port, "--partner-port")
    with Up(settings, embedded=True) as up:
        demo = Demo(up, partner_at, Console(stderr=True), kill)
        document = demo.run(hits, seed)
        if as_json:
            click.echo(msgspec.json.encode(document).decode())
        else:
            demo.show(document)
        if not leave and not as_json:
            demo.stay()
    sys.exit(0 if document["ok"] else 1)


def demo_settings(var: Path | None, port: int) -> Settings:
    """Settings of the demo: ports that nobody uses, a folder of its own, postbacks to loopback allowed."""
    folder = var or Path("var") / f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if (folder / "tables").exists():
        raise ServerError(f"{folder} holds an earlier run, and this one would be counted with it; give a new --var")
    return settings_of(
        var=folder,
        port=port,
        journal_url=f"redis://127.0.0.1:{free_port()}/0",
        broker_url=f"redis://127.0.0.1:{free_port()}/0",
        allow_addresses="127.0.0.1/32",
        delivery_timeout_ms=5_000,
    )


def _port(port: int, option: str) -> int:
    if port == 0:
        return free_port()
    if not port_is_free("127.0.0.1", port):
        raise ServerError(f"port {port} is in use; choose another with {option}, or 0 for a free one")
    return port


class Demo:
    """One run of the demo on the processes that are up."""

    def __init__(self, up: Up, partner_port: int, console: Console, kill: str | None = None) -> None:
        self._up = up
        self._settings = up.settings
        self._partner_port = partner_port
        self._kill = kill
        self._console = console
        self._record = up.settings.var / "partner.jsonl"
        self._lab: dict[str, Any] = {}

    def run(self, hits: int, seed: int) -> dict[str, Any]:
        """Everything up to the verdict; what is found as one document."""
        started = time.monotonic()
        text = RULES.read_text().replace(PARTNER, f"127.0.0.1:{self._partner_port}")
        rules_path = self._settings.var / "rules.toml"
        rules_path.write_text(text)
        self._start(text, rules_path)
        report = self._drive(text, hits, seed)
        self._settle()
        document = self._judge(report)
        document["seconds"] = round(time.monotonic() - started, 2)
        return document

    def _start(self, text: str, path: Path) -> None:
        arguments = ["--port", str(self._partner_port), "--record", str(self._record), "--fail", str(FAIL)]
        self._up.add("partner", [sys.executable, "-m", "service.cli", "partner", *arguments], 1)
        self._up.publish(text, str(path))
        with self._console.status("starting web, worker, partner and an embedded Redis"):
            self._up.wait_ready()
        self._up.keep()

    def _drive(self, text: str, hits: int, seed: int) -> LoadReport:
        from lab.load import drive
        from lab.show import progress
        from lab.traffic import generate

        requests = generate(text, hits=hits, seed=seed)
        base = f"http://{self._settings.host}:{self._settings.port}"
        with progress("sending traffic over HTTP") as show:
            return drive(base, requests, progress=self._watch(show, hits))

    def _watch(self, show: Callable[[int, int], None], hits: int) -> Callable[[int, int], None]:
        """Progress, and the kill half way through."""
        killed = [self._kill is None]

        def report(done: int, total: int) -> None:
            show(done, total)
            if not killed[0] and done >= hits // 2:
                killed[0] = True
                self._up.kill(str(self._kill))

        return report

    def _settle(self) -> None:
        """Wait until all is decided, delivered and in the tables."""
        from lab.show import progress

        connection = check_journal(self._settings.journal_url, self._settings.partitions)
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        with progress("deciding, delivering, archiving") as show:
            while not (look := backlog(connection, self._settings.partitions)).nothing_left:
                left = look.to_decide + look.to_deliver + look.to_archive
                show(max(0, look.logged - left), look.logged)
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"after {SETTLE_TIMEOUT_S:.0f} s there is still work: {look}; see {self._settings.var / 'log'}"
                    )
                time.sleep(LOOK_EVERY_S)
        connection.close()

    def _judge(self, report: LoadReport) -> dict[str, Any]:
        """Replay the log, verify what the partner received, and count."""
        import lab
        from lab.digest import stored_digest
        from lab.show import progress

        log = lab.open(self._settings.tables_path)
        with progress("replaying the log") as show:
            run = log.replay(progress=show)
        with progress("verifying what was received"):
            verification = log.verify(received=self._record)
        self._lab = {"log": log, "run": run, "verification": verification, "report": report}
        logged = set(log.hits.filter(_is_hit()).select("hit_id").collect()["hit_id"])
        stored = stored_digest(log)
        counts = {
            "hits_sent": report.sent,
            "hits_acknowledged": report.acknowledged,
            "hits_logged": len(logged),
            "acknowledged_not_logged": len(report.ids - logged),
            "sequence_gaps": log.gaps().height,
            "events_accepted": run.count("accepted"),
            "hits_rejected": run.hits - run.count("accepted"),
            "duplicates": run.count("duplicate"),
            "engine_errors": run.count("engine_error"),
            "firings": sum(len(outcome.fired) for _, _, outcome in run.outcomes),
            "postbacks": verification.due,
            "withheld": verification.withheld,
            "recorded": verification.recorded,
            "attempts": verification.attempts,
            "delivered": verification.delivered,
            "received": (verification.received or 0) - verification.repeated,
            "repeated": verification.repeated,
            "verified_equal": verification.verified_equal,
            "differences": verification.differences.height,
            "digest": run.digest,
            "stored_digest": stored,
            "restarts": sum(child.restarts for child in self._up.children.values()),
        }
        return {"ok": _all_well(counts), **counts}

    def show(self, document: dict[str, Any]) -> None:
        """The funnel, the counts per trigger and the verdict, as a person reads them."""
        from lab.show import rich_table, terminal

        out = terminal()
        say = partial(out.print, highlight=False, soft_wrap=True)
        log, run, verification, report = (self._lab[name] for name in ("log", "run", "verification", "report"))
        say()
        say(
            f"[bold]Hits[/]      {report.sent:,} sent, {report.acknowledged:,} answered with an id, "
            f"{document['hits_logged']:,} in the log, {document['sequence_gaps']} gaps "
            f"(p50 {report.latency_us['p50'] / 1000:.1f} ms, p99 {report.latency_us['p99'] / 1000:.1f} ms)"
        )
        say(
            f"[bold]Events[/]    {document['events_accepted']:,} accepted, {document['hits_rejected']:,} not: "
            + ", ".join(f"{reason} {count}" for reason, count in [*run.reasons.iter_rows()][:5])
            + f", duplicate {document['duplicates']}"
        )
        say()
        say(f"[bold]Funnel[/]    {' → '.join(STEPS)} within 30 days, per visitor")
        out.print(rich_table(log.funnel(*STEPS, within="30d", by="client").readable()))
        out.print("[bold]Triggers[/]  what fired, and the money")
        out.print(rich_table(run.counts))
        verdict = "green" if verification.ok else "red"
        say(f"[bold]Postbacks[/] [{verdict}]{verification.sentence}[/]")
        failed = document["attempts"] - document["delivered"]
        say(f"          {document['attempts']:,} tries, of which {failed:,} failed first")
        if not verification.ok:
            out.print(rich_table(verification.differences, limit=20))
        same = document["digest"] == document["stored_digest"]
        words = "the replay decided exactly as the live run" if same else "THE REPLAY DECIDED DIFFERENTLY"
        say(f"[bold]Replay[/]    [{'green' if same else 'red'}]{words}[/], digest {document['digest'][:16]}")
        say(f"\n{'[green]All well' if document['ok'] else '[red]Not well'}[/] after {document['seconds']} s.")

    def stay(self) -> None:
        """Say where to look around, and stay up."""
        base = f"http://{self._settings.host}:{self._settings.port}"
        tables = self._settings.tables_path
        click.echo("\nEverything stays up until Ctrl-C. Look around, in another terminal:")
        click.echo(f"  curl '{base}/e?client=acme&event=registration&uid=me'")
        click.echo(f"  in a browser: {base}/c/acme/bestodds?sub1=hello&country=DE")
        click.echo(f"  .venv/bin/backtrack replay {tables}")
        click.echo(f"  .venv/bin/backtrack verify {tables} --received {self._record}")
        click.echo(f"  .venv/bin/backtrack funnel {tables} click registration sale --within 30d --by affiliate")
        click.echo("  make lab")
        self._up.run()


def _is_hit() -> Any:
    import polars as pl

    return pl.col("kind") == "hit"


def _all_well(counts: dict[str, Any]) -> bool:
    """Every promise of the demo at once.

    Logged may exceed sent: a killed web process can leave a hit stored but unanswered, and the sender repeats it.
    """
    return bool(
        counts["hits_sent"] == counts["hits_acknowledged"] <= counts["hits_logged"]
        and counts["acknowledged_not_logged"] == 0
        and counts["events_accepted"] + counts["hits_rejected"] == counts["hits_logged"]
        and counts["sequence_gaps"] == counts["engine_errors"] == counts["differences"] == 0
        and counts["postbacks"] == counts["delivered"] == counts["received"] == counts["verified_equal"]
        and counts["digest"] == counts["stored_digest"]
    )
