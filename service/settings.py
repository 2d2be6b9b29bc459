"""Everything that can be set from outside, in one frozen value, read once at the edge from BACKTRACK_* variables."""

from __future__ import annotations

import difflib
import ipaddress
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from service.engine.mails import ADDRESS

PREFIX = "BACKTRACK_"

# the least and the most that makes sense; every other number starts at 1
BOUNDS = {
    "port": (1, 65_535),
    "web_stop_s": (1, 25),
    "smtp_port": (1, 65_535),
    "partitions": (1, 1024),
    "spool_floor_mb": (0, 1_000_000_000),
    "linger_ms": (0, 60_000),
    "lease_ms": (200, 60_000),
    "worker_threads": (2, 1024),
    "pause_ms": (0, 86_400_000),
    "probe_ms": (10, 3_600_000),
    "browser_wait_ms": (0, 10_000),
    "keep_days": (0, 100_000),
    "vacuum_hours": (1, 8_760),
}
MOST = 2**31 - 1
MIN_TOKEN = 16  # characters
SMTP_TLS = ("starttls", "implicit", "off")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """A setting that is unknown or has a value that cannot be used. The message names the variable and the remedy."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings. Durations end in their unit."""

    journal_url: str = "redis://127.0.0.1:6379/0"
    """The journal's Redis: AOF with fsync always, noeviction. Holds hits, visitors and due postbacks."""
    broker_url: str = "redis://127.0.0.1:6380/0"
    """The broker's Redis: dramatiq's wake-ups only, may lose everything."""
    var: Path = Path("var")
    """Folder for everything that a process keeps on disk: tables, spools, the embedded Redis."""
    tables: Path | None = None
    """Folder of the Delta tables; `tables` below `var` if unset."""
    host: str = "127.0.0.1"
    """Address on which the web process listens."""
    port: int = 8700
    """Port on which the web process listens."""
    public_url: str = ""
    """Address of the service as the world calls it, such as https://track.example; `backtrack send` refuses it."""
    web_workers: int = 1
    """Web processes behind the port."""
    web_stop_s: int = 8
    """How long a web process that is told to end waits for requests under way; below the grace of what ends it."""
    partitions: int = 16
    """Partitions of the journal. Fixed once the first hit is stored."""
    batch_hits: int = 256
    """Hits per append and per commit of tracking; more would make the intake wait behind a script."""
    batch_bytes: int = 1_000_000
    """Bytes per append and per commit of tracking."""
    journal_timeout_ms: int = 2_000
    """How long an append may take before the batch goes to the spool."""
    trusted_proxies: str = ""
    """Networks of the proxies whose X-Forwarded-For is believed, comma separated, such as 10.0.0.0/8; none if empty."""
    spool_floor_mb: int = 64
    """Free disk space below which the spool takes nothing more and the intake answers 503."""
    linger_ms: int = 1_000
    """How long a tracking actor waits for more before it gives the partition back."""
    lease_ms: int = 2_000
    """Life of the lease of a partition; after a killed worker the partition moves again within this and a second."""
    reconcile_ms: int = 500
    """How often every worker looks for work that nobody was woken for."""
    worker_threads: int = 24
    """Threads of a worker process: one per partition it may hold, and some for delivery and archive."""
    delivery_timeout_ms: int = 15_000
    """How long a recipient may take to answer."""
    delivery_concurrency: int = 256
    """Calls under way at once in one worker process; those slower than a second take no place."""
    recipient_concurrency: int = 32
    """Calls under way at once to one recipient in one worker process."""
    pause_failures: int = 20
    """Failures in a row after which a recipient is paused, if they lasted long enough."""
    pause_ms: int = 30_000
    """How long a run of failures must have lasted before the recipient is paused."""
    probe_ms: int = 30_000
    """When a paused recipient is tried again; each further probe waits twice as long, an hour at most."""
    operator_webhook: str = ""
    """Address that is told when a recipient is paused or reopened; nobody if empty."""
    operator_email: str = ""
    """Mail address that is told the same."""
    smtp_host: str = ""
    """Server that takes the mails of the method email; none are sent if empty."""
    smtp_port: int = 587
    """Port of that server."""
    smtp_tls: str = "starttls"
    """How the connection is encrypted: starttls, implicit (from the first byte on, port 465), or off."""
    smtp_user: str = ""
    """Name for the login; none if empty."""
    smtp_password: str = ""
    """Password for the login."""
    smtp_from: str = ""
    """Mail address of the sender, who gets what bounces."""
    browser_wait_ms: int = 300
    """How long the answer to a page waits for the outcome of its hit; what comes later goes out with the next one."""
    browser_keep_s: int = 604_800
    """How long a postback waits for the visitor's browser."""
    allow_addresses: str = ""
    """Networks that postbacks may go to although they are internal, comma separated, such as 127.0.0.1/32."""
    archive_ms: int = 1_000
    """How often the archive appends to the tables."""
    archive_rows: int = 5_000
    """Rows of one append of the archive at most; a backlog is archived in several."""
    keep_days: int = 0
    """How many days the tables keep, today included; 0 keeps all."""
    vacuum_hours: int = 24
    """How long files stay that were merged into others, for readers that hold their names."""
    tokens: str = ""
    """Secrets of 16 characters or more that open the status API, comma separated; it is closed if empty."""

    @property
    def tables_path(self) -> Path:
        """Folder of the Delta tables."""
        return self.tables or self.var / "tables"

    @property
    def secret_tokens(self) -> tuple[str, ...]:
        """The secrets that open the status API."""
        return tuple(token.strip() for token in self.tokens.split(",") if token.strip())

    @property
    def spool_path(self) -> Path:
        """Folder of the spools."""
        return self.var / "spool"

    @property
    def allowed_networks(self) -> tuple[Network, ...]:
        """The exceptions of the address guard."""
        return _networks(self.allow_addresses)

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """Where the trusted proxies are."""
        return _networks(self.trusted_proxies)

    def environment(self) -> dict[str, str]:
        """The settings as variables, for a child process."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}


def from_environment(environment: Mapping[str, str], **overrides: Any) -> Settings:
    """Read the settings. Raises SettingsError for unknown variables and for values that cannot be used."""
    hints = get_type_hints(Settings)
    known = {PREFIX + name.upper(): name for name in Settings.__struct_fields__}
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in known:
            close = difflib.get_close_matches(variable.removeprefix(PREFIX).lower(), Settings.__struct_fields__, n=1)
            hint = f", did you mean {PREFIX}{close[0].upper()}?" if close else f"; known are {', '.join(sorted(known))}"
            raise SettingsError(f"there is no setting {variable}{hint}")
        name = known[variable]
        values[name] = _convert(variable, text, hints[name])
    settings = Settings(**(values | {name: value for name, value in overrides.items() if value is not None}))
    _check(settings)
    return settings


def _convert(variable: str, text: str, kind: Any) -> Any:
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise SettingsError(f"{variable}={text!r} is no whole number") from None
    if kind is str:
        return text
    if not text:
        raise SettingsError(f"{variable} is empty; name a folder, or leave it out")
    return Path(text)


def _check(settings: Settings) -> None:
    """Raises SettingsError for the first value that cannot be used, whether it came from a variable or an option."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, int):
            least, most = BOUNDS.get(name, (1, MOST))
            if not least <= value <= most:
                raise SettingsError(f"{PREFIX}{name.upper()}={value}: use {least} to {most}")
    for name in ("allow_addresses", "trusted_proxies"):
        try:
            _networks(getattr(settings, name))
        except ValueError as error:
            raise SettingsError(f"{PREFIX}{name.upper()}: {error}; write networks such as 127.0.0.1/32") from None
    problem = mail_problem(settings)
    if problem:
        raise SettingsError(PREFIX + problem)
    if any(len(token) < MIN_TOKEN for token in settings.secret_tokens):
        raise SettingsError(f"{PREFIX}TOKENS: a token is shorter than {MIN_TOKEN} characters; draw a longer one")


def mail_problem(settings: Settings) -> str:
    """What is wrong with the settings for mails, "" if nothing is. Never says the password."""
    for name in ("smtp_from", "operator_email"):
        address = getattr(settings, name)
        if address and not ADDRESS.match(address):
            return f"{name.upper()}={address!r} is no mail address; write a plain one such as tracking@acme.example"
    if settings.smtp_tls not in SMTP_TLS:
        return f"SMTP_TLS={settings.smtp_tls!r}: use {', '.join(SMTP_TLS)}"
    for name in ("smtp_from", "smtp_user", "smtp_password", "operator_email"):
        if getattr(settings, name) and not settings.smtp_host:
            return f"{name.upper()} is set, but {PREFIX}SMTP_HOST is not: name the server, or drop both"
    if settings.smtp_host and not settings.smtp_from:
        return f"SMTP_HOST is set, but {PREFIX}SMTP_FROM is not: name the sender of the mails"
    if bool(settings.smtp_user) != bool(settings.smtp_password):
        given, missing = ("USER", "PASSWORD") if settings.smtp_user else ("PASSWORD", "USER")
        return f"SMTP_{given} is set, but {PREFIX}SMTP_{missing} is not: a login needs both"
    if settings.smtp_user and settings.smtp_tls == "off":
        return "SMTP_TLS=off would send the password in the clear: use starttls or implicit, or no login"
    return ""


def _networks(texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part.strip()) for part in texts.split(",") if part.strip())


def make_writable(folder: Path) -> None:
    """Create a folder. Raises SettingsError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(
            f"the folder {folder} cannot be written: {error.strerror}; name another with BACKTRACK_VAR or --var"
        ) from None
