"""How the lab's libraries hold memory: what one step gives back is what the next one takes, so it is kept for some seconds.

Polars (whose allocator reads its settings once, when it is loaded) and Arrow would give it back to the system at once,
which clears it before it gives it out again. Whoever has set either, or has loaded Polars before, is left alone.
"""

from __future__ import annotations

import os
import sys

import pyarrow as pa

_SETTINGS = "_RJEM_MALLOC_CONF"
_ARROW = "ARROW_DEFAULT_MEMORY_POOL"


def _keep() -> None:
    """Load Polars with it. Processes that are started later are as they always were."""
    if _ARROW not in os.environ:
        pa.set_memory_pool(_pool())
    if "polars" in sys.modules or _SETTINGS in os.environ:
        return
    os.environ[_SETTINGS] = "oversize_threshold:0,dirty_decay_ms:3000,muzzy_decay_ms:3000"
    try:
        import polars  # noqa: F401
    finally:
        del os.environ[_SETTINGS]


def _pool() -> pa.MemoryPool:
    """Of Arrow's allocators the one that keeps memory for a second; a build may lack it."""
    try:
        return pa.jemalloc_memory_pool()
    except NotImplementedError:
        return pa.system_memory_pool()


_keep()
