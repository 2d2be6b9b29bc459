"""A log of a day that has not happened: traffic as a profile says, or as nobody has seen it, decided and delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from lab.crowd import Fitted
from lab.delivering import Outage
from lab.journal import Published, rows_of, write
from lab.log import LabError, Log
from lab.log import open as open_log
from lab.profile import Profile
from lab.replay import Rules, rulebook_of
from lab.stories import IN_TRAFFIC, STORIES
from lab.traffic import TrafficError, generate
from lab.world import linked_affiliates
from service.archive.schemas import microseconds
from service.engine import Rulebook
from service.engine.document import nearest

STORIES_OF_A_LOG = (*IN_TRAFFIC, "outage")
_HITS = 5_000
_kept: list[TemporaryDirectory[str]] = []  # folders of logs that nobody gave a place; they go with the process

Schedule = Rules | Mapping[str, "str | Path | Rulebook"]


def simulate(
    profile: Profile | None = None, day: str | date = "2026-03-02", hits: int | None = None, seed: int = 7,
    days: int = 1, rules: Schedule = None, stories: Sequence[str] = (), folder: str | Path | None = None,
) -> Log:  # fmt: skip
    """Make a log of `days` days from `day` on (UTC); every method of a `Log` works on it.

    profile: who comes, from `lab.fit`; None for an invented crowd that visits the clients of `rules`. hits: in all, the
    broken ones included; as many per day as the profile says if None. The same profile, numbers, rules and stories give the
    same rows. rules: a path, a text or a rulebook; None for the profile's own; or several by the moment at which each takes
    effect, `{"2026-03-15": "rules.toml", "2026-03-15T12:00": "rules-next.toml"}`. stories: names in `lab.stories.STORIES`
    (but rule-change, for which `rules` are given, and lost-postbacks, which is told by the partner's own record).
    folder: where the tables go, new or empty; None for one that goes with this process.
    Raises LabError for what cannot be used, RulebookError for a broken rulebook.

        profile = lab.fit(lab.open("datasets/tables"))
        log = lab.simulate(profile, day="2026-03-16", hits=2_000)
        log.replay("datasets/rules-next.toml").counts

    >>> lab.simulate(profile, day="2026-03-16", hits=200).summary()["hits"].sum()
    200
    """
    start_us = _start_us(day)
    published = _published(profile, rules, start_us)
    count = hits if hits is not None else round(profile.hits / max(profile.days, 1 / 24) * days) if profile else _HITS
    for name in stories:
        if name not in STORIES_OF_A_LOG:
            raise LabError(f"there is no story {name!r} that a log can tell{nearest(name, STORIES_OF_A_LOG)}")
    told = [name for name in stories if name in IN_TRAFFIC]
    first = published[0].text
    try:
        requests = generate(first, count, seed, start_us, days, told, Fitted(profile) if profile else None)
    except TrafficError as error:
        raise LabError(str(error)) from None
    outages = [_outage(first, start_us, days)] if "outage" in stories else []
    place = _place(folder)
    write(place, rows_of(requests, published, seed, start_us, outages))
    return open_log(place)


def _start_us(day: str | date) -> int:
    try:
        found = day if isinstance(day, date) else date.fromisoformat(day)
    except ValueError:
        raise LabError(f"day {day!r} is no day; write it as 2026-03-15") from None
    return microseconds(datetime(found.year, found.month, found.day, tzinfo=UTC))


def _published(profile: Profile | None, rules: Schedule, start_us: int) -> list[Published]:
    """The rulebooks and when each takes effect; the first one at the start."""
    if rules is None:
        if profile is None or not profile.rules:
            raise LabError("there is no rulebook to decide by; give one with rules, such as datasets/rules.toml")
        return [Published(0, profile.rules, profile.source)]
    schedule: Mapping[str, str | Path | Rulebook] = rules if isinstance(rules, Mapping) else {"": rules}
    timed = sorted((_offset_us(moment, start_us), one) for moment, one in schedule.items())
    if not timed or timed[0][0] > 0:
        raise LabError("no rulebook is in force at the start of the day; give one for its first moment")
    return [Published(offset_us, _text(one), _source(one)) for offset_us, one in timed]


def _offset_us(moment: str, start_us: int) -> int:
    if not moment:
        return 0
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        raise LabError(f"{moment!r} is no moment; write 2026-03-15 or 2026-03-15T12:00") from None
    return max(0, microseconds(found if found.tzinfo else found.replace(tzinfo=UTC)) - start_us)


def _text(rules: str | Path | Rulebook) -> str:
    found = rulebook_of(rules)
    assert found is not None
    return found.text


def _source(rules: str | Path | Rulebook) -> str:
    return "text" if isinstance(rules, Rulebook) or "\n" in str(rules) else str(rules)


def _outage(text: str, start_us: int, days: int) -> Outage:
    book, story = rulebook_of(text), STORIES["outage"]
    assert book is not None
    window = story.window(days)
    who = story.about(book, linked_affiliates(book))
    return Outage(who, start_us + window.from_us, start_us + window.until_us)


def _place(folder: str | Path | None) -> Path:
    if folder is None:
        _kept.append(TemporaryDirectory(prefix="backtrack-"))
        return Path(_kept[-1].name)
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise LabError(f"{place} exists and is not empty; give a new folder, or remove it first")
    return place
