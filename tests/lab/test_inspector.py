"""The inspector and the explorer without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import lab
from lab import FunnelExplorer, Inspector, LabError
from lab.log import Log
from tests.lab.conftest import Past


@pytest.fixture
def day(tmp_path: Path, past: Past) -> Log:
    return lab.open(past.store(tmp_path / "tables"))


@pytest.fixture
def inspector(day: Log) -> Iterator[Inspector]:
    opened = Inspector(day)
    yield opened
    opened.close()


def test_each_value_of_a_hit_names_the_hit_that_brought_it(inspector: Inspector) -> None:
    # when anna's visitor is looked at, who clicked, registered and bought
    inspector.look("uid:anna")
    # then her hits stand in log order, the second sale being the repeat of the first
    assert inspector.timeline["event"].to_list() == ["click", "registration", "sale", "sale", "sale"]
    assert inspector.timeline["verdict"].to_list() == ["accepted", "accepted", "accepted", "duplicate", "accepted"]
    # and at the first sale the amount is its own, the country that of the click
    click, sale = inspector.timeline["hit_id"][0], inspector.timeline["hit_id"][2]
    values = {row["name"]: row for row in inspector.lineage.filter(pl.col("hit_id") == sale).iter_rows(named=True)}
    assert (values["amount"]["value"], values["amount"]["origin"]) == ("50.00", "this hit")
    assert (values["sub1"]["value"], values["sub1"]["origin"]) == ("a b", "remembered")
    assert (values["sub1"]["from_hit"], values["sub1"]["from_event"]) == (click, "click")


def test_the_parameters_of_every_hit_are_those_of_the_stored_decision(inspector: Inspector, day: Log) -> None:
    # when each visitor of the day is looked at
    stored = day.decisions.filter(pl.col("visitor") != "").collect()
    for visitor in stored["visitor"].unique():
        inspector.look(f"visitor:{visitor}")
        told = inspector.lineage
        # then what the hits are said to have known is what was decided by, and nothing is uncertain
        for row in stored.filter(pl.col("visitor") == visitor).iter_rows(named=True):
            mine = told.filter(pl.col("hit_id") == row["hit_id"])
            assert dict(mine.select("name", "value").iter_rows()) == dict(row["fields"]) | dict(row["params"])
        assert inspector.notes == ()


def test_a_postback_is_found_by_its_id_with_what_became_of_it(inspector: Inspector, past: Past) -> None:
    # given a postback that was delivered
    postback = next(one for _, one in past.postbacks if one.trigger == "deposit")
    # when
    inspector.look(postback.id)
    # then its hit is chosen, and the story and the tries are there
    assert inspector.story is not None
    assert inspector.story.hit_id == postback.hit_id
    assert postback.id in [one.id for one in inspector.story.postbacks]
    row = inspector.postbacks.filter(pl.col("postback_id") == postback.id).row(0, named=True)
    assert (row["tries"], row["result"]) == (1, "delivered")
    assert "delivered after 1 try" in inspector.body.value


def test_nobody_found_is_said_in_one_line_and_shown_in_words(inspector: Inspector) -> None:
    inspector.look("uid:nobody")
    with pytest.raises(LabError, match="nobody in this log has uid 'nobody'; give a hit id"):
        _ = inspector.timeline
    assert "nobody in this log" in inspector.said.value


def test_the_explorer_asks_the_funnel_that_its_line_of_python_says(day: Log) -> None:
    # given a funnel put together with widgets
    explorer = FunnelExplorer(day, "click", "sale")
    explorer.within.value, explorer.by.value = "1h", "affiliate"
    # then its numbers are those of the line below it
    assert explorer.code == 'log.funnel("click", "sale", within="1h", by="affiliate")'
    assert explorer.frame.equals(day.funnel("click", "sale", within="1h", by="affiliate").frame)
    # and each view has its frame
    explorer.set(by=None, against='country == "DE"')
    for view, columns in (("those who left", "next"), ("two segments", "other_visitors")):
        assert columns in explorer.set(view=view).frame.columns
    assert explorer.code.endswith('.beside(log.funnel("click", "sale", within="1h", where=\'country == "DE"\'))')
    explorer.close()


def test_a_misspelt_step_is_said_below_the_steps_and_the_next_funnel_is_right(day: Log) -> None:
    explorer = FunnelExplorer(day, "clik", "sale")
    with pytest.raises(LabError, match="'clik', did you mean 'click'"):
        _ = explorer.funnel
    assert "did you mean" in explorer.said.value
    assert explorer.set(steps=["click", "sale"]).funnel.visitors[0] == 2
    explorer.close()
