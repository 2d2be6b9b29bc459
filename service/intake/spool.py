"""The spool: where batches wait on disk while the journal is away. One file per process, records in order, each fsynced.

A record is length (4 bytes), CRC-32 (4 bytes), msgpack of a `SpooledBatch`. A torn last record was never acknowledged
and is dropped. The file of a dead process is adopted under a lock by the next process that starts.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from service.intake.batch import SpooledBatch

_HEADER = struct.Struct("<II")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SpooledBatch).decode


class SpoolFullError(Exception):
    """The disk has too little space left; nothing was written."""


class Spool:
    """Append-only file of one writer, with a lock that says that the writer lives."""

    def __init__(self, folder: Path, writer: str, floor_mb: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{writer}.spool"
        self._floor_bytes = floor_mb * 1024 * 1024
        self._file: IO[bytes] | None = None
        self.waiting: list[SpooledBatch] = []

    def __len__(self) -> int:
        return len(self.waiting)

    def append(self, batches: list[SpooledBatch]) -> None:
        """Write batches and fsync. Raises SpoolFullError, and then nothing of them counts."""
        if shutil.disk_usage(self.path.parent).free < self._floor_bytes:
            raise SpoolFullError(f"less than {self._floor_bytes // 1024 // 1024} MB free in {self.path.parent}")
        file = self._open()
        start = file.tell()
        try:
            for batch in batches:
                data = _encode(batch)
                file.write(_HEADER.pack(len(data), zlib.crc32(data)) + data)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            file.seek(start)
            file.truncate()
            raise SpoolFullError(f"{self.path} cannot be written: {error}") from error
        self.waiting += batches

    def pop(self) -> None:
        """Forget the first batch: the journal has it. The file goes when the last one is gone; until then a batch that
        is appended again keeps its id, so the journal drops it."""
        del self.waiting[0]
        if not self.waiting:
            self.close()

    def close(self) -> None:
        """Remove the file if nothing waits in it, else leave it for the next process."""
        if self._file is not None:
            if not self.waiting:
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = self.path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _fsync_folder(self.path.parent)
        return self._file


def adopt(folder: Path) -> Iterator[tuple[Path, list[SpooledBatch], IO[bytes]]]:
    """Spools of dead processes: path, batches in order, and the locked file, to be closed by the caller."""
    for path in sorted(folder.glob("*.spool")):
        file = path.open("r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        yield path, list(read(file)), file


def read(file: IO[bytes]) -> Iterator[SpooledBatch]:
    """Whole records from the start of the file; ends at the first torn one."""
    file.seek(0)
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        length, checksum = _HEADER.unpack(header)
        data = file.read(length)
        if len(data) < length or zlib.crc32(data) != checksum:
            return
        yield _decode(data)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
