"""Funnels: what they count, held against a plain reading of the definition."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from statistics import median

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import lab
from lab import LabError
from lab.attempts import find_attempts
from lab.funnel import Funnel, duration_text, funnel
from lab.funnel_command import funnel_command
from lab.funnel_steps import read_question
from lab.sets.session import Session
from tests.lab.conftest import RULES, Past

Store = Callable[[Past], Path]
Seen = tuple[str, int, int, str, str]  # visitor, time_us, seq, event, value of the breakdown
STEPS = ("click", "registration", "sale")


def best_by_definition(events: list[Seen], steps: Sequence[str], within_us: int | None) -> list[tuple[str, list[int]]]:
    """Per visitor with the first step: the breakdown's value and the times, by trying every start and every chain."""

    def chains(start_us: int, mine: list[Seen], wanted: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = [[]]
        for place, (_, time_us, _, event, _) in enumerate(mine):
            if wanted and event == wanted[0] and (within_us is None or time_us - start_us <= within_us):
                found += [[time_us, *rest] for rest in chains(start_us, mine[place + 1 :], wanted[1:])]
        return found

    best = []
    for visitor in sorted({event[0] for event in events}):
        mine = sorted((event for event in events if event[0] == visitor), key=lambda event: event[1:3])
        attempts = []
        for place, (_, time_us, _, event, value) in enumerate(mine):
            if event == steps[0]:
                longest = max(len(chain) for chain in chains(time_us, mine[place + 1 :], steps[1:]))
                earliest = min(c for c in chains(time_us, mine[place + 1 :], steps[1:]) if len(c) == longest)
                attempts.append((-longest, place, value, [time_us, *earliest]))
        if attempts:
            _, _, value, times = min(attempts)
            best.append((value, times))
    return sorted(best)


def frame_of(events: list[Seen]) -> pl.DataFrame:
    return pl.DataFrame(
        [(visitor, time_us, 0, seq, event, value) for visitor, time_us, seq, event, value in events],
        schema={"visitor": pl.String, "time_us": pl.Int64, "partition": pl.Int32, "seq": pl.Int64, "event": pl.String,
                "by_value": pl.String},
        orient="row",
    )  # fmt: skip


def best_by_sql(events: list[Seen], steps: Sequence[str], within_us: int | None) -> list[tuple[str, list[int]]]:
    asked = read_question(steps, within_us, "ordered", (), None)
    session = shared_session()
    session.put("events", frame_of(events))
    found = session.frame(f"FROM {find_attempts(session, asked, 'events')}").drop("visitor", "end_partition", "end_seq")
    return sorted((value, [time_us for time_us in times if time_us is not None]) for value, *times in found.iter_rows())


@cache
def shared_session() -> Session:
    """One for all examples: opening one takes longer than asking it."""
    return Session(memory_gb=0.5)


PASTS = st.lists(
    st.tuples(st.sampled_from("uv"), st.integers(0, 6), st.sampled_from("abc"), st.sampled_from("xy")), max_size=14
)


@given(PASTS, st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.none() | st.integers(0, 7))
def test_any_past_gives_what_the_definition_says(
    past: list[tuple[str, int, str, str]], steps: list[str], within_us: int | None
) -> None:
    # given events with many ties, their seq in the order of time
    past = sorted(past, key=lambda event: event[1])
    events: list[Seen] = [(visitor, t, seq, event, value) for seq, (visitor, t, event, value) in enumerate(past)]

    # when the rows reach the query in another order
    shuffled = random.Random(0).sample(events, len(events))

    # then it finds what the definition says
    assert best_by_sql(shuffled, steps, within_us) == best_by_definition(events, steps, within_us)


def counts(found: Funnel) -> list[int]:
    return found.frame["visitors"].to_list()


def by_value(found: Funnel) -> dict[str, list[int]]:
    return {
        str(key[0]): part["visitors"].to_list() for key, part in found.frame.group_by(found.by, maintain_order=True)
    }


def happening(*hits: tuple[str, str, int]) -> Past:
    """A past of acme's: (uid, event and further parameters, seconds since the one before)."""
    past = Past()
    past.publish(RULES)
    for uid, event, after_s in hits:
        past.hit(f"client=acme&uid={uid}&event={event}", after_s=after_s)
    return past


def test_visitors_are_counted_step_by_step(tables_of: Store) -> None:
    # given three visitors who come one, two and three steps far
    log = lab.open(tables_of(happening(
        ("anna", "click", 0), ("anna", "registration", 10), ("anna", "sale", 50),
        ("ben", "click", 0), ("ben", "registration", 30), ("carla", "click", 0), ("dora", "sale", 0),
    )))  # fmt: skip

    # when they are put through a funnel
    frame = log.funnel(*STEPS).frame

    # then each row says how many came, what share that is, and how long it took
    assert frame.to_dicts() == [
        {"step_number": 1, "step": "click", "visitors": 3, "share_of_first": 1.0, "share_of_previous": None,
         "median_seconds_from_previous": None},
        {"step_number": 2, "step": "registration", "visitors": 2, "share_of_first": 2 / 3, "share_of_previous": 2 / 3,
         "median_seconds_from_previous": 20.0},
        {"step_number": 3, "step": "sale", "visitors": 1, "share_of_first": 1 / 3, "share_of_previous": 1 / 2,
         "median_seconds_from_previous": 50.0},
    ]  # fmt: skip


def test_events_of_one_time_are_in_log_order(tables_of: Store) -> None:
    log = lab.open(tables_of(happening(
        ("anna", "click", 0), ("anna", "sale", 0), ("ben", "sale", 0), ("ben", "click", 0),
    )))  # fmt: skip
    assert counts(log.funnel("click", "sale")) == [2, 1]
    assert counts(log.funnel("sale", "click")) == [2, 1]


def test_each_step_needs_a_hit_of_its_own(tables_of: Store) -> None:
    log = lab.open(tables_of(happening(("anna", "sale", 0), ("anna", "sale", 0), ("ben", "sale", 0))))
    assert counts(log.funnel("sale", "sale", "sale")) == [2, 1, 0]


def test_the_edge_of_the_window_still_counts(tables_of: Store) -> None:
    log = lab.open(tables_of(happening(("anna", "click", 0), ("anna", "registration", 3599), ("anna", "sale", 1))))
    assert counts(log.funnel(*STEPS, within="1h")) == [1, 1, 1]
    assert counts(log.funnel(*STEPS, within="3600s")) == [1, 1, 1]
    assert counts(log.funnel(*STEPS, within=timedelta(seconds=3600, microseconds=-1))) == [1, 1, 0]
    assert counts(log.funnel(*STEPS, within="0s")) == [1, 0, 0]


def test_the_best_attempt_counts_with_the_value_of_its_first_step(tables_of: Store) -> None:
    # given a visitor whose first click led nowhere in time and whose second did
    log = lab.open(tables_of(happening(
        ("anna", "click&affiliate=best", 0), ("anna", "click&affiliate=silent", 7200), ("anna", "registration", 60),
        ("ben", "click&affiliate=best", 0), ("carla", "click", 0),
    )))  # fmt: skip

    # when the funnel is broken down, then the click that led somewhere counts
    assert by_value(log.funnel("click", "registration", within="1h", by="affiliate")) == {
        "": [1, 0], "best": [1, 0], "silent": [1, 1],
    }  # fmt: skip
    assert by_value(log.funnel("click", "registration", by="affiliate")) == {"best": [2, 1], "": [1, 0]}


@pytest.mark.parametrize(
    ("by", "expected"),
    [("client", {"acme": [3], "bolt": [1]}), ("event", {"click": [4]}), ("country", {"": [2], "AT": [1], "DE": [1]}),
     ("step", {"": [3], "7": [1]})],
)  # fmt: skip
def test_a_funnel_is_broken_down_by_columns_and_parameters(
    tables_of: Store, by: str, expected: dict[str, list[int]]
) -> None:
    past = happening(("anna", "click&country=DE", 0), ("ben", "click&country=AT", 0), ("carla", "click", 0))
    past.hit("client=bolt&event=click&uid=anna&step=7")
    found = lab.open(tables_of(past)).funnel("click", by=by)
    name = found.frame.columns[0]
    assert {key: [count] for key, count in found.frame.select(name, "visitors").iter_rows()} == expected
    assert len(set(found.frame.columns)) == len(found.frame.columns) == 7


def test_only_accepted_events_that_are_no_tests_count(tables_of: Store) -> None:
    log = lab.open(tables_of(happening(
        ("anna", "click", 0), ("anna", "click&test=1", 0), ("ben", "click&test=1", 0), ("carla", "click&amount=x", 0),
        ("anna", "sale&txid=1", 0), ("anna", "sale&txid=1", 0),
    )))  # fmt: skip
    assert counts(log.funnel("click", "sale", "sale")) == [1, 1, 0]


def test_an_absorbed_visitor_and_its_owner_are_one_person(tables_of: Store) -> None:
    # given a page visitor and a clicker who turn out to be one registered person, twice in a row
    past = Past()
    past.publish(RULES)
    past.hit("client=acme&event=pageview&tag_id=t1")
    click = past.hit("", "/c/acme/best")
    joined = past.hit(f"client=acme&event=registration&tag_id=t1&click_id={click.hit_id}")
    last = past.hit("client=acme&event=login&uid=anna")
    past.hit("client=acme&event=sale&uid=anna&tag_id=t1")
    assert joined.absorbed and last.new_visitor and past.outcomes[-1][2].absorbed

    # when the funnel is asked, then all of it is one way
    assert counts(lab.open(tables_of(past)).funnel("pageview", "click", "registration", "sale")) == [1, 1, 1, 1]


def test_a_client_without_the_first_step_has_nobody(tables_of: Store) -> None:
    past = happening(("anna", "click", 0), ("anna", "sale", 0))
    past.hit("client=bolt&event=sale&uid=ben")
    log = lab.open(tables_of(past))
    for by in (None, "affiliate"):
        found = log.funnel("click", "sale", client="bolt", by=by)
        assert (counts(found), found.visitors) == ([0, 0], [0, 0])
        assert found.frame["share_of_first"].to_list() == found.frame["share_of_previous"].to_list() == [None, None]
        assert "0 visitors" in repr(found) and "<svg" in found.chart().svg
    assert counts(log.funnel("click", "sale", client="acme")) == [1, 1]


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        ((), {}, "a funnel needs steps"),
        (("clik",), {}, "no event of this log is called 'clik', did you mean 'click'?"),
        (("click",), {"within": "1 day"}, "within '1 day' is no duration; write a number and s, m, h, d or w"),
        (("click",), {"by": "contry"}, "has a parameter 'contry', did you mean 'country'?"),
        (("click",), {"client": "acm"}, "of a client 'acm', did you mean 'acme'?"),
    ],
)
def test_what_the_log_does_not_know_is_one_clear_line(
    past: Past, tables_of: Store, steps: tuple[str, ...], options: dict[str, str], message: str
) -> None:
    with pytest.raises(LabError) as caught:
        funnel(lab.open(tables_of(past)), *steps, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_log_gives_what_the_definition_says(tables_of: Store) -> None:
    # given a random past of both clients with ties, several values and duplicates
    draw = random.Random(11)
    past = Past()
    past.publish(RULES)
    for _ in range(400):
        client, uid, step = draw.choice(("acme", "bolt")), f"u{draw.randrange(12)}", draw.choice(STEPS)
        country = draw.choice(("&country=DE", "&country=AT", ""))
        past.hit(f"client={client}&event={step}&uid={uid}{country}&txid={draw.randrange(150)}",
                 after_s=draw.choice((0, 0, 1, 40)))  # fmt: skip
    log = lab.open(tables_of(past))
    seen: list[Seen] = [
        (o.visitor, o.time_us, partition * 10**9 + o.seq, o.event, o.params.get("country", ""))
        for partition, _, o in past.outcomes if o.verdict == "accepted"
    ]  # fmt: skip
    assert len(seen) < 400

    # when a funnel with a window and a breakdown is asked, then each number is that of the definition
    best = best_by_definition(seen, STEPS, 120_000_000)
    found = log.funnel(*STEPS, within="2m", by="country").frame
    assert best and found.height == 3 * len({value for value, _ in best})
    for row in found.iter_rows(named=True):
        number = row["step_number"]
        came = [times for value, times in best if value == row["country"] and len(times) >= number]
        assert row["visitors"] == len(came)
        if number > 1 and came:
            expected = median((times[number - 1] - times[number - 2]) / 1e6 for times in came)
            assert row["median_seconds_from_previous"] == pytest.approx(expected)
    assert log.funnel(*STEPS, within="2m", by="country").visitors == counts(log.funnel(*STEPS, within="2m"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.84, "0.8 s"), (42, "42 s"), (60, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (7000, "1 h 57 min"),
     (3 * 86400 + 5 * 3600, "3 d 5 h"), (3599.9, "60 min"), (59.96, "60 s")],
)  # fmt: skip
def test_durations_are_written_in_two_units(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_funnel_shows_itself_in_text_and_html(past: Past, tables_of: Store) -> None:
    found = lab.open(tables_of(past)).funnel("click", "registration", within="30d", by="affiliate")
    assert "click → registration within 30d, by affiliate" in repr(found)
    assert "2 visitors did click; 1 reached registration, 50.0 %" in repr(found)
    assert "<td>best</td><td>registration</td>" in found._repr_html_()


# the command


def test_the_command_prints_one_document(past: Past, tables_of: Store) -> None:
    result = CliRunner().invoke(
        funnel_command, [str(tables_of(past)), "click", "sale", "--within", "1d", "--by", "affiliate", "--json"]
    )
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (document["steps"], document["within"], document["by"]) == (["click", "sale"], "1d", "affiliate")
    assert document["visitors"] == [2, 2]
    assert {row["affiliate"] for row in document["rows"]} == {"best", "silent"}


@pytest.mark.parametrize("ending", ["svg", "png", "html"])
def test_the_command_prints_a_table_and_draws(past: Past, tables_of: Store, tmp_path: Path, ending: str) -> None:
    chart = tmp_path / f"funnel.{ending}"
    result = CliRunner().invoke(funnel_command, [str(tables_of(past)), "click", "sale", "--chart", str(chart)])
    assert result.exit_code == 0
    assert "2 visitors did click" in result.stdout and str(chart) in result.stdout
    assert chart.stat().st_size > 1_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("nowhere", "click"), "nowhere does not exist"), (("tables", "clck"), "did you mean 'click'"),
     (("tables", "click", "--chart", "f.gif"), "charts are written as .svg, .png, .html"),
     (("tables", "click", "--chart", "no/f.svg"), "cannot be written"),
     (("tables", "click", "--within", "x"), "no duration")],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(
    past: Past, tables_of: Store, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tables_of(past).parent)
    result = CliRunner().invoke(funnel_command, arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
