"""Where the tables lie: one Delta table per name below a root folder, each marked with its version.

The one place that knows how a table is found, checked, created and appended to.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import TableNotFoundError

from service.archive.schemas import SCHEMAS, TABLE_VERSION

TABLES = tuple(SCHEMAS)
_MARK = "backtrack table {name}, version {version}"
LOCK = ".upkeep.lock"
ERASED_ROWS = "erased"  # application id of erasures

# how Delta keeps its own log. Statistics only of columns that find rows and name nobody: those of the others would repeat
# addresses and parameters in every commit, where nobody who erases a person would look for them.
PROPERTIES = {
    "delta.checkpointInterval": "100",
    "delta.logRetentionDuration": "interval 1 hours",  # nobody travels back; without it, a file per second for 30 days
    "delta.enableExpiredLogCleanup": "true",
    # how long the log names files that left the table; a week of them, 86,400 a day, would be read with every opening
    "delta.deletedFileRetentionDuration": "interval 1 hours",
    "delta.dataSkippingStatsColumns": "partition,epoch,seq,n,time,hit_id",
}


class TableError(Exception):
    """A folder that holds no tables, or tables of another version. The message names the folder and the remedy."""


def open_table(root: Path, name: str) -> DeltaTable | None:
    """The table, None if it does not exist yet. Raises TableError for a table that is not ours or of another version."""
    path = root / name
    if not (path / "_delta_log").is_dir():
        return None
    try:
        table = DeltaTable(str(path))
    except TableNotFoundError:
        return None
    except Exception as error:
        raise TableError(f"{path} cannot be read as a Delta table: {error}") from error
    found, expected = table.metadata().description or "no mark", _MARK.format(name=name, version=TABLE_VERSION)
    if found != expected:
        raise TableError(
            f"{path} is marked {found!r}, this program reads {expected!r}; "
            "use the program version that wrote it, or another folder"
        )
    return table


def append(
    root: Path, name: str, rows: pa.Table, table: DeltaTable | None = None, transactions: dict[str, int] | None = None
) -> None:
    """Append rows in one commit, creating the table first if it is missing.

    table: the handle that a decision was made on; a concurrent writer then conflicts instead of being overlooked.
    transactions: application id to version, stored with the commit.
    """
    properties = None
    if transactions:
        properties = CommitProperties(app_transactions=[Transaction(app, v) for app, v in sorted(transactions.items())])
    if table is None:
        create(root, name)
    write_deltalake(
        str(root / name) if table is None else table,
        rows.cast(SCHEMAS[name]),
        mode="append",
        partition_by=["day"],
        commit_properties=properties,
    )


def create(root: Path, name: str) -> None:
    """Create an empty table with its mark, unless it is there; one that is there gets the properties that it lacks."""
    (root / name).mkdir(parents=True, exist_ok=True)
    DeltaTable.create(
        str(root / name),
        SCHEMAS[name],
        mode="ignore",
        partition_by=["day"],
        name=name,
        description=_MARK.format(name=name, version=TABLE_VERSION),
        configuration=properties(name),
    )
    table = open_table(root, name)
    if table is not None and not properties(name).items() <= table.metadata().configuration.items():
        table.alter.set_table_properties(properties(name))


def properties(name: str) -> dict[str, str]:
    """The table's properties: statistics only of columns that it has."""
    columns = PROPERTIES["delta.dataSkippingStatsColumns"].split(",")
    kept = ",".join(column for column in columns if column in SCHEMAS[name].names)
    return PROPERTIES | {"delta.dataSkippingStatsColumns": kept}


@contextmanager
def claim(root: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Be the only one that merges, drops or erases in these tables; False if somebody else still is after `wait_s`.

    The library lets two merges of the same files both commit, which doubles their rows. A lock of the operating system
    outlasts a process that sleeps and ends with one that dies, as no lease does.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _locked(descriptor, time.monotonic() + wait_s)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, deadline_s: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(0.05)


def replace(table: DeltaTable, rows: pa.Table, predicate: str, erased: int) -> None:
    """Put blanked rows in the place of those that the predicate (SQL) finds, in one commit. Each has to fit it itself.

    erased: stored with the commit, see `erased`. Raises CommitFailedError where anybody else wrote to the table meanwhile;
    nothing has happened then.
    """
    properties = CommitProperties(app_transactions=[Transaction(ERASED_ROWS, erased)])
    write_deltalake(table, rows, mode="overwrite", predicate=predicate, commit_properties=properties)


def erased(table: DeltaTable | None) -> int:
    """How many rows of the table were blanked since it began, so that a reader need not look for them; 0 for none."""
    return 0 if table is None else table.transaction_version(ERASED_ROWS) or 0


def leave_to_readers(root: Path, name: str, table: DeltaTable, days: Collection[str]) -> None:
    """To be called before files of these days leave the table: they stay on disk as long as if they were written now.

    What deletes them goes by their age, since the log forgets within an hour when they left.
    """
    actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "partition.day"])
    for path, day in zip(*actions.to_pydict().values(), strict=True):
        if day in days:
            os.utime(root / name / path)


def files(root: Path, name: str) -> list[str]:
    """The Parquet files of the table's newest version, sorted; [] if there is no such table."""
    table = open_table(root, name)
    if table is None:
        return []
    paths = pa.table(table.get_add_actions())["path"].to_pylist()  # file_uris() percent-encodes the folder's name
    return sorted(str(root / name / path) for path in paths)
