"""The settings: read once, unknown names and impossible values refused in one line, every one documented."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from service import keys
from service.settings import Settings, SettingsError, from_environment, make_writable

README = Path(__file__).parents[2] / "service" / "README.md"
ROW = re.compile(r"^\| `(BACKTRACK_[A-Z_]+)` \| (?:`([^`]*)`|(.*?)) \| (.+) \|$", re.MULTILINE)


def test_variables_become_values_of_their_kind() -> None:
    # given variables for a number, a folder and a text, and some of others
    environment = {"BACKTRACK_PORT": "9000", "BACKTRACK_VAR": "/data", "BACKTRACK_HOST": "::1", "PATH": "/bin"}
    # when they are read
    settings = from_environment(environment)
    # then they are what they say, and the rest is as documented
    assert (settings.port, settings.var, settings.host) == (9000, Path("/data"), "::1")
    assert msgspec.structs.replace(settings, port=8700, var=Path("var"), host="127.0.0.1") == Settings()


def test_options_win_over_variables_and_absent_ones_do_not() -> None:
    # given a variable and options
    settings = from_environment({"BACKTRACK_PORT": "9000", "BACKTRACK_HOST": "::1"}, port=9001, host=None)
    # then the option that was given wins
    assert (settings.port, settings.host) == (9001, "::1")


def test_settings_survive_the_way_into_a_child_process() -> None:
    # given settings that differ from the defaults, and the defaults
    changed = Settings(port=1, var=Path("a b"), tables=Path("t"), allow_addresses="10.0.0.0/8, ::1/128", linger_ms=0)
    for settings in (changed, Settings()):
        # when they are handed on as variables and read again, then they are the same
        assert from_environment(settings.environment()) == settings


def test_the_folders_lie_below_var_unless_told_otherwise() -> None:
    # given a folder of its own for the tables
    settings = Settings(var=Path("v"), tables=Path("t"))
    # then tables lie there, spools below var
    assert (settings.tables_path, settings.spool_path) == (Path("t"), Path("v/spool"))
    assert Settings(var=Path("v")).tables_path == Path("v/tables")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("BACKTRACK_PROT", "1", "there is no setting BACKTRACK_PROT, did you mean BACKTRACK_PORT?"),
        (
            "BACKTRACK_QQQQQQQQ",
            "1",
            "there is no setting BACKTRACK_QQQQQQQQ; known are BACKTRACK_ALLOW_ADD",
        ),
        ("BACKTRACK_PORT", "http", "BACKTRACK_PORT='http' is no whole number"),
        ("BACKTRACK_PORT", "", "BACKTRACK_PORT='' is no whole number"),
        ("BACKTRACK_PORT", "0", "BACKTRACK_PORT=0: use 1 to 65535"),
        ("BACKTRACK_PORT", "65536", "BACKTRACK_PORT=65536: use 1 to 65535"),
        ("BACKTRACK_PARTITIONS", "0", "BACKTRACK_PARTITIONS=0: use 1 to 1024"),
        ("BACKTRACK_BATCH_HITS", "0", "BACKTRACK_BATCH_HITS=0: use 1 to"),
        ("BACKTRACK_ARCHIVE_ROWS", "-5", "BACKTRACK_ARCHIVE_ROWS=-5: use 1 to"),
        ("BACKTRACK_LEASE_MS", "10", "BACKTRACK_LEASE_MS=10: use 200 to"),
        ("BACKTRACK_VAR", "", "BACKTRACK_VAR is empty; name a folder, or leave it out"),
        ("BACKTRACK_ALLOW_ADDRESSES", "10.0.0.1/8", "BACKTRACK_ALLOW_ADDRESSES: 10.0.0.1/8 has host bits set; write"),
        (
            "BACKTRACK_TOKENS",
            "a-token-of-32-characters-or-so-x,short",
            "BACKTRACK_TOKENS: a token is shorter than 16 characters; draw",
        ),
        ("BACKTRACK_TRUSTED_PROXIES", "10.0.0.1/8", "BACKTRACK_TRUSTED_PROXIES: 10.0.0.1/8 has host bits set; write"),
        ("BACKTRACK_ALLOW_ADDRESSES", "localhost", "BACKTRACK_ALLOW_ADDRESSES: 'localhost' does not appear"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_remedy(variable: str, value: str, said: str) -> None:
    # given such a variable, when it is read, then one line names it
    with pytest.raises(SettingsError) as caught:
        from_environment({variable: value})
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_an_option_that_cannot_be_used_is_refused_too() -> None:
    # given a port from the command line, when it is none, then it is refused
    with pytest.raises(SettingsError, match="BACKTRACK_PORT=70000"):
        from_environment({}, port=70_000)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    # given a file where a folder should be
    (tmp_path / "file").write_text("")
    # when it is to be used, then the message names it and the remedy
    with pytest.raises(
        SettingsError, match=r"file/var cannot be written: Not a directory; name another with BACKTRACK_VAR"
    ):
        make_writable(tmp_path / "file" / "var")
    # and one that can be is made
    make_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_every_setting_stands_in_the_readme_with_its_default_and_the_reverse() -> None:
    # given the table of the README
    rows = {name: default for name, default, _, _ in ROW.findall(README.read_text())}
    # then it names every setting and no other, with the value that it has
    documented = Settings().environment() | {"BACKTRACK_TABLES": "", "BACKTRACK_ALLOW_ADDRESSES": ""}
    assert rows == documented


@pytest.mark.parametrize("folder", ["intake", "tracking", "delivery", "archive"])
def test_a_folders_readme_names_every_file_and_no_other(folder: str) -> None:
    # given the table of files in the README of a folder
    text = (README.parent / folder / "README.md").read_text()
    table = text.partition("## Files")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    # then it names what lies there
    named = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    there = {path.name for path in (README.parent / folder).iterdir() if path.suffix in (".py", ".lua", ".js")}
    assert named == there - {"__init__.py"}


def test_the_readmes_name_the_keys_in_redis_and_no_other() -> None:
    # given the keys that the READMEs name
    folders = (README.parent / name for name in (".", "intake", "tracking", "archive", "delivery"))
    named = {key for folder in folders for key in re.findall(r"bt:[a-zN:]*[a-z]", (folder / "README.md").read_text())}
    # then all of them are the program's, and all that the intake, tracking and the archive use are among them
    place = keys.Partition(0)
    own = {getattr(place, name).replace(":0:", ":N:") for name in place.__slots__ if name != "number"}
    shared = {keys.META, keys.RULEBOOK, keys.RULEBOOKS, keys.ARCHIVE_LEASE, keys.ARCHIVED}
    shared |= {
        keys.ROOMS,
        keys.FAILING,
        keys.FAILING_SINCE,
        keys.PAUSED,
        keys.PROBES,
        keys.RATES,
        keys.DECIDED,
        "bt:room",
        "bt:operator",
    }
    of_delivery = {f"bt:N:{name}" for name in ("attempts", "tries", "inflight", "dead")}
    assert named <= own | shared and own | shared <= named | of_delivery
