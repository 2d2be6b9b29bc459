"""Where the tables lie: one Delta table per name below a root folder, each marked with its version.

The one place that knows how a table is found, checked, created and appended to.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import TableNotFoundError

from service.archive.schemas import SCHEMAS, TABLE_VERSION

TABLES = tuple(SCHEMAS)
_MARK = "backtrack table {name}, version {version}"


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
    """Create an empty table with its mark, unless it is there."""
    (root / name).mkdir(parents=True, exist_ok=True)
    DeltaTable.create(
        str(root / name),
        SCHEMAS[name],
        mode="ignore",
        partition_by=["day"],
        name=name,
        description=_MARK.format(name=name, version=TABLE_VERSION),
    )


def files(root: Path, name: str) -> list[str]:
    """The Parquet files of the table's newest version, sorted; [] if there is no such table."""
    table = open_table(root, name)
    if table is None:
        return []
    paths = pa.table(table.get_add_actions())["path"].to_pylist()  # file_uris() percent-encodes the folder's name
    return sorted(str(root / name / path) for path in paths)
