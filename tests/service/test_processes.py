"""What a process asks of the operating system."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import sys, threading
from service.processes import few_arenas
if sys.argv[1] == "few":
    few_arenas()
together = threading.Barrier(8)
def work():
    kept = [bytes(1_000 + n) for n in range(200)]
    together.wait(20)
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
starts = [int(line.split("-")[0], 16) for line in open("/proc/self/maps") if " rw-p " in line and "/" not in line]
print(sum(start % (64 << 20) == 0 for start in starts))
"""


def arenas(how: str) -> int:
    """Places beside the first one that eight threads at once take memory from: each begins at a multiple of 64 MiB."""
    ended = subprocess.run([sys.executable, "-c", COUNT, how], check=True, capture_output=True, text=True, timeout=60)
    return int(ended.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux")
def test_threads_of_a_worker_take_memory_from_few_places() -> None:
    assert arenas("many") > 2
    assert arenas("few") <= 2
