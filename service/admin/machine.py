"""What this machine's disk knows, whichever web process asks: what waits in spools, and the room that is left for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from service.admin.exposition import Sample
from service.settings import Settings

MB = 1024 * 1024


def spools(settings: Settings) -> Iterator[Sample]:
    """Files and bytes of all spools, and free bytes beside the floor. Blocking; what cannot be read is left out."""
    try:
        sizes = [path.stat().st_size for path in settings.spool_path.glob("*.spool") if path.exists()]
        yield Sample("backtrack_spool_files", len(sizes))
        yield Sample("backtrack_spool_bytes", sum(sizes))
        yield Sample("backtrack_spool_free_bytes", shutil.disk_usage(settings.spool_path).free)
    except OSError:
        return
    yield Sample("backtrack_spool_floor_bytes", settings.spool_floor_mb * MB)
