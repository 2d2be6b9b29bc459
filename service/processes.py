"""What a process asks of the operating system."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def die_with_parent(sign: int = signal.SIGTERM) -> None:
    """Ask the kernel to end this process when its parent dies, so that a killed supervisor leaves no orphans."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sign)
