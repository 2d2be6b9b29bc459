"""The kernel of the set engine reads hits as columns do, one by one; and what happens where it cannot be compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import polars as pl
import pytest

import lab
from lab.bulk import generate
from lab.log import LabError, Log
from lab.sets.decide import decide
from lab.sets.events import MAX_EVENTS, Source, read_events
from lab.sets.ground import Ground
from lab.sets.kernel import FOLDER, kernel
from lab.sets.pages import Words
from lab.sets.run import replay
from lab.sets.said import Said
from lab.sets.session import Session
from service.archive import tables
from service.archive.schemas import SCHEMAS
from service.engine import Rulebook, load
from tests.lab.pairs import pairs

ROOT = Path(__file__).parents[2]
KINDS = ("uid", "tag", "click", "x")
compiled_here = pytest.mark.skipif(kernel() is None, reason="the kernel is not compiled here: no C compiler")


def _read(log: Log, rulebook: Rulebook, compiled: bool) -> tuple[pl.DataFrame, dict[str, int]]:
    """The events, each identity told by the first place that has it: hashes differ, what is equal does not."""
    with Session(compiled=compiled) as session:
        source = Source(session, log, rulebook, log.cuts["partition"].to_list())
        events = read_events(source)
        patterns, clients = source.reading.patterns, max(1, len(source.reading.clients))
    said = [None if slot is None else (patterns[slot // clients], slot % clients) for slot in events["slot"]]
    first = (pl.when(pl.col(k).is_not_null()).then(pl.col("ord").min().over(k)).alias(k) for k in KINDS)
    told = events.with_columns(first).drop("slot").with_columns(
        link=pl.col("link").is_not_null(), reason=pl.col("reason").cast(pl.String),
        said=pl.Series([repr(one) for one in said]),
    )  # fmt: skip
    return told, dict(source.others)


def _same(log: Log, rulebook: Rulebook) -> int:
    (mine, others), (theirs, their_others) = (_read(log, rulebook, compiled) for compiled in (True, False))
    for name in theirs.columns:
        assert mine[name].equals(theirs[name]), name
    assert others == their_others
    return mine.height


@compiled_here
@pytest.mark.parametrize("seed", range(4))
def test_odd_hits_are_read_the_same_with_the_kernel_and_without(tmp_path: Path, seed: int) -> None:
    log, rulebook = pairs(tmp_path, 900 + seed, 15)
    assert _same(log, rulebook) > 100


@compiled_here
def test_a_generated_week_is_read_the_same_with_the_kernel_and_without(tmp_path: Path) -> None:
    generate(tmp_path, 40_000, chunk=9_000)
    rulebook = load((ROOT / "datasets" / "rules.toml").read_text(encoding="utf-8"))
    assert _same(lab.open(tmp_path), rulebook) > 30_000


def test_what_hits_said_is_read_again_where_it_did_not_fit_into_memory(tmp_path: Path) -> None:
    # given a log of several files, and room for what the first one said
    generate(tmp_path, 30_000, chunk=9_000)
    log, rules = lab.open(tmp_path), ROOT / "datasets" / "rules.toml"
    whole = replay(log, rules, full=False)
    with Session() as session:
        rulebook = load(rules.read_text(encoding="utf-8"))
        source = Source(session, log, rulebook, log.cuts["partition"].to_list(), keep_bytes=700_000)
        made = decide(Ground(source, [rulebook], False), rulebook, 500)
        kept = [page.words is not None for page in source.pages]
    # then some of it was read again, and the answer is the same
    assert set(kept) == {True, False}
    assert made.letters["id"].sort().equals(whole.postbacks["postback_id"].sort())


@pytest.mark.parametrize("odd", ["", "A" * 22, "g" * 22, "/" * 22, "ü" * 11])
def test_a_hit_id_as_no_service_makes_it_is_kept_too(tmp_path: Path, odd: str) -> None:
    # given a log in which every seventh id is one of another kind
    generate(tmp_path / "made", 3_000)
    hits = lab.open(tmp_path / "made").hits.collect()
    number = pl.col("partition") * 1_000_000 + pl.col("seq")
    odd_ids = pl.concat_str(pl.lit(odd), number.cast(pl.String).str.zfill(10))
    told = hits.with_columns(hit_id=pl.when(pl.col("seq") % 7 == 0).then(odd_ids).otherwise("hit_id"))
    tables.append(tmp_path / "log", "hits", told.to_arrow().cast(SCHEMAS["hits"]))
    log, rules = lab.open(tmp_path / "log"), ROOT / "datasets" / "rules.toml"
    # then both engines post the same
    mine, theirs = replay(log, rules, full=False).postbacks, log.replay(rules).postbacks
    assert mine["postback_id"].sort().equals(theirs["postback_id"].sort())
    assert mine.filter(pl.col("seq") % 7 == 0)["hit_id"].str.starts_with(odd).all()


def _decided(log: Log, rulebook: Rulebook, cut_rows: int = 0) -> pl.Series:
    """Ids of the postbacks. cut_rows: cut what hits said anew, in batches so long."""
    with Session() as session:
        source = Source(session, log, rulebook, log.cuts["partition"].to_list())
        ground = Ground(source, [rulebook], False)
        for page in source.pages if cut_rows else ():
            assert page.words is not None
            page.words = [
                Words(words.starts.slice(first, cut_rows + 1), words.values)
                for words in page.words
                for first in range(0, len(words.starts) - 1, cut_rows)
            ]
        return decide(ground, rulebook, 500).letters["id"].sort()


def test_what_hits_said_does_not_depend_on_where_batches_end(tmp_path: Path) -> None:
    # given a log, read in batches of one length
    generate(tmp_path, 20_000, chunk=9_000)
    log, rulebook = lab.open(tmp_path), load((ROOT / "datasets" / "rules.toml").read_text(encoding="utf-8"))
    as_read = _decided(log, rulebook)
    # when what was said is in batches of another length than what is read again
    again = _decided(log, rulebook, 777)
    # then the postbacks are the same
    assert as_read.len() > 100
    assert again.equals(as_read)


def test_what_hits_said_is_forgotten_for_others_where_there_is_room_for_few(tmp_path: Path) -> None:
    # given room for what some 400 hits said
    generate(tmp_path, 20_000)
    log, rulebook = lab.open(tmp_path), load((ROOT / "datasets" / "rules.toml").read_text(encoding="utf-8"))
    with Session() as session:
        source = Source(session, log, rulebook, log.cuts["partition"].to_list())
        ground = Ground(source, [rulebook], False)
        little = Said(source, ground.names, ground.events, 400)
        # when three times so many are asked about, some of them again
        rows = pl.int_range(1_200, dtype=pl.UInt32, eager=True)
        for first, last in ((0, 300), (300, 600), (200, 500), (100, 1_200), (0, 100)):
            asked = rows.slice(first, last - first)
            found = little.of(asked, little.all).sort("row")
            # then each answer is whole, and nothing else is kept where there is no room
            assert found.equals(ground.said.of(asked, little.all).sort("row"))
            assert little.kept <= max(400, asked.len())
        assert ground.said.kept == 1_200


def test_a_rulebook_of_more_events_than_the_set_engine_numbers_is_refused_in_one_line(tmp_path: Path) -> None:
    # given a rulebook that names more events than 16 bits count
    generate(tmp_path, 1_000)
    log, rulebook = lab.open(tmp_path), load((ROOT / "datasets" / "rules.toml").read_text(encoding="utf-8"))
    named = tuple(f"step-{number}" for number in range(MAX_EVENTS))
    triggers = (msgspec.structs.replace(rulebook.triggers[0], after=named), *rulebook.triggers[1:])
    crowded = msgspec.structs.replace(rulebook, triggers=triggers)
    # when, then
    with pytest.raises(LabError, match=r"event names are too many for the set engine.*engine='reference'"):
        replay(log, crowded, full=False)


def _house(root: Path) -> None:
    """The lab, not compiled."""
    for name in ("lab", "service"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("_native*", "__pycache__"))


@pytest.mark.parametrize(("options", "status"), [([], 0), (["--required"], 1)])
def test_without_a_c_compiler_one_line_says_so(tmp_path: Path, options: list[str], status: int) -> None:
    # given a house that is not compiled, on a machine without a compiler
    _house(tmp_path)
    command = [sys.executable, "-m", "lab.compile", *options]
    environment = os.environ | {"CC": "no-such-cc"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    # then one line names what is missing and what follows from it
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert "there is no C compiler no-such-cc" in line
    assert "reads logs by columns" in line


@compiled_here
def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    # given a file where the folder of the kernel shall be
    _house(tmp_path)
    (tmp_path / "lab" / "_native").touch()
    command = [sys.executable, "-m", "lab.compile"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    # then
    assert (done.returncode, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path / 'lab' / '_native'} cannot be written: File exists" in line


def test_a_kernel_that_cannot_be_loaded_is_left_aside(tmp_path: Path) -> None:
    # given half a library where the kernel shall be
    _house(tmp_path)
    asked = (
        "from lab.sets.kernel import kernel, library; library().parent.mkdir(); library().write_bytes(b'half'); "
        "print(kernel())"
    )
    done = subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=False)
    # then logs are read by columns
    assert done.stdout == "None\n", done.stderr


@compiled_here
def test_python_leaves_the_kernel_aside_on_demand() -> None:
    asked = "from lab.sets.kernel import kernel; print(kernel())"
    command = [sys.executable, "-X", "interpreted", "-c", asked]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "None\n"
    assert list(FOLDER.glob("scan-*.so"))
