"""The tables. Importing this loads their library so that it gives memory back at once.

Its allocator reads its settings when it is loaded. By itself it keeps what an append took, in as many places as there are
threads, and there are 80,000 appends in a day: after 480 a process had 165 MB and went on growing, so it stays at 149.
"""

from __future__ import annotations

import os
import sys

_SETTINGS = "_RJEM_MALLOC_CONF"


def _load() -> None:
    """Load it, unless somebody has, or has settings of his own. Others that it starts stay as they were."""
    if "deltalake" in sys.modules or _SETTINGS in os.environ:
        return
    os.environ[_SETTINGS] = "narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0"
    try:
        import deltalake  # noqa: F401
    finally:
        del os.environ[_SETTINGS]


_load()
