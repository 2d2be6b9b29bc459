"""The spool: where batches wait on disk while the journal is away. One file per outage and process, records in order.

A record is length (4 bytes), CRC-32 (4 bytes), msgpack of a `SpooledBatch`. Only the records' places are kept in memory. A
file appears under its name when it is locked, so nobody ever sees an unlocked one of a living process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from service.intake.batch import SpooledBatch

log = logging.getLogger("backtrack.intake")

_HEADER = struct.Struct("<II")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SpooledBatch).decode


class SpoolFullError(Exception):
    """The disk takes nothing more; nothing of what was to be written counts."""


class Spool:
    """The spool of one writer, with a lock that says that the writer lives. Not for two threads at once."""

    def __init__(self, folder: Path, writer: str, floor_mb: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._writer = writer
        self._floor_bytes = floor_mb * 1024 * 1024
        self._number = 0
        self._file: int | None = None
        self._end = 0
        self._waiting: dict[int, deque[int]] = {}  # partition -> where each of its records starts

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def holds(self, partition: int) -> bool:
        """Whether something waits for a partition: what comes for it later must go behind."""
        return partition in self._waiting

    @property
    def path(self) -> Path:
        """The file; it exists while something waits."""
        return self._folder / f"{self._writer}-{self._number}.spool"

    def check_room(self) -> None:
        """Raises SpoolFullError below the floor of free space."""
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise SpoolFullError(f"{self._folder} cannot be used: {error}") from error
        if free < self._floor_bytes:
            raise SpoolFullError(f"less than {self._floor_bytes // 1024 // 1024} MB free in {self._folder}")

    def append(self, batches: Iterable[SpooledBatch]) -> None:
        """Write batches and fsync. Raises SpoolFullError, and then nothing of them counts."""
        self.check_room()
        places, data = [], bytearray()
        for batch in batches:
            record = _encode(batch)
            places.append((batch.partition, self._end + len(data)))
            data += _HEADER.pack(len(record), zlib.crc32(record)) + record
        try:
            file = self._open()
            os.ftruncate(file, self._end)  # what an earlier write that failed may have left
            _write_all(file, data, self._end)
            os.fsync(file)
        except OSError as error:
            raise SpoolFullError(f"{self.path} cannot be written: {error}") from error
        self._end += len(data)
        for partition, place in places:
            self._waiting.setdefault(partition, deque()).append(place)

    def front(self) -> list[SpooledBatch]:
        """The first batch that waits for each partition: the order of one must not depend on one round trip, and one that
        takes nothing must hold up no other. Raises OSError if they cannot be read back."""
        return [self._read(places[0]) for places in self._waiting.values()]

    def pop(self, partitions: Iterable[int]) -> None:
        """Forget the first batch of each of these partitions: the journal has them. The file goes when the last one is
        gone; until then a batch that is appended again keeps its id, so the journal drops it."""
        for partition in partitions:
            places = self._waiting[partition]
            places.popleft()
            if not places:
                del self._waiting[partition]
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Remove the file if nothing waits in it, else leave it for the next process."""
        if self._file is not None:
            if not self._waiting:
                self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file, self._end = None, 0
            self._waiting.clear()

    def _read(self, place: int) -> SpooledBatch:
        assert self._file is not None
        length, checksum = _HEADER.unpack(os.pread(self._file, _HEADER.size, place))
        record = os.pread(self._file, length, place + _HEADER.size)
        if zlib.crc32(record) != checksum:
            raise OSError(f"{self.path}: the record at byte {place} cannot be read back")
        return _decode(record)

    def _open(self) -> int:
        if self._file is None:
            self._number += 1  # never a name twice: somebody may still be about to remove the last one
            hidden = self.path.with_suffix(".new")
            file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                hidden.rename(self.path)
                _fsync_folder(self._folder)
            except OSError:
                os.close(file)
                raise
            self._file = file
        return self._file


class Orphan:
    """A spool whose process is dead, locked by us."""

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self._file = file
        self._read_to = 0

    def batches(self) -> Iterator[SpooledBatch]:
        """Whole records from the start; ends at the first torn one."""
        while len(header := os.pread(self._file, _HEADER.size, self._read_to)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            record = os.pread(self._file, length, self._read_to + _HEADER.size)
            if not record or len(record) < length or zlib.crc32(record) != checksum:
                return
            yield _decode(record)
            self._read_to += _HEADER.size + length

    def settle(self) -> None:
        """The journal has all batches: remove the file. A torn end was never acknowledged; it is kept aside."""
        left = os.fstat(self._file).st_size - self._read_to
        if left:
            aside = self.path.with_suffix(".torn")
            log.warning("%s: %d bytes at the end are no whole record, kept as %s", self.path, left, aside)
            self.path.rename(aside)
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._file)


def orphans(folder: Path) -> Iterator[Orphan]:
    """The spools of dead processes, one at a time. Each must be closed."""
    for path in sorted(folder.glob("*.spool")):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # somebody else has settled it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)  # its process lives
            continue
        yield Orphan(path, file)


def _write_all(file: int, data: bytearray, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, place)
        view, place = view[written:], place + written


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
