"""Which partition of the journal a client's hits go to."""

from __future__ import annotations

from zlib import crc32


def partition_of(client: str, partitions: int) -> int:
    """The partition, 0 to `partitions` - 1, of a client.

    Depends on the name only, so it is the same in every process and on every machine. Partition 0 takes the hits of no
    known client: pass "" for a client that is missing, unknown or cannot be decoded.
    """
    return crc32(client.encode()) % partitions if client else 0
