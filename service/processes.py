"""What a process asks of the operating system."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable

_TO_END = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
_M_ARENA_MAX = -8  # mallopt(3)
_GARBAGE = (20_000, 20, 20)  # objects more before the collector looks: a batch makes thousands, nearly none in a cycle


def die_with_parent(sign: int = signal.SIGTERM) -> None:
    """Ask the kernel to end this process when its parent dies, so that a killed supervisor leaves no orphans."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sign)


def collect_garbage_rarely() -> None:
    """What is loaded by now stays for ever, and what work leaves behind is seldom a cycle."""
    gc.freeze()
    gc.set_threshold(*_GARBAGE)


def few_arenas() -> None:
    """Let all threads share two places of the C library to take memory from. Before any of them is started.

    Each place keeps what was freed between things that are not; a worker's threads take turns anyway.
    """
    if sys.platform == "linux" and (set_option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        set_option(_M_ARENA_MAX, 2)


def when_told_to_end(end: Callable[[], object]) -> None:
    """Call `end` once, in a thread of its own, when SIGTERM or SIGINT comes. Needs the main thread.

    Not in a handler: one may interrupt whoever holds a lock, another handler too, and setting an Event takes one. And it
    runs in the main thread alone, which may be waiting: of two signals that come at once another thread may take both,
    and nobody wakes it. They do come in bursts: the kernel sends the parent-death signal for every thread of the parent.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)

    def wait() -> None:
        while os.read(told, 1)[0] not in _TO_END:
            pass
        end()

    threading.Thread(target=wait, name="end", daemon=True).start()
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)  # written by whichever thread takes the signal
    for sign in _TO_END:
        signal.signal(sign, lambda *_: None)
