"""A foreign log opened directly: imported into a folder of its own that lasts as long as the log is used."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

from lab.importing import Map, import_log
from lab.log import Log, open_tables


def open_foreign(
    path: str | Path | Sequence[str | Path], format: str, map: Map, as_of: str | date | datetime | None
) -> Log:
    """The log that an import of these files makes; `log.imported` is its report. Raises what `import_log` raises.

    The tables lie in a folder of the system's temporary one; it goes when the last log that shows them does.
    """
    folder = tempfile.TemporaryDirectory(prefix="backtrack-log-", ignore_cleanup_errors=True)
    report = import_log(format, path, Path(folder.name) / "tables", map=map)
    log = open_tables(report.out, as_of)
    log.imported, log.kept = report, folder
    return log
