"""Stories: each does to the traffic what its name says, in its time, and nothing else; the list in datasets is whole."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from lab.samples import DATASETS
from lab.stories import DAY_US, HOUR_US, IN_TRAFFIC, STORIES
from lab.traffic import Request, TrafficError, generate, to_hit
from lab.world import linked_affiliates
from service.engine import Event, load, parse

RULES = (DATASETS / "rules.toml").read_text(encoding="utf-8")
BOOK = load(RULES)
HITS = 6_000
LAB_README = (Path(__file__).parents[2] / "lab" / "README.md").read_text(encoding="utf-8")


def told(*stories: str, days: int = 7, rules: str = RULES) -> list[Request]:
    return generate(rules, HITS, days=days, stories=stories)


def of(requests: list[Request], story: str) -> list[Request]:
    return [request for request in requests if story in request.stories]


@pytest.mark.parametrize("stories", [(name,) for name in IN_TRAFFIC] + [IN_TRAFFIC])
@pytest.mark.parametrize("days", [1, 7])
def test_traffic_with_stories_is_exactly_as_much_and_the_same_for_a_seed(stories: tuple[str, ...], days: int) -> None:
    requests = generate(BOOK, 1_500, days=days, stories=stories)
    assert len(requests) == 1_500
    assert {story for request in requests for story in request.stories} <= set(stories)
    assert generate(BOOK, 1_500, days=days, stories=stories) == requests


def test_without_stories_nothing_is_touched() -> None:
    assert not any(request.stories for request in told())


def test_a_tracker_that_drops_click_ids_hands_on_none_for_two_days() -> None:
    # given traffic in which the tracker of topten drops click ids from Wednesday to Friday morning
    requests = told("dropped-click-ids")
    start, end = 56 * HOUR_US, 104 * HOUR_US
    clicks = {
        index for index, request in enumerate(requests)
        if request.note == "click" and re.match(rb"/c/\w+/topten", request.target) and start <= request.offset_us < end
    }  # fmt: skip
    # then no later request names one of them, and everybody else's are named as ever
    named = {index for request in requests for index in request.refers_to}
    others = {index for index, r in enumerate(requests) if r.note == "click" and b"/topten" in r.target} - clicks
    assert len(clicks) > 30 and not named & clicks
    assert len(named & others) > 0.8 * len(others)
    assert {index for index, r in enumerate(requests) if r.note == "click" and r.stories} == clicks
    # and what was cut out has left whole requests behind: each is read, without any click id
    ids = [f"{index:032x}" for index in range(len(requests))]
    later = [parse(to_hit(r, "f" * 32, 0, ids), BOOK) for r in of(requests, "dropped-click-ids") if r.note != "click"]
    assert len(later) > 50
    assert all(isinstance(event, Event) and "click_id" not in event.fields for event in later)


def test_bots_click_at_night_at_a_steady_pace_and_nothing_else() -> None:
    bots = of(told("bot-clicks"), "bot-clicks")
    assert len(bots) == round(0.045 * HITS)
    assert {request.note for request in bots} == {"click"}
    assert {request.offset_us % DAY_US // HOUR_US for request in bots} == {1, 2, 3, 4}
    assert {request.offset_us // DAY_US for request in bots} == {1, 2, 3}
    assert len({request.visitor for request in bots}) == len(bots)
    assert not any("bot" in request.headers["user-agent"].lower() for request in bots)


def test_a_storm_repeats_the_orders_of_its_time_byte_for_byte() -> None:
    requests = told("duplicate-storm")
    copies = of(requests, "duplicate-storm")
    sales = {(request.visitor, request.target, request.body) for request in requests if request.note == "sale"}
    assert len(copies) == round(0.03 * HITS)
    assert all((copy.visitor, copy.target, copy.body) in sales for copy in copies)
    assert Counter((copy.visitor, copy.target, copy.body) for copy in copies).most_common()[-1][1] > 5


def test_conversions_come_late_and_the_latest_not_at_all() -> None:
    # given the same traffic with and without the story
    late = of(told("late-conversions"), "late-conversions")
    first = {request.visitor: request.offset_us for request in reversed(told("late-conversions"))}
    # then every one is at least a day and a half behind its visitor's first request, and within the week
    assert len(late) > 20 and {request.note for request in late} <= {"sale", "duplicate"}
    assert all(36 * HOUR_US <= request.offset_us - first[request.visitor] < 7 * DAY_US for request in late)


def test_stories_find_somebody_in_any_rulebook() -> None:
    # given a rulebook with one client and no affiliate
    requests = told(*IN_TRAFFIC, rules='[client.solo]\nname = "Solo"\n')
    # then the stories of clients are told of that one
    assert len(requests) == HITS
    assert of(requests, "late-conversions") and of(requests, "duplicate-storm")


def test_whom_the_stories_of_the_sample_are_about() -> None:
    linked = linked_affiliates(BOOK)
    with (DATASETS / "stories.toml").open("rb") as file:
        listed = tomllib.load(file)
    assert set(listed) == set(STORIES) and len(listed) >= 6
    assert {name: answer["who"] for name, answer in listed.items()} == {
        name: story.about(BOOK, linked) for name, story in STORIES.items()
    }


def test_the_readme_of_the_lab_lists_every_story() -> None:
    section = LAB_README.split("## Simulate")[1].split("\n## ")[0]
    listed = {name for cell in re.findall(r"^\| ([a-z, -]+) \|", section, re.MULTILINE) for name in cell.split(", ")}
    assert set(STORIES) <= listed


def test_an_unknown_story_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(TrafficError, match="did you mean 'bot-clicks'"):
        generate(BOOK, 10, stories=["bot-click"])
