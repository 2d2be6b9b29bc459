"""Funnels in every mode, with windows, exclusions, conditions and ties, held against trying everything."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import date
from itertools import combinations, groupby, pairwise, permutations, product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import polars as pl
import pytest
from click.testing import CliRunner

import lab
from lab import LabError
from lab.attempts import find_attempts
from lab.funnel_command import funnel_command
from lab.funnel_ranges import tied_visitors
from lab.funnel_steps import Asked, read_question
from lab.funnel_ties import Kind, range_of
from lab.funnel_ties import outcomes as all_outcomes
from lab.sets.session import Session
from tests.lab.conftest import RULES, Past

Store = Callable[[Past], Path]
Found = tuple[str, tuple[int, ...]]  # value of the start, times


class Seen(NamedTuple):
    """One event of a random log; n is what conditions ask for."""

    visitor: str
    time_us: int
    seq: int
    event: str
    value: str
    n: int


class Question(NamedTuple):
    """A question in words, and as plain functions. steps: (event, least n)."""

    steps: list[tuple[str, int]]
    exclude: list[tuple[str, int]]
    within_us: int | None
    mode: str
    where: int  # least n of the start

    def read(self) -> Asked:
        def written(step: tuple[str, int]) -> str:
            return step[0] if step[1] == 0 else f"{step[0]}[n >= {step[1]}]"

        steps, exclude = list(map(written, self.steps)), list(map(written, self.exclude))
        return read_question(steps, self.within_us, self.mode, exclude, f"n >= {self.where}" if self.where else None)

    def is_step(self, hit: Seen, step: tuple[str, int]) -> bool:
        return hit.event == step[0] and hit.n >= step[1] and not self.barred(hit)

    def barred(self, hit: Seen) -> bool:
        return any(hit.event == event and hit.n >= least for event, least in self.exclude)


def chains(question: Question, hits: list[Seen]) -> Iterator[tuple[int, ...]]:
    """The places of every attempt that there is, whole or not: all choices of hits are tried."""
    for size in range(1, len(question.steps) + 1):
        for places in combinations(range(len(hits)), size):
            chosen = [hits[place] for place in places]
            between = hits[places[0] : places[-1] + 1]
            orders = permutations(question.steps, size) if question.mode == "any" else [question.steps[:size]]
            if (
                any(all(map(question.is_step, chosen, order)) for order in orders)
                and chosen[0].n >= question.where
                and not any(map(question.barred, between))
                and (question.within_us is None or chosen[-1].time_us - chosen[0].time_us <= question.within_us)
                and (question.mode != "strict" or len(between) == size)
            ):
                yield places


def by_definition(question: Question, hits: list[Seen]) -> Found | None:
    """What one visitor comes to: the longest attempt, of those the first, each step as early as can be."""
    found = list(chains(question, hits))
    if not found:
        return None
    best = min(found, key=lambda places: (-len(places), places))
    return hits[best[0]].value, tuple(hits[place].time_us for place in best)


def in_every_order(question: Question, hits: list[Seen]) -> set[Found | None]:
    """What one visitor comes to when hits of the same time change places in every way."""
    groups = [list(permutations(list(group))) for _, group in groupby(hits, key=lambda hit: hit.time_us)]
    return {by_definition(question, [hit for group in order for hit in group]) for order in product(*groups)}


def random_question(draw: random.Random, mode: str) -> Question:
    names = "abc"
    steps = [(draw.choice(names), draw.choice((0, 0, 1))) for _ in range(draw.randint(1, 4))]
    if mode == "any":
        steps = [(name, draw.choice((0, 1))) for name in draw.sample(names, draw.randint(1, 3))]
    exclude = [(draw.choice("abcd"), draw.choice((0, 2)))] if draw.random() < 0.4 else []
    exclude = [step for step in exclude if step not in steps]
    return Question(steps, exclude, draw.choice((None, 0, 1, 2, 4, 9)), mode, draw.choice((0, 0, 0, 1)))


def random_log(draw: random.Random, visitors: int, most: int) -> list[Seen]:
    """Few times, so that many hits share one."""
    drawn = [
        (draw.randrange(5), f"v{visitor}", draw.choice("aabbcd"), draw.choice("xy"), draw.randrange(3))
        for visitor in range(visitors)
        for _ in range(draw.randint(1, most))
    ]
    drawn.sort(key=lambda hit: hit[0])
    return [Seen(visitor, time, seq, event, value, n) for seq, (time, visitor, event, value, n) in enumerate(drawn)]


def frame_of(hits: list[Seen], asked: Asked) -> pl.DataFrame:
    rows = [(hit.visitor, hit.time_us, 0, hit.seq, hit.event, hit.value, str(hit.n)) for hit in hits]
    schema = {"visitor": pl.String, "time_us": pl.Int64, "partition": pl.Int32, "seq": pl.Int64, "event": pl.String,
              "by_value": pl.String, "v0": pl.String}  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row").sample(fraction=1, shuffle=True, seed=1)


def attempts_of(session: Session, hits: list[Seen], asked: Asked) -> pl.DataFrame:
    session.put("events", frame_of(hits, asked))
    return session.frame(f"FROM {find_attempts(session, asked, 'events')}")


def per_visitor(hits: list[Seen]) -> dict[str, list[Seen]]:
    return {visitor: [hit for hit in hits if hit.visitor == visitor] for visitor in {hit.visitor for hit in hits}}


def found_in(attempts: pl.DataFrame) -> dict[str, Found]:
    rows = attempts.drop("end_partition", "end_seq").iter_rows()
    return {visitor: (value, tuple(time for time in times if time is not None)) for visitor, value, *times in rows}


@pytest.mark.parametrize("mode", ["ordered", "strict", "any"])
def test_random_logs_give_what_trying_everything_gives(mode: str) -> None:
    # given random logs with many ties, and random questions
    draw = random.Random(mode)
    reached = 0
    with Session() as session:
        for _ in range(70):
            question, hits = random_question(draw, mode), random_log(draw, 6, 8)

            # when they are asked of the log in SQL
            found = found_in(attempts_of(session, hits, question.read()))

            # then each visitor comes to what the definition says
            expected = {visitor: by_definition(question, mine) for visitor, mine in per_visitor(hits).items()}
            assert found == {visitor: best for visitor, best in expected.items() if best}, question
            reached += sum(len(times) > 1 for _, times in found.values())
    assert reached > 45  # the logs are not empty of stories


@pytest.mark.parametrize("mode", ["ordered", "strict", "any"])
def test_the_range_by_ties_is_that_of_all_orders(mode: str) -> None:
    # given random logs with many ties
    draw = random.Random(f"ties {mode}")
    loose = 0
    with Session() as session:
        for _ in range(20 if mode == "any" else 40):  # trying every order of every choice takes its time
            question, hits = random_question(draw, mode), random_log(draw, 6, 5)
            asked = question.read()
            attempts = attempts_of(session, hits, asked)

            # when the visitors with ties are followed through every order
            found = tied_visitors(frame_of(hits, asked), attempts, asked)

            # then each comes to exactly what the orders can make of it, and the others to one thing only
            for visitor in attempts["visitor"]:
                expected = {best for best in in_every_order(question, per_visitor(hits)[visitor]) if best}
                actual = found.get(visitor)
                assert (set(actual) if actual else {found_in(attempts)[visitor]}) == expected, (question, visitor)
                loose += len(expected) > 1
    assert loose > 3


def test_the_least_and_the_greatest_median_are_those_of_all_choices() -> None:
    # given visitors who surely take some time, and some who may not come at all
    draw = random.Random(1)
    for _ in range(200):
        certain = [float(draw.randrange(9)) for _ in range(draw.randrange(4))]
        tied = [
            (draw.random() < 0.5, [float(draw.randrange(9)) for _ in range(draw.randint(1, 2))])
            for _ in range(draw.randint(0, 4))
        ]

        # when the range is asked, then it is that of trying every choice
        choices = [seconds if surely else [*seconds, None] for surely, seconds in tied]
        tried = [[*certain, *(s for s in choice if s is not None)] for choice in product(*choices)]
        found = range_of(certain, iter(tied))
        assert (found.lowest, found.highest) == (min(map(len, tried)), max(map(len, tried)))
        medians = [median(values) for values in tried if values]
        expected = (min(medians), max(medians)) if medians else (None, None)
        assert (found.lowest_median, found.highest_median) == expected


def test_too_many_ways_are_said_to_be_too_many() -> None:
    asked = read_question(["a", "b", "c"], 10**9, "ordered", (), None)
    kinds = [Kind(frozenset({n}), n == 0, False, str(v) if n == 0 else "") for n in range(3) for v in range(2)]
    assert all_outcomes(asked, [(time, kind) for time in range(30) for kind in kinds]) is None


# on a log


def shop() -> Past:
    """anna buys at once, ben logs in before, carla leaves and logs in, dora's two hits share a second."""
    past = Past()
    past.publish(RULES)
    for uid, event, after_s in (
        ("anna", "click&country=DE", 0), ("anna", "sale&amount=50", 60), ("ben", "click&country=AT", 0),
        ("ben", "login", 30),
        ("ben", "sale&amount=5", 90), ("carla", "click&country=DE", 86_400), ("carla", "login", 5),
        ("carla", "pageview", 5),
        ("dora", "sale&amount=20", 5), ("dora", "click&country=DE", 0),
    ):  # fmt: skip
        past.hit(f"client=acme&uid={uid}&event={event}", after_s=after_s)
    return past


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [(("click", "sale"), {}, [4, 2]), (("click", "sale"), {"mode": "strict"}, [4, 1]),
     (("click", "sale"), {"mode": "any"}, [4, 3]),
     (("click", "sale"), {"exclude": "login"}, [4, 1]), (("click", "sale[amount >= 20]"), {}, [4, 1]),
     (("click", "sale"), {"exclude": ["sale[amount < 20]"]}, [4, 1]),
     (("click", "sale"), {"where": 'country == "DE"'}, [3, 1]),
     (('click[country in ["AT", "DE"] and not (country == "AT")]', "sale"), {}, [3, 1])],
)  # fmt: skip
def test_modes_exclusions_and_conditions_decide_who_counts(
    tables_of: Store, steps: tuple[str, ...], options: dict[str, str], expected: list[int]
) -> None:
    assert lab.open(tables_of(shop())).funnel(*steps, **options).visitors == expected


def test_each_number_says_how_far_ties_can_move_it(tables_of: Store) -> None:
    # given dora, whose sale and click share a second
    found = lab.open(tables_of(shop())).funnel("click", "sale")

    # when the funnel is shown, then it may be two or three who bought, and the median moves with it
    assert found.ties.select("visitors", "lowest", "highest").rows() == [(4, 4, 4), (2, 2, 3)]
    assert found.ties.select("median_seconds", "lowest_median", "highest_median").row(1) == (90.0, 60.0, 90.0)
    assert "2 to 3" in repr(found) and "1 min to 1 min 30 s" in repr(found)
    assert "to 3" not in repr(lab.open(tables_of(shop()).parent / "tables").funnel("click", "login"))


def test_those_who_left_did_something_next(tables_of: Store) -> None:
    found = lab.open(tables_of(shop())).funnel("click", "sale")
    assert found.left().rows() == [(1, "click", "(nothing)", 1, 0.5), (1, "click", "login", 1, 0.5)]
    assert found.left(events=3)["next"].to_list() == ["(nothing)", "login → pageview"]
    by = lab.open(found._way.log.path).funnel("click", "sale", by="country").left()
    assert by.columns[0] == "country"
    with pytest.raises(LabError, match="1 to 20"):
        found.left(events=0)


def test_times_and_the_trend_are_those_of_the_attempts_that_count(tables_of: Store) -> None:
    found = lab.open(tables_of(shop())).funnel("click", "sale")
    assert found.times.select("since", "visitors", "p10", "p50", "p90").rows() == [
        ("previous", 2, 66.0, 90.0, 114.0), ("first", 2, 66.0, 90.0, 114.0),
    ]  # fmt: skip
    assert found.trend.rows() == [
        (date(2026, 3, 2), 1, "click", 2, 1.0), (date(2026, 3, 2), 2, "sale", 2, 1.0),
        (date(2026, 3, 3), 1, "click", 2, 1.0), (date(2026, 3, 3), 2, "sale", 0, 0.0),
    ]  # fmt: skip
    assert lab.open(found._way.log.path).funnel("click").times.height == 0


def test_two_segments_stand_side_by_side(tables_of: Store) -> None:
    log = lab.open(tables_of(shop()))
    both = log.funnel("click", "sale", where='country == "AT"').beside(
        log.funnel("click", "sale", where='country == "DE"')
    )
    assert both.frame.select("visitors", "other_visitors").rows() == [(1, 3), (1, 1)]
    last = both.frame.row(1, named=True)
    assert [last[f"{end}difference"] for end in ("", "lowest_", "highest_")] == pytest.approx([-2 / 3, -2 / 3, -1 / 3])
    assert "-66.7 points" in repr(both) and "<table>" in both._repr_html_()
    with pytest.raises(LabError, match="different steps"):
        log.funnel("click").beside(log.funnel("sale"))
    with pytest.raises(LabError, match="leave by out"):
        log.funnel("click", by="country").beside(log.funnel("click"))


@pytest.mark.parametrize("name", ["times_chart", "trend_chart", "chart"])
def test_every_picture_draws_and_holds_its_data(tables_of: Store, name: str) -> None:
    log = lab.open(tables_of(shop()))
    found = log.funnel("click", "login", "sale")
    for drawn in (getattr(found, name)(), found.beside(found).chart()):
        assert drawn.svg.count("<path") > 3 and drawn.frame.height > 1
        assert "click → login → sale" in drawn.svg


@pytest.mark.parametrize("name", ["times_chart", "trend_chart"])
def test_a_picture_of_nobody_still_draws(tables_of: Store, name: str) -> None:
    log = lab.open(tables_of(shop()))
    for steps in (("click",), ("sale", "pageview")):
        assert "<svg" in getattr(log.funnel(*steps, where='country == "XX"'), name)().svg


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [(("sale[amount >]",), {}, "condition 'amount >'"), (("sale[",), {}, "step 'sale\\['"),
     (("[amount > 1]",), {}, "write an event"),
     (('sale[count("click") > 1]',), {}, r"sees one hit, not count\(click\)"),
     (("sale[first.country == 'DE']",), {}, "condition"),
     (("sale",), {"mode": "strct"}, "did you mean 'strict'"),
     (("sale", "click"), {"exclude": "click"}, "a step and excluded"),
     (("sale", "sale[amount > 20]"), {"mode": "any"}, "one is two of"),
     (("sale",), {"exclude": "logn"}, "did you mean 'login'"),
     (("sale[amont > 1]",), {}, "did you mean 'amount'"), (("sale",), {"where": "contry == 'DE'"}, "con")],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_clear_line(
    tables_of: Store, steps: tuple[str, ...], options: dict[str, str], message: str
) -> None:
    with pytest.raises(LabError, match=message) as caught:
        lab.open(tables_of(shop())).funnel(*steps, **options)
    assert "\n" not in str(caught.value)


def test_the_command_knows_modes_exclusions_times_trend_leavers_and_segments(tables_of: Store) -> None:
    root = str(tables_of(shop()))
    asked = [
        root,
        "click",
        "sale[amount >= 5]",
        "--mode",
        "strict",
        "--exclude",
        "login",
        "--times",
        "--trend",
        "--left",
    ]
    shown = CliRunner().invoke(funnel_command, asked)
    assert shown.exit_code == 0, shown.output
    for text in (
        "nothing between without login",
        "How long it took",
        "By day of the start",
        "left did next",
        "2026-03-03",
    ):
        assert text in shown.stdout
    document = json.loads(CliRunner().invoke(funnel_command, [*asked, "--json"]).stdout)
    assert (document["mode"], document["exclude"], document["visitors"]) == ("strict", ["login"], [4, 1])
    assert document["ties"][1]["highest"] == 2 and document["trend"][0]["day"] == "2026-03-02"
    sides = CliRunner().invoke(
        funnel_command, [root, "click", "sale", "--where", 'country == "AT"', "--against", 'country == "DE"']
    )
    assert "-66.7 points" in sides.stdout


def test_both_sides_of_a_pair_of_times_are_in_order() -> None:
    """The oracle itself: an attempt's times never run backwards."""
    draw = random.Random(3)
    for _ in range(50):
        hits = random_log(draw, 1, 7)
        found = by_definition(random_question(draw, "ordered"), hits)
        assert found is None or all(a <= b for a, b in pairwise(found[1]))


def test_the_highest_by_ties_is_what_window_funnel_of_chdb_finds(tmp_path: Path) -> None:
    """It puts hits of one time in the order of the steps. (Its strict_increase forgets starts and is no lowest.)"""
    # given chdb, which is too big to be a dependency, and logs with many ties
    chdb = pytest.importorskip("chdb", reason="chdb is not installed")
    draw, path = random.Random(5), tmp_path / "events.parquet"
    with Session() as session:
        for _ in range(25):
            within_us, steps = draw.choice((0, 1, 2, 4, 9)), draw.sample("abc", 3)
            asked, hits = read_question(steps, within_us, "ordered", (), None), random_log(draw, 40, 6)
            frame_of(hits, asked).write_parquet(path)

            # when both are asked
            tests = ", ".join(f"event = '{step}'" for step in steps)
            query = (
                f"SELECT visitor, windowFunnel({within_us})(toUInt64(time_us), {tests}) AS level "
                f"FROM file('{path}', Parquet) GROUP BY visitor HAVING level > 0"
            )
            theirs = {
                visitor: int(level) for visitor, level in json.loads(str(chdb.query(query, "JSONCompact")))["data"]
            }
            attempts = attempts_of(session, hits, asked)
            ways = tied_visitors(frame_of(hits, asked), attempts, asked)

            # then each visitor comes as far
            highest = {visitor: len(times) for visitor, (_, times) in found_in(attempts).items()}
            highest |= {visitor: max(len(way.times) for way in found) for visitor, found in ways.items() if found}
            assert highest == theirs
