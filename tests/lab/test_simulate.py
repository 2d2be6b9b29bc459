"""Traffic fitted from a log: close to it in when, from whom, what and how fast; the same for a seed; a log like any."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import lab
from lab.importing import import_log
from lab.log import LabError, Log
from lab.profile import Profile
from lab.samples import DATASETS, rows_digest
from lab.simulating import STORIES_OF_A_LOG

SHARED = Path(__file__).parents[3] / "shared" / "data"
RULES = (DATASETS / "rules.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def week() -> Log:
    return lab.open(DATASETS / "tables")


@pytest.fixture(scope="module")
def profile(week: Log) -> Profile:
    return lab.fit(week)


@pytest.fixture(scope="module")
def next_week(profile: Profile) -> Log:
    return lab.simulate(profile, day="2026-03-09", days=7, hits=profile.hits)


def apart(one: pl.DataFrame, other: pl.DataFrame, *keys: str) -> float:
    """Half the sum of the differences of the shares: 0 for the same, 1 for nothing in common."""
    shares = [frame.group_by(keys).agg(pl.col("share").sum()) for frame in (one, other)]
    joined = shares[0].join(shares[1], on=keys, how="full", coalesce=True, suffix="_other").fill_null(0.0)
    return float((joined["share"] - joined["share_other"]).abs().sum()) / 2


def waits_apart(one: Profile, other: Profile, least: int) -> dict[tuple[str, str, str], float]:
    """The widest distance of the two distributions (Kolmogorov-Smirnov) for each pair of events seen so often."""
    others = {(wait.client, wait.before, wait.event): wait.seconds for wait in other.waits}
    found = {}
    for wait in one.waits:
        if wait.seen >= least:
            theirs = others[wait.client, wait.before, wait.event]
            places = sorted({*wait.seconds, *theirs})
            found[wait.client, wait.before, wait.event] = max(
                abs(bisect_right(wait.seconds, x) / len(wait.seconds) - bisect_right(theirs, x) / len(theirs))
                for x in places
            )
    return found


def test_a_fitted_week_is_close_to_the_one_it_was_fitted_from(profile: Profile, next_week: Log) -> None:
    # given a week made of the profile of another, when it is fitted in turn
    again = lab.fit(next_week)
    # then who comes from whom and what they do is nearly the same, and when they come
    assert apart(profile.mix, again.mix, "client", "affiliate") < 0.02
    assert apart(profile.events, again.events, "client", "event") < 0.02
    assert apart(profile.curve, again.curve, "hour_of_day") < 0.05
    assert apart(profile.curve, again.curve, "day") < 0.03
    # and so are the waits, the share of what is rejected, and the amounts
    waits = waits_apart(profile, again, least=200)
    assert len(waits) >= 9 and max(waits.values()) < 0.1, waits
    assert again.rejected == pytest.approx(profile.rejected, abs=0.002)
    assert again.visitors / again.hits == pytest.approx(profile.visitors / profile.hits, rel=0.03)
    sums = [sum(money.share * sum(money.amounts) / len(money.amounts) for money in one.money if money.currency == "EUR")
            for one in (profile, again)]  # fmt: skip
    assert sums[1] == pytest.approx(sums[0], rel=0.15)


def test_a_fitted_week_answers_like_the_one_it_was_fitted_from(week: Log, next_week: Log) -> None:
    # given the same question to both, then the answers are close: it is the same funnel and the same triggers fire
    first, second = (log.funnel("click", "registration", "sale").frame["share_of_first"] for log in (week, next_week))
    assert [abs(a - b) < 0.02 for a, b in zip(first, second, strict=True)] == [True, True, True]
    by_the_same_rules = week.replay(DATASETS / "rules-next.toml", engine="set", full=False)
    fired = [Counter(found["trigger"]) for found in (by_the_same_rules.postbacks, next_week.postbacks.collect())]
    assert fired[0].keys() == fired[1].keys()
    assert all(0.6 < fired[1][name] / fired[0][name] < 1.6 for name in fired[0]), fired


def test_the_same_seed_gives_the_same_rows_and_another_one_others(profile: Profile, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        lab.simulate(profile, day="2026-03-15", hits=300, seed=seed, folder=tmp_path / name)
    one, same, other = (rows_digest(tmp_path / name) for name in "abc")
    assert one == same
    assert one["hits"] != other["hits"]


def test_a_day_that_has_not_happened_is_that_day_and_a_trigger_can_be_tried_on_it(profile: Profile) -> None:
    # given a Sunday in the future of the log
    log = lab.simulate(profile, day="2026-03-15", hits=1_500)
    # when another rulebook is tried on it
    tried = log.compare(None, RULES.replace('percent = "7.5"', 'percent = "10"'))
    # then there is exactly as much of that day as was asked for, the trial says what would change, and the log is whole
    hits = log.hits.filter(pl.col("kind") == "hit").select("day").collect()
    assert (hits.height, set(hits["day"])) == (1_500, {"2026-03-15"})
    assert tried.changed.height > 0
    assert log.replay().digest == log.digest()
    assert log.gaps().is_empty() and log.verify().ok


def test_without_a_number_of_hits_a_day_is_as_busy_as_those_of_the_log(profile: Profile) -> None:
    assert lab.simulate(profile).summary()["hits"].sum() == pytest.approx(2_000, rel=0.01)


def test_a_profile_holds_nobody(profile: Profile, week: Log) -> None:
    # given everything by which a person could be found again
    said = [dict(fields or ()) for (fields,) in week.decisions.select("fields").collect().iter_rows()]
    persons = {fields[name] for fields in said for name in ("uid", "tag_id", "click_id", "txid") if name in fields}
    mails = {f"{fields['uid']}@mail.example" for fields in said if fields.get("uid")}
    # when the profile is written down
    text = repr(profile)
    # then nothing of it is there; a rare value is only counted
    assert [value for value in persons | mails if len(value) > 5 and f"'{value}'" in text] == []
    [email] = [values for values in profile.values if values.name == "email"]
    assert (email.known, email.other > 300) == ({}, True)


def test_a_saved_profile_makes_the_same_log(profile: Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json") == profile
    assert "4,859 visitors" in repr(profile) and "clickhub" in profile._repr_html_()
    assert profile.chart().frame.height == 168 and profile.chart().spec.to_dict()["mark"]["type"] == "bar"


def test_stories_are_switched_on_by_name(profile: Profile) -> None:
    # given a fitted day with bots that pass for browsers, and orders that are sent again and again
    log = lab.simulate(profile, day="2026-03-15", hits=2_000, stories=["bot-clicks", "duplicate-storm", "outage"])
    # then there are as many of them as the stories say, the recipient was down, and the number of hits is the same
    day = log.decisions.collect()
    clicks = day.filter(pl.col("params").map.get("sub1") == "pop-7")
    assert day.height == 2_000
    assert clicks.height >= 90 and set(clicks["affiliate"]) >= {"clickhub"}
    assert day.filter(pl.col("verdict") == "duplicate").height >= 60
    assert set(log.verify().differences["recipient"]) == {"client:acme"}


def test_an_invented_crowd_comes_where_there_is_no_log_yet_and_rulebooks_may_follow_each_other() -> None:
    # given two rulebooks and no profile
    rules = {"2026-03-15": RULES, "2026-03-15T12:00": RULES.replace('percent = "7.5"', 'percent = "6"')}
    log = lab.simulate(day="2026-03-15", hits=800, rules=rules)
    # then both decide, one after the other
    decided = log.decisions.group_by("rulebook_id").agg(pl.col("time").min()).sort("time").collect()
    assert [f"{time:%H}" >= hour for time, hour in zip(decided["time"], ("00", "12"), strict=True)] == [True, True]
    assert log.replay().digest == log.digest()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: lab.simulate(day="tomorrow", rules=RULES), "day 'tomorrow' is no day"),
        (lambda: lab.simulate(), "no rulebook to decide by"),
        (lambda: lab.simulate(rules={"noon": RULES}), "'noon' is no moment"),
        (lambda: lab.simulate(rules={"2026-03-02T12:00": RULES}), "no rulebook is in force at the start"),
        (lambda: lab.simulate(rules=RULES, stories=["bot-click"]), "did you mean 'bot-clicks'"),
        (lambda: lab.simulate(rules=RULES, hits=0), "hits=0"),
        (lambda: lab.simulate(rules=RULES, folder=DATASETS), "is not empty"),
        (lambda: Profile.read(DATASETS / "README.md"), "is no profile"),
        (lambda: Profile.read("nowhere.json"), "nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_words(made: Callable[[], object], words: str) -> None:
    with pytest.raises(LabError, match=words):
        made()


def test_every_story_of_a_log_can_be_told_on_one_day() -> None:
    log = lab.simulate(hits=1_200, rules=RULES, stories=STORIES_OF_A_LOG)
    assert log.summary()["hits"].sum() == 1_200


@pytest.mark.parametrize(("name", "first", "days"), [("apache", "2015-05-17", 4), ("hackers", "2015-10-25", 6)])
def test_a_real_log_is_fitted_and_made_anew(tmp_path: Path, name: str, first: str, days: int) -> None:
    # given a real access log, imported
    source = SHARED / f"{name}_combined.log"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    import_log("combined", source, tmp_path / "real")
    real = lab.fit(lab.open(tmp_path / "real"))
    # when as much traffic is made of its profile, and fitted in turn
    log = lab.simulate(real, day=first, days=days, hits=real.hits)
    made = lab.fit(log)
    # then it is close: visitors by hour, what they do, how fast, and how much each of them
    assert apart(real.curve, made.curve, "hour_of_day") < 0.1
    assert apart(real.events, made.events, "event") < 0.06
    assert made.visitors / made.hits == pytest.approx(real.visitors / real.hits, rel=0.15)
    waits = waits_apart(real, made, least=500)
    assert len(waits) >= 3 and max(waits.values()) < 0.25, waits
    # and the log is one like any other
    assert log.funnel("pageview", "pageview").visitors[0] > 0
