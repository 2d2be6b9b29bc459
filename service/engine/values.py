"""One value of a rulebook document at a time: its type, its form, and what is said if it has neither."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from service.engine.conditions import UNITS_S
from service.engine.document import Path, nearest
from service.engine.errors import TemplateError
from service.engine.parse import EVENT_NAME, NUMBER
from service.engine.rulebook import DAY_US
from service.engine.templates import Template, compile_template

PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_:-]{0,63}\Z")
SECRET = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*\Z")
MAX_DURATION_US = 36_525 * DAY_US


class Values:
    """Reads values and gathers what is wrong; a wrong value is replaced by its default, so that reading goes on."""

    def __init__(self) -> None:
        self.problems: list[tuple[Path, str]] = []

    def wrong(self, path: Path, message: str) -> None:
        """Note a problem of the key at this path."""
        self.problems.append((path, message))

    def _only_known(self, path: Path, table: Any, known: frozenset[str]) -> None:
        if isinstance(table, dict):
            for key in table:
                if key not in known:
                    self.wrong((*path, key), f"there is no key {key!r} here{nearest(key, known)}")

    def _typed(self, path: Path, table: Any, key: str, kind: type, default: Any, words: str) -> Any:
        value = table.get(key, default) if isinstance(table, dict) else default
        if not isinstance(value, kind):
            self.wrong((*path, key), f"{value!r}: write {words}")
            return default
        return value

    def _text(self, path: Path, table: Any, key: str) -> str:
        return str(self._typed(path, table, key, str, "", f"{key} as text in quotes"))

    def _flag(self, path: Path, table: Any, key: str) -> bool:
        return bool(self._typed(path, table, key, bool, False, "true or false"))

    def _table(self, path: Path, table: Any, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self._typed(path, table, key, dict, {}, f"{key} as a table")
        return found

    def _names(self, path: Path, table: Any, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        if not isinstance(table, dict) or key not in table:
            return default
        value = table[key]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong((*path, key), f'{value!r}: write a list of texts, such as {key} = ["a", "b"]')
            return default
        return tuple(value)

    def _parameters(self, path: Path, table: Any, key: str) -> tuple[str, ...]:
        names = self._names(path, table, key)
        for name in names:
            if not PARAMETER.match(name):
                self.wrong((*path, key), f"{name!r} is no parameter name: use letters, digits, _ : -")
        return names

    def _event(self, path: Path, key: str, name: str) -> str:
        if not EVENT_NAME.match(name):
            self.wrong(
                (*path, key), f"{name!r} is no event name" if name else "the event that fires the trigger is missing"
            )
        return name

    def _choice(self, path: Path, table: Any, key: str, choices: tuple[str, ...], default: str) -> str:
        value = table.get(key, default)
        if value not in choices:
            self.wrong(
                (*path, key),
                f"{value!r} is none of {', '.join(choices)}{nearest(str(value), choices).partition(';')[0]}",
            )
            return default
        return str(value)

    def _duration(self, path: Path, table: Any, key: str, default: int) -> int:
        value = table.get(key)
        if value is None:
            return default
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", value) if isinstance(value, str) else None
        if match is None:
            self.wrong((*path, key), f'{value!r} is no duration: write a number with s, m, h, d or w, such as "30d"')
            return default
        duration_us = int(match.group(1)) * UNITS_S[match.group(2)] * 1_000_000
        if duration_us > MAX_DURATION_US:
            self.wrong((*path, key), f"{value!r} is longer than 100 years; write a shorter duration")
            return default
        return duration_us

    def _decimal(self, path: Path, table: dict[str, Any], key: str) -> Decimal:
        value = table[key]
        text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        if not NUMBER.match(text):
            self.wrong((*path, key), f'{value!r} is no decimal: write it in quotes, such as {key} = "12.50"')
            return Decimal(0)
        return Decimal(text)

    def _percent(self, path: Path, table: dict[str, Any], key: str) -> int:
        value = table.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100:
            self.wrong((*path, key), f"{value!r}: the hold-back is a whole number of percent, 0 to 100")
            return 0
        return value

    def _moment(self, path: Path, table: dict[str, Any], key: str, default: int) -> int:
        value = table.get(key)
        if value is None:
            return default
        if isinstance(value, datetime):
            moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        elif isinstance(value, date):
            moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
        else:
            self.wrong((*path, key), f"{value!r} is no date: write it without quotes, such as {key} = 2026-12-01")
            return default
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds

    def _secret(self, path: Path, table: dict[str, Any], key: str = "secret") -> str:
        secret = self._text(path, table, key)
        if secret and not SECRET.match(secret):
            self.wrong((*path, key), 'a secret is never written in clear: name a variable, such as "env:ACME_SECRET"')
        return secret

    def _url(self, path: Path, table: Any, key: str) -> Template | None:
        text = self._text(path, table, key)
        if not text:
            return None
        template = self._compiled(path, key, text, compile_template)
        if not host_of(text):
            self.wrong((*path, key), f"{text!r} is no http(s) address with a fixed host")
        elif " " in text or not text.isprintable():
            self.wrong((*path, key), f"{text!r} has a space or a control character in it; write it percent-encoded")
        return template

    def _compiled(self, path: Path, key: str, text: str, compiler: Callable[[str], Template]) -> Template | None:
        try:
            return compiler(text)
        except TemplateError as error:
            self.wrong((*path, key), str(error))
            return None


def host_of(url: str) -> str:
    """The host of an http(s) address, "" if it has none or one that is not fixed."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return ""
    return host if parts.scheme in ("http", "https") and "{" not in parts.netloc else ""
